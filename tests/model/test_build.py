"""Model directories load with plain transformers; any other directory is refused in one line."""

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
content = [{"type": "image", "image": Image.new("RGB", (90, 60))}, {"type": "text", "text": "What?"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
)
output = model.generate(**inputs, max_new_tokens=5)
print(type(model).__name__, model.config.vision_feature_layer, output.shape[1] > inputs["input_ids"].shape[1])
print(max(output[0, inputs["input_ids"].shape[1]:].tolist()) < len(processor.tokenizer) - 1)
"""


def test_plain_transformers_loads_and_answers(sample: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(sample / "base")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, cwd="/")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[:2] == ["LlavaForConditionalGeneration [2, 4, 6] True", "True"]


def test_weights_are_readable_by_other_users(sample: Path) -> None:
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


MODES = ["RGB", "L", "LA", "1", "P", "RGBA", "CMYK"]
SIZES = [(336, 336), (57, 41), (640, 333), (1, 9), (7, 1), (337, 671)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixel_values_equal_the_references(tmp_path_factory: pytest.TempPathFactory, base, mode: str, size) -> None:
    """By hand: RGB, padded to a square with (122, 116, 104), bicubic, centre crop, CLIP's mean and deviation."""
    import numpy as np
    from PIL import Image
    from transformers import LlavaConfig

    from vhm.data.images.transform import ImageTransform
    from vhm.model.build import build_processor

    noise = np.random.default_rng(sum(size)).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    rgb = image.convert("RGB")
    side = max(size)
    square = Image.new("RGB", (side, side), (122, 116, 104))
    square.paste(rgb, ((side - size[0]) // 2, (side - size[1]) // 2))
    resized = np.asarray(square.resize((336, 336), Image.Resampling.BICUBIC), np.float64) / 255
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    expected = ((resized - mean) / std).transpose(2, 0, 1)

    processor = build_processor(
        base[1].tokenizer, LlavaConfig(vision_config={"image_size": 336, "patch_size": 14}), pad=True
    )
    text = processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}])
    exported = processor(images=image, text=text, return_tensors="np")["pixel_values"][0]
    assert np.abs(exported - expected).max() <= 1e-6
    if mode in ("1", "CMYK", "P"):  # PNG and JPEG cannot store every mode; the others are enough
        return
    path = tmp_path_factory.mktemp("images") / "image.png"
    image.save(path)
    transform = ImageTransform(336)
    transformed = transform.normalise([transform.resize(transform.decode(path))])[0].numpy()
    assert np.abs(transformed - expected).max() <= 1e-6
