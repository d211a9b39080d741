"""The image transform of a model: bands and stretch, padding or cropping, resizing, normalisation.

A training stage builds its `ImageTransform` from the recipe and stores it in the model's processor
(`processor_config.json`); evaluation and serving read it from there. The pixels equal those of the saved processor
under plain transformers to the bit, in a third of the time; normalised values agree to one rounding of float32.

    image file ── decode ──► uint8 [H, W, 3] ── resize ──► uint8 [3, S, S] ── normalise ──► float32 [B, 3, S, S]
                  bands, stretch                pad or crop

Source: transformers' LlavaImageProcessor (pad with the mean colour, bicubic resize of the shortest edge, centre crop).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from vhm.data.images.decode import DEFAULT_LIMITS, Limits, load_pixels
from vhm.data.images.options import DEFAULT_SOURCE_OPTIONS, Bands, ImageOptions, SourceOptions, Stretch
from vhm.data.images.resize import bicubic
from vhm.errors import CheckpointError
from vhm.io import JsonObject

if TYPE_CHECKING:
    import torch
    from transformers import LlavaProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

Pixels = NDArray[np.uint8]
Aspect = Literal["pad", "crop"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_BICUBIC = 3  # PIL.Image.Resampling.BICUBIC
_STEPS = ("do_convert_rgb", "do_resize", "do_center_crop", "do_rescale", "do_normalize")


@dataclass(frozen=True)
class ImageTransform:
    """`side` is the tower's input in pixels. `aspect` pads the image to a square or crops its centre.

    `options` are the bands and the stretch, of each source that has its own.
    `scaled_decode` decodes large JPEG files at the smallest sufficient scale: faster, not equal to the bit.
    """

    side: int
    aspect: Aspect = "pad"
    options: SourceOptions = DEFAULT_SOURCE_OPTIONS
    scaled_decode: bool = False
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    @classmethod
    def from_processor(cls, processor: LlavaProcessor) -> ImageTransform:
        """The transform stored in a model's processor.

        Raises CheckpointError, which names a setting that an ImageTransform does not support.
        """
        settings = processor.image_processor.to_dict()
        _require_supported(settings)
        pads = settings.get("do_pad") and hasattr(processor.image_processor, "pad_to_square")  # CLIP's has no effect
        return cls(
            side=settings["crop_size"]["height"],
            aspect="pad" if pads else "crop",
            options=_read_options(settings),
            scaled_decode=bool(settings.get("scaled_decode")),
            mean=_read_channels(settings, "image_mean"),
            std=_read_channels(settings, "image_std"),
        )

    def store_in(self, processor: LlavaProcessor) -> None:
        """Store this transform in a processor, so that inference uses the same pixels as training."""
        # A new image processor: models of other projects have CLIP's, which cannot pad to a square.
        processor.image_processor = self.image_processor()

    def image_processor(self) -> LlavaImageProcessorPil:
        """The image processor of plain transformers that gives the same pixels."""
        from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

        image_processor = LlavaImageProcessorPil(
            size={"shortest_edge": self.side},
            crop_size={"height": self.side, "width": self.side},
            do_pad=self.aspect == "pad",
            image_mean=list(self.mean),
            image_std=list(self.std),
        )
        # Settings that plain transformers does not have; None is not written.
        image_processor.bands = self.options.default.bands
        image_processor.stretch = _stretch_json(self.options.default.stretch)
        image_processor.sources = {name: _options_json(one) for name, one in self.options.sources.items()} or None
        image_processor.scaled_decode = self.scaled_decode or None
        return image_processor

    @property
    def fill(self) -> tuple[int, int, int]:
        """The colour that pads an image to a square: the mean colour, (122, 116, 104) for CLIP."""
        red, green, blue = (int(255 * value) for value in self.mean)
        return red, green, blue

    def decode(
        self, image: str | Path | bytes, limits: Limits = DEFAULT_LIMITS, orient: bool = False, source: str = ""
    ) -> Pixels:
        """An image file or its bytes as RGB uint8 [H, W, 3], with the options of its record's `source`.

        `orient` applies the EXIF orientation. Raises ImageError.
        """
        options = self.options.of(source)
        return load_pixels(image, limits, orient, options, self.side if self.scaled_decode else None)

    def resize(self, image: Pixels) -> Pixels:
        """Pad (if `aspect` is "pad"), resize the shorter side, crop the centre: [H, W, 3] → uint8 [3, side, side]."""
        height, width = image.shape[:2]
        if self.aspect == "pad" and height != width:
            image = _pad_to_square(image, self.fill)
            height, width = image.shape[:2]
        shortest = min(height, width)
        if shortest != self.side:
            height, width = self.side * height // shortest, self.side * width // shortest
            image = bicubic(image, height, width)
        top, left = (height - self.side) // 2, (width - self.side) // 2
        cropped = image[top : top + self.side, left : left + self.side]
        return np.ascontiguousarray(cropped.transpose(2, 0, 1))

    def normalise(self, images: Sequence[Pixels]) -> torch.Tensor:
        """uint8 [3, side, side] images as one float32 tensor [B, 3, side, side]."""
        import torch

        batch = torch.from_numpy(np.stack(images)).float()
        mean = torch.tensor(self.mean, dtype=torch.float32).view(3, 1, 1) * 255
        std = torch.tensor(self.std, dtype=torch.float32).view(3, 1, 1) * 255
        return batch.sub_(mean).div_(std)


def _pad_to_square(image: Pixels, fill: tuple[int, int, int]) -> Pixels:
    height, width = image.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), fill, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def _require_supported(settings: JsonObject) -> None:
    crop, size = settings.get("crop_size") or {}, settings.get("size") or {}
    side = crop.get("height")
    problems = [f"{name} is {settings.get(name)}" for name in _STEPS if not settings.get(name)]
    if not side or crop.get("width") != side or size.get("shortest_edge") != side:
        problems.append(f"size {size} and crop_size {crop} are not one square")
    if settings.get("resample") != _BICUBIC:
        problems.append(f"resample is {settings.get('resample')}, not bicubic ({_BICUBIC})")
    if abs((settings.get("rescale_factor") or 0) - 1 / 255) > 1e-9:
        problems.append(f"rescale_factor is {settings.get('rescale_factor')}, not 1/255")
    if problems:
        raise CheckpointError(f"the model's image processor is not supported: {problems[0]}; use CLIP's settings")


def _read_channels(settings: JsonObject, name: str) -> tuple[float, float, float]:
    values = settings.get(name)
    if not isinstance(values, Sequence) or len(values) != 3:
        raise CheckpointError(f"the model's image processor has the {name} {values}: write three numbers")
    red, green, blue = map(float, values)
    return red, green, blue


def _read_options(settings: JsonObject) -> SourceOptions:
    sources = settings.get("sources") or {}
    if not isinstance(sources, Mapping) or not all(isinstance(own, Mapping) for own in sources.values()):
        raise CheckpointError(f"the model's image processor has the sources {sources}: write {{NAME: {{bands: …}}}}")
    own = {str(name): ImageOptions(_read_bands(own), _read_stretch(own)) for name, own in sources.items()}
    return SourceOptions(ImageOptions(_read_bands(settings), _read_stretch(settings)), own)


def _read_bands(settings: Mapping[str, object]) -> Bands | None:
    bands = settings.get("bands")
    if bands is None:
        return None
    if not isinstance(bands, Sequence) or len(bands) != 3 or not all(type(band) is int and band > 0 for band in bands):
        raise CheckpointError(f"the model's image processor names the bands {bands}: write three numbers from 1")
    red, green, blue = bands
    return red, green, blue


def _read_stretch(settings: Mapping[str, object]) -> Stretch:
    """The stretch as `_stretch_json` writes it; a model without one was trained with the default."""
    stretch = settings.get("stretch")
    if stretch is None:
        return Stretch()
    try:
        [(kind, (low, high))] = stretch.items()  # type: ignore[attr-defined]
        fixed = {"percentiles": False, "range": True}[kind]
        return Stretch(float(low), float(high), fixed)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"the model's image processor has the stretch {stretch}: write {{percentiles: [low, high]}} or {{range: …}}"
        ) from None


def _options_json(options: ImageOptions) -> JsonObject:
    return {"bands": options.bands, "stretch": _stretch_json(options.stretch)}


def _stretch_json(stretch: Stretch) -> JsonObject | None:
    """The stretch as in a recipe; None, which is not written, for the default."""
    if stretch == Stretch():
        return None
    return {"range" if stretch.fixed else "percentiles": [stretch.low, stretch.high]}
