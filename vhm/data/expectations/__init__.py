"""Great Expectations over a manifest's columns; the suites are the JSON files beside this module.

A suite file is a list of {"type": expectation class name, "why": words, …arguments}.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    import pyarrow as pa


def load_suite(kind: str) -> list[dict[str, Any]]:
    """The expectations for "pretrain", "sft" or "eval", as written in the suite file."""
    return orjson.loads(resources.files("vhm.data.expectations").joinpath(f"{kind}.json").read_bytes())


def judge(rows: pa.Table, kind: str, docs: Path) -> dict[str, Any]:
    """Validate the accepted rows (the manifest's columns) and write Data Docs to `docs`.

    Returns {"suite", "success", "evaluated", "failed": [words], "results": [...]}.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "False"  # nothing is reported to anyone
    import great_expectations as gx

    frame = rows.select(["id", "source", "width", "height", "turns", "text_length", "answer_length"]).to_pandas()
    sides = frame[["width", "height"]].astype("float64")
    frame["aspect_ratio"] = sides.max(axis=1) / sides.min(axis=1)
    frame["refusal"] = rows["refusal"].to_numpy(zero_copy_only=False).astype("float64")
    wanted = load_suite(kind)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = gx.get_context(mode="file", project_root_dir=folder)
        context.variables.progress_bars = {"globally": False}  # type: ignore[attr-defined]
        suite = context.suites.add(gx.ExpectationSuite(name=kind))
        for entry in wanted:
            arguments = {k: v for k, v in entry.items() if k not in ("type", "why")}
            suite.add_expectation(getattr(gx.expectations, entry["type"])(**arguments, meta={"why": entry["why"]}))
        batch = (
            context.data_sources.add_pandas("manifest")
            .add_dataframe_asset("rows")
            .add_batch_definition_whole_dataframe("all")
        )
        check = context.validation_definitions.add(gx.ValidationDefinition(name=kind, data=batch, suite=suite))
        outcome = context.checkpoints.add(
            gx.Checkpoint(
                name=kind,
                validation_definitions=[check],
                actions=[gx.checkpoint.UpdateDataDocsAction(name="docs")],
            )
        ).run(batch_parameters={"dataframe": frame})
        site = next(Path(folder).rglob("local_site"))
        shutil.rmtree(docs, ignore_errors=True)
        shutil.copytree(site, docs)
    result = next(iter(outcome.run_results.values()))
    results = [
        {
            "expectation": r.expectation_config.type,
            "arguments": {k: v for k, v in r.expectation_config.kwargs.items() if k != "batch_id"},
            "success": bool(r.success),
            "observed": r.result.get("observed_value", r.result.get("unexpected_percent")),
        }
        for r in result.results
    ]
    failed = [
        f"{entry['type']} on {entry.get('column', 'the table')} ({entry['why']}): observed {r['observed']}"
        for entry, r in zip(wanted, _in_order(wanted, results), strict=True)
        if not r["success"]
    ]
    return {
        "suite": kind,
        "success": bool(result.success),
        "evaluated": len(results),
        "failed": failed,
        "results": results,
    }


def _in_order(wanted: list[dict[str, Any]], results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Great Expectations groups its results by column: find each wanted one again by its arguments."""

    def matches(entry: dict[str, Any], result: dict[str, Any]) -> bool:
        snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in entry["type"]).lstrip("_")
        return result["expectation"] == snake and all(
            result["arguments"].get(k) == v for k, v in entry.items() if k not in ("type", "why")
        )

    return [next(r for r in results if matches(entry, r)) for entry in wanted]
