"""Records of lists, checked in chunks by parallel processes; the results of each chunk are files.

OUT/chunks/key                what was requested: chunks of another request are deleted
OUT/chunks/FIRST-LAST.arrow   the accepted rows of one chunk
OUT/chunks/FIRST-LAST.jsonl   its rejected records
OUT/chunks/FIRST-LAST.done    a hash of the sizes and times of its images; written last, it marks the chunk as complete

An interrupted validation resumes from these files, and each split of the work (`--shard i/n`) keeps them for `--merge`.
A chunk has `_CHUNK_RECORDS` records, fewer with images. Read its results with `read_chunk` and `read_rejected`.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson
from numpy.typing import NDArray

from vhm.data.images.stores import ImageStore, open_store
from vhm.data.records import image_name
from vhm.data.validation.record_checks import AcceptedRow, RecordChecker, RejectedRow
from vhm.data.validation.request import ValidationRequest
from vhm.data.validation.similarity import Fingerprint, fingerprint, load_finder, save_fingerprints
from vhm.data.validation.stream import RecordList, parse_record
from vhm.errors import ImageError, InputError, RecordError
from vhm.io import jsonl, write_bytes
from vhm.processes import workers
from vhm.progress import track

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

CHUNKS = "chunks"
_CHUNK_RECORDS = 10_000
_IMAGE_COST = 10  # a chunk whose images are checked has this many times fewer records
_MIN_RECORDS_FOR_PROCESSES = 2_000  # starting processes takes longer than checking fewer records
_READ_THREADS = 2  # images are read and decoded outside the interpreter lock: threads hide the latency of a disk …
_REMOTE_READ_THREADS = 16  # … and more of them the latency of a network


def check_split(request: ValidationRequest, out: Path, split: tuple[int, int]) -> list[Path]:
    """Check split i of n of all records. Returns its chunks in the lists' order, for `read_chunk`.

    Raises InputError when a list cannot be read.
    """
    total = sum(map(len, request.lists))
    first, last = total * split[0] // split[1], total * (split[0] + 1) // split[1]
    folder = _prepare_folder(out / CHUNKS, request.key)
    fingerprints = _fingerprint_evaluation(request, folder) if request.against else None
    size = _CHUNK_RECORDS if request.skip_images else max(1, _CHUNK_RECORDS // _IMAGE_COST)
    chunks = list(_chunks(request.lists, first, last, size))
    uncached = replace(request)  # a copy without the cached lists: a process needs only its chunk
    check = partial(_check_chunk, request=uncached, fingerprints=fingerprints, folder=folder)
    source = request.sources[0].name
    with _executor(last - first) as executor:
        results = executor.map(check, chunks)
        checked = list(track(results, f"validating {source}, chunks of {size} records", len(chunks)))
    if not all(checked):
        log.info("%s: %d of %d chunks were already checked", source, len(checked) - sum(checked), len(checked))
    return [folder / chunk.name for chunk in chunks]


def chunks_of_splits(splits: Sequence[Path], request: ValidationRequest) -> list[Path]:
    """The chunks of all splits in the lists' order. Raises InputError unless together they are one complete run."""
    chunks: list[Path] = []
    for split in splits:
        folder = split / CHUNKS
        if not (folder / "key").is_file():
            raise InputError(f"{split} has no folder {CHUNKS}/: create it with `vhm validate --shard`")
        if (folder / "key").read_text() != request.key:
            raise InputError(f"{split} was made from another list, with other settings or by other code: make it again")
        chunks += [path.with_suffix("") for path in folder.glob("*.done")]
    chunks.sort(key=lambda path: path.name)
    checked = 0
    for path in chunks:
        first, last = map(int, path.name.split("-"))
        if first != checked:
            raise InputError(
                f"records {checked} to {first} are missing from the splits, or in two of them: merge each split once"
            )
        checked = last
    total = sum(map(len, request.lists))
    if checked != total:
        raise InputError(f"records {checked} to {total} are missing from the splits: merge all of them")
    return chunks


def read_chunk(chunk: Path, columns: list[str]) -> pa.Table:
    """The given columns of a chunk's accepted rows."""
    import pyarrow as pa

    # Memory-mapped, so that only the requested columns take memory.
    options = pa.ipc.IpcReadOptions(included_fields=[rows_schema().get_field_index(name) for name in columns])
    return pa.ipc.open_file(pa.memory_map(f"{chunk}.arrow"), options=options).read_all()


def read_rejected(path: Path) -> Iterator[RejectedRow]:
    """The rejected records in a JSON-lines file, which is a chunk's path with the suffix .jsonl, or rejected.jsonl."""
    with path.open("rb") as file:
        for line in file:
            yield RejectedRow(**orjson.loads(line))


def rows_schema() -> pa.Schema:
    """The columns of accepted rows: the fields of `AcceptedRow` and the number of the list."""
    import pyarrow as pa

    return pa.schema(
        [
            ("index", pa.int64()),
            ("list", pa.int16()),
            ("id", pa.string()),
            ("source", pa.string()),
            ("image", pa.string()),
            ("image_sha256", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("turns", pa.int32()),
            ("text_length", pa.int32()),
            ("answer_length", pa.int32()),
            ("refusal", pa.bool_()),
            ("record", pa.large_binary()),
            ("id_hash", pa.binary(16)),
            ("content_hash", pa.binary(16)),
        ]
    )


def record_at(lists: list[RecordList], index: int) -> object:
    """The record at an index into all lists, as `parse_record` returns it."""
    [chunk] = _chunks(lists, index, index + 1, 1)
    [raw] = chunk.records()
    return parse_record(raw)


def write_table(path: Path, table: pa.Table) -> None:
    """Write an Arrow IPC file."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    write_bytes(path, memoryview(sink.getvalue()))


# --- one chunk -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Chunk:
    """Records [first, first + len(starts)) of all lists, all from the list file `path`, which is number `list`.

    `starts` and `ends` are byte offsets into the file.
    """

    first: int
    list: int
    path: Path
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    @property
    def name(self) -> str:
        return f"{self.first:010d}-{self.first + len(self.starts):010d}"

    def records(self) -> Iterator[bytes]:
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True):
                yield content[start:end]


def _prepare_folder(folder: Path, key: str) -> Path:
    """The folder for chunks of the request with this key; chunks of another request are deleted."""
    if folder.is_dir() and (not (folder / "key").is_file() or (folder / "key").read_text() != key):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "key", key.encode())
    return folder


def _chunks(lists: list[RecordList], first: int, last: int, size: int) -> Iterator[_Chunk]:
    """Records [first, last) of all lists, `size` at a time; a chunk never spans two lists."""
    offset = 0
    for number, records in enumerate(lists):
        start, stop = max(first - offset, 0), min(last - offset, len(records))
        for begin in range(start, stop, size):
            span = slice(begin, min(begin + size, stop))
            yield _Chunk(offset + begin, number, records.path, records.starts[span], records.ends[span])
        offset += len(records)


def _executor(records: int) -> Executor:
    if records <= _MIN_RECORDS_FOR_PROCESSES:
        return ThreadPoolExecutor(1)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # there is already one process per core
    return workers()


def _check_chunk(chunk: _Chunk, request: ValidationRequest, fingerprints: Path | None, folder: Path) -> bool:
    """Check a chunk unless it is complete and its images have not changed. Returns whether it was checked."""
    store = None if request.skip_images else open_store(request.images)
    done = folder / f"{chunk.name}.done"
    remote = store is not None and store.remote
    with ThreadPoolExecutor(_REMOTE_READ_THREADS if remote else _READ_THREADS) as threads:
        images = [] if store is None else [(store, name) for name in _image_names(chunk.records())]
        stamp = f"{_images_stamp(images, threads.map if remote else map)} {fingerprints and fingerprints.name}"
        if done.exists() and done.read_text() == stamp:
            return False
        done.unlink(missing_ok=True)
        finder = None if fingerprints is None else load_finder(fingerprints)
        checker = RecordChecker(store, request.kind, request.limits, request.max_text, finder, request.image_options)
        accepted, rejected = _check_records(chunk, checker, map if store is None else threads.map)
    _write_accepted(folder / f"{chunk.name}.arrow", accepted, chunk.list)
    write_bytes(folder / f"{chunk.name}.jsonl", jsonl(rejected))
    write_bytes(done, stamp.encode())
    return True


def _check_records(
    chunk: _Chunk, checker: RecordChecker, run: Callable[..., Iterable[AcceptedRow | RejectedRow]]
) -> tuple[list[AcceptedRow], list[RejectedRow]]:
    """Check all records of a chunk; `run` is `map` or that of an executor."""
    accepted: list[AcceptedRow] = []
    rejected: list[RejectedRow] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warnings: the reject reason replaces them
        indices = range(chunk.first, chunk.first + len(chunk.starts))
        for row in run(checker.check, indices, chunk.records()):
            if isinstance(row, AcceptedRow):
                accepted.append(row)
            else:
                rejected.append(row)
    return accepted, rejected


def _write_accepted(path: Path, rows: list[AcceptedRow], list_number: int) -> None:
    import pyarrow as pa

    columns = {name: [getattr(row, name) for row in rows] for name in AcceptedRow.__dataclass_fields__}
    columns["list"] = [list_number] * len(rows)
    write_table(path, pa.table(columns, schema=rows_schema()))


# --- images --------------------------------------------------------------------------------------


def _images_stamp(images: Iterable[tuple[ImageStore, str]], run: Callable[..., Iterable[str]]) -> str:
    """A hash that changes when an image changes. It covers the stamps of the images, not their bytes."""

    def stamp(image: tuple[ImageStore, str]) -> str:
        store, name = image
        try:
            return store.stamp(name)
        except ImageError as error:
            return error.reason

    return hashlib.sha256("\n".join(run(stamp, images)).encode()).hexdigest()


def _image_names(records: Iterable[bytes]) -> Iterator[str]:
    """The image names of those records that are well-formed and have an image."""
    for raw in records:
        try:
            record = parse_record(raw)
            name = image_name(record) if isinstance(record, dict) else None
        except RecordError:
            continue
        if name is not None:
            yield name


def _fingerprint_evaluation(request: ValidationRequest, folder: Path) -> Path:
    """A file with the fingerprints of all evaluation images, named after their stamp; unreadable images are skipped."""
    stores = {location: open_store(location) for location, _ in request.evaluation_lists}
    images: dict[tuple[ImageStore, str], None] = {}
    for location, records in request.evaluation_lists:
        for chunk in _chunks([records], 0, len(records), _CHUNK_RECORDS):
            images |= dict.fromkeys((stores[location], name) for name in _image_names(chunk.records()))

    def named_fingerprint(image: tuple[ImageStore, str]) -> tuple[str, Fingerprint] | None:
        store, name = image
        try:
            return name, fingerprint(store.read(name))
        except ImageError as error:
            log.warning("evaluation image %s is skipped: %s", name, error)
            return None

    with ThreadPoolExecutor() as threads:
        stamp = _images_stamp(images, threads.map)
        path = folder / f"evaluation-{stamp[:16]}.npz"
        if not path.exists():
            results = track(threads.map(named_fingerprint, images), "fingerprinting evaluation images", len(images))
            save_fingerprints(path, [entry for entry in results if entry is not None])
    return path
