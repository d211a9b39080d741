"""Weight files: what is in them without loading it, tensors one after another in little memory, shards out.

Read are `.safetensors` and PyTorch's `.bin`, the latter with `weights_only`: a pickle that would run code
is refused. Files are memory-mapped; a mapping is given up again after `_GROUP` bytes, so that a checkpoint
of any size passes through a process of a few gigabytes.
Written is safetensors (https://github.com/huggingface/safetensors, format): a header, then the tensors' bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhm.errors import CheckpointError, first_line
from vhm.io import read_json, write_json

if TYPE_CHECKING:
    import torch

_GROUP = 2**30
_SHARD = 4 * 2**30
_PIECE = 16 * 2**20
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: `dtype` is PyTorch's name of it."""

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str
    bytes: int


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a directory, those that its index names where it has one. CheckpointError when one is absent."""
    for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        index = folder / name
        if index.is_file():
            try:
                files = sorted(set(read_json(index)["weight_map"].values()))
            except (KeyError, TypeError, AttributeError):
                raise CheckpointError(f"{index} has no weight_map") from None
            for file in files:
                if not isinstance(file, str) or Path(file).name != file:
                    raise CheckpointError(f"{index} names {file!r}, which is not a file beside it")
                if not (folder / file).is_file():
                    raise CheckpointError(f"{index} names {file}, which does not exist")
            return [folder / file for file in files]
    found = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not found:
        raise CheckpointError(f"{folder} holds no weights (*.safetensors or pytorch_model*.bin)")
    return found


def list_tensors(files: Iterable[Path]) -> dict[str, Stored]:
    """Every tensor of the files by name. CheckpointError for a damaged file and for a name that comes twice."""
    listed: dict[str, Stored] = {}
    for file in files:
        for name, tensor in _open(file).items():
            if name in listed:
                raise CheckpointError(f"tensor {name} is in {listed[name].file} and in {file}")
            dtype = str(tensor.dtype).removeprefix("torch.")
            listed[name] = Stored(name, file, tuple(tensor.shape), dtype, tensor.numel() * tensor.element_size())
    return listed


def read_stored(wanted: Iterable[Stored]) -> Iterator[tuple[Stored, torch.Tensor]]:
    """The tensors, file by file, as views of mapped memory: use each before the next is taken."""
    by_file: dict[Path, list[Stored]] = {}
    for stored in wanted:
        by_file.setdefault(stored.file, []).append(stored)
    for file, members in by_file.items():
        opened, passed = _open(file), 0
        for stored in members:
            if passed >= _GROUP:  # give the pages that were read back to the system
                opened, passed = {}, 0
                opened = _open(file)
            passed += stored.bytes
            yield stored, opened.pop(stored.name)


def has_nan(tensor: torch.Tensor) -> bool:
    """Whether a floating-point tensor holds a NaN or an infinity."""
    if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.element_size() == 1:
        return False
    low, high = tensor.aminmax()  # the fastest pass over half-precision that there is; a NaN comes through
    return not (bool(low.isfinite()) and bool(high.isfinite()))


class ShardWriter:
    """Writes tensors whose names, shapes and dtypes are known beforehand into `folder` as safetensors shards.

    `write` takes them in that order; `close` writes the index. `hashes` has each file's sha256 afterwards.
    """

    def __init__(self, folder: Path, planned: list[Stored]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.hashes: dict[str, str] = {}
        self._folder = folder
        self._shards = _plan_shards(planned)
        self._threads = ThreadPoolExecutor(1)
        self._coming = iter([(place, s) for place, (_, members) in enumerate(self._shards) for s in members])
        self._open_at = -1
        self._file: Any = None
        self._digest: Any = None

    def write(self, name: str, tensor: torch.Tensor) -> None:
        import torch

        place, planned = next(self._coming)
        if (name, tuple(tensor.shape), f"torch.{planned.dtype}") != (planned.name, planned.shape, str(tensor.dtype)):
            raise ValueError(f"{name} {tuple(tensor.shape)} {tensor.dtype} came where {planned} was planned")
        if place != self._open_at:
            self._finish()
            self._begin(place)
        if tensor.numel():
            content = memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
            for start in range(0, len(content), _PIECE):
                self._put(content[start : start + _PIECE])

    def close(self) -> None:
        self._finish()
        self._threads.shutdown()
        if next(self._coming, None) is not None:
            raise ValueError("not every planned tensor was written")
        if len(self._shards) > 1:
            total = sum(s.bytes for _, members in self._shards for s in members)
            weight_map = {s.name: file for file, members in self._shards for s in members}
            write_json(
                self._folder / "model.safetensors.index.json",
                {"metadata": {"total_size": total}, "weight_map": weight_map},
            )

    def _begin(self, place: int) -> None:
        name, members = self._shards[place]
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for s in members:
            header[s.name] = {
                "dtype": _DTYPES[s.dtype],
                "shape": list(s.shape),
                "data_offsets": [offset, offset + s.bytes],
            }
            offset += s.bytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._open_at, self._digest = place, hashlib.sha256()
        self._file = (self._folder / name).open("wb", buffering=0)
        self._put(memoryview(len(text).to_bytes(8, "little") + text))

    def _put(self, piece: memoryview) -> None:
        """Hash and write at the same time: both let go of the interpreter."""
        hashed = self._threads.submit(self._digest.update, piece)
        while piece:
            piece = piece[self._file.write(piece) :]
        hashed.result()

    def _finish(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self.hashes[self._shards[self._open_at][0]] = self._digest.hexdigest()
            self._file = None


def _plan_shards(planned: list[Stored]) -> list[tuple[str, list[Stored]]]:
    shards: list[list[Stored]] = [[]]
    filled = 0
    for stored in planned:
        if filled and filled + stored.bytes > _SHARD:
            shards.append([])
            filled = 0
        shards[-1].append(stored)
        filled += stored.bytes
    if len(shards) == 1:
        return [("model.safetensors", shards[0])]
    return [(f"model-{i:05d}-of-{len(shards):05d}.safetensors", members) for i, members in enumerate(shards, start=1)]


def _open(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file, mapped and not read; CheckpointError when it is damaged or holds more than tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        loaded = _load_pickle(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except (SafetensorError, OSError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} is damaged or not a weights file: {first_line(error)}") from None
    except Exception as error:  # torch raises pickle's own errors, among others
        raise CheckpointError(f"{path} is refused: it holds more than tensors ({type(error).__name__})") from None
    return _only_tensors(path, loaded)


def _load_pickle(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
    return torch.load(path, map_location="cpu", weights_only=True)  # written before PyTorch 1.6: no zip file


def _only_tensors(path: Path, loaded: Any) -> dict[str, torch.Tensor]:
    import torch

    if not isinstance(loaded, dict) or not loaded:
        raise CheckpointError(f"{path} is not a dictionary of tensors")
    for name, value in loaded.items():
        if not isinstance(name, str) or type(value) not in (torch.Tensor, torch.nn.Parameter):
            raise CheckpointError(f"{path} is not a dictionary of tensors: {name!r} is a {type(value).__name__}")
        if value.is_sparse or value.is_quantized or str(value.dtype).removeprefix("torch.") not in _DTYPES:
            raise CheckpointError(f"{path}: tensor {name} is of a kind that no weights are ({value.dtype})")
        if value.device.type != "cpu":
            raise CheckpointError(f"{path}: tensor {name} has no data ({value.device})")
    return dict(loaded)
