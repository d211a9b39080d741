"""Encoded samples and their images → tensors: read in the background, padded to the longest of a micro-batch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhm.data.encode import IGNORE, expand
from vhm.data.images import Limits
from vhm.data.images.cache import DiskCache
from vhm.data.images.pixel_cache import PixelCache
from vhm.data.images.stores import open_store
from vhm.data.images.transform import ImageTransform, Pixels
from vhm.data.index import Index
from vhm.data.records import image_name, source_name
from vhm.io import cache_directory
from vhm.recipe import DataRecipe
from vhm.train.samples import EncodedSamples

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_LOCAL_READERS, _REMOTE_READERS = 2, 16  # threads that read images


@dataclass(frozen=True)
class Batch:
    """input_ids, labels, attention_mask: [B, T]; pixel_values: [images, 3, S, S] or None."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor
    pixel_values: torch.Tensor | None

    @property
    def targets(self) -> int:
        """Number of labelled tokens."""
        return int((self.labels[:, 1:] != IGNORE).sum())

    @property
    def tokens(self) -> int:
        """Number of positions without padding."""
        return int(self.attention_mask.sum())

    def to(self, device: torch.device) -> Batch:
        pixels = None if self.pixel_values is None else self.pixel_values.to(device)
        return Batch(self.input_ids.to(device), self.labels.to(device), self.attention_mask.to(device), pixels)


class TrainingSet:
    """Encoded samples and their images as micro-batches."""

    def __init__(
        self,
        samples: EncodedSamples,
        index: Index,
        images: str,
        tokenizer: PreTrainedTokenizerBase,
        transform: ImageTransform,
        image_tokens: int,
        data: DataRecipe,
    ) -> None:
        limits = Limits(max_pixels=data.max_pixels)
        disk = DiskCache(cache_directory() / "pixels", int(data.pixel_cache_gb * 1e9)) if data.pixel_cache_gb else None
        store = open_store(images)
        self._pixels = PixelCache(store, transform, limits, disk=disk)
        self._readers = ThreadPoolExecutor(_REMOTE_READERS if store.remote else _LOCAL_READERS)
        self._pad = tokenizer.pad_token_id
        self._transform, self._image_tokens = transform, image_tokens
        self._image_id = tokenizer.convert_tokens_to_ids("<image>")
        self._samples, self._index = samples, index

    def __len__(self) -> int:
        return len(self._samples)

    def batch(self, indices: list[int]) -> Batch:
        """The samples as one micro-batch. An empty list gives the first sample with every label ignored."""
        import torch

        chosen = indices or [0]
        rows = [expand(self._samples[i], self._image_id, self._image_tokens) for i in chosen]
        if not indices:
            rows = [(ids, [IGNORE] * len(labels)) for ids, labels in rows]
        longest = max(len(ids) for ids, _ in rows)
        pad = self._pad
        pixels = self._read_pixels(chosen)
        return Batch(
            torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows]),
            torch.tensor([labels + [IGNORE] * (longest - len(labels)) for _, labels in rows]),
            torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]),
            self._transform.normalise(pixels) if pixels else None,
        )

    def _read_pixels(self, chosen: list[int]) -> list[Pixels]:
        """The images of the samples that have one, in their order, read in parallel."""
        records = [self._index[int(self._samples.records[i])] for i in chosen]
        images = [(name, source_name(record)) for record in records if (name := image_name(record))]
        return list(self._readers.map(lambda image: self._pixels.read(*image), images))
