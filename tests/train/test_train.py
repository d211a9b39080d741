"""Real trainings in subprocesses: killed and resumed to the same bits, told to stop, refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.s3 import SECRET_KEY
from vhm.data.index import open_index
from vhm.data.shards.pack import pack
from vhm.errors import CheckpointError, InputError, TrainError
from vhm.recipe import DataRecipe, load_recipe
from vhm.storage.s3 import S3Uri
from vhm.storage.versions import publish
from vhm.train import train
from vhm.train.checkpoint import newest
from vhm.train.collate import TrainingSet
from vhm.train.engine import LabelledLoss, set_trainable
from vhm.train.launch import weights_hash
from vhm.train.loop import check_mixture_weights, stage_transform
from vhm.train.samples import EncodedSamples, encode_samples


def command(cut: Path, recipe: Path, manifests: Path, out: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "vhm.cli", "train", "sft", "--recipe", str(recipe), "--model", str(cut / "base")),
        *("--data", str(manifests / "sft" / "manifest.parquet"), "--images", str(cut / "images"), "--out", str(out)),
    ]


@pytest.fixture(scope="module")
def uninterrupted(cut: Path, cut_recipe: Path, manifests: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("train") / "sft"
    done = subprocess.run(command(cut, cut_recipe, manifests, out), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_a_killed_training_resumes_to_identical_weights(
    uninterrupted: Path, cut: Path, cut_recipe: Path, manifests: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sft"
    run = subprocess.Popen(command(cut, cut_recipe, manifests, out), stderr=subprocess.DEVNULL, start_new_session=True)
    until = time.monotonic() + 120
    while not list((out / "checkpoints").glob("step-*")) and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert list((out / "checkpoints").glob("step-*"))
    assert not (out / "config.json").exists()
    done = subprocess.run(command(cut, cut_recipe, manifests, out), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "from step 0" not in done.stderr
    assert weights_hash(out) == weights_hash(uninterrupted)
    losses = [[json.loads(line)["loss"] for line in (p / "train_log.jsonl").open()] for p in (out, uninterrupted)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_another_machine_goes_on_from_s3(
    uninterrupted: Path, cut: Path, cut_recipe: Path, manifests: Path, bucket: str, tmp_path: Path
) -> None:
    """Data and checkpoints in S3: nothing of the first machine but what it stored there, and the same bits."""
    pack(manifests / "sft", cut / "images", tmp_path / "packed", 10**6)
    publish(tmp_path / "packed", S3Uri(bucket, "data"))
    place = ["--data", f"s3://{bucket}/data", "--images", f"s3://{bucket}/data"]

    def run(out: Path) -> list[str]:
        arguments = command(cut, cut_recipe, manifests, out)
        arguments[arguments.index("--data") : arguments.index("--out")] = place
        return [*arguments, "--set", f"storage.checkpoints=s3://{bucket}/checkpoints"]

    first = subprocess.Popen(run(tmp_path / "first" / "sft"), stderr=subprocess.PIPE, text=True)
    assert first.stderr is not None
    for line in first.stderr:
        if "checkpoint" in line and "is at s3://" in line:
            break
    first.send_signal(signal.SIGTERM)
    told = first.stderr.read()
    assert first.wait() == 2, told
    shutil.rmtree(tmp_path / "first")
    shutil.rmtree(tmp_path / "cache")
    second = subprocess.run(run(tmp_path / "second" / "sft"), capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert "bringing the checkpoint of step" in second.stderr
    assert "from step 0" not in second.stderr
    assert weights_hash(tmp_path / "second" / "sft") == weights_hash(uninterrupted)
    logs = [(p / "train_log.jsonl").read_text().splitlines() for p in (uninterrupted, tmp_path / "second" / "sft")]
    assert [json.loads(line)["loss"] for line in logs[0]] == [json.loads(line)["loss"] for line in logs[1]]
    for path in (tmp_path / "second").rglob("*"):
        assert not path.is_file() or SECRET_KEY.encode() not in path.read_bytes()
    assert SECRET_KEY not in second.stderr + told


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
    assert "run it again to go on" in rest
    assert list((out / "checkpoints").glob("step-*"))
    again = subprocess.run(command(cut, cut_recipe, manifests, out), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "from step 0" not in again.stderr


def test_training_learns_only_what_the_recipe_says(uninterrupted: Path, cut: Path) -> None:
    before, after = load_file(cut / "base" / "model.safetensors"), load_file(uninterrupted / "model.safetensors")
    assert set(before) == set(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in changed if name.startswith("vision_tower")]
    assert {"multi_modal_projector.linear_1.weight", "language_model.model.norm.weight"} <= changed


def test_a_trained_directory_explains_itself(uninterrupted: Path) -> None:
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


def test_upper_half_of_the_vision_tower(base) -> None:
    model, _ = base
    set_trainable(model, load_recipe("tiny").stage("pretrain").trainable)
    learning = {n for n, p in model.named_parameters() if p.requires_grad and "vision_tower" in n}
    blocks = {int(name.split(".layers.")[1].split(".")[0]) for name in learning}
    assert blocks == {3, 4, 5}


def training_set(manifest: Path, images: Path, processor, stage, folder: Path) -> TrainingSet:
    index = open_index(manifest)
    encode_samples(folder / "samples", index, processor.tokenizer, stage, {})
    samples, data = EncodedSamples(folder / "samples"), DataRecipe()
    transform = stage_transform(stage, data, processor)
    return TrainingSet(samples, index, str(images), processor.tokenizer, transform, 144, data)


def test_the_loss_is_the_one_of_full_logits(base, cut: Path, manifests: Path, tmp_path: Path) -> None:
    """Against transformers' own loss; rows that no token has are left out of ours, so they are masked there."""
    model, processor = base
    stage = load_recipe("tiny").stage("sft")
    samples = training_set(manifests / "sft" / "manifest.parquet", cut / "images", processor, stage, tmp_path)
    batch = samples.batch([0, 5, 11, 17])
    with torch.no_grad():
        logits = model(
            input_ids=batch.input_ids, pixel_values=batch.pixel_values, attention_mask=batch.attention_mask
        ).logits
        logits[..., len(processor.tokenizer) - 1 :] = -torch.inf
        expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())
        got = LabelledLoss(model)(batch) / batch.targets
    assert abs(float(got) - float(expected)) < 1e-5


def test_an_empty_share_adds_nothing(base, cut: Path, manifests: Path, tmp_path: Path) -> None:
    stage = load_recipe("tiny").stage("sft")
    samples = training_set(manifests / "sft" / "manifest.parquet", cut / "images", base[1], stage, tmp_path)
    batch = samples.batch([])
    assert batch.targets == 0
    assert float(LabelledLoss(base[0])(batch)) == 0.0


def test_a_damaged_checkpoint_is_named_and_not_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "step-00000004"
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "x.pt").write_bytes(b"12345")
    manifest = {"step": 4, "world_size": 2, "files": {"state/x.pt": {"size": 5, "sha256": "0" * 64}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"x.pt is damaged"):
        newest(tmp_path, {"world_size": 2})
    with pytest.raises(CheckpointError, match=r"another world size \(2, now 4\)"):
        newest(tmp_path, {"world_size": 4})
    shutil.rmtree(folder)
    assert newest(tmp_path, {}) is None


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
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds no recipe.yaml"):
        train("sft", recipe, cut / "base", manifest, cut / "images", theirs)
    assert (theirs / "config.json").exists()


@pytest.mark.parametrize(
    ("weights", "said"),
    [("[1.0, 2.0, 3.0]", r"3 mixture_weights for 2 lists"), ("[0, 0]", "all mixture_weights .* are 0")],
)
def test_weights_that_fit_no_list(weights: str, said: str, manifests: Path) -> None:
    index = open_index([manifests / "sft", manifests / "pretrain"])
    with pytest.raises(TrainError, match=said):
        check_mixture_weights(load_recipe("tiny", [f"stages.sft.mixture_weights={weights}"]).stage("sft"), index)


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
