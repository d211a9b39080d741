"""A suite in its own process: results by hand, the verdict of a list, what is loaded there, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from vhm.data.validation.chunks import write_table
from vhm.data.validation.expectations import ListSummary, SuiteProcess, SuiteRequest, SuiteResult, summarise_sources
from vhm.errors import StorageError
from vhm.recipe import Expectations

MakeRequest = Callable[..., SuiteRequest]


@pytest.fixture
def make_request(tmp_path: Path) -> MakeRequest:
    def make(
        kind: str = "sft", sides: tuple[int, ...] = (512, 256), rejected: int = 0, changed: int = 0
    ) -> SuiteRequest:
        count = len(sides)
        columns = {
            "source": pa.array(["a"] * count, pa.string()),
            "width": pa.array(sides, pa.int32()),
            "height": pa.array([min(side, 256) for side in sides], pa.int32()),
            "turns": pa.array([2] * count, pa.int32()),
            "text_length": pa.array([70] * count, pa.int32()),
            "answer_length": pa.array([40] * count, pa.int32()),
            "refusal": pa.array([False] * count, pa.bool_()),
        }
        rows = pa.table(columns)
        write_table(tmp_path / "rows.arrow", rows)
        thresholds = Expectations().model_dump() | {"max_text": 20_000, "max_rejected": 0.25}
        total = count + rejected
        summary = ListSummary(total, count, rejected / max(total, 1), changed, 0)
        docs = str(tmp_path / "docs")
        return SuiteRequest(kind, thresholds, str(tmp_path / "rows.arrow"), summary, summarise_sources(rows, {}), docs)

    return make


def run(request: SuiteRequest) -> SuiteResult:
    with SuiteProcess() as process:
        process.submit(request)
        return process.result()


def failed(result: SuiteResult) -> list[tuple[str, object]]:
    return [(one.table, one.arguments.get("column")) for one in result.results if not one.success]


def test_results_are_in_the_suites_order_and_name_what_is_not_met(make_request: MakeRequest) -> None:
    request = make_request(sides=(512, 256, 50_000), rejected=1, changed=1)
    result = run(request)
    suite = json.loads((Path(__file__).parents[4] / "vhm/data/validation/expectations/sft.json").read_text())
    expected = [(table, one.get("column")) for table, rows in suite.items() for one in rows]
    assert [(one.table, one.arguments.get("column")) for one in result.results] == expected
    # 50,000 is above max_side, and 50,000 by 256 is too long; one changed image is one too many; 1 of 4 may be rejected
    assert failed(result) == [("list", "changed_images"), ("records", "longest_side"), ("records", "aspect_ratio")]
    assert not result.success
    assert result.evaluated == len(expected)
    assert "50000" in result.failed[1]


def test_a_share_of_rejected_records_above_the_limit_fails_the_suite(make_request: MakeRequest) -> None:
    assert run(make_request(rejected=0)).success
    assert failed(run(make_request(sides=(512,), rejected=1))) == [("list", "rejected_share")]


@pytest.mark.parametrize("kind", ["pretrain", "sft", "eval"])
def test_a_list_without_accepted_records_fails_because_it_is_empty(make_request: MakeRequest, kind: str) -> None:
    assert failed(run(make_request(kind, sides=()))) == [("records", None)]


def test_a_killed_process_is_reported(make_request: MakeRequest) -> None:
    with SuiteProcess() as process:
        process._process.send_signal(signal.SIGKILL)
        process.submit(make_request())
        with pytest.raises(StorageError, match="ended by SIGKILL, perhaps for lack of memory"):
            process.result()


def test_a_failing_process_is_reported_with_its_last_line(make_request: MakeRequest) -> None:
    with SuiteProcess() as process:
        process.submit(replace(make_request(), thresholds={}))
        with pytest.raises(RuntimeError, match=r"Great Expectations failed: KeyError: 'max_rejected'"):
            process.result()


def test_an_error_of_a_disk_is_raised_as_one(make_request: MakeRequest) -> None:
    with SuiteProcess() as process:
        process.submit(replace(make_request(), docs="/dev/full/docs"))
        with pytest.raises(NotADirectoryError, match="/dev/full"):
            process.result()


def test_libraries_that_a_suite_never_uses_are_not_loaded_and_can_be(make_request: MakeRequest, tmp_path: Path) -> None:
    """scipy.stats and altair work when they are used after all; the clients of clouds count as not installed."""
    program = """
import json, sys
from vhm.data.validation.expectations.imports import load_great_expectations
load_great_expectations()
from vhm.data.validation.expectations.process import SuiteRequest
from vhm.data.validation.expectations.run import run_suite
assert run_suite(SuiteRequest.from_json(sys.stdin.buffer.read())).success
loaded = sorted({"scipy.stats._stats_py", "altair.vegalite", "boto3", "sqlalchemy"} & set(sys.modules))
import altair, scipy.stats
print(json.dumps([loaded, altair.Chart.__name__, float(scipy.stats.norm.cdf(0))]))
"""
    import orjson

    content = orjson.dumps(make_request())
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, input=content, capture_output=True, check=True, env=environment)
    assert json.loads(done.stdout) == [[], "Chart", 0.5]


def test_this_process_does_not_import_great_expectations(make_request: MakeRequest) -> None:
    program = """
import sys
from vhm.data.validation.expectations.process import SuiteProcess, SuiteRequest
with SuiteProcess() as process:
    process.submit(SuiteRequest.from_json(sys.stdin.buffer.read()))
    assert process.result().success
assert not {"great_expectations", "altair", "scipy"} & set(sys.modules)
import altair
assert altair.Chart
"""
    import orjson

    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    subprocess.run(command, input=orjson.dumps(make_request()), check=True, env=environment)
