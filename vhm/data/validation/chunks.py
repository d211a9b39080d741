"""The records of lists, checked piece by piece by processes; what they find lies on disk.

OUT/parts/key            what was asked for: pieces of another request are thrown away
OUT/parts/FIRST-LAST.arrow   the rows of one piece
OUT/parts/FIRST-LAST.jsonl   its rejected records
OUT/parts/FIRST-LAST.seen    a hash of the sizes and times of its images; written last: the piece is done

An interrupted validation goes on from these, and shards (`--shard i/n`) keep them for `--merge`. A piece has `_PIECE`
records, fewer with images. Whoever joins the pieces reads them through `read_piece` and `rejected_of`.
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
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from vhm.artifacts.lineage import code_hash
from vhm.data.images import DEFAULT_LIMITS, Limits
from vhm.data.images.stores import ImageStore, open_store
from vhm.data.records import image_name
from vhm.data.validation.contamination import Fingerprint, fingerprint, load_finder, save_fingerprints
from vhm.data.validation.record_checks import Checker, Kind, Rejected, Row
from vhm.data.validation.stream import RecordList, open_list, parse_record
from vhm.errors import ImageError, InputError, RecordError
from vhm.io import jsonl, sha256_file, write_bytes
from vhm.processes import workers
from vhm.progress import track

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

PARTS = "parts"
_PIECE = 10_000
_IMAGES_COST = 10  # so many times smaller are pieces whose images are looked at
_ALONE = 2_000  # records that are not worth starting processes for


@dataclass(frozen=True)
class Request:
    """What is to be validated: lists (or, for "eval", directories of evaluation files) with their image root.

    `against` are evaluation lists or directories whose images must not be in it, `against_images` their image root
    where it is another. `max_text` is in characters; `bands` are those of a TIFF to look at.
    """

    sources: Sequence[Path]
    images: str | Path
    kind: Kind = "sft"
    against: Sequence[Path] = ()
    against_images: str | Path | None = None
    max_text: int = 20_000
    limits: Limits = DEFAULT_LIMITS
    skip_images: bool = False
    bands: tuple[int, int, int] | None = None

    @cached_property
    def lists(self) -> list[RecordList]:
        return [found for one in self.sources for found in open_lists(one, self.kind)]

    @cached_property
    def evaluation(self) -> list[tuple[str | Path, RecordList]]:
        """The lists whose images must not be in it, each with its image root."""
        others = self.against_images or self.images
        return [
            (one if one.is_dir() else others, records) for one in self.against for records in open_lists(one, "eval")
        ]

    @cached_property
    def key(self) -> str:
        """What pieces must have in common to be joined or gone on with."""
        told = [
            [sha256_file(records.path) for records in self.lists],
            [str(self.images), self.kind, self.max_text, repr(self.limits), self.skip_images, self.bands],
            [[str(root), sha256_file(records.path)] for root, records in self.evaluation],
            code_hash(),
        ]
        return hashlib.sha256(orjson.dumps(told)).hexdigest()


def check_shard(request: Request, out: Path, shard: tuple[int, int]) -> list[Path]:
    """Check the i-th of n parts of all records. Returns its pieces in the lists' order, for `read_piece`.

    Raises InputError when a list cannot be read.
    """
    total = sum(map(len, request.lists))
    span = total * shard[0] // shard[1], total * (shard[0] + 1) // shard[1]
    folder = out / PARTS
    if folder.is_dir() and (not (folder / "key").is_file() or (folder / "key").read_text() != request.key):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "key", request.key.encode())
    prints = _look_at_evaluation(request, folder) if request.against else None
    size = _PIECE if request.skip_images else max(1, _PIECE // _IMAGES_COST)
    pieces = list(_cut(request.lists, *span, size))
    bare = replace(request)  # without the lists, which are in the pieces
    work = partial(_check_piece, request=bare, prints=prints, folder=folder)
    what = request.sources[0].name
    with _executor(span[1] - span[0]) as executor:
        made = list(track(executor.map(work, pieces), f"validating {what}, {size} records each", len(pieces)))
    if not all(made):
        log.info("%s: %d of %d pieces were checked before", what, len(made) - sum(made), len(made))
    return [folder / piece.name for piece in pieces]


def pieces_of(shards: Sequence[Path], request: Request) -> list[Path]:
    """The pieces of all shards in the lists' order. InputError when they are of different runs, or some lack."""
    pieces: list[Path] = []
    for shard in shards:
        folder = shard / PARTS
        if not (folder / "key").is_file():
            raise InputError(f"{shard} holds no {PARTS}/ of a `vhm validate --shard`")
        if (folder / "key").read_text() != request.key:
            raise InputError(f"{shard} was made from another list, with other settings or by other code: make it again")
        pieces += [path.with_suffix("") for path in folder.glob("*.seen")]
    pieces.sort(key=lambda path: path.name)
    place = 0
    for path in pieces:
        first, last = map(int, path.name.split("-"))
        if first != place:
            raise InputError(f"records {place} to {first} are in none of the shards, or in two: give each shard once")
        place = last
    total = sum(map(len, request.lists))
    if place != total:
        raise InputError(f"records {place} to {total} are in none of the shards")
    return pieces


def read_piece(piece: Path, columns: list[str]) -> pa.Table:
    """Some columns of a piece's rows."""
    import pyarrow as pa

    # Mapped, so that only the columns that are looked at take memory.
    only = pa.ipc.IpcReadOptions(included_fields=[rows_schema().get_field_index(name) for name in columns])
    return pa.ipc.open_file(pa.memory_map(f"{piece}.arrow"), options=only).read_all()


def rejected_of(piece: Path) -> Iterator[dict[str, Any]]:
    """The rejected records of a piece: {"index", "id", "reason", "detail"}."""
    with piece.with_suffix(".jsonl").open("rb") as file:
        yield from map(orjson.loads, file)


def rows_schema() -> pa.Schema:
    """A row's columns: those of `Row`, and which list it is from."""
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


def record_at(lists: list[RecordList], index: int) -> Any:
    """The record at a place of all lists, as `parse_record` reads it."""
    [piece] = _cut(lists, index, index + 1, 1)
    [raw] = piece.records()
    return parse_record(raw)


def open_lists(source: Path, kind: Kind) -> list[RecordList]:
    """The list file; for "eval" also every evaluation file of a directory."""
    if not source.is_dir():
        return [open_list(source)]
    if kind != "eval":
        raise InputError(f"{source} is a directory: give a list file, or --kind eval")
    files = sorted(source.glob("*.json"))
    if not files:
        raise InputError(f"{source} has no evaluation file (*.json)")
    return [open_list(file) for file in files]


# --- one piece -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Piece:
    """Records [first, first + len(starts)) of the whole, bytes of one file, which is list number `list`."""

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


def _cut(lists: list[RecordList], first: int, last: int, size: int) -> Iterator[_Piece]:
    before = 0
    for number, records in enumerate(lists):
        start, stop = max(first - before, 0), min(last - before, len(records))
        for at in range(start, stop, size):
            part = slice(at, min(at + size, stop))
            yield _Piece(before + at, number, records.path, records.starts[part], records.ends[part])
        before += len(records)


def _executor(records: int) -> Executor:
    if records <= _ALONE:
        return ThreadPoolExecutor(1)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # there is a process for each core
    return workers()


def _check_piece(piece: _Piece, request: Request, prints: Path | None, folder: Path) -> bool:
    """Check a piece unless that is done and its images are as they were; whether it had to be."""
    root = None if request.skip_images else open_store(request.images)
    done = folder / f"{piece.name}.seen"
    # Pictures are read and decoded outside the interpreter: threads hide the disk, and more of them the network.
    remote = root is not None and root.remote
    with ThreadPoolExecutor(16 if remote else 2) as threads:
        images = [] if root is None else [(root, name) for name in _images_of(piece.records())]
        seen = f"{_stamp(images, threads.map if remote else map)} {prints and prints.name}"
        if done.exists() and done.read_text() == seen:
            return False
        done.unlink(missing_ok=True)
        leaks = None if prints is None else load_finder(prints)
        checker = Checker(root, request.kind, request.limits, request.max_text, leaks, request.bands)
        rows: list[Row] = []
        rejected: list[Rejected] = []
        run = map if root is None else threads.map
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow has to say of a file is in the reason, or does not matter
            for result in run(checker.check, range(piece.first, piece.first + len(piece.starts)), piece.records()):
                (rows if isinstance(result, Row) else rejected).append(result)  # type: ignore[arg-type]
    _write_rows(folder / f"{piece.name}.arrow", rows, piece.list)
    write_bytes(folder / f"{piece.name}.jsonl", jsonl([asdict(row) for row in rejected]))
    write_bytes(done, seen.encode())
    return True


def _write_rows(path: Path, rows: list[Row], number: int) -> None:
    import pyarrow as pa

    columns = {name: [getattr(row, name) for row in rows] for name in Row.__dataclass_fields__}
    columns["list"] = [number] * len(rows)
    write_table(path, pa.table(columns, schema=rows_schema()))


def write_table(path: Path, table: pa.Table) -> None:
    """Write an Arrow IPC file."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    write_bytes(path, memoryview(sink.getvalue()))


# --- images that are looked at -------------------------------------------------------------------


def _stamp(images: Iterable[tuple[ImageStore, str]], run: Callable[..., Iterable[str]]) -> str:
    """A hash that changes when any of the images does: of their stamps, not of their bytes."""

    def look(image: tuple[ImageStore, str]) -> str:
        try:
            return image[0].stamp(image[1])
        except ImageError as error:
            return error.reason

    return hashlib.sha256("\n".join(run(look, images)).encode()).hexdigest()


def _images_of(records: Iterable[bytes]) -> Iterator[str]:
    """The names of the images that well-formed records show."""
    for raw in records:
        try:
            record = parse_record(raw)
            name = image_name(record) if isinstance(record, dict) else None
        except RecordError:
            continue
        if name is not None:
            yield name


def _look_at_evaluation(request: Request, folder: Path) -> Path:
    """Fingerprints of the evaluation images, in a file named after their stamp; unreadable ones are left out."""
    wanted: dict[tuple[ImageStore, str], None] = {}
    roots = {place: open_store(place) for place, _ in request.evaluation}
    for place, records in request.evaluation:
        for piece in _cut([records], 0, len(records), _PIECE):
            wanted |= dict.fromkeys((roots[place], name) for name in _images_of(piece.records()))

    def look(image: tuple[ImageStore, str]) -> tuple[str, Fingerprint] | None:
        root, name = image
        try:
            return name, fingerprint(root.read(name))
        except ImageError as error:
            log.warning("evaluation image %s is left out: %s", name, error)
            return None

    with ThreadPoolExecutor() as threads:
        stamp = _stamp(wanted, threads.map)
        path = folder / f"evaluation-{stamp[:16]}.npz"
        if not path.exists():
            found = track(threads.map(look, wanted), "looking at evaluation images", len(wanted))
            save_fingerprints(path, [entry for entry in found if entry is not None])
    return path
