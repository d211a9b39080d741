"""Runs a suite with Great Expectations over the tables of one list, and writes Data Docs. Needs `imports` first."""

from __future__ import annotations

import os
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vhm.data.validation.expectations.data_docs import DocumentedTable, write_data_docs
from vhm.data.validation.expectations.process import SuiteRequest
from vhm.data.validation.expectations.suite import (
    Expectation,
    ExpectationResult,
    SourceSummary,
    SuiteResult,
    Table,
    load_suite,
)

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.data_context import EphemeralDataContext
    from great_expectations.datasource.fluent import PandasDatasource


def run_suite(request: SuiteRequest) -> SuiteResult:
    """Validate the list, its accepted rows and its sources; write Data Docs."""
    os.environ["GX_ANALYTICS_ENABLED"] = "False"  # no usage statistics are sent
    import great_expectations as gx
    import pandas as pd

    suite = load_suite(request.kind, request.thresholds)
    rows = pa.ipc.open_file(pa.memory_map(request.rows)).read_all()
    frames: dict[Table, pd.DataFrame] = {
        "list": pd.DataFrame([asdict(request.list)]),
        "records": _records_frame(rows, suite.tables["records"]),
        "sources": pd.DataFrame(
            [asdict(source) for source in request.sources], columns=list(SourceSummary.__annotations__)
        ),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context: EphemeralDataContext = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        source = context.data_sources.add_pandas(request.kind)
        tables = [_validate(source, table, suite.tables[table], frame) for table, frame in frames.items()]
        write_data_docs(request.kind, tables, Path(request.docs))
    results = [result for documented in tables for result in _results(documented, suite.tables[documented.table])]
    return SuiteResult.of(request.kind, tuple(results))


def _validate(
    source: PandasDatasource, table: Table, expectations: tuple[Expectation, ...], frame: pd.DataFrame
) -> DocumentedTable:
    import great_expectations as gx

    suite = gx.ExpectationSuite(name=f"{source.name} {table}")
    for number, expectation in enumerate(expectations):
        meta = {"number": number, "why": expectation.why}
        suite.add_expectation(getattr(gx.expectations, expectation.type)(**expectation.arguments, meta=meta))
    batch = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("all")
    result = batch.get_batch(batch_parameters={"dataframe": frame}).validate(suite)
    return DocumentedTable(table, suite, result)


def _records_frame(rows: pa.Table, expectations: tuple[Expectation, ...]) -> pd.DataFrame:
    """The columns that the expectations use, in the smallest number types that hold them: Great Expectations copies
    the complete frame for each expectation.
    """
    import pandas as pd

    width, height = (rows[name].to_numpy().astype(np.float32) for name in ("width", "height"))
    derived = {
        "longest_side": lambda: np.maximum(width, height),
        "aspect_ratio": lambda: np.maximum(width, height) / np.minimum(width, height),
        "refusal": lambda: rows["refusal"].to_numpy().astype(np.uint8),
    }
    names = dict.fromkeys(expectation.column for expectation in expectations if "column" in expectation.arguments)
    columns = {name: derived[name]() if name in derived else _narrow(rows[name].to_numpy()) for name in names}
    return pd.DataFrame(columns, index=pd.RangeIndex(len(rows)))


def _narrow(values: NDArray[np.int32]) -> NDArray[np.unsignedinteger]:
    """Non-negative integers in the smallest type that holds them."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def _results(documented: DocumentedTable, expectations: tuple[Expectation, ...]) -> list[ExpectationResult]:
    """Great Expectations groups its results by column: here they are in the suite's order."""
    results = sorted(documented.result.results, key=lambda result: result.expectation_config.meta["number"])
    pairs = zip(results, expectations, strict=True)
    return [_result(documented.table, result, expectation) for result, expectation in pairs]


def _result(table: Table, result: ExpectationValidationResult, expectation: Expectation) -> ExpectationResult:
    observed = result.result.get("observed_value", result.result.get("partial_unexpected_list"))
    return ExpectationResult(
        table=table,
        expectation=result.expectation_config.type,
        arguments={name: value for name, value in result.expectation_config.kwargs.items() if name != "batch_id"},
        why=expectation.why,
        success=bool(result.success),
        observed=list(observed) if isinstance(observed, (list, np.ndarray)) else observed,
        unexpected_percent=result.result.get("unexpected_percent"),
    )
