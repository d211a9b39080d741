"""Samples → tensors: encoded once, read in the background, padded to the longest of a micro-batch."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhm.data.encode import IGNORE, Sample, encode_compact, expand
from vhm.data.images import Limits
from vhm.data.index import open_index
from vhm.data.pixels import PixelCache, normalised
from vhm.data.records import image_name
from vhm.data.roots import open_root
from vhm.errors import EncodeError, TrainError
from vhm.recipe import StageRecipe

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """input_ids, labels, attention_mask: [B, T]; pixel_values: [images, 3, S, S] or None."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor
    pixel_values: torch.Tensor | None

    @property
    def targets(self) -> int:
        return int((self.labels[:, 1:] != IGNORE).sum())

    @property
    def tokens(self) -> int:
        return int(self.attention_mask.sum())


class TrainingSet:
    """The encoded records of a manifest. Records that cannot be trained on are left out and counted."""

    def __init__(
        self, manifest: Path, images: Path, processor: Any, stage: StageRecipe, image_tokens: int, limits: Limits
    ) -> None:
        side = processor.image_processor.crop_size["height"]
        self._pixels = PixelCache(open_root(images), side, stage.image_aspect == "pad", limits)
        self._tokenizer = processor.tokenizer
        self._image_tokens = image_tokens
        self._image_id = self._tokenizer.convert_tokens_to_ids("<image>")
        self.left_out: Counter[str] = Counter()
        self.truncated = 0
        self._samples: list[tuple[Sample, str | None]] = []
        for record in open_index(manifest):
            try:
                sample = encode_compact(record, self._tokenizer, stage.template, stage.max_length)
            except EncodeError as error:
                self.left_out[error.reason] += 1
                continue
            self.truncated += sample.truncated
            self._samples.append((sample, image_name(record)))
        if not self._samples:
            raise TrainError(f"{manifest}: no record can be trained on ({dict(self.left_out)})")

    def __len__(self) -> int:
        return len(self._samples)

    def lengths(self) -> list[int]:
        """Positions that each sample takes, its image expanded."""
        return [len(sample.input_ids) + (self._image_tokens - 1 if image else 0) for sample, image in self._samples]

    def batch(self, indices: list[int]) -> Batch:
        """The samples as one micro-batch. No index: the first sample with nothing to learn from it."""
        import torch

        chosen = [self._samples[i] for i in indices or [0]]
        rows = [expand(sample, self._image_id, self._image_tokens) for sample, _ in chosen]
        if not indices:
            rows = [(ids, [IGNORE] * len(labels)) for ids, labels in rows]
        longest = max(len(ids) for ids, _ in rows)
        pad = self._tokenizer.pad_token_id
        pixels = [self._pixels.read(image) for _, image in chosen if image]
        return Batch(
            torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows]),
            torch.tensor([labels + [IGNORE] * (longest - len(labels)) for _, labels in rows]),
            torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]),
            normalised(pixels) if pixels else None,
        )
