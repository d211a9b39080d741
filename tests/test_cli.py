"""The command line: exit statuses, one-line errors, JSON alone on stdout, quick help, the recipe of a command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from vhm.cli import app
from vhm.evaluate.results import EvaluationResult, summarise
from vhm.io import read_json


def vhm(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vhm.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


def test_help_imports_no_heavy_library() -> None:
    program = "import sys, vhm.cli; print([m for m in ('torch', 'kfp', 'kserve', 'deepspeed') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_help_names_every_command_of_the_contract() -> None:
    text = vhm("--help").stdout
    names = "sample validate data convert warm-start train evaluate score gate serve ask deploy pipeline".split()
    assert [name for name in names if f"\n  {name} " not in text] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sampel",), "No such command 'sampel'"),
        (("train", "sft"), "Missing option '--model'"),
        (("score", "presense", "x.jsonl"), "did you mean presence?"),
        (("score", "presence", "absent.jsonl"), "cannot read absent.jsonl"),
        (("gate", "--candidate", "absent.json"), "absent.json does not exist"),
        (("gate", "--candidate", "a", "--recipe", "tinny"), "did you mean tiny?"),
        (("gate", "--candidate", "a", "--set", "evaluation.batch_sise=3"), "did you mean 'batch_size'?"),
        (("deploy", "--model-uri", "/models/x", "--dry-run"), "has no scheme"),
        (("ask", "absent.jpg", "what?", "--model", "m"), "absent.jpg does not exist"),
        (("validate", "absent.json", "--images", ".", "--out", "o"), "absent.json does not exist"),
        (("convert", "absent", "o"), "absent is not a checkpoint directory"),
        (("warm-start", "--base", "absent", "--out", "o"), "absent has no config.json"),
        (("warm-start", "--out", "o"), "Missing option '--base'"),
        (("warm-start", "--recipe", "smol", "--set", "base.parts=null", "--out", "o"), "give its manifest with --data"),
        (("validate", "--out", "o"), "Missing argument 'LIST …'"),
        (("validate", "absent.json", "--out", "o"), "Missing option '--images'"),
        (("validate", "--recipe", "tiny", "--kind", "dpo", "--out", "o"), "kind 'dpo' is unknown"),
        (("train", "sft", "--model", "m", "--data", "d", "--out", "o"), "recipe default has no stage 'sft'"),
        (("evaluate", "--model", "m", "--out", "o"), "data/eval does not exist"),
    ],
)
def test_wrong_calls_give_one_line_and_exit_2(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = vhm(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.startswith("vhm: error: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_score_knows_the_tasks_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"query": "Cloudy?", "answer": "yes", "pred": "Yes."}\n')
    recipe = tmp_path / "own.yaml"
    recipe.write_text("evaluation: {custom_tasks: {cloudy: {file: cloudy.json, type: presence}}}")
    done = vhm("score", "cloudy", str(tmp_path / "p.jsonl"), "--recipe", str(recipe), "--json")
    scores = json.loads(done.stdout)
    assert (scores["task"], scores["type"], scores["accuracy"]) == ("cloudy", "presence", 1.0)


def test_score_prints_one_json_object(tmp_path: Path) -> None:
    rows = [{"filename": "a", "size": [1, 1], "query": "Is it?", "answer": "yes", "pred": p} for p in ("Yes.", "No")]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = vhm("score", "presence", str(path), "--json")
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert (metrics["n"], metrics["accuracy"]) == (2, 0.5)


def test_splits_of_a_list_are_checked_against_the_thresholds_when_they_are_merged(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Which river is it?"}, {"from": "gpt", "value": "The Paraná."}]
    (tmp_path / "list.json").write_text(json.dumps([{"id": "a", "conversations": turns}, {"id": "b"}]))
    call = ("validate", "list.json", "--images", ".", "--skip-images", "--max-rejected", "0.4")
    splits = [f"split{number}" for number in range(3)]  # of two records: one is empty
    for number, split in enumerate(splits):
        assert vhm(*call, "--shard", f"{number}/3", "--out", split, cwd=tmp_path).returncode == 0
    merged = vhm(*call, *(word for split in splits for word in ("--merge", split)), "--out", "all", cwd=tmp_path)
    assert merged.returncode == 1
    assert "1 of 2 records rejected (50.0%, at most 40.0% allowed): 1 missing_field" in merged.stderr


def test_validate_takes_lists_images_and_evaluation_files_from_the_recipe(
    cut: Path, cut_recipe: Path, tmp_path: Path
) -> None:
    named = vhm("validate", "--kind", "sft", "--recipe", str(cut_recipe), "--out", "named", cwd=tmp_path)
    assert named.returncode == 0, named.stderr
    explicit = ("--images", str(cut / "images"), "--against", str(cut / "eval"), "--against-images", str(cut / "eval"))
    given = vhm("validate", str(cut / "sft/list_sft.json"), *explicit, "--out", "given", cwd=tmp_path)
    assert given.returncode == 0, given.stderr
    assert read_json(tmp_path / "named" / "validation.json") == read_json(tmp_path / "given" / "validation.json")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model directory that carries the recipe it was made with."""
    stage = "{template: v1, global_batch: 2, micro_batch: 1}"
    (tmp_path / "recipe.yaml").write_text(
        f"name: carried\nserving: {{max_new_tokens: 77}}\ndata: {{root: /r}}\nstages: {{sft: {stage}}}\n"
    )
    return tmp_path


def called(monkeypatch: pytest.MonkeyPatch, function: str, *arguments: str, result: object = None) -> list[Any]:
    """The arguments that a command calls `function` with."""
    calls: list[Any] = []

    def record(*given: object) -> object:
        calls.extend(given)
        return result

    monkeypatch.setattr(function, record)
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return calls


def test_train_uses_the_recipe_and_the_images_of_the_model(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vhm.train.launch.weights_hash", lambda out: "0" * 64)
    options = ("--model", str(model), "--data", "d", "--out", "o")
    recipe, images = called(monkeypatch, "vhm.train.train", "train", "sft", *options)[1:5:3]
    assert (recipe.name, images) == ("carried", Path("/r/images"))
    recipe, images = called(
        monkeypatch, "vhm.train.train", "train", "sft", *options, "--recipe", "tiny", "--images", "i"
    )[1:5:3]
    assert (recipe.name, images) == ("tiny", "i")


def test_evaluate_uses_the_recipe_and_the_data_of_the_model(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--model", str(model), "--out", "o", "--set", "evaluation.max_new_tokens=9")
    scored = EvaluationResult("m", "", "", "carried", "strict", {}, summarise({}))
    call = called(monkeypatch, "vhm.evaluate.evaluate", "evaluate", *options, result=scored)
    assert call[1] == Path("/r/eval")
    assert (call[3].name, call[3].evaluation.max_new_tokens) == ("carried", 9)


def test_serve_uses_the_limits_of_the_model(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert called(monkeypatch, "vhm.serve.server.serve", "serve", "--model", str(model))[1].max_new_tokens == 77


@pytest.mark.parametrize(
    ("options", "limit"),
    [((), 77), (("--recipe", "tiny"), 64), (("--set", "serving.max_new_tokens=5"), 5), (("--max-new-tokens", "3"), 3)],
)
def test_ask_limits_the_answer_as_the_model_is_served(
    options: tuple[str, ...], limit: int, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int] = []

    class Generator:
        def __init__(self, directory: Path) -> None:
            self.transform = SimpleNamespace(decode=lambda image, orient: None)

        def generate(self, questions: list[object], sampling: Any) -> list[SimpleNamespace]:
            limits.append(sampling.max_new_tokens)
            return [SimpleNamespace(text="a river")]

    monkeypatch.setattr("vhm.inference.generator.Generator", Generator)
    call = ["ask", str(model / "recipe.yaml"), "what?", "--model", str(model), *options]
    done = CliRunner().invoke(app, call, catch_exceptions=False)
    assert (done.output, limits) == ("a river\n", [limit])


def test_gate_exits_1_and_names_what_blocks(tmp_path: Path) -> None:
    scores = {"tasks": {"presence": {"accuracy": 0.4, "n": 10}}}
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(scores))
    done = vhm("gate", "--candidate", str(path), "--set", "gate.thresholds={presence.accuracy: 0.5}")
    assert done.returncode == 1
    assert "presence.accuracy is 0.400, must be at least 0.500" in done.stderr


def test_a_gate_with_nothing_to_check_is_a_wrong_call(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"tasks": {"presence": {"accuracy": 0.4, "n": 10}}}))
    done = vhm("gate", "--candidate", str(path))
    assert done.returncode == 2
    assert "the gate of recipe default has nothing to check" in done.stderr


def test_deploy_dry_run_prints_an_inference_service() -> None:
    import yaml

    done = vhm("deploy", "--model-uri", "s3://models/vhm/1", "--canary", "10", "--dry-run")
    service = yaml.safe_load(done.stdout)
    assert service["kind"] == "InferenceService"
    assert service["spec"]["predictor"]["model"]["storageUri"] == "s3://models/vhm/1"
    assert service["spec"]["predictor"]["canaryTrafficPercent"] == 10
