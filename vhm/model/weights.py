"""Weight files: what is in them without loading it, tensors one after another in little memory, shards out.

Read are `.safetensors` and PyTorch's `.bin`, the latter with `weights_only`: a pickle that would run code
is refused. Of both it is found out where in the file a tensor's bytes lie; they are mapped, and pages that
were read are given back, so that a checkpoint of any size passes through a process of a few gigabytes.
Written is safetensors (https://github.com/huggingface/safetensors, format): a header, then the tensors' bytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
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
_PIECE = 2**20
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: `dtype` is PyTorch's name of it, `offset` where its bytes begin.

    `offset` is None where they do not lie there as they are: not contiguous, or a file from before PyTorch 1.6.
    """

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    offset: int | None = None


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


def list_tensors(files: Iterable[Path]) -> dict[str, StoredTensor]:
    """Every tensor of the files by name. CheckpointError for a damaged file and for a name that comes twice."""
    listed: dict[str, StoredTensor] = {}
    for file in files:
        for stored in _list_file(file):
            if stored.name in listed:
                raise CheckpointError(f"tensor {stored.name} is in {listed[stored.name].file} and in {file}")
            listed[stored.name] = stored
    return listed


def read_tensors(wanted: Iterable[StoredTensor]) -> Iterator[tuple[StoredTensor, torch.Tensor]]:
    """The tensors, file by file, as views of mapped memory."""
    by_file: dict[Path, list[StoredTensor]] = {}
    for stored in wanted:
        by_file.setdefault(stored.file, []).append(stored)
    for file, members in by_file.items():
        whole: dict[str, torch.Tensor] | None = None
        with file.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)  # unmapped with its last view
        passed = 0
        for stored in members:
            if stored.offset is None:
                whole = whole or _load_pickle(file)
                yield stored, whole.pop(stored.name).detach()
                continue
            yield stored, _view(mapped, stored, stored.offset)
            passed += stored.bytes
            if passed >= _GROUP:  # give back the pages that were read: who needs one again finds it in the file
                mapped.madvise(mmap.MADV_DONTNEED)
                passed = 0


def _view(mapped: mmap.mmap, stored: StoredTensor, offset: int) -> torch.Tensor:
    import torch

    dtype = getattr(torch, stored.dtype)
    if stored.bytes == 0:
        return torch.empty(stored.shape, dtype=dtype)
    raw = torch.frombuffer(mapped, dtype=torch.uint8, count=stored.bytes, offset=offset)
    return raw.view(dtype).view(stored.shape)


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

    def __init__(self, folder: Path, planned: list[StoredTensor]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.hashes: dict[str, str] = {}
        self._folder = folder
        self._shards = _plan_shards(planned)
        self._threads = ThreadPoolExecutor(1)
        self._written: list[Any] = []
        self._coming = iter([(place, s) for place, (_, members) in enumerate(self._shards) for s in members])
        self._open_at = -1
        self._file: Any = None
        self._digest: Any = None

    def write(self, name: str, tensor: torch.Tensor, stored: StoredTensor | None = None) -> bool:
        """Write the next tensor; whether all its numbers are finite.

        With `stored`, which the tensor was read from and is equal to, the kernel copies from file to file.
        """
        import torch

        place, planned = next(self._coming)
        if (name, tuple(tensor.shape), f"torch.{planned.dtype}") != (planned.name, planned.shape, str(tensor.dtype)):
            raise ValueError(f"{name} {tuple(tensor.shape)} {tensor.dtype} came where {planned} was planned")
        if place != self._open_at:
            self._finish()
            self._begin(place)
        content = memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b""  # type: ignore[arg-type]
        checked = self._threads.submit(self._check, tensor, content)
        if stored is None or stored.offset is None or not self._copy(stored):
            self._put(content)
        return checked.result()

    def _check(self, tensor: torch.Tensor, content: Any) -> bool:
        """Hash the tensor and look for NaN, in a thread beside the one that writes: both let go of the interpreter."""
        self._digest.update(content)
        return not has_nan(tensor)

    def close(self) -> None:
        self._finish()
        self._threads.shutdown()
        for file in self._written:
            os.fsync(file.fileno())
            file.close()
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
        start = len(text).to_bytes(8, "little") + text
        self._digest.update(start)
        self._put(start)

    def _put(self, content: Any) -> None:
        rest = memoryview(content)
        while rest:
            rest = rest[self._file.write(rest[:_PIECE]) :]

    def _copy(self, stored: StoredTensor) -> bool:
        """Let the kernel copy from file to file; False where it cannot, with nothing copied."""
        left, place = stored.bytes, stored.offset or 0
        with stored.file.open("rb") as source:
            while left:
                try:
                    done = os.copy_file_range(source.fileno(), self._file.fileno(), left, place)
                except OSError as error:
                    if left == stored.bytes and error.errno in (
                        errno.EXDEV,
                        errno.ENOSYS,
                        errno.EINVAL,
                        errno.EOPNOTSUPP,
                    ):
                        return False
                    raise
                if done == 0:
                    raise CheckpointError(f"{stored.file} became shorter while it was read")
                left, place = left - done, place + done
        return True

    def _finish(self) -> None:
        if self._file is not None:
            self._written.append(self._file)
            self.hashes[self._shards[self._open_at][0]] = self._digest.hexdigest()
            self._file = None


def _plan_shards(planned: list[StoredTensor]) -> list[tuple[str, list[StoredTensor]]]:
    shards: list[list[StoredTensor]] = [[]]
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


def _list_file(path: Path) -> list[StoredTensor]:
    """What a file holds, without its data; CheckpointError when it is damaged or holds more than tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt"):  # its checks of the header are thorough
                return _read_header(path)
        loaded = _load_pickle(path, "meta")
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except (SafetensorError, OSError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} is damaged or not a weights file: {first_line(error)}") from None
    except Exception as error:  # torch raises pickle's own errors, among others
        raise CheckpointError(f"{path} is refused: it holds more than tensors ({type(error).__name__})") from None
    return [_stored(path, name, tensor) for name, tensor in _only_tensors(path, loaded).items()]


def _read_header(path: Path) -> list[StoredTensor]:
    names = {code: name for name, code in _DTYPES.items()}
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    listed = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in names:
            raise CheckpointError(f"{path}: tensor {name} is of a kind that no weights are ({entry['dtype']})")
        start, end = entry["data_offsets"]
        listed.append(
            StoredTensor(name, path, tuple(entry["shape"]), names[entry["dtype"]], end - start, 8 + length + start)
        )
    return sorted(listed, key=lambda stored: stored.offset or 0)


def _stored(path: Path, name: str, tensor: torch.Tensor) -> StoredTensor:
    dtype = str(tensor.dtype).removeprefix("torch.")
    count = tensor.numel() * tensor.element_size()
    start = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    offset = None if start is None else start + tensor.storage_offset() * tensor.element_size()
    if offset is not None and (not tensor.is_contiguous() or offset + count > path.stat().st_size):
        offset = None
    return StoredTensor(name, path, tuple(tensor.shape), dtype, count, offset)


def _load_pickle(path: Path, place: str = "cpu") -> Any:
    import torch

    return torch.load(path, map_location=place, weights_only=True)


def _only_tensors(path: Path, loaded: Any) -> dict[str, torch.Tensor]:
    import torch

    if not isinstance(loaded, dict) or not loaded:
        raise CheckpointError(f"{path} is not a dictionary of tensors")
    for name, value in loaded.items():
        if not isinstance(name, str) or type(value) not in (torch.Tensor, torch.nn.Parameter):
            raise CheckpointError(f"{path} is not a dictionary of tensors: {name!r} is a {type(value).__name__}")
        if value.is_sparse or value.is_quantized or str(value.dtype).removeprefix("torch.") not in _DTYPES:
            raise CheckpointError(f"{path}: tensor {name} is of a kind that no weights are ({value.dtype})")
    return dict(loaded)
