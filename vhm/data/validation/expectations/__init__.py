"""Great Expectations suites over a manifest's columns and over a table of its sources.

The suites are the JSON files next to this module, one per kind of list:

    {"records": [expectation, …], "sources": [expectation, …]}
    expectation: {"type": class name in Great Expectations, "why": reason, …arguments}

An argument "$name" is the threshold `data.expect.name` of the recipe.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from great_expectations.checkpoint import CheckpointResult
    from great_expectations.core import ExpectationSuite, ExpectationValidationResult
    from great_expectations.data_context import FileDataContext

Table = Literal["records", "sources"]


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
    """What is expected of accepted records, and of the table of their sources (see `summarise_sources`)."""

    kind: str
    records: tuple[Expectation, ...]
    sources: tuple[Expectation, ...]


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
    success: bool
    observed: object
    unexpected_percent: float | None


@dataclass(frozen=True)
class SuiteResult:
    """`failed` has one sentence per expectation that is not met."""

    suite: str
    success: bool
    evaluated: int
    failed: tuple[str, ...]
    results: tuple[ExpectationResult, ...]


def load_suite(kind: str, thresholds: Mapping[str, object]) -> Suite:
    """The suite for "pretrain", "sft" or "eval", with the thresholds filled in."""
    content = orjson.loads(resources.files(__name__).joinpath(f"{kind}.json").read_bytes())

    def expectation(entry: Mapping[str, object]) -> Expectation:
        arguments = {
            name: thresholds[value[1:]] if isinstance(value, str) and value.startswith("$") else value
            for name, value in entry.items()
            if name not in ("type", "why")
        }
        return Expectation(str(entry["type"]), str(entry["why"]), arguments)

    records, sources = (tuple(map(expectation, content[table])) for table in ("records", "sources"))
    return Suite(kind, records, sources)


def summarise_sources(rows: pa.Table, duplicates: Mapping[str, int]) -> pa.Table:
    """One row per source, with the fields of `SourceSummary`; the largest source first.

    `duplicates` counts the records of each source that were rejected as duplicates.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    grouped = rows.group_by("source").aggregate(
        [("turns", "count"), ("answer_length", "mean"), ("refusal", "mean"), ("width", "mean"), ("height", "mean")]
    )
    records = grouped["turns_count"]
    repeated = pa.array([duplicates.get(name, 0) for name in grouped["source"].to_pylist()], pa.int64())
    table = pa.table(
        {
            "source": grouped["source"].cast(pa.string()),
            "records": records,
            "share": pc.divide(records.cast(pa.float64()), float(max(len(rows), 1))),
            "duplicate_share": pc.divide(repeated.cast(pa.float64()), pc.add(records, repeated).cast(pa.float64())),
            "refusal_share": grouped["refusal_mean"],
            "mean_answer_length": grouped["answer_length_mean"],
            "mean_width": grouped["width_mean"],
            "mean_height": grouped["height_mean"],
        }
    )
    return table.sort_by([("records", "descending"), ("source", "ascending")])


def run_suite_on_file(path: Path, sources: pa.Table, suite: Suite, docs: Path) -> SuiteResult:
    """`run_suite` on rows in an Arrow file: run it in a separate process, which returns its memory when it ends."""
    import pyarrow as pa

    return run_suite(pa.ipc.open_file(pa.memory_map(str(path))).read_all(), sources, suite, docs)


def run_suite(rows: pa.Table, sources: pa.Table, suite: Suite, docs: Path) -> SuiteResult:
    """Validate the accepted rows and the summary of their sources; write Data Docs to `docs`."""
    os.environ["GX_ANALYTICS_ENABLED"] = "False"  # no usage statistics are sent
    import great_expectations as gx

    results: list[ExpectationResult] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = gx.get_context(mode="file", project_root_dir=folder)
        context.variables.progress_bars = {"globally": False}
        checks: tuple[tuple[Table, tuple[Expectation, ...], Callable[[], pd.DataFrame]], ...] = (
            ("records", suite.records, lambda: _records_frame(rows, suite)),
            ("sources", suite.sources, sources.to_pandas),
        )
        for table, expectations, frame in checks:
            outcome = _validate_table(context, f"{suite.kind} {table}", table, expectations, frame())
            [validation] = outcome.run_results.values()
            unordered = [_result(table, result) for result in validation.results]
            ordered = _in_suite_order(expectations, unordered)
            results += ordered
            pairs = zip(expectations, ordered, strict=True)
            failed += [_failure(expectation, result) for expectation, result in pairs if not result.success]
        site = next(Path(folder).rglob("local_site"))
        shutil.rmtree(docs, ignore_errors=True)
        shutil.copytree(site, docs)
    return SuiteResult(suite.kind, not failed, len(results), tuple(failed), tuple(results))


def _validate_table(
    context: FileDataContext, name: str, table: Table, expectations: tuple[Expectation, ...], frame: pd.DataFrame
) -> CheckpointResult:
    import great_expectations as gx

    suite: ExpectationSuite = context.suites.add(gx.ExpectationSuite(name=name))
    for expectation in expectations:
        expectation_class = getattr(gx.expectations, expectation.type)
        suite.add_expectation(expectation_class(**expectation.arguments, meta={"why": expectation.why}))
    asset = context.data_sources.add_pandas(table).add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all")
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
    actions = [gx.checkpoint.UpdateDataDocsAction(name="docs")]
    checkpoint = gx.Checkpoint(name=name, validation_definitions=[definition], actions=actions)
    return context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": frame})


def _records_frame(rows: pa.Table, suite: Suite) -> pd.DataFrame:
    """The columns that the suite's record expectations use, in the smallest number types that hold them:
    Great Expectations copies the complete frame for each expectation.
    """
    import pandas as pd

    width, height = (rows[name].to_numpy().astype(np.float32) for name in ("width", "height"))
    derived = {
        "longest_side": lambda: np.maximum(width, height),
        "aspect_ratio": lambda: np.maximum(width, height) / np.minimum(width, height),
        "refusal": lambda: rows["refusal"].to_numpy().astype(np.uint8),
    }
    names = dict.fromkeys(expectation.column for expectation in suite.records if "column" in expectation.arguments)
    columns = {name: derived[name]() if name in derived else _narrow(rows[name].to_numpy()) for name in names}
    return pd.DataFrame(columns, index=pd.RangeIndex(len(rows)))


def _narrow(values: NDArray[np.int32]) -> NDArray[np.unsignedinteger]:
    """Non-negative integers in the smallest type that holds them."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def _result(table: Table, result: ExpectationValidationResult) -> ExpectationResult:
    observed = result.result.get("observed_value", result.result.get("partial_unexpected_list"))
    return ExpectationResult(
        table,
        result.expectation_config.type,
        {name: value for name, value in result.expectation_config.kwargs.items() if name != "batch_id"},
        bool(result.success),
        list(observed) if isinstance(observed, (list, np.ndarray)) else observed,
        result.result.get("unexpected_percent"),
    )


def _in_suite_order(expectations: tuple[Expectation, ...], results: list[ExpectationResult]) -> list[ExpectationResult]:
    """Great Expectations groups its results by column: match them to the suite's expectations by their arguments."""

    def matches(expectation: Expectation, result: ExpectationResult) -> bool:
        name = "".join(f"_{c.lower()}" if c.isupper() else c for c in expectation.type).lstrip("_")
        return result.expectation == name and all(
            result.arguments.get(argument) == value for argument, value in expectation.arguments.items()
        )

    return [next(result for result in results if matches(expectation, result)) for expectation in expectations]


def _failure(expectation: Expectation, result: ExpectationResult) -> str:
    subject = "a source" if result.table == "sources" else "records"
    expected = ", ".join(f"{name} {value}" for name, value in expectation.arguments.items() if name != "column")
    return f"{expectation.column} of {subject} ({expectation.why}): observed {result.observed}, expected {expected}"
