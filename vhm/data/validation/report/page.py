"""Writes report.html: the verdict, counts by reason and source, distributions, and examples as images.

Everything is computed from the files that `vhm validate` has written and from the lists. The page is the same for the
same inputs, byte for byte; it has at most a few hundred images and about five megabytes.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from vhm.data.validation.expectations import SourceSummary
from vhm.data.validation.findings import Outline
from vhm.data.validation.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, number
from vhm.data.validation.report.examples import (
    Findings,
    Group,
    Rejected,
    RejectedRecord,
    accepted_groups,
    accepted_per_source,
    images_of,
    read_findings,
    read_rejected,
    rejected_groups,
    reported_groups,
)
from vhm.data.validation.report.markdown import ExpectationRow, expectation_rows
from vhm.data.validation.report.sampling import RecordReader
from vhm.data.validation.report.statistics import (
    Distributions,
    accepted_examples,
    distributions,
    read_columns,
)
from vhm.data.validation.report.thumbnails import ImageRef, Thumbnail, thumbnails
from vhm.data.validation.report.words import ADVICE, KINDS, reason_title, shown
from vhm.data.validation.request import ValidationRequest
from vhm.data.validation.templates import template_cache
from vhm.io import write_text

if TYPE_CHECKING:
    from vhm.data.validation.validate import Validation

REPORT = "report.html"
_MAX_SOURCES = 50
_MAX_SOURCE_REASONS = 3
_MAX_NAMES = 40  # of evaluation lists
_MAX_CSV = 400_000  # bytes before base64
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a cell that begins so is a formula to a spreadsheet (OWASP)


@dataclass(frozen=True)
class ListName:
    """A list file and its number of records."""

    path: str
    records: int


@dataclass(frozen=True)
class ReasonRow:
    """One reject reason: `share` is of all records; `anchor` is the key of its first group of examples."""

    reason: str
    meaning: str
    advice: str
    count: int
    share: float
    anchor: str


@dataclass(frozen=True)
class SourceRow:
    """One source: its accepted and rejected records and the most frequent reasons (in words, count)."""

    name: str
    accepted: int
    rejected: int
    share: float
    rejected_share: float
    reasons: tuple[tuple[str, int], ...]
    accepted_summary: SourceSummary | None


@dataclass(frozen=True)
class Download:
    """A CSV file of rejected records as a data URI, with `rows` of all of them."""

    uri: str
    rows: int


@dataclass(frozen=True)
class Page:
    """What the template shows. `complete` is False for a split of the work, which has no verdict."""

    result: Validation
    request: ValidationRequest
    title: str
    kind: str
    complete: bool
    lists: tuple[ListName, ...]
    reasons: tuple[ReasonRow, ...]
    sources: tuple[SourceRow, ...]
    further_sources: int
    sources_estimated: bool
    findings: Findings
    distributions: Distributions
    groups: tuple[Group, ...]
    images: dict[ImageRef, Thumbnail]
    expectations: tuple[ExpectationRow, ...]
    download: Download | None
    compared: tuple[str, ...]
    warnings: tuple[str, ...]


def write_report(result: Validation, request: ValidationRequest, out: Path) -> None:
    """Write `out`/report.html from the result and the files in `out`.

    Raises StorageError or InputError when an image store does not answer; an image that cannot be read is noted.
    """
    with RecordReader(request.lists) as reader:
        page = _page(result, request, out, reader)
    write_text(out / REPORT, _render(page))


def _page(result: Validation, request: ValidationRequest, out: Path, reader: RecordReader) -> Page:
    columns = read_columns(out / "manifest.parquet")
    rejected = read_rejected(out / "rejected.jsonl", reader)
    findings = read_findings(out / "leaks.jsonl", out / "suspicious.jsonl")
    chosen = accepted_examples(columns, *accepted_per_source(len(result.sources)))
    counts = {source.source: source.records for source in result.sources}
    groups = (
        *rejected_groups(rejected, findings, reader, request.kind),
        *reported_groups(findings, reader, request.kind),
        *accepted_groups(chosen, counts, reader, request.kind),
    )
    sources = list(_source_rows(result, rejected))
    lists = tuple(ListName(shown(str(records.path), 300), len(records)) for records in request.lists)
    return Page(
        result=result,
        request=request,
        title=shown(", ".join(source.name for source in request.sources), 200),
        kind=KINDS[request.kind],
        complete=result.total == sum(one.records for one in lists),
        lists=lists,
        reasons=tuple(_reason_rows(result, groups)),
        sources=tuple(sources[:_MAX_SOURCES]),
        further_sources=max(len(sources) - _MAX_SOURCES, 0),
        sources_estimated=not rejected.complete,
        findings=findings,
        distributions=distributions(columns, reader, request.kind),
        groups=groups,
        images=thumbnails(images_of(groups), request),
        expectations=tuple(expectation_rows(result)),
        download=_download(rejected),
        warnings=result.warnings,
        compared=tuple(_compared(result, request)),
    )


def _compared(result: Validation, request: ValidationRequest) -> Iterator[str]:
    """Which images were compared with which, one fact a line."""
    compared = result.compared
    if compared is None:
        if request.kind != "eval":
            reason = "images were not checked" if request.skip_images else "no evaluation lists were given (--against)"
            yield f"with nothing: {reason}, so leaks are not found"
        return
    readable = compared.evaluation_images - compared.unreadable
    yield f"{number(compared.training_images)} images with {number(readable)} evaluation images"
    if compared.unreadable:
        yield f"{number(compared.unreadable)} further evaluation images cannot be read, and were not compared"
        yield from (shown(example, 300) for example in compared.examples)
    names = [Path(one).name for one in compared.lists]
    more = f" and {number(len(names) - _MAX_NAMES)} more" if len(names) > _MAX_NAMES else ""
    yield f"evaluation lists: {shown(', '.join(names[:_MAX_NAMES]), 3000)}{more}"
    yield from (f"evaluation images in {shown(one, 300)}" for one in compared.stores)


def _reason_rows(result: Validation, groups: Sequence[Group]) -> Iterator[ReasonRow]:
    for reason, count in result.reasons.items():
        anchor = next((group.key for group in groups if group.code.split(" · ")[0] == reason), "")
        yield ReasonRow(reason, reason_title(reason), ADVICE.get(reason, ""), count, count / result.total, anchor)


def _source_rows(result: Validation, rejected: Rejected) -> Iterator[SourceRow]:
    """All sources, the one with the most records first."""
    refused = rejected.by_source()
    accepted = {source.source: source for source in result.sources}
    totals = {name: refused.get(name, Counter()).total() for name in {*accepted, *refused}}
    totals = {name: count + (accepted[name].records if name in accepted else 0) for name, count in totals.items()}
    for name in sorted(totals, key=lambda name: (-totals[name], name)):
        reasons = refused.get(name, Counter())
        frequent = sorted(reasons.items(), key=lambda entry: (-entry[1], entry[0]))[:_MAX_SOURCE_REASONS]
        yield SourceRow(
            name=shown(name, 100),
            accepted=totals[name] - reasons.total(),
            rejected=reasons.total(),
            share=totals[name] / max(result.total, 1),
            rejected_share=reasons.total() / max(totals[name], 1),
            reasons=tuple((reason_title(reason), count) for reason, count in frequent),
            accepted_summary=accepted.get(name),
        )


def _download(rejected: Rejected) -> Download | None:
    """Rejected records in the lists' order as a CSV file for spreadsheets, as many as the page has room for."""
    rows = sorted((row for rows in rejected.rows.values() for row in rows), key=lambda row: row.index)
    if not rows:
        return None
    content = io.StringIO()
    writer = csv.writer(content)
    writer.writerow(["index", "id", "source", "image", "reason", "meaning", "detail"])
    written = 0
    for row in rows:
        if content.tell() > _MAX_CSV:
            break
        writer.writerow(_csv_cells(row))
        written += 1
    encoded = base64.b64encode(content.getvalue().encode("utf-8-sig")).decode()  # Excel needs the mark to see UTF-8
    return Download(f"data:text/csv;charset=utf-8;base64,{encoded}", written)


def _csv_cells(row: RejectedRecord) -> list[str]:
    cells = [str(row.index), row.id or "", row.source, row.image, row.reason, reason_title(row.reason), row.detail]
    texts = (shown(cell, 300) for cell in cells)
    return [f"'{text}" if text.startswith(_FORMULA) else text for text in texts]


# --- the template --------------------------------------------------------------------------------


def _render(page: Page) -> str:
    from jinja2 import Environment, FileSystemLoader

    files = resources.files(__package__)
    style, script = (files.joinpath(name).read_text() for name in ("report.css", "report.js"))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        bytecode_cache=template_cache(),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "shown": shown, "percent": _percent, "points": _points}
    template = environment.get_template("report.html.j2")
    return template.render(
        page=page,
        result=page.result,
        style=style,
        script=script,
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        chart={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": BOTTOM},
    )


def _hash(content: str) -> str:
    """The source expression of an inline style or script (Content Security Policy Level 3, 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _percent(share: float) -> str:
    """A share for people: 0.04 % is not 0 %."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{share:.1%}".replace("%", " %")


def _points(outline: Outline, size: tuple[int, int]) -> str:
    """The points of an SVG polygon over an image with this (width, height)."""
    return " ".join(f"{x * size[0]:.1f},{y * size[1]:.1f}" for x, y in outline)
