"""The result of a validation as Markdown tables, in the words of the page; and the table of expectations of both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from vhm.data.records import REASONS
from vhm.data.validation.expectations import ExpectationResult, SourceSummary
from vhm.data.validation.report.words import shown

if TYPE_CHECKING:
    from vhm.data.validation.validate import Validation

MAX_SOURCES = 50
_MAX_OBSERVED = 80  # characters


@dataclass(frozen=True)
class ExpectationRow:
    """One expectation of the complete list, in words."""

    met: bool
    of: str
    expected: str
    observed: str


@dataclass(frozen=True)
class _Table:
    title: str
    head: list[str]
    rows: list[list[str]]


def report_markdown(result: Validation) -> str:
    """The verdict and the tables of counts, reasons, sources and expectations."""
    lines = [f"# {result.kind}: {'passed' if result.passed else '**failed**'}", "", _cell(result.summary)]
    remarks = [*result.failures, *(f"warning: {warning}" for warning in result.warnings)]
    if remarks:
        lines += ["", *(f"- {_cell(remark)}" for remark in remarks)]
    for table in _tables(result):
        ruler = ["---"] * len(table.head)
        rows = [table.head, ruler, *([_cell(cell).replace("|", "\\|") for cell in row] for row in table.rows)]
        lines += ["", f"## {table.title}", "", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def expectation_rows(result: Validation) -> list[ExpectationRow]:
    """The results of Great Expectations."""
    return [_expectation(one) for one in result.expectations.results]


def _tables(result: Validation) -> Iterable[_Table]:
    """The tables of the summary, without those that have no rows."""
    counts = [
        ["list", result.source],
        ["accepted", f"{result.accepted} of {result.total}"],
        ["rejected", str(result.rejected)],
        ["answers that are refusals", f"{result.refusal_share:.1%}"],
    ]
    reasons = [[reason, str(count), REASONS.get(reason, "")] for reason, count in result.reasons.items()]
    sources = [_source(source) for source in result.sources[:MAX_SOURCES]]
    expectations = [
        ["met" if row.met else "NOT MET", row.of, row.expected, row.observed] for row in expectation_rows(result)
    ]
    tables = (
        _Table("Records", ["", ""], counts),
        _Table("Reasons", ["reason", "records", "meaning"], reasons),
        _Table("Sources", ["source", "records", "share", "duplicates", "refusals", "answer, characters"], sources),
        _Table("Expectations", ["", "of", "expectation", "observed"], expectations),
    )
    return (table for table in tables if table.rows)


def _cell(text: str) -> str:
    return escape(" ".join(shown(text, 2000).split()), quote=False)


def _source(source: SourceSummary) -> list[str]:
    shares = (source.share, source.duplicate_share, source.refusal_share)
    return [
        source.source or "(none)",
        str(source.records),
        *(f"{share:.1%}" for share in shares),
        f"{source.mean_answer_length:.0f}",
    ]


def _expectation(result: ExpectationResult) -> ExpectationRow:
    arguments = ", ".join(f"{name} {value}" for name, value in result.arguments.items() if name != "column")
    name = result.expectation.removeprefix("expect_").replace("_", " ")
    expected = f"{result.arguments.get('column', 'rows')}: {name} ({arguments})"
    value = result.observed
    observed = "" if value is None or (isinstance(value, list) and not value) else str(value)[:_MAX_OBSERVED]
    return ExpectationRow(result.success, result.table, expected, observed)
