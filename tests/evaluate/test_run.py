"""Evaluation of a real model: shards merge to the single run, resume redoes nothing, the report is a page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from vhm.errors import CheckpointError, InputError
from vhm.evaluate import evaluate
from vhm.evaluate.gate import gate
from vhm.evaluate.predict import merge_predictions, predict
from vhm.evaluate.tasks import tasks_in
from vhm.recipe import GateRecipe, load_recipe

NAMES = ["presence", "grounding", "cls_aid"]


@pytest.fixture(scope="module")
def recipe(cut_recipe: Path):
    return load_recipe(cut_recipe, ["evaluation.batch_size=1"])


@pytest.fixture(scope="module")
def run(cut: Path, recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluation") / "out"
    evaluate(cut / "base", cut / "eval", out, recipe, NAMES)
    return out


def predictions(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in sorted((folder / "predictions").glob("*.jsonl"))}


def test_scores_have_the_form_of_the_contract(run: Path) -> None:
    scores = json.loads((run / "scores.json").read_text())
    assert set(scores["tasks"]) == set(NAMES)
    assert {"model", "recipe", "tasks", "summary"} <= set(scores)
    presence = scores["tasks"]["presence"]
    assert (presence["type"], presence["n"], presence["failed"]) == ("presence", 4, 0)
    assert {"accuracy", "accuracy_low", "accuracy_high", "majority", "blind", "margin_blind_low"} <= set(presence)
    rows = [json.loads(line) for line in (run / "predictions" / "presence.jsonl").open()]
    assert all({"filename", "size", "query", "answer", "pred"} <= set(row) for row in rows)
    assert (run / "lineage.json").is_file()


def test_shards_merge_into_what_one_run_writes(run: Path, cut: Path, recipe, tmp_path: Path) -> None:
    tasks = tasks_in(cut / "eval", NAMES)
    for shard in range(3):
        predict(cut / "base", cut / "eval", tmp_path / str(shard), tasks, recipe.evaluation, (shard, 3))
    merge_predictions([tmp_path / str(shard) for shard in range(3)], tmp_path / "merged")
    assert predictions(tmp_path / "merged") == predictions(run)
    with pytest.raises(InputError, match="answered the same question"):
        merge_predictions([tmp_path / "1", tmp_path / "1"], tmp_path / "twice")


def test_resume_keeps_what_is_there_and_drops_a_torn_line(run: Path, cut: Path, recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(run, out)
    path = out / "predictions" / "presence.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    kept = lines[0].replace('"pred":"', '"pred":"kept ')
    path.write_text(kept + lines[1][:20])
    evaluate(cut / "base", cut / "eval", out, recipe, NAMES, resume=True)
    after = path.read_text().splitlines(keepends=True)
    assert after[0] == kept
    assert after[1:] == lines[1:]


def test_resume_refuses_another_models_predictions(run: Path, sample: Path, cut: Path, recipe, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "out")
    shutil.copytree(cut / "base", tmp_path / "other")
    (tmp_path / "other" / "note.txt").write_text("another model")
    with pytest.raises(CheckpointError, match="predictions of another model"):
        evaluate(tmp_path / "other", cut / "eval", tmp_path / "out", recipe, NAMES, resume=True)


def test_a_bad_picture_fails_its_own_questions_only(cut: Path, recipe, tmp_path: Path) -> None:
    shutil.copytree(cut / "eval", tmp_path / "eval")
    first = json.loads((tmp_path / "eval" / "presence_mo_dota.json").read_text())[0]
    (tmp_path / "eval" / first["image_path"] / first["image"]).write_bytes(b"no picture")
    names = {json.loads(line)["image"] for line in [json.dumps(first)]}
    scores = evaluate(cut / "base", tmp_path / "eval", tmp_path / "out", recipe, ["presence"])
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions" / "presence.jsonl").open()]
    assert {row["filename"] for row in rows if row["pred"] is None} == names
    assert scores["tasks"]["presence"]["failed"] == sum(row["pred"] is None for row in rows) >= 1


def test_the_report_escapes_what_models_say(run: Path, cut: Path, recipe, tmp_path: Path) -> None:
    from vhm.evaluate.run import score_run

    shutil.copytree(run, tmp_path / "out")
    path = tmp_path / "out" / "predictions" / "presence.jsonl"
    rows = [json.loads(line) | {"pred": "<script>alert(1)</script>"} for line in path.open()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    score_run(cut / "base", cut / "eval", tmp_path / "out", recipe, tasks_in(cut / "eval", NAMES))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_gate_asks_for_thresholds_margins_and_no_regression() -> None:
    task = {"figure": "accuracy", "accuracy": 0.8, "margin_majority_low": 0.1, "margin_blind_low": -0.02}
    settings = GateRecipe(thresholds={"presence.accuracy": 0.7}, beat_majority=["presence"], beat_blind=["presence"])
    checks = gate({"tasks": {"presence": task}}, settings)
    assert [check.passed for check in checks] == [True, True, False]
    before = {"tasks": {"presence": task | {"accuracy": 0.86}, "grounding": {"figure": "precision", "precision": 0.3}}}
    checks = gate({"tasks": {"presence": task}}, GateRecipe(max_regression=0.05), before)
    assert [(check.passed, check.value) for check in checks] == [(False, 0.8), (False, None)]


def test_gate_does_not_compare_different_data() -> None:
    with pytest.raises(InputError, match="differ in data_sha256"):
        gate({"tasks": {}, "data_sha256": "a"}, GateRecipe(), {"tasks": {}, "data_sha256": "b"})
