"""List file → manifest: every record is accepted or rejected with a reason, then the complete list is assessed.

DIR/manifest.parquet   accepted records, in the list's order; manifest.arrow: the same, for memory-mapping
DIR/rejected.jsonl     {"index", "id", "reason", "detail"} for each rejected record
DIR/leaks.jsonl        a `LeakLine` for each record whose image shows an evaluation image
DIR/suspicious.jsonl   a `SuspicionLine` for each record whose image is blank, or nearly equals an earlier one
DIR/validation.json    counts, reasons, what was compared with what, results of Great Expectations
DIR/data_docs/         the same results as HTML pages of Great Expectations
DIR/report.html        all of this as one page for people (vhm/data/validation/report)
DIR/chunks/            unfinished work, see vhm/data/validation/splits.py

Records and images are checked in parallel (`chunks`). What depends on several of them is decided when all are checked
(`verdicts`), in the lists' order. So merging splits writes the same bytes as a single run.
"""

from __future__ import annotations

import errno
import heapq
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson

from vhm.data.index import IndexWriter
from vhm.data.validation.chunks import read_rejected, read_table, records_schema, write_table
from vhm.data.validation.evaluation_images import EvaluationImages, store_locations
from vhm.data.validation.expectations import (
    SourceSummary,
    Suite,
    SuiteResult,
    load_suite,
    run_suite,
    run_suite_on_file,
    summarise_sources,
)
from vhm.data.validation.findings import LEAK_KINDS, Comparison, FindingCount, FindingKind, LeakLine, SuspicionLine
from vhm.data.validation.record_checks import Kind
from vhm.data.validation.report import write_report
from vhm.data.validation.request import ValidationRequest
from vhm.data.validation.source_checks import check_bands, check_source_names, images_by_source
from vhm.data.validation.splits import (
    VALIDATION,
    CheckedSplit,
    check_own_folder,
    check_split,
    read_splits,
    remove_work,
)
from vhm.data.validation.verdicts import Verdicts, decide
from vhm.errors import CheckFailed, InputError, StorageError
from vhm.io import JsonObject, sha256_file, write_json
from vhm.processes import workers
from vhm.recipe import Expectations

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

_MIN_ROWS_FOR_PROCESS = 200_000  # Great Expectations checks fewer rows in this process
_ROW_GROUP = 16_384
_MIN_BOXES = 20  # of a source: that so many are all in one hundredth of the image's area by chance is unlikely
_EXAMPLES = 10  # unreadable evaluation images in validation.json
_OUTPUTS = ("leaks.jsonl", "suspicious.jsonl")  # written only where there is something to compare


@dataclass(frozen=True)
class Validation:
    """The result of a validation; `passed` is False if too many records were rejected or an expectation failed.

    `reasons` counts rejected records by reason, `findings` records by kind of finding, the most frequent first.
    `expectations` is None if no record was accepted, `compared` if no image was compared with evaluation images.
    `warnings` say what is probably wrong, but does not fail.
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
    findings: Mapping[FindingKind, FindingCount] = field(default_factory=dict)
    compared: Comparison | None = None
    warnings: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def summary(self) -> str:
        """What was accepted and found, in one line, as the command prints it."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.reasons.items())
        parts = [f"{self.accepted} of {self.total} accepted{f' ({reasons})' if reasons else ''}"]
        leaks, suspicious = (
            ", ".join(f"{one.found} {kind}" for kind, one in self.findings.items() if (kind in LEAK_KINDS) == is_leak)
            for is_leak in (True, False)
        )
        if self.compared is not None:
            parts.append(f"leaks of {self.compared.evaluation_images} evaluation images: {leaks or 'none'}")
        if suspicious:
            parts.append(f"suspicious: {suspicious}")
        return "; ".join(parts)

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
    restart: bool = False,
) -> Validation:
    """Check the lists and write the manifest to `out`.

    `expect` are the thresholds for the complete list. `split` (i, n) checks split i of n; `merge` are the output
    directories of all splits, whose results are joined without checking records again; `restart` deletes unfinished
    work on another request. Errors in single records or images are never raised, but counted in the result.

    Raises InputError when a list or too many evaluation images cannot be read, or when `out` is not a validation's
    folder; StorageError when a store or disk fails: the same call then resumes.
    """
    check_own_folder(out)
    with _resumable(out):
        checked = read_splits(merge, request) if merge else check_split(request, out, split, restart)
        thresholds = (expect or Expectations()).model_dump() | {"max_text": request.max_text}
        result = _join(checked, request, max_rejected, load_suite(request.kind, thresholds), out)
        write_report(result, request, out)
        for warning in result.warnings:
            log.warning("%s", warning)
        write_json(out / VALIDATION, result.to_dict())
        if split == (0, 1) and not merge:
            remove_work(out)
    return result


def require_passed(result: Validation, out: Path) -> None:
    """Raise CheckFailed with the first failure and the file with details."""
    if not result.passed:
        raise CheckFailed(f"{result.source}: {result.failures[0]}; see {out / 'rejected.jsonl'}")


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """Turn what ends a run from outside into one line that says how to resume."""
    hint = f"what is finished is kept in {out}: run the same command again to resume"
    try:
        yield
    except StorageError as error:
        raise StorageError(f"{error}; {hint}") from error
    except BrokenProcessPool:
        raise StorageError(f"a process was killed, perhaps for lack of memory; {hint}") from None
    except MemoryError:
        raise StorageError(f"out of memory; {hint}") from None
    except (OSError, InputError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        where = f" ({cause.filename})" if cause.filename else ""
        advice = "free space there, then" if cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "then"
        what = str(error) if isinstance(error, InputError) else f"{os.strerror(cause.errno or errno.EIO)}{where}"
        raise StorageError(f"{what}; {hint.replace('run', f'{advice} run', 1)}") from error


# --- the complete list ---------------------------------------------------------------------------


def _join(
    checked: CheckedSplit, request: ValidationRequest, max_rejected: float, suite: Suite, out: Path
) -> Validation:
    """Decide on all records, write manifest and rejected records in the lists' order, assess the complete list."""
    out.mkdir(parents=True, exist_ok=True)
    verdicts = decide(checked.records, checked.images, request.reject, out)
    (out / VALIDATION).unlink(missing_ok=True)  # until it is written again, the other files may be of two validations
    for name in _OUTPUTS:
        (out / name).unlink(missing_ok=True)
    columns = _write_manifest(checked.records, verdicts, out / "manifest.parquet")
    reasons = _write_rejected(checked.records, verdicts, out / "rejected.jsonl")
    findings = {} if request.skip_images else _write_findings(verdicts, request, out)
    sources = summarise_sources(columns, _duplicates_by_source(checked.records, verdicts))
    accepted = len(columns)
    expectations = _run_suite(columns, sources, suite, out / "data_docs") if accepted else None
    lacking, warnings = _check_sources(checked.records, verdicts, request)
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
        failures=(*lacking, *_failures(accepted, reasons, max_rejected, expectations)),
        findings=findings,
        compared=_comparison(checked.evaluation, request, verdicts),
        warnings=(*warnings, *(() if request.kind == "eval" else _box_warnings(columns))),
    )


def _box_warnings(columns: pa.Table) -> Iterator[str]:
    """One sentence for each source whose boxes are all so small that they are probably not normalised to [0, 1000)."""
    with_boxes = columns.filter(columns["largest_coordinate"].is_valid())
    grouped = with_boxes.group_by("source").aggregate([("boxes", "sum"), ("largest_coordinate", "max")])
    for row in sorted(grouped.to_pylist(), key=lambda row: str(row["source"])):
        boxes, largest = row["boxes_sum"], row["largest_coordinate_max"]
        if boxes >= _MIN_BOXES and largest <= 100:
            yield (
                f"the boxes of source {row['source']!r} look as if they were from 0 to 100: the largest coordinate of "
                f"{boxes} boxes is {largest:g}; read as normalised to [0, 1000); `vhm data import` converts them"
            )


def _check_sources(records: list[Path], verdicts: Verdicts, request: ValidationRequest) -> tuple[list[str], list[str]]:
    """Failures and warnings about the image options of whole sources."""
    options, bands = request.image_options, verdicts.missing_bands
    names = check_source_names(records, options)
    if not bands.any():
        return [], names
    failures, warnings = check_bands(images_by_source(records, verdicts.images_of_records), bands, options)
    return failures, [*warnings, *names]


def _comparison(
    evaluation: EvaluationImages | None, request: ValidationRequest, verdicts: Verdicts
) -> Comparison | None:
    if evaluation is None:
        return None
    return Comparison(
        lists=tuple(str(records.path) for _, records in request.evaluation_lists),
        stores=tuple(store_locations(request)),
        evaluation_images=evaluation.images,
        unreadable=len(evaluation.unreadable),
        examples=evaluation.unreadable[:_EXAMPLES],
        training_images=verdicts.images,
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
    if changed := reasons["image_changed"]:
        yield f"{changed} records have images whose bytes are not those in the table of their shards: restore them"
    if expectations is None:
        yield f"no record of {total} was accepted"
        return
    if rejected / total > max_rejected:
        frequent = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
        share = f"{rejected / total:.1%}, at most {max_rejected:.1%} allowed"
        yield f"{rejected} of {total} records rejected ({share}): {frequent}"
    for failure in expectations.failed:
        yield f"expectation failed: {failure}"


# --- files ---------------------------------------------------------------------------------------


def _write_manifest(chunks: list[Path], verdicts: Verdicts, path: Path) -> pa.Table:
    """Write the manifest and its memory-mapped index; neither depends on where chunks begin.

    Returns the columns that the complete list is assessed by.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    assessed = _assessed_schema()
    columns = [assessed.empty_table()]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with (
            parquet.ParquetWriter(temporary, manifest_schema(), compression="zstd") as manifest,
            IndexWriter.of_manifest(path) as index,
        ):
            for rows in _row_groups(_accepted(chunks, verdicts)):
                manifest.write_table(rows)
                index.write(rows)
                columns.append(rows.select(assessed.names).cast(assessed))
            index.mark(manifest)
            manifest.close()
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return pa.concat_tables(columns).unify_dictionaries()


def manifest_schema() -> pa.Schema:
    """The columns of the manifest."""
    import pyarrow as pa

    texts = ("turns", "text_length", "answer_length", "refusal", "boxes", "largest_coordinate")
    stored = ("index", "list", "id", "source", "image", *texts, "record")
    columns = [records_schema().field(name) for name in stored]
    images = [
        ("image_sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("brightness", pa.float32()),
    ]
    columns[5:5] = [pa.field(name, kind) for name, kind in images]
    return pa.schema(columns)


def _accepted(chunks: list[Path], verdicts: Verdicts) -> Iterator[pa.Table]:
    """The rows of the manifest, chunk by chunk."""
    import pyarrow as pa

    schema = manifest_schema()
    for number, chunk in enumerate(chunks):
        own = [name for name in schema.names if name in records_schema().names]
        rows = read_table(chunk, own).filter(pa.array(verdicts.kept(number)))
        for name, column in verdicts.image_columns(number).items():
            rows = rows.append_column(schema.field(name), column)
        yield rows.select(schema.names)


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of `_ROW_GROUP` rows, each in one piece."""
    import pyarrow as pa

    pending = manifest_schema().empty_table()
    for table in tables:
        pending = pa.concat_tables([pending, table])
        while len(pending) >= _ROW_GROUP:
            yield pending.slice(0, _ROW_GROUP).combine_chunks()
            pending = pending.slice(_ROW_GROUP).combine_chunks()
    if len(pending):
        yield pending.combine_chunks()


def _assessed_schema() -> pa.Schema:
    """The columns that the complete list is assessed by; sources are dictionary-encoded to save memory."""
    import pyarrow as pa

    numbers = ["width", "height", "turns", "text_length", "answer_length", "refusal", "boxes", "largest_coordinate"]
    source = pa.field("source", pa.dictionary(pa.int32(), pa.string()))
    return pa.schema([source, *(pa.field(name, manifest_schema().field(name).type) for name in numbers)])


def _write_rejected(chunks: list[Path], verdicts: Verdicts, path: Path) -> Counter[str]:
    """Write all rejected records in the lists' order. Returns counts by reason."""
    reasons: Counter[str] = Counter()
    with _replaced(path) as temporary, temporary.open("wb") as file:
        for number, chunk in enumerate(chunks):
            stored = read_rejected(chunk.with_suffix(".jsonl"))
            for row in heapq.merge(stored, verdicts.rejected(number), key=lambda row: row.index):
                reasons[row.reason] += 1
                file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    return reasons


def _duplicates_by_source(chunks: list[Path], verdicts: Verdicts) -> Counter[str]:
    counts: Counter[str] = Counter()
    for number, chunk in enumerate(chunks):
        offsets = np.flatnonzero(verdicts.duplicates_of(number))
        if len(offsets):
            counts.update(read_table(chunk, ["source"])["source"].take(offsets).to_pylist())
    return counts


def _write_findings(verdicts: Verdicts, request: ValidationRequest, out: Path) -> dict[FindingKind, FindingCount]:
    """Write leaks.jsonl, if there is anything to compare with, and suspicious.jsonl. Returns counts by kind."""
    found: Counter[tuple[FindingKind, bool]] = Counter()
    if request.against:
        _write_lines(out / "leaks.jsonl", verdicts.leaks(), found)
    _write_lines(out / "suspicious.jsonl", verdicts.suspicious(), found)
    totals: Counter[FindingKind] = Counter()
    for (kind, _), count in found.items():
        totals[kind] += count
    return {kind: FindingCount(count, found[kind, True]) for kind, count in totals.most_common()}


def _write_lines(
    path: Path, lines: Iterable[LeakLine] | Iterable[SuspicionLine], found: Counter[tuple[FindingKind, bool]]
) -> None:
    with _replaced(path) as temporary, temporary.open("wb") as file:
        for line in lines:
            found[line.kind, line.rejected] += 1
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """A temporary path next to `path`, which is renamed to it at the end, or removed if the block fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
