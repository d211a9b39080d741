"""List file → manifest: every record is accepted or rejected with a reason, then the complete list is assessed.

DIR/manifest.parquet   accepted records, in the list's order
DIR/rejected.jsonl     {"index", "id", "reason", "detail"} for each rejected record
DIR/validation.json    counts, reasons, results of Great Expectations
DIR/data_docs/         the same results as HTML pages of Great Expectations
DIR/report.html        all of this as one page for people (vhm/data/validation/report)
DIR/chunks/            results of the chunks that are already checked (vhm/data/validation/chunks.py)

Chunks of the list are checked in parallel. What depends on all records (duplicates, shares of sources) is computed
when all chunks are checked, in the list's order. So merging splits writes the same bytes as a single run.
"""

from __future__ import annotations

import heapq
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson
from numpy.typing import NDArray

from vhm.data.index import IndexWriter
from vhm.data.validation.chunks import (
    CHUNKS,
    check_split,
    chunks_of_splits,
    read_chunk,
    read_rejected,
    rows_schema,
    write_table,
)
from vhm.data.validation.expectations import (
    SourceSummary,
    Suite,
    SuiteResult,
    load_suite,
    run_suite,
    run_suite_on_file,
    summarise_sources,
)
from vhm.data.validation.record_checks import Kind, RejectedRow
from vhm.data.validation.report import write_report
from vhm.data.validation.request import ValidationRequest
from vhm.errors import CheckFailed
from vhm.io import JsonObject, sha256_file, write_json
from vhm.processes import workers
from vhm.recipe import Expectations

if TYPE_CHECKING:
    import pyarrow as pa

_MIN_ROWS_FOR_PROCESS = 200_000  # Great Expectations checks fewer rows in this process
_ROW_GROUP = 16_384


@dataclass(frozen=True)
class Validation:
    """The result of a validation; `passed` is False if too many records were rejected or an expectation failed.

    `reasons` counts rejected records by reason, the most frequent first. `expectations` is None if no record was
    accepted.
    """

    kind: Kind
    source: str
    total: int
    accepted: int
    rejected: int
    reasons: Mapping[str, int]
    sources: tuple[SourceSummary, ...]
    refusal_share: float
    max_rejected: float
    manifest_sha256: str
    expectations: SuiteResult | None
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def summary(self) -> str:
        """The counts in one line, as the command prints them."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.reasons.items())
        return f"{self.accepted} of {self.total} accepted{f' ({reasons})' if reasons else ''}"

    def to_dict(self) -> JsonObject:
        """The content of validation.json."""
        content = asdict(self)
        content["sources"] = {row.pop("source"): row for row in content["sources"]}
        content["expectations"] = content["expectations"] or {}
        return content | {"passed": self.passed}


def validate(
    request: ValidationRequest,
    out: Path,
    max_rejected: float = 0.01,
    expect: Expectations | None = None,
    split: tuple[int, int] = (0, 1),
    merge: Sequence[Path] = (),
) -> Validation:
    """Check the lists and write the manifest to `out`.

    `expect` are the thresholds for the complete list. `split` (i, n) checks split i of n; `merge` are the output
    directories of all splits, whose results are joined without checking records again. Raises InputError when a list
    cannot be read; errors in single records are never raised, but counted in the result.
    """
    chunks = chunks_of_splits(merge, request) if merge else check_split(request, out, split)
    thresholds = (expect or Expectations()).model_dump() | {"max_text": request.max_text}
    result = _join(chunks, request, max_rejected, load_suite(request.kind, thresholds), out)
    write_json(out / "validation.json", result.to_dict())
    write_report(result, request, out)
    if split == (0, 1):
        shutil.rmtree(out / CHUNKS, ignore_errors=True)
    return result


def require_passed(result: Validation, out: Path) -> None:
    """Raise CheckFailed with the first failure and the file with details."""
    if not result.passed:
        raise CheckFailed(f"{result.source}: {result.failures[0]}; see {out / 'rejected.jsonl'}")


# --- the complete list ---------------------------------------------------------------------------


def _join(chunks: list[Path], request: ValidationRequest, max_rejected: float, suite: Suite, out: Path) -> Validation:
    """Find duplicates, write manifest and rejected records in the list's order, and assess the complete list."""
    keep, duplicates = _find_duplicates(chunks)
    out.mkdir(parents=True, exist_ok=True)
    columns = _write_manifest(chunks, keep, out / "manifest.parquet")
    reasons = _write_rejected(chunks, [row for _, row in duplicates], out / "rejected.jsonl")
    sources = summarise_sources(columns, Counter(source for source, _ in duplicates))
    accepted = len(columns)
    expectations = _run_suite(columns, sources, suite, out / "data_docs") if accepted else None
    return Validation(
        kind=request.kind,
        source=", ".join(map(str, request.sources)),
        total=accepted + reasons.total(),
        accepted=accepted,
        rejected=reasons.total(),
        reasons=dict(reasons.most_common()),
        sources=tuple(SourceSummary(**row) for row in sources.to_pylist()),
        refusal_share=float(columns["refusal"].to_numpy().mean()) if accepted else 0.0,
        max_rejected=max_rejected,
        manifest_sha256=sha256_file(out / "manifest.parquet"),
        expectations=expectations,
        failures=tuple(_failures(accepted, reasons, max_rejected, expectations)),
    )


def _run_suite(columns: pa.Table, sources: pa.Table, suite: Suite, docs: Path) -> SuiteResult:
    """Run the suite; for many rows in a separate process, so that its memory is freed afterwards."""
    if len(columns) <= _MIN_ROWS_FOR_PROCESS:
        return run_suite(columns, sources, suite, docs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.arrow"
        write_table(path, columns)
        with workers(1) as process:
            return process.submit(run_suite_on_file, path, sources, suite, docs).result()


def _failures(
    accepted: int, reasons: Counter[str], max_rejected: float, expectations: SuiteResult | None
) -> Iterator[str]:
    rejected = reasons.total()
    total = accepted + rejected
    if expectations is None:
        yield f"no record of {total} was accepted"
        return
    if reasons["image_changed"]:
        yield f"{reasons['image_changed']} records have images whose bytes are not those in the table of their shards"
    if rejected / total > max_rejected:
        frequent = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
        share = f"{rejected / total:.1%}, at most {max_rejected:.1%} allowed"
        yield f"{rejected} of {total} records rejected ({share}): {frequent}"
    for failure in expectations.failed:
        yield f"expectation failed: {failure}"


def _find_duplicates(chunks: list[Path]) -> tuple[list[NDArray[np.bool_]], list[tuple[str, RejectedRow]]]:
    """Which rows of each chunk to keep, and (source, rejection) of the others: their id or content occurred before."""
    lengths = [len(read_chunk(chunk, ["index"])) for chunk in chunks]
    keep = [np.ones(length, bool) for length in lengths]
    ids: set[bytes] = set()
    contents: dict[bytes, int] = {}
    duplicates: list[tuple[str, RejectedRow]] = []
    for chunk, offset, row in _rows_with_repeated_hashes(chunks, lengths):
        if row["id_hash"] is not None and row["id_hash"] in ids:
            reason, detail = "duplicate_id", "an earlier record has the same id"
        elif row["content_hash"] in contents:
            reason, detail = "duplicate", f"record {contents[row['content_hash']]} has the same image and text"
        else:
            contents[row["content_hash"]] = row["index"]
            if row["id_hash"] is not None:
                ids.add(row["id_hash"])
            continue
        keep[chunk][offset] = False
        duplicates.append((row["source"], RejectedRow(row["index"], row["id"], reason, detail)))
    return keep, duplicates


def _rows_with_repeated_hashes(chunks: list[Path], lengths: list[int]) -> Iterator[tuple[int, int, JsonObject]]:
    """(chunk number, offset in the chunk, row) of each row with a hash that occurs more than once.

    Only these rows are held in memory as objects.
    """
    repeated = np.flatnonzero(_is_repeated(chunks, "id_hash") | _is_repeated(chunks, "content_hash"))
    starts = np.cumsum([0, *lengths])
    numbers = np.searchsorted(starts, repeated, "right") - 1
    for number in np.unique(numbers).tolist():
        rows = read_chunk(chunks[number], ["index", "id", "source", "id_hash", "content_hash"])
        for offset in (repeated[numbers == number] - starts[number]).tolist():
            yield number, offset, rows.slice(offset, 1).to_pylist()[0]


def _is_repeated(chunks: list[Path], column: str) -> NDArray[np.bool_]:
    """Which rows have a hash that occurs more than once. Compares 8 bytes: a few rows may be marked wrongly."""
    prefixes, valid = [np.zeros(0, np.uint64)], [np.zeros(0, bool)]
    for chunk in chunks:
        for array in read_chunk(chunk, [column])[column].chunks:
            content = np.frombuffer(array.buffers()[1], np.uint64).reshape(-1, 2)
            prefixes.append(content[array.offset : array.offset + len(array), 0].copy())
            valid.append(array.is_valid().to_numpy(zero_copy_only=False))
    hashes, known = np.concatenate(prefixes), np.concatenate(valid)
    # Rows without a hash are never repeated. Among the others, equal hashes are neighbours when sorted.
    rows = np.flatnonzero(known)
    order = rows[np.argsort(hashes[rows], kind="stable")]
    equal = hashes[order[1:]] == hashes[order[:-1]]
    repeated = np.zeros(len(hashes), bool)
    repeated[order[1:][equal]] = True
    repeated[order[:-1][equal]] = True
    return repeated


# --- files ---------------------------------------------------------------------------------------


def _write_manifest(chunks: list[Path], keep: list[NDArray[np.bool_]], path: Path) -> pa.Table:
    """Write the manifest and its memory-mapped index; the row groups do not depend on the chunks.

    Returns the columns that the complete list is assessed by.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    stored = [name for name in rows_schema().names if name not in ("id_hash", "content_hash")]
    schema = pa.schema([rows_schema().field(name) for name in stored])
    assessed = _assessed_schema()
    columns = [assessed.empty_table()]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with (
            parquet.ParquetWriter(temporary, schema, compression="zstd") as manifest,
            IndexWriter.of_manifest(path) as index,
        ):
            pending = schema.empty_table()
            for chunk, kept in zip(chunks, keep, strict=True):
                accepted = read_chunk(chunk, stored).filter(pa.array(kept))
                columns.append(accepted.select(assessed.names).cast(assessed))
                pending = pa.concat_tables([pending, accepted])
                while len(pending) >= _ROW_GROUP:
                    manifest.write_table(pending.slice(0, _ROW_GROUP).combine_chunks())
                    pending = pending.slice(_ROW_GROUP).combine_chunks()
                index.write(accepted)
            if len(pending):
                manifest.write_table(pending)
            index.mark(manifest)
            manifest.close()
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return pa.concat_tables(columns).unify_dictionaries()


def _assessed_schema() -> pa.Schema:
    """The columns that the complete list is assessed by; sources are dictionary-encoded to save memory."""
    import pyarrow as pa

    numbers = ["width", "height", "turns", "text_length", "answer_length", "refusal"]
    source = pa.field("source", pa.dictionary(pa.int32(), pa.string()))
    return pa.schema([source, *(pa.field(name, rows_schema().field(name).type) for name in numbers)])


def _write_rejected(chunks: list[Path], duplicates: list[RejectedRow], path: Path) -> Counter[str]:
    """Write the rejected records of all chunks and the duplicates, in the list's order. Returns counts by reason."""
    reasons: Counter[str] = Counter()
    stored = (row for chunk in chunks for row in read_rejected(chunk.with_suffix(".jsonl")))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with temporary.open("wb") as file:
        for row in heapq.merge(stored, duplicates, key=lambda row: row.index):
            reasons[row.reason] += 1
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    os.replace(temporary, path)
    return reasons
