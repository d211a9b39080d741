"""What is expected of a list: the suites, the tables that they are about, and the form of their results.

The suites are the JSON files next to this module, one per kind of list:

    {"list": [expectation, …], "records": [expectation, …], "sources": [expectation, …]}
    expectation: {"type": class name in Great Expectations, "why": reason, …arguments}

An argument "$name" is the threshold `data.expect.name` of the recipe, or `data.name` for `max_rejected`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Literal, get_args

import orjson

if TYPE_CHECKING:
    import pyarrow as pa

Table = Literal["list", "records", "sources"]
TABLES: tuple[Table, ...] = get_args(Table)


@dataclass(frozen=True)
class Expectation:
    """One expectation of a suite: a class name of Great Expectations, its arguments, and why it is expected."""

    type: str
    why: str
    arguments: Mapping[str, object]

    @property
    def column(self) -> str:
        return str(self.arguments.get("column", "rows"))


@dataclass(frozen=True)
class Suite:
    """What is expected of a complete list (`ListSummary`), its accepted records, and its sources (`SourceSummary`)."""

    kind: str
    tables: Mapping[Table, tuple[Expectation, ...]]


@dataclass(frozen=True)
class ListSummary:
    """The one row of the table of the complete list: how many records it has, and how many are not accepted.

    `changed_images` counts records whose image does not have the bytes that the table of its shards names,
    `sources_without_bands` sources of which most images lack a band that the recipe shows.
    """

    records: int
    accepted: int
    rejected_share: float
    changed_images: int
    sources_without_bands: int


@dataclass(frozen=True)
class SourceSummary:
    """One row of `summarise_sources`; a mean is None when there is nothing to average."""

    source: str
    records: int
    share: float
    duplicate_share: float
    refusal_share: float
    mean_answer_length: float
    mean_width: float | None
    mean_height: float | None


@dataclass(frozen=True)
class ExpectationResult:
    """The result of an expectation for a table; `expectation` is its name in snake case."""

    table: Table
    expectation: str
    arguments: Mapping[str, object]
    why: str
    success: bool
    observed: object
    unexpected_percent: float | None

    @property
    def failure(self) -> str:
        """A sentence that says what is not met."""
        subject = {"list": "the list", "records": "records", "sources": "a source"}[self.table]
        column = self.arguments.get("column", "rows")
        expected = ", ".join(f"{name} {value}" for name, value in self.arguments.items() if name != "column")
        return f"{column} of {subject} ({self.why}): observed {self.observed}, expected {expected}"


@dataclass(frozen=True)
class SuiteResult:
    """`failed` has one sentence per expectation that is not met."""

    suite: str
    success: bool
    evaluated: int
    failed: tuple[str, ...]
    results: tuple[ExpectationResult, ...]

    @classmethod
    def of(cls, suite: str, results: tuple[ExpectationResult, ...]) -> SuiteResult:
        failed = tuple(result.failure for result in results if not result.success)
        return cls(suite, not failed, len(results), failed, results)


def load_suite(kind: str, thresholds: Mapping[str, object]) -> Suite:
    """The suite for "pretrain", "sft" or "eval", with the thresholds filled in."""
    content = orjson.loads(resources.files(__package__).joinpath(f"{kind}.json").read_bytes())

    def expectation(entry: Mapping[str, object]) -> Expectation:
        arguments = {
            name: thresholds[value[1:]] if isinstance(value, str) and value.startswith("$") else value
            for name, value in entry.items()
            if name not in ("type", "why")
        }
        return Expectation(str(entry["type"]), str(entry["why"]), arguments)

    return Suite(kind, {table: tuple(map(expectation, content[table])) for table in TABLES})


def summarise_sources(rows: pa.Table, duplicates: Mapping[str, int]) -> tuple[SourceSummary, ...]:
    """One row per source of the accepted `rows`, the largest source first.

    `duplicates` counts the records of each source that were rejected as duplicates.
    """
    grouped = rows.group_by("source").aggregate(
        [("turns", "count"), ("answer_length", "mean"), ("refusal", "mean"), ("width", "mean"), ("height", "mean")]
    )
    summaries = []
    for group in grouped.to_pylist():
        records, repeated = group["turns_count"], duplicates.get(group["source"], 0)
        summary = SourceSummary(
            source=group["source"],
            records=records,
            share=records / max(len(rows), 1),
            duplicate_share=repeated / (records + repeated),
            refusal_share=group["refusal_mean"],
            mean_answer_length=group["answer_length_mean"],
            mean_width=group["width_mean"],
            mean_height=group["height_mean"],
        )
        summaries.append(summary)
    return tuple(sorted(summaries, key=lambda summary: (-summary.records, summary.source)))
