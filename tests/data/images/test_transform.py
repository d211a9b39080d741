"""One transform: training, evaluation, serving and plain transformers compute the same pixels for a model."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.images.test_decode import ramps, raster
from vhm.data.images import load_pixels
from vhm.data.images.options import ImageOptions, SourceOptions, Stretch
from vhm.data.images.transform import Aspect, ImageTransform
from vhm.errors import CheckpointError


@pytest.mark.parametrize("size", [(336, 336), (120, 120), (301, 211), (77, 500), (1, 40), (168, 200), (15, 45)])
@pytest.mark.parametrize("aspect", ["pad", "crop"])
def test_pixels_equal_plain_transformers(base, tmp_path: Path, size: tuple[int, int], aspect: Aspect) -> None:
    from transformers import AutoProcessor

    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    transform = ImageTransform(168, aspect)
    processor = copy.deepcopy(base[1])
    transform.store_in(processor)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert ImageTransform.from_processor(loaded) == transform
    expected = loaded.image_processor(Image.fromarray(noise), return_tensors="pt")["pixel_values"]
    assert float((transform.normalise([transform.resize(noise)]) - expected).abs().max()) <= 1e-6


@pytest.mark.parametrize("aspect", ["pad", "crop"])
def test_a_clip_image_processor_is_replaced_by_one_that_can_pad(base, tmp_path: Path, aspect: Aspect) -> None:
    """Models of other projects carry CLIP's image processor, in which `do_pad` has no effect on one image."""
    from transformers import AutoProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = copy.deepcopy(base[1])
    side = {"height": 168, "width": 168}
    processor.image_processor = CLIPImageProcessorPil(size={"shortest_edge": 168}, crop_size=side, do_pad=True)
    assert ImageTransform.from_processor(processor).aspect == "crop"
    transform = ImageTransform(168, aspect)
    transform.store_in(processor)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    expected = loaded.image_processor(noise, return_tensors="pt")["pixel_values"]
    assert float((transform.normalise([transform.resize(noise)]) - expected).abs().max()) <= 1e-6


def test_padding_has_the_mean_colour() -> None:
    pixels = ImageTransform(8).resize(np.zeros((4, 8, 3), np.uint8))
    assert pixels[:, 0].T.tolist() == [[122, 116, 104]] * 8


def test_image_options_and_scaled_decoding_are_stored_in_the_processor(base, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    processor = copy.deepcopy(base[1])
    own = {"s2": ImageOptions((3, 2, 1), Stretch(0, 10_000, fixed=True)), "pan": ImageOptions((1, 1, 1))}
    options = SourceOptions(ImageOptions((4, 3, 2), Stretch(1, 99)), own)
    transform = ImageTransform(168, "crop", options, scaled_decode=True)
    transform.store_in(processor)
    processor.save_pretrained(tmp_path)
    assert ImageTransform.from_processor(AutoProcessor.from_pretrained(tmp_path)) == transform


def test_a_processor_with_default_options_has_no_settings_of_ours(base, tmp_path: Path) -> None:
    """Such a model's files are those that earlier versions wrote."""
    processor = copy.deepcopy(base[1])
    ImageTransform(168).store_in(processor)
    processor.save_pretrained(tmp_path)
    saved = (tmp_path / "processor_config.json").read_text()
    assert not any(f'"{name}"' in saved for name in ("bands", "stretch", "sources", "scaled_decode"))


def test_a_file_is_decoded_with_the_options_of_its_source() -> None:
    content = raster(ramps(4))
    own = ImageOptions((3, 2, 1), Stretch(0, 2100, fixed=True))
    transform = ImageTransform(8, options=SourceOptions(ImageOptions((4, 3, 2)), {"s2": own}))
    assert np.array_equal(transform.decode(content, source="s2"), load_pixels(content, options=own))
    for other in ("", "landsat"):
        assert np.array_equal(
            transform.decode(content, source=other), load_pixels(content, options=ImageOptions((4, 3, 2)))
        )


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("bands", (0, 1), r"names the bands \(0, 1\)"),
        ("bands", 4, "names the bands 4"),
        ("stretch", [2, 98], r"has the stretch \[2, 98\]"),
        ("stretch", {"values": [2, 98]}, "has the stretch"),
        ("sources", ["s2"], "has the sources"),
        ("sources", {"s2": {"bands": [1]}}, "names the bands"),
        ("image_mean", 0.5, "image_mean 0.5"),
        ("resample", 2, "resample is 2"),
        ("do_center_crop", False, "do_center_crop is False"),
        ("size", {"height": 168, "width": 168}, "not one square"),
        ("rescale_factor", 1 / 127.5, "not 1/255"),
    ],
)
def test_settings_that_cannot_be_expressed_are_named(base, setting: str, value: object, message: str) -> None:
    processor = copy.deepcopy(base[1])
    setattr(processor.image_processor, setting, value)
    with pytest.raises(CheckpointError, match=message):
        ImageTransform.from_processor(processor)
