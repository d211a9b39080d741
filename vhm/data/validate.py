"""List file → manifest: every record is accepted or rejected with a reason, and the whole is judged.

DIR/manifest.parquet   accepted records, in the list's order
DIR/rejected.jsonl     {"index", "id", "reason", "detail"} for each other record
DIR/validation.json    counts, reasons, what Great Expectations says
DIR/data_docs/         the same to look at
DIR/leaks.html         training images beside the evaluation images that they are, where there are any
DIR/parts/             what processes have checked so far: an interrupted validation goes on from it, and
                       shards (`--shard i/n`) keep it for `--merge`

The list is cut into pieces of `_PIECE` records (fewer with images) that processes check side by side; what must see every
record (duplicates, the whole's shares) is done in the list's order when all pieces are there. So a merge
of shards writes the same bytes as a single run.
"""

from __future__ import annotations

import hashlib
import heapq
import logging
import mmap
import multiprocessing
import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from vhm.data.check import LEAK, Checker, Kind, Rejected, Row
from vhm.data.contamination import Fingerprint, fingerprint, load_finder, save_fingerprints
from vhm.data.expectations import Suite, frame_of, judge, judge_file, load_suite, sources_of
from vhm.data.images import DEFAULT_LIMITS, Limits
from vhm.data.index import IndexWriter
from vhm.data.leaks import Leak, write_leaks
from vhm.data.records import image_name
from vhm.data.roots import ImageRoot, open_root
from vhm.data.stream import RecordList, open_list, parse_record
from vhm.errors import CheckFailed, ImageError, InputError, RecordError
from vhm.io import jsonl, read_jsonl, sha256_file, write_bytes, write_json
from vhm.lineage import code_hash
from vhm.progress import track
from vhm.recipe import Expect

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

PARTS = "parts"
_PIECE = 10_000
_IMAGES_COST = 10  # so many times smaller are pieces whose images are looked at
_ALONE = 2_000  # records that are not worth starting processes for
_MANY = 200_000  # records whose judgement is worth a process of its own
_ROW_GROUP = 16_384


@dataclass
class Validation:
    """What a validation found; `passed` is False when too much was rejected or an expectation failed."""

    kind: Kind
    source: str
    total: int = 0
    accepted: int = 0
    rejected: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    refusal_share: float = 0.0
    max_rejected: float = 0.01
    manifest_sha256: str = ""
    expectations: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}


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
    def key(self) -> str:
        """What pieces must have in common to be joined or gone on with."""
        told = [
            [sha256_file(records.path) for records in self.lists],
            [str(self.images), self.kind, self.max_text, repr(self.limits), self.skip_images, self.bands],
            [str(path) for path in (*self.against, self.against_images)],
            code_hash(),
        ]
        return hashlib.sha256(orjson.dumps(told)).hexdigest()


def validate(
    request: Request,
    out: Path,
    max_rejected: float = 0.01,
    expect: Expect | None = None,
    shard: tuple[int, int] = (0, 1),
    merge: Sequence[Path] = (),
) -> Validation:
    """Check the lists and write the manifest to `out`.

    `expect` are the thresholds that the whole is judged by. `shard` (i, n) takes the i-th of n equal parts; `merge`
    are directories of all shards, whose results are joined without checking anything again. Raises InputError when
    a list cannot be read; what is wrong with single records is never raised, but counted in the result.
    """
    pieces = _pieces_of(merge, request) if merge else check_shard(request, out, shard)
    thresholds = (expect or Expect()).model_dump() | {"max_text": request.max_text}
    suite = load_suite(request.kind, thresholds)
    told = ", ".join(map(str, request.sources))
    result = _join(pieces, Validation(request.kind, told, max_rejected=max_rejected), suite, out)
    (out / "leaks.html").unlink(missing_ok=True)
    if "leak" in result.reasons:
        others = request.against_images or request.images
        places = sorted({str(path if path.is_dir() else others) for path in request.against})
        leaks = list(_leaks(out, request.lists))
        write_leaks(out / "leaks.html", leaks, open_root(request.images), map(open_root, places))
    write_json(out / "validation.json", result.to_dict())
    if shard == (0, 1):
        shutil.rmtree(out / PARTS, ignore_errors=True)
    return result


def check_shard(request: Request, out: Path, shard: tuple[int, int]) -> list[Path]:
    """Check the i-th of n parts, and no more: `out` is then for `merge`. Returns its pieces."""
    total = sum(map(len, request.lists))
    first, last = total * shard[0] // shard[1], total * (shard[0] + 1) // shard[1]
    folder = _parts_folder(out, request.key)
    prints = folder / "evaluation.npz" if request.against else None
    if prints is not None and not prints.exists():
        save_fingerprints(prints, _fingerprints(request.against, request.against_images or request.images))
    return _check_all(request, (first, last), prints, folder)


def require_passed(result: Validation, out: Path) -> None:
    """Raise CheckFailed with the first failure, and where to read more."""
    if not result.passed:
        raise CheckFailed(f"{result.source}: {result.failures[0]}; see {out / 'rejected.jsonl'}")


def _judge(result: Validation, rows: pa.Table, sources: pa.Table, suite: Suite, out: Path) -> None:
    share = result.rejected / max(result.total, 1)
    if not len(rows):
        result.failures.append(f"no record of {result.total} was accepted")
        return
    if share > result.max_rejected:
        worst = ", ".join(f"{count} {reason}" for reason, count in list(result.reasons.items())[:3])
        result.failures.append(
            f"{result.rejected} of {result.total} records rejected ({share:.1%}, at most "
            f"{result.max_rejected:.1%} allowed): {worst}"
        )
    rest = (sources, suite, result.kind, out / "data_docs")
    if len(rows) <= _MANY:
        result.expectations = judge(frame_of(rows), *rest)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.arrow"
            _write_table(path, rows)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                result.expectations = process.submit(judge_file, path, *rest).result()
    for failure in result.expectations["failed"]:
        result.failures.append(f"expectation failed: {failure}")


# --- reading -------------------------------------------------------------------------------------


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


def _fingerprints(lists: Sequence[Path], images: str | Path) -> Iterator[tuple[str, Fingerprint]]:
    """Fingerprints of the distinct images that evaluation lists name; unreadable ones are left out."""
    wanted: dict[tuple[str | Path, str], ImageRoot] = {}
    for source in lists:
        folder: str | Path = source if source.is_dir() else images
        root = open_root(folder)
        for record in _records(open_lists(source, "eval")):
            try:
                name = image_name(record) if isinstance(record, dict) else None
            except RecordError as error:
                log.warning("%s: %s", source, error)
                continue
            if name is not None:
                wanted.setdefault((folder, name), root)

    def look(item: tuple[tuple[str | Path, str], ImageRoot]) -> tuple[str, Fingerprint] | None:
        (folder, name), root = item
        try:
            return name, fingerprint(root.read(name))
        except ImageError as error:
            log.warning("%s: %s", folder, error)
            return None

    with ThreadPoolExecutor() as threads:
        found = track(threads.map(look, wanted.items()), "looking at evaluation images", len(wanted))
        yield from (entry for entry in found if entry is not None)


def _records(lists: Iterable[RecordList]) -> Iterator[Any]:
    for records in lists:
        content = records.path.read_bytes()
        for start, end in zip(records.starts.tolist(), records.ends.tolist(), strict=True):
            try:
                yield parse_record(content[start:end])
            except RecordError as error:
                log.warning("%s: %s", records.path, error)


# --- checking, piece by piece --------------------------------------------------------------------


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


def _check_all(request: Request, span: tuple[int, int], prints: Path | None, folder: Path) -> list[Path]:
    """Check the records of `span`; pieces that an interrupted run has checked are taken as they are."""
    size = _PIECE if request.skip_images else max(1, _PIECE // _IMAGES_COST)
    pieces = list(_cut(request.lists, *span, size))
    left = [piece for piece in pieces if not (folder / f"{piece.name}.jsonl").exists()]
    what = request.sources[0].name
    if len(left) < len(pieces):
        log.info("%s: %d of %d pieces were checked before", what, len(pieces) - len(left), len(pieces))
    bare = replace(request)  # without the lists, which are in the pieces
    work = partial(_check_piece, request=bare, prints=prints, folder=folder)
    with _workers(sum(len(piece.starts) for piece in left)) as workers:
        for _ in track(workers.map(work, left), f"validating {what}, {size} records each", len(left)):
            pass
    return [folder / piece.name for piece in pieces]


def _cut(lists: list[RecordList], first: int, last: int, size: int) -> Iterator[_Piece]:
    before = 0
    for number, records in enumerate(lists):
        start, stop = max(first - before, 0), min(last - before, len(records))
        for at in range(start, stop, size):
            part = slice(at, min(at + size, stop))
            yield _Piece(before + at, number, records.path, records.starts[part], records.ends[part])
        before += len(records)


def _workers(records: int) -> Executor:
    if records <= _ALONE:
        return ThreadPoolExecutor(1)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # there is a process for each core
    return ProcessPoolExecutor(os.cpu_count() or 1, multiprocessing.get_context("spawn"))


def _check_piece(piece: _Piece, request: Request, prints: Path | None, folder: Path) -> None:
    """Write `folder`/NAME.arrow with the rows, then NAME.jsonl with the rejected: a piece that has both is done."""
    import pyarrow as pa

    root = None if request.skip_images else open_root(request.images)
    leaks = None if prints is None else load_finder(prints)
    checker = Checker(root, request.kind, request.limits, request.max_text, leaks, request.bands)
    rows: list[Row] = []
    rejected: list[Rejected] = []
    with piece.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        spans = zip(piece.starts.tolist(), piece.ends.tolist(), strict=True)
        raws = (content[start:end] for start, end in spans)
        indices = range(piece.first, piece.first + len(piece.starts))
        # Pictures are read and decoded outside the interpreter: threads hide the disk, and more of them the network.
        with ThreadPoolExecutor(16 if root is not None and root.remote else 2) as threads, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow has to say of a file is in the reason, or does not matter
            run = map if root is None else threads.map
            for result in run(checker.check, indices, raws):
                (rows if isinstance(result, Row) else rejected).append(result)  # type: ignore[arg-type]
    columns = {name: [getattr(row, name) for row in rows] for name in Row.__dataclass_fields__}
    columns["list"] = [piece.list] * len(rows)
    table = pa.table(columns, schema=_schema())
    _write_table(folder / f"{piece.name}.arrow", table)
    write_bytes(folder / f"{piece.name}.jsonl", jsonl([asdict(row) for row in rejected]))


def _write_table(path: Path, table: pa.Table) -> None:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    write_bytes(path, memoryview(sink.getvalue()))


def _schema() -> pa.Schema:
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


def _leaks(out: Path, lists: list[RecordList]) -> Iterator[Leak]:
    """The leaks among what was rejected, with their records' images."""
    for row in read_jsonl(out / "rejected.jsonl"):
        if row["reason"] == "leak":
            [piece] = _cut(lists, row["index"], row["index"] + 1, 1)
            with piece.path.open("rb") as file:
                file.seek(int(piece.starts[0]))
                record = parse_record(file.read(int(piece.ends[0] - piece.starts[0])))
            yield Leak(row["index"], str(image_name(record)), row["detail"].removeprefix(LEAK))


# --- pieces on disk ------------------------------------------------------------------------------


def _parts_folder(out: Path, key: str) -> Path:
    folder = out / PARTS
    if folder.is_dir() and (not (folder / "key").is_file() or (folder / "key").read_text() != key):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "key", key.encode())
    return folder


def _pieces_of(shards: Sequence[Path], request: Request) -> list[Path]:
    """The pieces of all shards in the list's order. InputError when they are of different runs, or some lack."""
    pieces: list[Path] = []
    for shard in shards:
        folder = shard / PARTS
        if not (folder / "key").is_file():
            raise InputError(f"{shard} holds no {PARTS}/ of a `vhm validate --shard`")
        if (folder / "key").read_text() != request.key:
            raise InputError(f"{shard} was made from another list, with other settings or by other code: make it again")
        pieces += [path.with_suffix("") for path in folder.glob("*.jsonl")]
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


# --- the whole -----------------------------------------------------------------------------------


def _join(pieces: list[Path], result: Validation, suite: Suite, out: Path) -> Validation:
    """Find duplicates, write manifest and rejections in the list's order, and judge the whole."""
    kept, duplicates = _duplicates(pieces)
    out.mkdir(parents=True, exist_ok=True)
    columns = _write_manifest(pieces, kept, out / "manifest.parquet")
    reasons: Counter[str] = Counter()
    _write_rejected(pieces, [row for _, row in duplicates], reasons, out / "rejected.jsonl")
    result.accepted, result.rejected = len(columns), reasons.total()
    result.total = result.accepted + result.rejected
    result.reasons = dict(reasons.most_common())
    sources = sources_of(columns, Counter(source for source, _ in duplicates))
    result.sources = {row.pop("source"): row for row in sources.to_pylist()}
    result.refusal_share = (columns["refusal"].to_numpy().mean() if len(columns) else 0.0).__float__()
    result.manifest_sha256 = sha256_file(out / "manifest.parquet")
    _judge(result, columns, sources, suite, out)
    return result


def _duplicates(pieces: list[Path]) -> tuple[list[NDArray[np.bool_]], list[tuple[str, Rejected]]]:
    """Which rows of each piece to keep, and (source, row) of the others: an id or a content that was there.

    Only hashes that come more than once are looked at one by one: the others need no memory each.
    """
    repeated = _repeated(pieces, "id_hash") | _repeated(pieces, "content_hash")
    lengths = [len(_read_piece(piece, ["index"])) for piece in pieces]
    kept = [np.ones(length, bool) for length in lengths]
    starts = np.cumsum([0, *lengths])
    ids: set[bytes] = set()
    contents: dict[bytes, int] = {}
    found = []
    rows: Any = None
    of = -1
    for place in np.flatnonzero(repeated).tolist():
        piece = int(np.searchsorted(starts, place, "right")) - 1
        if piece != of:
            rows, of = _read_piece(pieces[piece], ["index", "id", "source", "id_hash", "content_hash"]), piece
        row = rows.slice(place - int(starts[piece]), 1).to_pylist()[0]
        name, content = row["id_hash"], row["content_hash"]
        if name is not None and name in ids:
            reason, detail = "duplicate_id", "an earlier record has this id"
        elif content in contents:
            reason, detail = "duplicate", f"same image and text as record {contents[content]}"
        else:
            contents[content] = row["index"]
            if name is not None:
                ids.add(name)
            continue
        kept[piece][place - int(starts[piece])] = False
        found.append((row["source"], Rejected(row["index"], row["id"], reason, detail)))
    return kept, found


def _repeated(pieces: list[Path], column: str) -> NDArray[np.bool_]:
    """Which rows have a hash that comes more than once; by its first 8 bytes, so a few may that do not."""
    starts, valid = [np.zeros(0, np.uint64)], [np.zeros(0, bool)]
    for piece in pieces:
        for chunk in _read_piece(piece, [column])[column].chunks:
            content = np.frombuffer(chunk.buffers()[1], np.uint64).reshape(-1, 2)
            starts.append(content[chunk.offset : chunk.offset + len(chunk), 0].copy())
            valid.append(chunk.is_valid().to_numpy(zero_copy_only=False))
    first, known = np.concatenate(starts), np.concatenate(valid)
    # A record without a hash shares it with nobody: among those that have one, equal neighbours when sorted.
    places = np.flatnonzero(known)
    order = places[np.argsort(first[places], kind="stable")]
    same = first[order[1:]] == first[order[:-1]]
    repeated = np.zeros(len(first), bool)
    repeated[order[1:][same]] = True
    repeated[order[:-1][same]] = True
    return repeated


def _write_manifest(pieces: list[Path], kept: list[NDArray[np.bool_]], path: Path) -> pa.Table:
    """Write the manifest, in row groups that do not depend on the pieces, and what training maps of it.

    Returns the columns that the whole is judged by.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    stored = [name for name in _schema().names if name not in ("id_hash", "content_hash")]
    schema = pa.schema([_schema().field(name) for name in stored])
    judged = ["source", "width", "height", "turns", "text_length", "answer_length", "refusal"]
    light = pa.schema(
        [
            pa.field(name, pa.dictionary(pa.int32(), pa.string()) if name == "source" else schema.field(name).type)
            for name in judged
        ]
    )
    columns = [light.empty_table()]
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with parquet.ParquetWriter(beside, schema, compression="zstd") as manifest, IndexWriter(path) as index:
            waiting = schema.empty_table()
            for piece, keep in zip(pieces, kept, strict=True):
                accepted = _read_piece(piece, stored).filter(pa.array(keep))
                columns.append(accepted.select(judged).cast(light))
                waiting = pa.concat_tables([waiting, accepted])
                while len(waiting) >= _ROW_GROUP:
                    manifest.write_table(waiting.slice(0, _ROW_GROUP).combine_chunks())
                    waiting = waiting.slice(_ROW_GROUP).combine_chunks()
                index.write(accepted)
            if len(waiting):
                manifest.write_table(waiting)
            manifest.close()
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return pa.concat_tables(columns).unify_dictionaries()


def _read_piece(piece: Path, columns: list[str]) -> pa.Table:
    import pyarrow as pa

    # Mapped, so that only the columns that are looked at take memory.
    return pa.ipc.open_file(pa.memory_map(f"{piece}.arrow"), options=_only(columns)).read_all()


def _only(columns: list[str]) -> pa.ipc.IpcReadOptions:
    import pyarrow as pa

    return pa.ipc.IpcReadOptions(included_fields=[_schema().get_field_index(name) for name in columns])


def _write_rejected(pieces: list[Path], duplicates: list[Rejected], reasons: Counter[str], path: Path) -> None:
    """Rejections of the pieces and duplicates, in the list's order; counts them in `reasons`."""

    def stored() -> Iterator[dict[str, Any]]:
        for piece in pieces:
            with piece.with_suffix(".jsonl").open("rb") as file:
                yield from map(orjson.loads, file)

    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with beside.open("wb") as file:
        for row in heapq.merge(stored(), map(asdict, duplicates), key=lambda row: row["index"]):
            reasons[row["reason"]] += 1
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    os.replace(beside, path)
