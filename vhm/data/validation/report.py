"""The result of a validation as an HTML page and as Markdown tables, the formats that Kubeflow shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from vhm.data.validation.expectations import ExpectationResult, SourceSummary
from vhm.data.validation.validate import Validation

_MAX_SOURCES = 50
_MAX_OBSERVED = 80  # characters
_STYLE = (
    "body{font:14px sans-serif;max-width:70em}td,th{padding:3px 10px;text-align:left;vertical-align:top}"
    "tr:nth-child(even){background:#f4f4f4}.no{color:#b00020}"
)


def report_html(result: Validation, folder: Path) -> str:
    """The page; includes leaks.html of `folder`, the validation's output, if there is one."""
    page = [f"<!doctype html><meta charset=utf-8><title>{escape(result.kind)}</title><style>{_STYLE}</style>"]
    page.append(f"<h1>{escape(result.kind)}: {'passed' if result.passed else 'failed'}</h1>")
    page += [f"<p class=no>{escape(failure)}" for failure in result.failures]
    for table in _tables(result):
        page.append(f"<h2>{table.title}</h2><table><tr>{''.join(f'<th>{escape(cell)}' for cell in table.head)}")
        page += [f"<tr>{''.join(f'<td>{escape(cell)}' for cell in row)}" for row in table.rows]
        page.append("</table>")
    leaks = folder / "leaks.html"
    if leaks.is_file():
        page.append(leaks.read_text().partition("</style>")[2])
    return "".join(page) + "\n"


def report_markdown(result: Validation) -> str:
    """The same tables as Markdown."""
    lines = [f"# {result.kind}: {'passed' if result.passed else '**failed**'}", ""]
    lines += [f"- {escape(failure, quote=False)}" for failure in result.failures]
    for table in _tables(result):
        ruler = ["---"] * len(table.head)
        lines += ["", f"## {table.title}", "", *map(_markdown_row, [table.head, ruler, *table.rows])]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Iterable[str]) -> str:
    escaped = (escape(" ".join(cell.split()), quote=False).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


@dataclass(frozen=True)
class _Table:
    title: str
    head: list[str]
    rows: list[list[str]]


def _tables(result: Validation) -> list[_Table]:
    """The tables of the report, without those that have no rows."""
    counts = [
        ["list", result.source],
        ["accepted", f"{result.accepted} of {result.total}"],
        ["rejected", str(result.rejected)],
        ["answers that are refusals", f"{result.refusal_share:.1%}"],
    ]
    reasons = [[reason, str(count)] for reason, count in result.reasons.items()]
    sources = [_source_row(source) for source in result.sources[:_MAX_SOURCES]]
    expectations = [] if result.expectations is None else [_expectation_row(one) for one in result.expectations.results]
    tables = [
        _Table("Records", ["", ""], counts),
        _Table("Reasons", ["reason", "records"], reasons),
        _Table("Sources", ["source", "records", "share", "duplicates", "refusals", "answer, characters"], sources),
        _Table("Expectations", ["", "of", "expectation", "observed"], expectations),
    ]
    return [table for table in tables if table.rows]


def _source_row(source: SourceSummary) -> list[str]:
    shares = (source.share, source.duplicate_share, source.refusal_share)
    return [
        source.source or "(none)",
        str(source.records),
        *(f"{share:.1%}" for share in shares),
        f"{source.mean_answer_length:.0f}",
    ]


def _expectation_row(result: ExpectationResult) -> list[str]:
    arguments = ", ".join(f"{name} {value}" for name, value in result.arguments.items() if name != "column")
    name = result.expectation.removeprefix("expect_")
    expected = f"{result.arguments.get('column', 'rows')}: {name} ({arguments})"
    return ["met" if result.success else "NOT MET", result.table, expected, _observed(result.observed)]


def _observed(value: object) -> str:
    empty = value is None or (isinstance(value, list) and not value)
    return "" if empty else str(value)[:_MAX_OBSERVED]
