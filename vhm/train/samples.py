"""Records of a manifest → samples, encoded once by all cores and mapped by all ranks of a machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vhm.data.encode import IGNORE, Sample, encode_compact
from vhm.data.index import Index
from vhm.errors import EncodeError, TrainError
from vhm.io import read_json, whole_directory, write_json
from vhm.processes import workers
from vhm.progress import track
from vhm.recipe import StageRecipe

_CHUNK = 2_000  # records encoded at a time
_ALONE = 20_000  # records that are not worth starting processes for


class EncodedSamples:
    """All samples of a stage, encoded once and memory-mapped: ranks share the pages, memory does not grow.

    tokens      int32, one after another: an id that is a target as it is, any other as its complement (~id)
    starts      int64, where each sample begins, and the end
    records     int64, which record of the manifest each sample is
    pictures    int8, whether it shows an image
    about.json  what was left out and cut, and what they were made from: `key`
    """

    def __init__(self, folder: Path) -> None:
        self._tokens, self._starts, self.records, self._pictures = (
            np.memmap(folder / name, dtype, "r") for name, dtype in _FILES.items()
        )
        about = read_json(folder / "about.json")
        self.skipped, self.truncated = Counter(about["skipped"]), int(about["truncated"])

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

    Records that cannot be trained on are left out and counted. Raises TrainError when none is left.
    """
    wanted = key | {"template": stage.template, "max_length": stage.max_length}
    if (folder / "about.json").is_file() and read_json(folder / "about.json")["key"] == wanted:
        return
    encoder = _Encoder(index, tokenizer, stage.template, stage.max_length)
    spans = [(first, min(first + _CHUNK, len(index))) for first in range(0, len(index), _CHUNK)]
    with whole_directory(folder, "about.json") as beside, ExitStack() as stack:
        chunks: Iterable[_Chunk] = starmap(encoder.encode, spans)
        if len(index) > _ALONE:
            executor = stack.enter_context(workers(None, _hold, encoder))
            chunks = executor.map(_encode_held, spans)
        files = {name: stack.enter_context((beside / name).open("wb")) for name in _FILES}
        end, skipped, truncated = np.int64(0), Counter[str](), 0
        files["starts"].write(end.tobytes())
        for chunk in track(chunks, f"encoding, {_CHUNK} records each", len(spans)):
            files["tokens"].write(np.concatenate([np.empty(0, np.int32), *chunk.tokens]).tobytes())
            starts = end + np.cumsum([len(tokens) for tokens in chunk.tokens], dtype=np.int64)
            files["starts"].write(starts.tobytes())
            files["records"].write(np.array(chunk.records, np.int64).tobytes())
            files["pictures"].write(np.array(chunk.pictures, np.int8).tobytes())
            end = starts[-1] if len(starts) else end
            skipped += chunk.skipped
            truncated += chunk.truncated
        if end == 0:
            raise TrainError(f"no record can be trained on ({dict(skipped)})")
        write_json(beside / "about.json", {"key": wanted, "skipped": dict(skipped), "truncated": truncated})


@dataclass
class _Chunk:
    """Samples of some records, as `EncodedSamples` keeps them."""

    tokens: list[NDArray[np.int32]] = field(default_factory=list)
    records: list[int] = field(default_factory=list)
    pictures: list[bool] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    truncated: int = 0


@dataclass(frozen=True)
class _Encoder:
    index: Index
    tokenizer: Any
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
            chunk.pictures.append(record.get("image") is not None)
        return chunk


_held: _Encoder  # of a worker: a tokenizer takes too long to send with each chunk


def _hold(encoder: _Encoder) -> None:
    global _held
    _held = encoder


def _encode_held(span: tuple[int, int]) -> _Chunk:
    return _held.encode(*span)
