"""Real trainings in subprocesses: killed and resumed to the same bits, stopped by SIGTERM, refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.s3 import SECRET_KEY
from vhm.data.shards.pack import pack
from vhm.errors import InputError, TrainError
from vhm.recipe import load_recipe
from vhm.storage.s3 import S3Uri
from vhm.storage.versions import publish
from vhm.train import train
from vhm.train.launch import weights_hash
from vhm.train.log import read_log


def command(cut: Path, recipe: Path, manifests: Path, out: Path) -> list[str]:
    """One epoch and a half: a resumed run must also end at the same step of a part of an epoch."""
    return [
        *(sys.executable, "-m", "vhm.cli", "train", "sft", "--recipe", str(recipe), "--model", str(cut / "base")),
        *("--data", str(manifests / "sft" / "manifest.parquet"), "--images", str(cut / "images"), "--out", str(out)),
        *("--set", "stages.sft.epochs=1.5"),
    ]


@pytest.fixture(scope="module")
def uninterrupted(cut: Path, cut_recipe: Path, manifests: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("train") / "sft"
    done = subprocess.run(command(cut, cut_recipe, manifests, out), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def logged_steps(out: Path) -> list[dict[str, object]]:
    """The lines of the training log without their times."""
    entries = map(asdict, read_log(out / "train_log.jsonl"))
    return [{k: v for k, v in entry.items() if k not in ("seconds", "tokens_per_second")} for entry in entries]


def wait_for_steps_after_a_checkpoint(out: Path) -> None:
    """Wait until the log has steps that the newest checkpoint lacks: a resumed run repeats them."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        saved = [int(folder.name.removeprefix("step-")) for folder in (out / "checkpoints").glob("step-*")]
        if saved and len((out / "train_log.jsonl").read_bytes().splitlines()) > max(saved):
            return
        time.sleep(0.02)
    raise AssertionError("no step was logged after a checkpoint")


@pytest.mark.slow
def test_a_killed_training_resumes_to_identical_weights(
    uninterrupted: Path, cut: Path, cut_recipe: Path, manifests: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sft"
    run = subprocess.Popen(command(cut, cut_recipe, manifests, out), stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for_steps_after_a_checkpoint(out)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert list((out / "checkpoints").glob("step-*"))
    assert not (out / "config.json").exists()
    done = subprocess.run(command(cut, cut_recipe, manifests, out), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "from step 0" not in done.stderr
    assert weights_hash(out) == weights_hash(uninterrupted)
    steps = logged_steps(out)
    assert [entry["step"] for entry in steps] == list(range(1, len(steps) + 1))
    assert steps == logged_steps(uninterrupted)
    assert all(entry["grad_norm"] for entry in steps)


@pytest.mark.slow
def test_another_machine_resumes_from_s3(
    uninterrupted: Path, cut: Path, cut_recipe: Path, manifests: Path, bucket: str, tmp_path: Path
) -> None:
    """Data and checkpoints in S3: the second machine has only what the first uploaded, and gives the same bits."""
    pack(manifests / "sft", cut / "images", tmp_path / "packed", 10**6)
    publish(tmp_path / "packed", S3Uri(bucket, "data"))
    locations = ["--data", f"s3://{bucket}/data", "--images", f"s3://{bucket}/data"]

    def run(out: Path) -> list[str]:
        arguments = command(cut, cut_recipe, manifests, out)
        arguments[arguments.index("--data") : arguments.index("--out")] = locations
        return [*arguments, "--set", f"storage.checkpoints=s3://{bucket}/checkpoints"]

    first = subprocess.Popen(run(tmp_path / "first" / "sft"), stderr=subprocess.PIPE, text=True)
    assert first.stderr is not None
    for line in first.stderr:
        if "uploaded checkpoint" in line and "to s3://" in line:
            break
    first.send_signal(signal.SIGTERM)
    rest = first.stderr.read()
    assert first.wait() == 2, rest
    first.stderr.close()
    shutil.rmtree(tmp_path / "first")
    shutil.rmtree(tmp_path / "cache")
    second = subprocess.run(run(tmp_path / "second" / "sft"), capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert "downloading the checkpoint of step" in second.stderr
    assert "from step 0" not in second.stderr
    assert weights_hash(tmp_path / "second" / "sft") == weights_hash(uninterrupted)
    assert logged_steps(tmp_path / "second" / "sft") == logged_steps(uninterrupted)
    for path in (tmp_path / "second").rglob("*"):
        assert not path.is_file() or SECRET_KEY.encode() not in path.read_bytes()
    assert SECRET_KEY not in second.stderr + rest


@pytest.mark.slow
def test_sigterm_saves_and_ends_with_one_line(cut: Path, cut_recipe: Path, manifests: Path, tmp_path: Path) -> None:
    out = tmp_path / "sft"
    run = subprocess.Popen(command(cut, cut_recipe, manifests, out), stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    for line in run.stderr:
        if "from step 0" in line:
            break
    run.send_signal(signal.SIGTERM)
    rest = run.stderr.read()
    assert run.wait() == 2
    run.stderr.close()
    assert "stopped by SIGTERM" in rest
    assert "run it again to resume" in rest
    assert list((out / "checkpoints").glob("step-*"))
    again = subprocess.run(command(cut, cut_recipe, manifests, out), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "from step 0" not in again.stderr


def test_only_the_parameters_of_the_recipe_are_trained(uninterrupted: Path, cut: Path) -> None:
    before, after = load_file(cut / "base" / "model.safetensors"), load_file(uninterrupted / "model.safetensors")
    assert set(before) == set(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in changed if name.startswith("vision_tower")]
    assert {"multi_modal_projector.linear_1.weight", "language_model.model.norm.weight"} <= changed


def test_a_trained_directory_documents_its_origin(uninterrupted: Path) -> None:
    names = {path.name for path in uninterrupted.iterdir()}
    assert {
        "README.md",
        "lineage.json",
        "recipe.yaml",
        "train_log.jsonl",
        "training_curve.svg",
        "processor_config.json",
    } <= names
    assert "checkpoints" not in names
    lineage = json.loads((uninterrupted / "lineage.json").read_text())
    assert set(lineage["inputs"]) == {"model", "manifest"}
    assert (uninterrupted / "README.md").read_text().startswith("---\nlibrary_name: transformers")


def test_wrong_inputs_are_refused_before_ranks_start(cut: Path, tmp_path: Path) -> None:
    recipe = load_recipe("tiny")
    with pytest.raises(InputError, match=r"none.parquet does not exist"):
        train("sft", recipe, cut / "base", tmp_path / "none.parquet", cut / "images", tmp_path / "out")
    manifest = tmp_path / "manifest.parquet"
    manifest.touch()
    with pytest.raises(InputError, match="is the model to start from"):
        train("sft", recipe, cut / "base", manifest, cut / "images", cut / "base")
    assert not (tmp_path / "out").exists()
    assert (cut / "base" / "config.json").exists()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds no recipe.yaml"):
        train("sft", recipe, cut / "base", manifest, cut / "images", foreign)
    assert (foreign / "config.json").exists()


@pytest.mark.slow
def test_a_failing_rank_gives_its_reason_in_one_line(cut: Path, manifests: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(cut / "images", images)
    next(images.rglob("*.jpg")).unlink()
    for path in list(images.rglob("*.jpg"))[::2]:
        path.write_bytes(b"no image")
    recipe = load_recipe("tiny", ["stages.sft.epochs=1"])
    with pytest.raises(TrainError, match=r"^sft failed: image_(unknown|missing): "):
        train("sft", recipe, cut / "base", manifests / "sft" / "manifest.parquet", images, tmp_path / "out")
