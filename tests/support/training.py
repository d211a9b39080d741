"""Trainings that take seconds: a model of about 30,000 parameters, its records, and the command that trains it.

workshop.model       a LLaVA directory: two CLIP blocks, one Llama block, hidden size 16
workshop.manifest    48 records; every third one has no image
workshop.images      eight images
workshop.recipe(…)   a recipe file with one stage, `sft`
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from tests.support.lists import validate
from vhm.io import write_json
from vhm.train.log import read_log

_ROOT = Path(__file__).parents[2]
_COLOURS = ("red", "green", "blue", "white")
# `python -c FAULTY FILE ARGUMENTS…` runs a rank after the Python file FILE, which may replace parts of the program.
_FAULTY = """
import os, runpy, sys
fault, *arguments = sys.argv[1:]
sys.argv = ["-m", *arguments]
exec(compile(open(fault).read(), fault, "exec"), {"rank": int(os.environ["RANK"])})
runpy.run_module("vhm.train", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Workshop:
    """The inputs of small trainings, below one folder."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest"

    def recipe(self, path: Path, data: Mapping[str, object] | None = None, **stage: object) -> Path:
        """A recipe file at `path`: two processes, twelve steps of four samples, saved every two steps."""
        values = {
            "template": "v1",
            "trainable": {"vision_tower": "all", "projector": True, "language_model": True},
            "learning_rate": 1e-2,
            "global_batch": 4,
            "micro_batch": 1,
            "precision": "fp32",
            "zero_stage": 2,
            "gradient_checkpointing": False,
            "save_every": 2,
            "log_every": 1,
        }
        content = {"name": "small", "processes": 2, "stages": {"sft": values | stage}, "data": dict(data or {})}
        path.write_text(yaml.safe_dump(content))
        return path

    def command(self, recipe: Path, out: Path, *options: str) -> list[str]:
        """The command that trains by `recipe` into `out`."""
        return [
            *(sys.executable, "-m", "vhm.cli", "train", "sft", "--recipe", str(recipe), "--model", str(self.model)),
            *("--data", str(self.manifest), "--images", str(self.images), "--out", str(out), *options),
        ]

    def train(self, recipe: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        return subprocess.run(self.command(recipe, out, *options), capture_output=True, text=True, env=environment())


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT)} | more


def fault_environment(folder: Path, code: str) -> dict[str, str]:
    """An environment in which every rank runs `code` before it trains; `rank` is its index.

    torchrun starts PYTHON_EXEC instead of the interpreter: here a script that runs `code` first. The package itself
    has no switch for faults.
    """
    (folder / "fault.py").write_text(code)
    (folder / "run_faulty.py").write_text(_FAULTY)
    script = folder / "python"
    script.write_text(
        f'#!/bin/sh\nshift 3\nexec {sys.executable} -u {folder / "run_faulty.py"} {folder / "fault.py"} "$@"\n'
    )
    script.chmod(0o755)
    return environment(PYTHON_EXEC=str(script))


def make_workshop(root: Path) -> Workshop:
    """Write model, images and manifest below `root`."""
    workshop = Workshop(root)
    records = [_record(number) for number in range(48)]
    _write_model(workshop.model, [turn["value"] for record in records for turn in record["conversations"]])
    workshop.images.mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(workshop.images / f"{number}.png")
    write_json(root / "list.json", records)
    accepted = validate(root / "list.json", workshop.images, workshop.manifest, max_rejected=1.0)
    assert accepted.accepted == len(records), accepted.failures
    return workshop


def _record(number: int) -> dict[str, object]:
    marker = "" if number % 3 == 2 else "<image>\n"
    answer = " and ".join(_COLOURS[(number + i) % 4] for i in range(1 + number % 4))
    turns = [
        {"from": "human", "value": f"{marker}Which colours are in scene {number}?"},
        {"from": "gpt", "value": f"{answer} {number}"},
    ]
    image = {} if number % 3 == 2 else {"image": f"{number % 8}.png"}
    return {"id": f"record-{number}", **image, "conversations": turns}


def _write_model(out: Path, texts: list[str]) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    from vhm.data.encode import SYSTEM
    from vhm.model.build import assemble, save_model
    from vhm.sample.tiny_model import train_tokenizer

    torch.manual_seed(0)
    tokenizer = train_tokenizer([*texts, f"{SYSTEM} USER: ASSISTANT:"])
    size = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    tower = CLIPVisionModel(CLIPVisionConfig(**size, num_hidden_layers=2, image_size=28, patch_size=14))
    language_model = LlamaForCausalLM(LlamaConfig(**size, num_hidden_layers=1, vocab_size=len(tokenizer)))
    model, processor = assemble(tower, language_model, tokenizer, [1, 2])
    save_model(out, model, processor)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors")


def largest_difference(one: Path, other: Path) -> float:
    """The largest difference between two models' weights."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def logged(out: Path) -> list[tuple[object, ...]]:
    """The lines of the training log without their times."""
    return [(e.step, e.loss, e.lr, e.grad_norm, e.tokens) for e in read_log(out / "train_log.jsonl")]
