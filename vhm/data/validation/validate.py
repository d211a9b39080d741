"""List file → manifest: every record is accepted or rejected with a reason, and the whole is judged.

DIR/manifest.parquet   accepted records, in the list's order
DIR/rejected.jsonl     {"index", "id", "reason", "detail"} for each other record
DIR/validation.json    counts, reasons, what Great Expectations says
DIR/data_docs/         the same to look at
DIR/leaks.html         training images beside the evaluation images that they are, where there are any
DIR/parts/             what was checked so far (vhm/data/validation/chunks.py)

Pieces of the list are checked side by side; what must see every record (duplicates, the whole's shares) is done in the
list's order when all pieces are there. So a merge of shards writes the same bytes as a single run.
"""

from __future__ import annotations

import heapq
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from vhm.data.images.stores import open_store
from vhm.data.index import IndexWriter
from vhm.data.records import image_name
from vhm.data.validation.chunks import (
    PARTS,
    Request,
    check_shard,
    pieces_of,
    read_piece,
    record_at,
    rejected_of,
    rows_schema,
    write_table,
)
from vhm.data.validation.expectations import Suite, frame_of, judge, judge_file, load_suite, sources_of
from vhm.data.validation.leaks import Leak, write_leaks
from vhm.data.validation.record_checks import LEAK, Kind, Rejected
from vhm.data.validation.stream import RecordList
from vhm.errors import CheckFailed
from vhm.io import read_jsonl, sha256_file, write_json
from vhm.processes import workers
from vhm.recipe import Expectations

if TYPE_CHECKING:
    import pyarrow as pa

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


def validate(
    request: Request,
    out: Path,
    max_rejected: float = 0.01,
    expect: Expectations | None = None,
    shard: tuple[int, int] = (0, 1),
    merge: Sequence[Path] = (),
) -> Validation:
    """Check the lists and write the manifest to `out`.

    `expect` are the thresholds that the whole is judged by. `shard` (i, n) takes the i-th of n equal parts; `merge`
    are directories of all shards, whose results are joined without checking anything again. Raises InputError when
    a list cannot be read; what is wrong with single records is never raised, but counted in the result.
    """
    pieces = pieces_of(merge, request) if merge else check_shard(request, out, shard)
    thresholds = (expect or Expectations()).model_dump() | {"max_text": request.max_text}
    suite = load_suite(request.kind, thresholds)
    told = ", ".join(map(str, request.sources))
    result = _join(pieces, Validation(request.kind, told, max_rejected=max_rejected), suite, out)
    (out / "leaks.html").unlink(missing_ok=True)
    if "leak" in result.reasons:
        places = sorted({str(root) for root, _ in request.evaluation})
        leaks = list(_leaks(out, request.lists))
        write_leaks(out / "leaks.html", leaks, open_store(request.images), map(open_store, places))
    write_json(out / "validation.json", result.to_dict())
    if shard == (0, 1):
        shutil.rmtree(out / PARTS, ignore_errors=True)
    return result


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
        result.expectations = judge(frame_of(rows, suite), *rest)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.arrow"
            write_table(path, rows)
            with workers(1) as process:
                result.expectations = process.submit(judge_file, path, *rest).result()
    for failure in result.expectations["failed"]:
        result.failures.append(f"expectation failed: {failure}")


def _leaks(out: Path, lists: list[RecordList]) -> Iterator[Leak]:
    """The leaks among what was rejected, with their records' images."""
    for row in read_jsonl(out / "rejected.jsonl"):
        if row["reason"] == "leak":
            shown = str(image_name(record_at(lists, row["index"])))
            yield Leak(row["index"], shown, row["detail"].removeprefix(LEAK))


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
    lengths = [len(read_piece(piece, ["index"])) for piece in pieces]
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
            rows, of = read_piece(pieces[piece], ["index", "id", "source", "id_hash", "content_hash"]), piece
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
        for chunk in read_piece(piece, [column])[column].chunks:
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

    stored = [name for name in rows_schema().names if name not in ("id_hash", "content_hash")]
    schema = pa.schema([rows_schema().field(name) for name in stored])
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
        with (
            parquet.ParquetWriter(beside, schema, compression="zstd") as manifest,
            IndexWriter.of_manifest(path) as index,
        ):
            waiting = schema.empty_table()
            for piece, keep in zip(pieces, kept, strict=True):
                accepted = read_piece(piece, stored).filter(pa.array(keep))
                columns.append(accepted.select(judged).cast(light))
                waiting = pa.concat_tables([waiting, accepted])
                while len(waiting) >= _ROW_GROUP:
                    manifest.write_table(waiting.slice(0, _ROW_GROUP).combine_chunks())
                    waiting = waiting.slice(_ROW_GROUP).combine_chunks()
                index.write(accepted)
            if len(waiting):
                manifest.write_table(waiting)
            index.mark(manifest)
            manifest.close()
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return pa.concat_tables(columns).unify_dictionaries()


def _write_rejected(pieces: list[Path], duplicates: list[Rejected], reasons: Counter[str], path: Path) -> None:
    """Rejections of the pieces and duplicates, in the list's order; counts them in `reasons`."""
    stored = (row for piece in pieces for row in rejected_of(piece))
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with beside.open("wb") as file:
        for row in heapq.merge(stored, map(asdict, duplicates), key=lambda row: row["index"]):
            reasons[row["reason"]] += 1
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    os.replace(beside, path)
