"""Model directories: they load with plain transformers, and what is no model is refused in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vhm.errors import CheckpointError
from vhm.model import load_model

PROGRAM = """
import sys
sys.modules["vhm"] = None
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
model, processor = AutoModelForImageTextToText.from_pretrained(sys.argv[1]), AutoProcessor.from_pretrained(sys.argv[1])
turn = {"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (90, 60))}, {"type": "text", "text": "What?"}]}
inputs = processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=5)
print(type(model).__name__, model.config.vision_feature_layer, output.shape[1] > inputs["input_ids"].shape[1])
print(max(output[0, inputs["input_ids"].shape[1]:].tolist()) < len(processor.tokenizer) - 1)
"""


def test_plain_transformers_loads_and_answers(sample: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(sample / "base")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, cwd="/")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[:2] == ["LlavaForConditionalGeneration [2, 4, 6] True", "True"]


def test_weights_can_be_read_by_other_users(sample: Path) -> None:
    assert (sample / "base" / "model.safetensors").stat().st_mode & 0o044 == 0o044


def test_a_truncated_weights_file_is_an_error(sample: Path, tmp_path: Path) -> None:
    shutil.copytree(sample / "base", tmp_path / "m")
    content = (tmp_path / "m" / "model.safetensors").read_bytes()
    (tmp_path / "m" / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="cannot load"):
        load_model(tmp_path / "m")


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"has no model\*.safetensors"):
        load_model(tmp_path)
