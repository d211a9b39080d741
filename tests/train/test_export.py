"""An exported model receives the same pixels at inference as in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from vhm.data.images.transform import ImageTransform
from vhm.data.index import Index, open_index
from vhm.data.records import image_name
from vhm.inference.generator import Generator
from vhm.io import read_json
from vhm.recipe import load_recipe
from vhm.train.collate import TrainingSet
from vhm.train.export import TrainingSummary, export
from vhm.train.prepare import TrainingRun, load_for_stage
from vhm.train.samples import EncodedSamples, encode_samples


def wide_image(index: Index, root: Path) -> np.ndarray:
    """Write a wide image for the first record and return its pixels; cropping and padding differ on it."""
    pixels = np.random.default_rng(0).integers(0, 255, (90, 200, 3), dtype=np.uint8)
    path = root / str(image_name(index[0]))
    path.parent.mkdir(parents=True)
    Image.fromarray(pixels).save(path, "PNG")
    return pixels


@pytest.mark.parametrize("aspect", ["crop", "pad"])
def test_training_plain_transformers_and_the_generator_see_the_same_pixels(
    aspect: str, cut: Path, manifests: Path, tmp_path: Path
) -> None:
    recipe = load_recipe("tiny", [f"stages.sft.image_aspect={aspect}"])
    manifest, images = manifests / "sft" / "manifest.parquet", tmp_path / "images"
    training = TrainingRun("sft", recipe, cut / "base", (manifest,), str(images), tmp_path / "out", resume=False)
    model, processor = load_for_stage(training)
    index = open_index(training.manifests)
    encode_samples(training.samples, index, processor.tokenizer, training.settings, {})
    samples = EncodedSamples(training.samples)
    assert samples.records[0] == 0
    image = wide_image(index, images)
    transform = ImageTransform.from_processor(processor)
    assert transform.aspect == aspect
    training_set = TrainingSet(samples, index, str(images), processor.tokenizer, transform, 144, recipe.data)
    trained_on = training_set.batch([0]).pixel_values
    assert trained_on is not None
    export(training.out, model, processor, None, TrainingSummary("sft", 1, 1, {}, 0, 1, 2.0, 1.0))

    plain = AutoProcessor.from_pretrained(training.out)
    seen_plainly = plain(images=Image.fromarray(image), text="<image>", return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(seen_plainly, trained_on, rtol=0, atol=1e-6)  # one rounding of float32
    generator = Generator(training.out, dtype="float32", device="cpu")
    assert torch.equal(generator.transform.normalise([generator.transform.resize(image)]), trained_on)
    assert read_json(training.out / "training.json")["last_loss"] == 1.0
