"""Great Expectations over a manifest's columns, and over a table of its sources; the suites are the JSON files beside
this module.

A suite file is {"records": [...], "sources": [...]} of {"type": expectation class name, "why": words, …arguments}; an
argument "$name" is a threshold of the recipe's section `data.expect`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


Suite = dict[str, list[dict[str, Any]]]


def load_suite(kind: str, thresholds: Mapping[str, Any]) -> Suite:
    """The expectations for "pretrain", "sft" or "eval", as the suite file and the thresholds say."""
    suite: Suite = orjson.loads(
        resources.files("vhm.data.validation.expectations").joinpath(f"{kind}.json").read_bytes()
    )
    for entries in suite.values():
        for entry in entries:
            for key, value in entry.items():
                if isinstance(value, str) and value.startswith("$"):
                    entry[key] = thresholds[value[1:]]
    return suite


def sources_of(rows: pa.Table, duplicates: Mapping[str, int]) -> pa.Table:
    """One row a source: how many records, their share, how many were duplicates, refusals, and what is usual in it.

    `duplicates` are the records of each source that were rejected as duplicates.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    grouped = rows.group_by("source").aggregate(
        [("turns", "count"), ("answer_length", "mean"), ("refusal", "mean"), ("width", "mean"), ("height", "mean")]
    )
    records = grouped["turns_count"]
    twice = pa.array([duplicates.get(name, 0) for name in grouped["source"].to_pylist()], pa.int64())
    table = pa.table(
        {
            "source": grouped["source"].cast(pa.string()),
            "records": records,
            "share": pc.divide(records.cast(pa.float64()), float(max(len(rows), 1))),
            "duplicate_share": pc.divide(twice.cast(pa.float64()), pc.add(records, twice).cast(pa.float64())),
            "refusal_share": grouped["refusal_mean"],
            "mean_answer_length": grouped["answer_length_mean"],
            "mean_width": grouped["width_mean"],
            "mean_height": grouped["height_mean"],
        }
    )
    return table.sort_by([("records", "descending"), ("source", "ascending")])


def judge(records: pd.DataFrame, sources: pa.Table, suite: Suite, kind: str, docs: Path) -> dict[str, Any]:
    """Validate the accepted records (see `frame_of`) and their sources; write Data Docs to `docs`.

    Returns {"suite", "success", "evaluated", "failed": [words], "results": [...]}.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "False"  # nothing is reported to anyone
    import great_expectations as gx

    tables = {"records": records, "sources": sources.to_pandas()}
    results: list[dict[str, Any]] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = gx.get_context(mode="file", project_root_dir=folder)
        context.variables.progress_bars = {"globally": False}  # type: ignore[attr-defined]
        for name, wanted in suite.items():
            made = context.suites.add(gx.ExpectationSuite(name=f"{kind} {name}"))
            for entry in wanted:
                arguments = {k: v for k, v in entry.items() if k not in ("type", "why")}
                made.add_expectation(getattr(gx.expectations, entry["type"])(**arguments, meta={"why": entry["why"]}))
            batch = (
                context.data_sources.add_pandas(name)
                .add_dataframe_asset("rows")
                .add_batch_definition_whole_dataframe("all")
            )
            check = gx.ValidationDefinition(name=f"{kind} {name}", data=batch, suite=made)
            outcome = context.checkpoints.add(
                gx.Checkpoint(
                    name=f"{kind} {name}",
                    validation_definitions=[context.validation_definitions.add(check)],
                    actions=[gx.checkpoint.UpdateDataDocsAction(name="docs")],
                )
            ).run(batch_parameters={"dataframe": tables.pop(name)})
            found = [_plain(name, r) for r in next(iter(outcome.run_results.values())).results]
            ordered = _in_order(wanted, found)
            results += ordered
            failed += [_words(entry, r) for entry, r in zip(wanted, ordered, strict=True) if not r["success"]]
        site = next(Path(folder).rglob("local_site"))
        shutil.rmtree(docs, ignore_errors=True)
        shutil.copytree(site, docs)
    return {"suite": kind, "success": not failed, "evaluated": len(results), "failed": failed, "results": results}


def judge_file(path: Path, sources: pa.Table, suite: Suite, kind: str, docs: Path) -> dict[str, Any]:
    """As `judge`, of rows in an Arrow file: in a process of its own, so that its memory is given back."""
    import pyarrow as pa

    frame = frame_of(pa.ipc.open_file(pa.memory_map(str(path))).read_all(), suite)
    return judge(frame, sources, suite, kind, docs)


def frame_of(rows: pa.Table, suite: Suite) -> pd.DataFrame:
    """What the suite's expectations of records are about, in numbers as small as they fit: Great Expectations copies
    the whole frame for each of them.
    """
    import pandas as pd

    width, height = (rows[name].to_numpy().astype(np.float32) for name in ("width", "height"))
    derived = {
        "longest_side": lambda: np.maximum(width, height),
        "aspect_ratio": lambda: np.maximum(width, height) / np.minimum(width, height),
        "refusal": lambda: rows["refusal"].to_numpy().astype(np.uint8),
    }
    named = {entry["column"]: None for entry in suite["records"] if "column" in entry}
    columns = {name: derived[name]() if name in derived else _narrow(rows[name].to_numpy()) for name in named}
    return pd.DataFrame(columns, index=pd.RangeIndex(len(rows)))


def _narrow(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Whole numbers of 0 and above in the smallest type that holds them."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def _plain(table: str, result: Any) -> dict[str, Any]:
    observed = result.result.get("observed_value", result.result.get("partial_unexpected_list"))
    return {
        "table": table,
        "expectation": result.expectation_config.type,
        "arguments": {k: v for k, v in result.expectation_config.kwargs.items() if k != "batch_id"},
        "success": bool(result.success),
        "observed": list(observed) if isinstance(observed, (list, np.ndarray)) else observed,
        "unexpected_percent": result.result.get("unexpected_percent"),
    }


def _words(entry: dict[str, Any], result: dict[str, Any]) -> str:
    of = "a source" if result["table"] == "sources" else "records"
    wanted = ", ".join(f"{k} {v}" for k, v in entry.items() if k not in ("type", "why", "column"))
    return f"{entry.get('column', 'rows')} of {of} ({entry['why']}): observed {result['observed']}, wanted {wanted}"


def _in_order(wanted: list[dict[str, Any]], results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Great Expectations groups its results by column: find each wanted one again by its arguments."""

    def matches(entry: dict[str, Any], result: dict[str, Any]) -> bool:
        snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in entry["type"]).lstrip("_")
        return result["expectation"] == snake and all(
            result["arguments"].get(k) == v for k, v in entry.items() if k not in ("type", "why")
        )

    return [next(r for r in results if matches(entry, r)) for entry in wanted]
