"""The command line: exit statuses, one-line errors, JSON alone on stdout, quick help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


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
    ],
)
def test_wrong_calls_give_one_line_and_exit_2(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = vhm(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.startswith("vhm: error: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_score_prints_one_json_object(tmp_path: Path) -> None:
    rows = [{"filename": "a", "size": [1, 1], "query": "Is it?", "answer": "yes", "pred": p} for p in ("Yes.", "No")]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = vhm("score", "presence", str(path), "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["n"], figures["accuracy"]) == (2, 0.5)


def test_parts_of_a_list_are_judged_when_they_are_joined(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Which river is it?"}, {"from": "gpt", "value": "The Paraná."}]
    (tmp_path / "list.json").write_text(json.dumps([{"id": "a", "conversations": turns}, {"id": "b"}]))
    call = ("validate", "list.json", "--images", ".", "--skip-images", "--max-rejected", "0.4")
    parts = [f"part{number}" for number in range(3)]  # of two records: one is empty
    for number, part in enumerate(parts):
        assert vhm(*call, "--shard", f"{number}/3", "--out", part, cwd=tmp_path).returncode == 0
    joined = vhm(*call, *(word for part in parts for word in ("--merge", part)), "--out", "all", cwd=tmp_path)
    assert joined.returncode == 1
    assert "1 of 2 records rejected (50.0%, at most 40.0% allowed): 1 missing_field" in joined.stderr


def test_gate_exits_1_and_names_what_blocks(tmp_path: Path) -> None:
    scores = {"tasks": {"presence": {"accuracy": 0.4, "n": 10}}}
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(scores))
    only = ["--set", "gate.beat_majority=[]", "--set", "gate.beat_blind=[]"]
    done = vhm("gate", "--candidate", str(path), *only, "--set", "gate.thresholds={presence.accuracy: 0.5}")
    assert done.returncode == 1
    assert "presence.accuracy is 0.400, must be at least 0.500" in done.stderr


def test_deploy_dry_run_prints_an_inference_service() -> None:
    import yaml

    done = vhm("deploy", "--model-uri", "s3://models/vhm/1", "--canary", "10", "--dry-run")
    service = yaml.safe_load(done.stdout)
    assert service["kind"] == "InferenceService"
    assert service["spec"]["predictor"]["model"]["storageUri"] == "s3://models/vhm/1"
    assert service["spec"]["predictor"]["canaryTrafficPercent"] == 10
