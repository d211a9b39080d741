"""The two passes over the data, in chunks by parallel processes; the results of each chunk are files.

    records   the records of the lists, without their images
    images    the images that the records which passed show, each once, in the order in which they first occur

    FOLDER/records/FIRST-LAST.arrow   the records of one chunk that passed
    FOLDER/records/FIRST-LAST.jsonl   those that did not
    FOLDER/images/FIRST-LAST.arrow    the images of one chunk
    …/FIRST-LAST.done                 what the chunk was made from; written last, it marks the chunk as complete

An interrupted validation resumes from these files: a complete chunk is checked again only if one of its images has
changed since. No image is read twice, however a list is shuffled, and a process holds the results of one chunk.
"""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from vhm.data.images.stores import ImageStore, open_store
from vhm.data.validation.record_checks import CheckedRecord, RecordChecker, RejectedRow, split_key
from vhm.data.validation.request import ValidationRequest
from vhm.data.validation.stream import RecordList, read_records
from vhm.errors import ImageError
from vhm.io import jsonl, write_bytes
from vhm.processes import threads
from vhm.progress import track

if TYPE_CHECKING:
    import pyarrow as pa

    from vhm.data.validation.evaluation_images import EvaluationImages

log = logging.getLogger(__name__)
C = TypeVar("C")

_RECORDS = 10_000  # in a chunk
_IMAGES = 500  # in a chunk
_MIN_RECORDS = 2_000  # starting processes takes longer than checking fewer records …
_MIN_IMAGES = 250  # … or images
_READ_THREADS = 2  # images are read and decoded outside the interpreter lock: threads hide the latency of a disk …
_REMOTE_READ_THREADS = 16  # … and more of them the latency of a network


def check_records(
    request: ValidationRequest, folder: Path, span: tuple[int, int], processes: ProcessPoolExecutor
) -> list[Path]:
    """Check records [first, last) of all lists. Returns the paths of the chunks, without suffix, in order."""
    folder = folder / "records"
    chunks = list(_record_chunks(request.lists, *span))
    checker = RecordChecker(
        request.kind, request.max_text, not request.skip_images, tuple(request.image_options.sources)
    )
    check = partial(_check_records, checker=checker, folder=folder)
    label = f"checking records of {request.sources[0].name}, chunks of {_RECORDS}"
    _check(check, chunks, label, processes if span[1] - span[0] > _MIN_RECORDS else None)
    return [folder / chunk.name for chunk in chunks]


def check_images(
    request: ValidationRequest,
    folder: Path,
    keys: pa.StringArray,
    evaluation: EvaluationImages | None,
    processes: ProcessPoolExecutor,
) -> list[Path]:
    """Check the images with these keys, and compare them with the evaluation images in `folder`, if there are any.

    Returns the paths of the chunks as `check_records` does.
    """
    work, folder = folder, folder / "images"
    chunks = [_ImageChunk(first, keys.slice(first, _IMAGES).to_pylist()) for first in range(0, len(keys), _IMAGES)]
    uncached = replace(request)  # a copy without the cached lists: a process needs only its chunk
    stamp = None if evaluation is None else evaluation.stamp
    check = partial(_check_images, request=uncached, work=work, stamp=stamp, folder=folder)
    label = f"checking images of {request.sources[0].name}, chunks of {_IMAGES}"
    _check(check, chunks, label, processes if len(keys) > _MIN_IMAGES else None)
    return [folder / chunk.name for chunk in chunks]


def unique_keys(chunks: Sequence[Path]) -> tuple[pa.StringArray, NDArray[np.int32]]:
    """The keys of the images of the records in `chunks`, in the order of their first records.

    Also returns the number of each record's image among them, -1 for a record without one.
    """
    import pyarrow as pa

    columns = [read_table(chunk, ["image_key"])["image_key"] for chunk in chunks]
    arrays = [array for column in columns for array in column.chunks]
    if not arrays:
        return pa.array([], pa.string()), np.empty(0, np.int32)
    encoded = pa.concat_arrays(arrays).dictionary_encode()
    numbers = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    return encoded.dictionary, numbers


def read_table(chunk: Path, columns: list[str]) -> pa.Table:
    """The given columns of a chunk's rows, in place in its memory-mapped file: they take no memory of the process."""
    import pyarrow as pa

    # With IpcReadOptions(included_fields=…), pyarrow would copy the columns.
    return pa.ipc.open_file(pa.memory_map(f"{chunk}.arrow")).read_all().select(columns)


def read_rejected(path: Path) -> Iterator[RejectedRow]:
    """The rejected records in a JSON-lines file, which is a chunk's path with the suffix .jsonl, or rejected.jsonl."""
    with path.open("rb") as file:
        for line in file:
            yield RejectedRow(**orjson.loads(line))


def records_schema() -> pa.Schema:
    """The columns of `CheckedRecord`, and the number of the record's list."""
    import pyarrow as pa

    return pa.schema(
        [
            ("index", pa.int64()),
            ("list", pa.int16()),
            ("id", pa.string()),
            ("source", pa.string()),
            ("image", pa.string()),
            ("turns", pa.int32()),
            ("text_length", pa.int32()),
            ("answer_length", pa.int32()),
            ("refusal", pa.bool_()),
            ("boxes", pa.int32()),
            ("largest_coordinate", pa.float32()),
            ("record", pa.large_binary()),
            ("image_key", pa.string()),
            ("stated_width", pa.int32()),
            ("stated_height", pa.int32()),
            ("id_hash", pa.binary(16)),
            ("content_hash", pa.binary(16)),
        ]
    )


def images_schema() -> pa.Schema:
    """The columns of `CheckedImage`."""
    import pyarrow as pa

    return pa.schema(
        [
            ("key", pa.string()),
            ("reason", pa.string()),
            ("detail", pa.string()),
            ("sha256", pa.binary(32)),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("leak", pa.binary()),
            ("brightness", pa.float32()),
            ("blank", pa.bool_()),
            ("hash", pa.uint64()),
            ("thumbnail", pa.binary(32 * 32)),
            ("bands", pa.int32()),
        ]
    )


def write_table(path: Path, table: pa.Table) -> None:
    """Write an Arrow IPC file."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    write_bytes(path, memoryview(sink.getvalue()))


def _check(check: Callable[[C], bool], chunks: Sequence[C], label: str, processes: ProcessPoolExecutor | None) -> None:
    """Run `check`, which returns whether there was anything to do, on all chunks; here if `processes` is None."""
    if processes is not None:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # there is already one process per core
    results = map(check, chunks) if processes is None else processes.map(check, chunks)
    checked = list(track(results, label, len(chunks)))
    if not all(checked):
        log.info("%s: %d of %d were already checked", label, checked.count(False), len(checked))


# --- records -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _RecordChunk:
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
        return _name(self.first, len(self.starts))


def _record_chunks(lists: list[RecordList], first: int, last: int) -> Iterator[_RecordChunk]:
    """Records [first, last) of all lists; a chunk never spans two lists."""
    offset = 0
    for number, records in enumerate(lists):
        start, stop = max(first - offset, 0), min(last - offset, len(records))
        for begin in range(start, stop, _RECORDS):
            span = slice(begin, min(begin + _RECORDS, stop))
            yield _RecordChunk(offset + begin, number, records.path, records.starts[span], records.ends[span])
        offset += len(records)


def _check_records(chunk: _RecordChunk, checker: RecordChecker, folder: Path) -> bool:
    """Check a chunk unless it is complete. Returns whether it was checked."""
    done = folder / f"{chunk.name}.done"
    if done.exists():
        return False
    accepted: list[CheckedRecord] = []
    rejected: list[RejectedRow] = []
    for index, raw in enumerate(read_records(chunk.path, chunk.starts, chunk.ends), start=chunk.first):
        row = checker.check(index, raw)
        if isinstance(row, CheckedRecord):
            accepted.append(row)
        else:
            rejected.append(row)
    import pyarrow as pa

    columns = {name: [getattr(row, name) for row in accepted] for name in CheckedRecord.__dataclass_fields__}
    columns["list"] = [chunk.list] * len(accepted)
    write_table(folder / f"{chunk.name}.arrow", pa.table(columns, schema=records_schema()))
    write_bytes(folder / f"{chunk.name}.jsonl", jsonl(rejected))
    write_bytes(done, b"")
    return True


# --- images --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ImageChunk:
    """Images [first, first + len(keys)) of a split."""

    first: int
    keys: list[str]

    @property
    def name(self) -> str:
        return _name(self.first, len(self.keys))


def _check_images(chunk: _ImageChunk, request: ValidationRequest, work: Path, stamp: str | None, folder: Path) -> bool:
    """Check a chunk unless it is complete and neither its images nor those to compare with have changed.

    `stamp` is that of the evaluation images. Returns whether the chunk was checked.
    """
    import pyarrow as pa

    from vhm.data.validation.evaluation_images import fingerprints_file
    from vhm.data.validation.image_checks import CheckedImage, ImageChecker
    from vhm.data.validation.similarity import load_finder

    store = open_store(request.images)
    done = folder / f"{chunk.name}.done"
    with threads(_REMOTE_READ_THREADS if store.remote else _READ_THREADS) as pool:
        stamps = f"{_stamps(chunk.keys, store, pool if store.remote else None)} {stamp}".encode()
        if done.exists() and done.read_bytes() == stamps:
            return False
        done.unlink(missing_ok=True)
        finder = None if stamp is None else load_finder(fingerprints_file(work, stamp))
        checker = ImageChecker(request.images, request.image_options, request.limits, finder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warnings: the reject reason replaces them
            rows = list(pool.map(checker.check, chunk.keys))
    columns = {name: [getattr(row, name) for row in rows] for name in CheckedImage.__dataclass_fields__}
    write_table(folder / f"{chunk.name}.arrow", pa.table(columns, schema=images_schema()))
    write_bytes(done, stamps)
    return True


def _stamps(keys: list[str], store: ImageStore, pool: ThreadPoolExecutor | None) -> str:
    """A hash that changes when an image does. It covers the keys and stamps of the images, not their bytes."""

    def stamp(key: str) -> str:
        try:
            return f"{key} {store.stamp(split_key(key)[1])}"
        except ImageError as error:
            return f"{key} {error.reason}"

    stamps = map(stamp, keys) if pool is None else pool.map(stamp, keys)
    return hashlib.sha256("\n".join(stamps).encode()).hexdigest()


def _name(first: int, count: int) -> str:
    return f"{first:010d}-{first + count:010d}"
