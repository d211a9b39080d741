"""Batches: each image is decoded with the options of its record's source."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.data.images.test_decode import ramps, raster
from tests.support.lists import validate
from vhm.data.images import load_pixels
from vhm.data.images.options import SourceOptions
from vhm.data.images.transform import ImageTransform
from vhm.data.index import open_index
from vhm.recipe import load_recipe
from vhm.train.collate import TrainingSet
from vhm.train.prepare import stage_transform
from vhm.train.samples import EncodedSamples, encode_samples


def test_training_decodes_an_image_with_the_options_of_its_source(base, tmp_path: Path) -> None:
    own = "data.sources={s2: {bands: [4, 3, 2], stretch: {range: [0, 4000]}}}"
    recipe = load_recipe("tiny", [own])
    records, content = [], raster(ramps(4))
    for source in ("s2", "other"):
        path = tmp_path / "images" / source / "a.tif"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": f"A field of {source}."}]
        records.append({"source_dataset": source, "image": "a.tif", "conversations": turns})
    (tmp_path / "list.json").write_text(json.dumps(records))
    options = SourceOptions.from_recipe(recipe.data)
    validate(tmp_path / "list.json", tmp_path / "images", tmp_path / "valid", image_options=options, reject=())
    index = open_index(tmp_path / "valid")
    encode_samples(tmp_path / "samples", index, base[1].tokenizer, recipe.stage("sft"), {})
    samples = EncodedSamples(tmp_path / "samples")
    transform = stage_transform(recipe.stage("sft"), recipe.data, base[1])
    training_set = TrainingSet(samples, index, str(tmp_path / "images"), base[1].tokenizer, transform, 144, recipe.data)
    decoded = [load_pixels(content, options=options.of(source)) for source in ("s2", "other")]
    plain = ImageTransform(transform.side, recipe.stage("sft").image_aspect)
    expected = plain.normalise([plain.resize(pixels) for pixels in decoded])
    assert not torch.equal(expected[0], expected[1])
    pixel_values = training_set.batch([0, 1]).pixel_values
    assert pixel_values is not None
    assert torch.equal(pixel_values, expected)
