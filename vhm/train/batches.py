"""Samples → tensors: encoded once, read in the background, padded to the longest of a micro-batch."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vhm.data.cache import DiskCache
from vhm.data.encode import IGNORE, Sample, encode_compact, expand
from vhm.data.images import Limits
from vhm.data.index import Index
from vhm.data.pixels import PixelCache, View, normalised
from vhm.data.records import image_name
from vhm.data.roots import open_root
from vhm.errors import EncodeError, TrainError
from vhm.io import cache_directory, read_json, whole_directory, write_json
from vhm.progress import track
from vhm.recipe import Data, StageRecipe

if TYPE_CHECKING:
    import torch


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


class EncodedSamples:
    """All samples of a stage, encoded once and memory-mapped: ranks share the pages, memory does not grow.

    tokens      int32, one after another: an id that is a target as it is, any other as its complement (~id)
    starts      int64, where each sample begins, and the end
    records     int64, which record of the manifest each sample is
    about.json  what was left out and cut, and what they were made from: `key`
    """

    def __init__(self, folder: Path) -> None:
        self._tokens, self._starts, self.records, self._pictures = (
            np.memmap(folder / name, dtype, "r") for name, dtype in _FILES.items()
        )
        about = read_json(folder / "about.json")
        self.left_out, self.truncated = Counter(about["left_out"]), int(about["truncated"])

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place: int) -> Sample:
        tokens = self._tokens[self._starts[place] : self._starts[place + 1]]
        ids = np.where(tokens < 0, ~tokens, tokens)
        return Sample(ids.tolist(), np.where(tokens < 0, IGNORE, tokens).tolist(), False)

    def lengths(self, image_tokens: int) -> NDArray[np.int64]:
        """Positions that each sample takes, its image expanded."""
        return np.diff(self._starts) + self._pictures * np.int64(image_tokens - 1)


_FILES = {"tokens": np.int32, "starts": np.int64, "records": np.int64, "pictures": np.int8}


def encode_samples(folder: Path, index: Index, tokenizer: Any, stage: StageRecipe, key: dict[str, Any]) -> None:
    """Encode the records of a manifest into `folder`, unless it holds those of `key` already.

    Records that cannot be trained on are left out and counted.
    """
    wanted = key | {"template": stage.template, "max_length": stage.max_length}
    if (folder / "about.json").is_file() and read_json(folder / "about.json")["key"] == wanted:
        return
    left_out: Counter[str] = Counter()
    truncated = 0
    with whole_directory(folder, "about.json") as beside, ExitStack() as stack:
        tokens, starts, records, pictures = (stack.enter_context((beside / name).open("wb")) for name in _FILES)
        starts.write(np.int64(0).tobytes())
        for number, record in enumerate(track(index, "encoding", len(index))):
            try:
                sample = encode_compact(record, tokenizer, stage.template, stage.max_length)
            except EncodeError as error:
                left_out[error.reason] += 1
                continue
            truncated += sample.truncated
            ids, labels = np.array(sample.input_ids, np.int32), np.array(sample.labels, np.int32)
            tokens.write(np.where(labels == IGNORE, ~ids, ids).tobytes())
            starts.write(np.int64(tokens.tell() // 4).tobytes())
            records.write(np.int64(number).tobytes())
            pictures.write(np.int8(record.get("image") is not None).tobytes())
        empty = records.tell() == 0
        if empty:
            raise TrainError(f"no record can be trained on ({dict(left_out)})")
        write_json(beside / "about.json", {"key": wanted, "left_out": dict(left_out), "truncated": truncated})


class TrainingSet:
    """Encoded samples and their pictures as micro-batches."""

    def __init__(
        self,
        samples: EncodedSamples,
        index: Index,
        images: str,
        processor: Any,
        stage: StageRecipe,
        image_tokens: int,
        data: Data,
    ) -> None:
        side = processor.image_processor.crop_size["height"]
        limits = Limits(max_pixels=data.max_pixels)
        view = View(side, stage.image_aspect == "pad", limits, data.bands, data.scaled_decode)
        disk = DiskCache(cache_directory() / "pixels", int(data.pixel_cache_gb * 1e9)) if data.pixel_cache_gb else None
        root = open_root(images)
        self._pixels = PixelCache(root, view, disk=disk)
        self._threads = ThreadPoolExecutor(16 if root.remote else 2)
        self._pad = processor.tokenizer.pad_token_id
        self._image_tokens = image_tokens
        self._image_id = processor.tokenizer.convert_tokens_to_ids("<image>")
        self._samples, self._index = samples, index

    def __len__(self) -> int:
        return len(self._samples)

    def batch(self, indices: list[int]) -> Batch:
        """The samples as one micro-batch. No index: the first sample with nothing to learn from it."""
        import torch

        chosen = indices or [0]
        rows = [expand(self._samples[i], self._image_id, self._image_tokens) for i in chosen]
        if not indices:
            rows = [(ids, [IGNORE] * len(labels)) for ids, labels in rows]
        longest = max(len(ids) for ids, _ in rows)
        pad = self._pad
        images = [image_name(self._index[int(self._samples.records[i])]) for i in chosen]
        pixels = list(self._threads.map(self._pixels.read, [image for image in images if image]))
        return Batch(
            torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows]),
            torch.tensor([labels + [IGNORE] * (longest - len(labels)) for _, labels in rows]),
            torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]),
            normalised(pixels) if pixels else None,
        )
