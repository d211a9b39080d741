"""Evaluation of a real model: splits merge to the single run, resume repeats nothing, the report is a page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from vhm.errors import CheckpointError, InputError
from vhm.evaluate import evaluate
from vhm.evaluate.predict import merge_predictions, predict, questions
from vhm.evaluate.run import score_run
from vhm.evaluate.tasks import find_task, tasks_in
from vhm.io import read_jsonl
from vhm.recipe import load_recipe

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
    assert presence["primary_metric"] == "accuracy"
    assert "figure" not in presence
    rows = read_jsonl(run / "predictions" / "presence.jsonl")
    assert all(list(row) == ["index", "filename", "size", "query", "answer", "pred"] for row in rows)
    assert (run / "lineage.json").is_file()


def test_a_task_of_the_recipe_is_evaluated_like_the_published_ones(cut: Path, cut_recipe: Path, tmp_path: Path) -> None:
    """A false-premise task of a laboratory: predicted, asked blindly, scored, reported, and part of the honesty."""
    shutil.copytree(cut / "eval", tmp_path / "eval")
    for file in (tmp_path / "eval").glob("*.json"):
        if file.name == find_task("presence").file:
            file.rename(file.with_name("cloudy.json"))
        elif file.name != find_task("cls_aid").file:
            file.unlink()
    task = "evaluation.custom_tasks={cloudy: {file: cloudy.json, type: presence, tag: IT, deceptive: true}}"
    recipe = load_recipe(cut_recipe, [task, "evaluation.blind=[cloudy]"])
    result = evaluate(cut / "base", tmp_path / "eval", tmp_path / "out", recipe)
    assert [task.name for task in result.tasks] == ["cls_aid", "cloudy"]
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    cloudy = scores["tasks"]["cloudy"]
    assert (cloudy["type"], cloudy["n"], cloudy["failed"]) == ("presence", 4, 0)
    assert scores["summary"]["honesty"] == cloudy["accuracy"]
    assert "blind" in cloudy
    assert "cloudy" in (tmp_path / "out" / "report.html").read_text()


def test_a_blind_task_that_is_misspelt_is_named(cut: Path, cut_recipe: Path, tmp_path: Path) -> None:
    recipe = load_recipe(cut_recipe, ["evaluation.blind=[presense]"])
    with pytest.raises(InputError, match="'presense' is unknown; did you mean presence"):
        evaluate(cut / "base", cut / "eval", tmp_path, recipe, ["presence"])


def test_a_question_carries_the_source_whose_image_options_apply(cut: Path) -> None:
    task = find_task("presence")
    records = json.loads((cut / "eval" / task.file).read_text())
    assert [question.source for question in questions(task, cut / "eval")] == [r["image_path"] for r in records]


def test_splits_merge_into_what_one_run_writes(run: Path, cut: Path, recipe, tmp_path: Path) -> None:
    tasks = tasks_in(cut / "eval", NAMES)
    for split in range(3):
        predict(cut / "base", cut / "eval", tmp_path / str(split), tasks, recipe.evaluation, (split, 3))
    key = json.loads((tmp_path / "1" / "predictions" / "run.json").read_text())
    assert set(key) == {"model", "data", "max_new_tokens", "split"}
    assert key["split"] == [1, 3]
    merge_predictions([tmp_path / str(split) for split in range(3)], tmp_path / "merged")
    assert predictions(tmp_path / "merged") == predictions(run)
    merged, single = (folder / "predictions" / "run.json" for folder in (tmp_path / "merged", run))
    assert merged.read_text() == single.read_text()
    with pytest.raises(InputError, match="answered the same question"):
        merge_predictions([tmp_path / "1", tmp_path / "1"], tmp_path / "twice")


def test_splits_of_different_runs_are_not_merged(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "other")
    record = tmp_path / "other" / "predictions" / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"model": "another"}))
    with pytest.raises(InputError, match="different models, data or settings"):
        merge_predictions([run, tmp_path / "other"], tmp_path / "merged")


def test_a_record_of_another_form_is_named(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "old")
    record = tmp_path / "old" / "predictions" / "run.json"
    record.write_text(json.dumps({"model": "m", "data": "d", "max_new_tokens": 12, "shard": [0, 1]}))
    with pytest.raises(InputError, match=r"run\.json lacks model, data, max_new_tokens or split"):
        merge_predictions([tmp_path / "old"], tmp_path / "merged")


def test_resume_keeps_existing_rows_and_drops_a_torn_line(run: Path, cut: Path, recipe, tmp_path: Path) -> None:
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


def test_a_bad_image_fails_its_own_questions_only(cut: Path, recipe, tmp_path: Path) -> None:
    shutil.copytree(cut / "eval", tmp_path / "eval")
    first = json.loads((tmp_path / "eval" / "presence_mo_dota.json").read_text())[0]
    (tmp_path / "eval" / first["image_path"] / first["image"]).write_bytes(b"not an image")
    result = evaluate(cut / "base", tmp_path / "eval", tmp_path / "out", recipe, ["presence"])
    rows = read_jsonl(tmp_path / "out" / "predictions" / "presence.jsonl")
    assert {row["filename"] for row in rows if row["pred"] is None} == {first["image"]}
    [presence] = result.tasks.values()
    assert presence.failed == sum(row["pred"] is None for row in rows) >= 1


def test_the_report_escapes_predictions(run: Path, cut: Path, recipe, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "out")
    path = tmp_path / "out" / "predictions" / "presence.jsonl"
    rows = [row | {"pred": "<script>alert(1)</script>"} for row in read_jsonl(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    score_run(cut / "base", cut / "eval", tmp_path / "out", recipe, tasks_in(cut / "eval", NAMES))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
