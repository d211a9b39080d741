"""Records of a manifest → samples, encoded once by all cores and memory-mapped by all ranks of a machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vhm.data.encode import IGNORE, Sample, encode_compact
from vhm.data.index import Index
from vhm.errors import EncodeError, TrainError
from vhm.io import read_json_object, whole_directory, write_json
from vhm.processes import workers
from vhm.progress import track
from vhm.recipe import StageRecipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 2_000  # records encoded at a time
_IN_PROCESS = 20_000  # up to this many records, starting worker processes takes longer than encoding
_FILES = {"tokens": np.int32, "starts": np.int64, "records": np.int64, "has_image": np.int8}


class EncodedSamples:
    """All samples of a stage, encoded once and memory-mapped: ranks share the pages, memory does not grow.

    tokens      int32, the samples one after another; a target is stored as its id, any other token as ~id
    starts      int64, offset of each sample's first token, and the total
    records     int64, index of each sample's record in the manifest
    has_image   int8, 1 for a sample with an image
    about.json  key: what the samples were encoded from; counts of skipped and truncated records
    """

    def __init__(self, folder: Path) -> None:
        self._tokens: NDArray[np.int32] = np.memmap(folder / "tokens", np.int32, "r")
        self._starts: NDArray[np.int64] = np.memmap(folder / "starts", np.int64, "r")
        self.records: NDArray[np.int64] = np.memmap(folder / "records", np.int64, "r")
        self._has_image: NDArray[np.int8] = np.memmap(folder / "has_image", np.int8, "r")
        about = read_json_object(folder / "about.json")
        self.skipped: Counter[str] = Counter(about["skipped"])
        self.truncated = int(about["truncated"])

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        tokens = self._tokens[self._starts[index] : self._starts[index + 1]]
        ids = np.where(tokens < 0, ~tokens, tokens)
        return Sample(ids.tolist(), np.where(tokens < 0, IGNORE, tokens).tolist(), False)

    def lengths(self, image_tokens: int) -> NDArray[np.int64]:
        """Number of positions of each sample, its image expanded."""
        lengths: NDArray[np.int64] = np.diff(self._starts) + self._has_image * np.int64(image_tokens - 1)
        return lengths


def encode_samples(
    folder: Path, index: Index, tokenizer: PreTrainedTokenizerBase, stage: StageRecipe, source: Mapping[str, object]
) -> None:
    """Encode the records of a manifest into `folder`, unless it already holds the samples of `source` and `stage`.

    Records that cannot be trained on are skipped and counted. Raises TrainError when all are skipped.
    """
    key = {**source, "template": stage.template, "max_length": stage.max_length}
    if _is_encoded(folder, key):
        return
    encoder = _Encoder(index, tokenizer, stage.template, stage.max_length)
    spans = [(first, min(first + _CHUNK, len(index))) for first in range(0, len(index), _CHUNK)]
    with whole_directory(folder, "about.json") as temporary, ExitStack() as stack:
        chunks: Iterable[_Chunk] = starmap(encoder.encode, spans)
        if len(index) > _IN_PROCESS:
            chunks = stack.enter_context(workers(None, _set_worker_encoder, encoder)).map(_encode_in_worker, spans)
        files = {name: stack.enter_context((temporary / name).open("wb")) for name in _FILES}
        skipped, truncated = _write_chunks(track(chunks, f"encoding, {_CHUNK} records each", len(spans)), files)
        write_json(temporary / "about.json", {"key": key, "skipped": dict(skipped), "truncated": truncated})


def _is_encoded(folder: Path, key: Mapping[str, object]) -> bool:
    complete = all((folder / name).is_file() for name in (*_FILES, "about.json"))
    return complete and bool(read_json_object(folder / "about.json")["key"] == key)


def _write_chunks(chunks: Iterable[_Chunk], files: Mapping[str, BinaryIO]) -> tuple[Counter[str], int]:
    """Append the chunks to the files of `EncodedSamples`; returns the skipped records by reason and the truncated."""
    end, skipped, truncated = np.int64(0), Counter[str](), 0
    files["starts"].write(end.tobytes())
    for chunk in chunks:
        files["tokens"].write(np.concatenate([np.empty(0, np.int32), *chunk.tokens]).tobytes())
        starts = end + np.cumsum([len(tokens) for tokens in chunk.tokens], dtype=np.int64)
        files["starts"].write(starts.tobytes())
        files["records"].write(np.array(chunk.records, np.int64).tobytes())
        files["has_image"].write(np.array(chunk.has_image, np.int8).tobytes())
        end = starts[-1] if len(starts) else end
        skipped += chunk.skipped
        truncated += chunk.truncated
    if end == 0:
        raise TrainError(f"no record can be trained on; skipped by reason: {dict(skipped)}")
    return skipped, truncated


@dataclass
class _Chunk:
    """Samples of some records, in the form in which `EncodedSamples` stores them."""

    tokens: list[NDArray[np.int32]] = field(default_factory=list)
    records: list[int] = field(default_factory=list)
    has_image: list[bool] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    truncated: int = 0


@dataclass(frozen=True)
class _Encoder:
    index: Index
    tokenizer: PreTrainedTokenizerBase
    template: str
    max_length: int

    def encode(self, first: int, last: int) -> _Chunk:
        chunk = _Chunk()
        for number in range(first, last):
            record = self.index[number]
            try:
                sample = encode_compact(record, self.tokenizer, self.template, self.max_length)
            except EncodeError as error:
                chunk.skipped[error.reason] += 1
                continue
            chunk.truncated += sample.truncated
            ids, labels = np.array(sample.input_ids, np.int32), np.array(sample.labels, np.int32)
            chunk.tokens.append(np.where(labels == IGNORE, ~ids, ids))
            chunk.records.append(number)
            chunk.has_image.append(record.get("image") is not None)
        return chunk


_worker_encoder: _Encoder  # set once in each worker: sending the tokenizer with every chunk would take too long


def _set_worker_encoder(encoder: _Encoder) -> None:
    global _worker_encoder
    _worker_encoder = encoder


def _encode_in_worker(span: tuple[int, int]) -> _Chunk:
    return _worker_encoder.encode(*span)
