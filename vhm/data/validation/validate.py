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

from vhm.data.arrow import spare_pandas
from vhm.data.index import IndexWriter
from vhm.data.validation.chunks import read_rejected, read_table, records_schema, write_table
from vhm.data.validation.evaluation_images import EvaluationImages, store_locations
from vhm.data.validation.expectations import (
    ListSummary,
    SourceSummary,
    SuiteProcess,
    SuiteRequest,
    SuiteResult,
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
from vhm.errors import CheckFailed, Interrupted, StorageError
from vhm.io import JsonObject, sha256_file, write_json
from vhm.recipe import Expectations

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

_ROW_GROUP = 16_384
_CAUSES = ("sources_without_bands", "changed_images", None, "rejected_share")  # columns; None: the number of rows
_MIN_BOXES = 20  # of a source: that so many are all in one hundredth of the image's area by chance is unlikely
_EXAMPLES = 10  # unreadable evaluation images in validation.json


@dataclass(frozen=True)
class Validation:
    """The result of a validation; `passed` is False if an expectation is not met: `failures` has a sentence for each.

    `reasons` counts rejected records by reason, `findings` records by kind of finding, the most frequent first.
    `compared` is None if no image was compared with evaluation images. `warnings` say what is probably wrong, but does
    not fail.
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
    expectations: SuiteResult
    failures: tuple[str, ...]
    findings: Mapping[FindingKind, FindingCount] = field(default_factory=dict)
    compared: Comparison | None = None
    warnings: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return self.expectations.success

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
    folder; StorageError when a store or disk fails, Interrupted at Ctrl-C: the same call then resumes.
    """
    check_own_folder(out)
    spare_pandas()
    request.require_lists()  # a file that is not a list is refused before a process is started
    thresholds = (expect or Expectations()).model_dump() | {"max_text": request.max_text, "max_rejected": max_rejected}
    with _resumable(out), SuiteProcess() as process:
        checked = read_splits(merge, request) if merge else check_split(request, out, split, restart)
        result = _join(checked, request, thresholds, process, out)
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
    try:
        yield
    except StorageError as error:
        raise StorageError(f"{error}; {_hint(str(error), out)}") from error
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {_hint('', out)}") from None
    except BrokenProcessPool:
        raise StorageError(f"a process was killed, perhaps for lack of memory; {_hint('', out)}") from None
    except MemoryError:
        raise StorageError(f"out of memory; {_hint('', out)}") from None
    except OSError as error:
        message = f"{error.filename or out}: {error.strerror or error}"
        raise StorageError(f"{message}; {_hint(message, out)}") from error


def _hint(message: str, out: Path) -> str:
    """How to resume after an error with this message; it may come from another process, which passes no more on."""
    is_full = any(os.strerror(code) in message for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
    advice = "free space, then " if is_full else ""
    return f"what is finished is kept in {out}: {advice}run the same command again to resume"


# --- the complete list ---------------------------------------------------------------------------


def _join(
    checked: CheckedSplit, request: ValidationRequest, thresholds: Mapping[str, float], process: SuiteProcess, out: Path
) -> Validation:
    """Decide on all records, write manifest and rejected records in the lists' order, assess the complete list."""
    out.mkdir(parents=True, exist_ok=True)
    verdicts = decide(checked.records, checked.images, request.reject, out)
    (out / VALIDATION).unlink(missing_ok=True)  # until it is written again, the other files may be of two validations
    reasons = _write_rejected(checked.records, verdicts, out / "rejected.jsonl")
    columns = _assessed_columns(checked.records, verdicts)
    sources = summarise_sources(columns, _duplicates_by_source(checked.records, verdicts))
    accepted, rejected = len(columns), reasons.total()
    lacking, warnings = _check_sources(checked.records, verdicts, request)
    if request.against and request.skip_images:
        warnings.append("leaks were not searched for, because images were not checked (--skip-images)")
    share = rejected / max(accepted + rejected, 1)
    summary = ListSummary(accepted + rejected, accepted, share, reasons["image_changed"], len(lacking))
    with tempfile.TemporaryDirectory(prefix="vhm-rows-") as folder:
        rows, docs = Path(folder) / "rows.arrow", out / "data_docs"
        write_table(rows, columns)
        process.submit(SuiteRequest(request.kind, thresholds, str(rows), summary, sources, str(docs.absolute())))
        refusals = float(columns["refusal"].to_numpy().mean()) if accepted else 0.0
        warnings += [] if request.kind == "eval" else _box_warnings(columns)
        del columns
        _write_manifest(checked.records, verdicts, out / "manifest.parquet")  # while the suite runs
        findings = _write_findings(verdicts, request, out)
        manifest_sha256 = sha256_file(out / "manifest.parquet")
        expectations = process.result()
    return Validation(
        kind=request.kind,
        source=", ".join(map(str, request.sources)),
        total=accepted + rejected,
        accepted=accepted,
        rejected=rejected,
        reasons=dict(reasons.most_common()),
        sources=sources,
        refusal_share=refusals,
        max_rejected=thresholds["max_rejected"],
        manifest_sha256=manifest_sha256,
        expectations=expectations,
        failures=tuple(_failures(summary, reasons, lacking, expectations)),
        findings=findings,
        compared=_comparison(checked.evaluation, request, verdicts),
        warnings=tuple(warnings),
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


def _failures(
    summary: ListSummary, reasons: Counter[str], lacking: list[str], expectations: SuiteResult
) -> Iterator[str]:
    """One sentence per expectation that is not met, the cause before its effects."""
    unrelated = len(_CAUSES)
    order: dict[object, int] = {column: number for number, column in enumerate(_CAUSES)}
    for result in sorted(expectations.results, key=lambda one: order.get(one.arguments.get("column"), unrelated)):
        column = result.arguments.get("column")
        if result.success:
            continue
        if column == "changed_images":
            changed = summary.changed_images
            yield f"{changed} records have images whose bytes are not those in the table of their shards: restore them"
        elif column == "sources_without_bands":
            yield from lacking
        elif column == "rejected_share":
            frequent = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
            share = f"{summary.rejected_share:.1%}, at most {result.arguments['max_value']:.1%} allowed"
            yield f"{reasons.total()} of {summary.records} records rejected ({share}): {frequent}"
        elif column is None:
            yield f"no record of {summary.records} was accepted"
        else:
            yield f"expectation failed: {result.failure}"


# --- files ---------------------------------------------------------------------------------------


def _write_manifest(chunks: list[Path], verdicts: Verdicts, path: Path) -> None:
    """Write the manifest and its memory-mapped index; neither depends on where chunks begin."""
    import pyarrow.parquet as parquet

    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with (
            parquet.ParquetWriter(temporary, manifest_schema(), compression="zstd") as manifest,
            IndexWriter.of_manifest(path) as index,
        ):
            for rows in _row_groups(_accepted(chunks, verdicts, manifest_schema().names)):
                manifest.write_table(rows)
                index.write(rows)
            index.mark(manifest)
            manifest.close()
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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


def _accepted(chunks: list[Path], verdicts: Verdicts, columns: list[str]) -> Iterator[pa.Table]:
    """Columns of the manifest, chunk by chunk."""
    import pyarrow as pa

    schema = manifest_schema()
    for number, chunk in enumerate(chunks):
        own = [name for name in columns if name in records_schema().names]
        rows = read_table(chunk, own).filter(pa.array(verdicts.kept(number)))
        for name, column in verdicts.image_columns(number).items():
            rows = rows.append_column(schema.field(name), column)
        yield rows.select(columns)


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


def _assessed_columns(chunks: list[Path], verdicts: Verdicts) -> pa.Table:
    """The columns that the complete list is assessed by; sources are dictionary-encoded to save memory."""
    import pyarrow as pa

    names = [
        "source",
        "width",
        "height",
        "turns",
        "text_length",
        "answer_length",
        "refusal",
        "boxes",
        "largest_coordinate",
    ]
    schema = pa.schema([manifest_schema().field(name) for name in names])
    schema = schema.set(0, pa.field("source", pa.dictionary(pa.int32(), pa.string())))
    tables = [rows.cast(schema) for rows in _accepted(chunks, verdicts, names)]
    return pa.concat_tables([schema.empty_table(), *tables]).unify_dictionaries()


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
    """Write leaks.jsonl and suspicious.jsonl, empty where no image was checked. Returns counts by kind."""
    found: Counter[tuple[FindingKind, bool]] = Counter()
    checked = not request.skip_images
    _write_lines(out / "leaks.jsonl", verdicts.leaks() if checked and request.against else (), found)
    _write_lines(out / "suspicious.jsonl", verdicts.suspicious() if checked else (), found)
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
