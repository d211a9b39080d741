"""Weight files: list tensors without loading them, read them one at a time, write safetensors shards.

Reads `.safetensors` and PyTorch `.bin` files. The latter are opened with `weights_only`, so that a pickle that
would run code is refused. For both formats the offset of each tensor's bytes in the file is determined, and the
tensors are views of the mapped file. Pages that were read are released again, so that a checkpoint of any size
passes through a process of a few gigabytes.
Writes safetensors (https://github.com/huggingface/safetensors, format): a header, then the bytes of the tensors.
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
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from vhm.errors import CheckpointError, first_line
from vhm.io import read_json, write_json

if TYPE_CHECKING:
    import torch

_MAPPED_BYTES = 2**30  # read from a mapped file before its pages are released
_SHARD_BYTES = 4 * 2**30  # in one written shard, unless a single tensor is larger
_WRITE_BYTES = 2**20  # in one call of write
# PyTorch's name of a dtype → the name in a safetensors header.
_SAFETENSORS_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_CANNOT_COPY = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape, dtype (PyTorch's name, as "float16") and size in bytes of a tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int


@dataclass(frozen=True)
class StoredTensor(TensorSpec):
    """A tensor in a file, whose bytes begin at `offset`.

    `offset` is None when the tensor cannot be mapped: it is not contiguous, or the file is older than PyTorch 1.6.
    """

    file: Path
    offset: int | None = None


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a directory: those that its index names, or all if it has no index.

    Raises CheckpointError when a file is missing.
    """
    for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        index = folder / name
        if index.is_file():
            return _indexed_files(index)
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise CheckpointError(f"{folder} holds no weights (*.safetensors or pytorch_model*.bin)")
    return files


def _indexed_files(index: Path) -> list[Path]:
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{index} has no weight_map") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{index} names {name!r}, which is not a file in the same directory")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index} names {name}, which does not exist")
    return [index.parent / name for name in names]


def list_tensors(files: Iterable[Path]) -> dict[str, StoredTensor]:
    """Return every tensor of the files by name.

    Raises CheckpointError for a damaged file and for a name that occurs twice.
    """
    listed: dict[str, StoredTensor] = {}
    for file in files:
        for stored in _list_file(file):
            if stored.name in listed:
                raise CheckpointError(f"tensor {stored.name} is in {listed[stored.name].file} and in {file}")
            listed[stored.name] = stored
    return listed


def _list_file(path: Path) -> list[StoredTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt"):  # checks the header thoroughly
                return _read_header(path)
        return [_stored(path, name, tensor) for name, tensor in _load_pickle(path, "meta").items()]
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except (SafetensorError, OSError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} is damaged or not a weights file: {first_line(error)}") from None
    except Exception as error:  # torch raises pickle's own errors, among others
        raise CheckpointError(f"{path} is refused: it holds more than tensors ({type(error).__name__})") from None


def _read_header(path: Path) -> list[StoredTensor]:
    names = {code: name for name, code in _SAFETENSORS_DTYPES.items()}
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    listed = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in names:
            raise CheckpointError(f"{path}: tensor {name} has dtype {entry['dtype']}, which is not supported")
        start, end = entry["data_offsets"]
        dtype, shape = names[entry["dtype"]], tuple(entry["shape"])
        listed.append(StoredTensor(name, shape, dtype, end - start, path, 8 + length + start))
    return sorted(listed, key=lambda stored: stored.offset or 0)


def _stored(path: Path, name: str, tensor: torch.Tensor) -> StoredTensor:
    """Return the descriptor of a tensor that was loaded from `path` onto the meta device."""
    size = tensor.numel() * tensor.element_size()
    start = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    offset = None if start is None else start + tensor.storage_offset() * tensor.element_size()
    if offset is not None and (not tensor.is_contiguous() or offset + size > path.stat().st_size):
        offset = None
    return StoredTensor(name, tuple(tensor.shape), _dtype_name(tensor), size, path, offset)


def _load_pickle(path: Path, device: str) -> dict[str, torch.Tensor]:
    """Load a `.bin` file. Raises CheckpointError unless it is a dictionary of ordinary tensors."""
    import torch

    loaded: object = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(loaded, dict) or not loaded:
        raise CheckpointError(f"{path} is not a dictionary of tensors")
    for name, value in loaded.items():
        if not isinstance(name, str) or type(value) not in (torch.Tensor, torch.nn.Parameter):
            raise CheckpointError(f"{path} is not a dictionary of tensors: {name!r} is a {type(value).__name__}")
        if value.is_sparse or value.is_quantized or _dtype_name(value) not in _SAFETENSORS_DTYPES:
            kind = "sparse" if value.is_sparse else "quantized" if value.is_quantized else f"of dtype {value.dtype}"
            raise CheckpointError(f"{path}: tensor {name} is {kind}, which is not supported")
    return dict(loaded)


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def read_tensors(stored_tensors: Iterable[StoredTensor]) -> Iterator[tuple[StoredTensor, torch.Tensor]]:
    """Yield the tensors, file by file, as views of mapped memory."""
    by_file: dict[Path, list[StoredTensor]] = {}
    for stored in stored_tensors:
        by_file.setdefault(stored.file, []).append(stored)
    for file, members in by_file.items():
        loaded: dict[str, torch.Tensor] | None = None
        with file.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)  # unmapped with its last view
        unreleased = 0
        for stored in members:
            if stored.offset is None:
                loaded = loaded or _load_pickle(file, "cpu")
                yield stored, loaded.pop(stored.name).detach()
                continue
            yield stored, _view(mapped, stored, stored.offset)
            unreleased += stored.bytes
            if unreleased >= _MAPPED_BYTES:  # a released page is read from the file again when it is needed
                mapped.madvise(mmap.MADV_DONTNEED)
                unreleased = 0


def _view(mapped: mmap.mmap, stored: StoredTensor, offset: int) -> torch.Tensor:
    import torch

    dtype = getattr(torch, stored.dtype)
    if stored.bytes == 0:
        return torch.empty(stored.shape, dtype=dtype)
    raw = torch.frombuffer(mapped, dtype=torch.uint8, count=stored.bytes, offset=offset)
    return raw.view(dtype).view(stored.shape)


def all_finite(tensor: torch.Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinite values. 8-bit floats are not examined."""
    if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.element_size() == 1:
        return True
    low, high = tensor.aminmax()  # the fastest reduction for half precision; it propagates NaN
    return bool(low.isfinite()) and bool(high.isfinite())


class ShardWriter:
    """Write tensors whose specifications are known in advance into `folder` as safetensors shards.

    `write` takes the tensors in the planned order; `close` writes the index. Afterwards `hashes` holds the sha256
    of each file by name. As a context manager it closes at the end, after an error without an index.
    """

    def __init__(self, folder: Path, planned: list[TensorSpec]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.hashes: dict[str, str] = {}
        self._folder = folder
        self._shards = _plan_shards(planned)
        self._threads = ThreadPoolExecutor(1)
        self._files: list[FileIO] = []
        self._digest = hashlib.sha256()
        self._expected = iter([(number, spec) for number, (_, specs) in enumerate(self._shards) for spec in specs])

    def write(self, name: str, tensor: torch.Tensor, source: StoredTensor | None = None) -> bool:
        """Write the next tensor; return whether all its values are finite.

        If `source` is given, `tensor` was read from it unchanged, and the kernel copies from file to file.
        """
        number, spec = next(self._expected)
        if (name, tuple(tensor.shape), _dtype_name(tensor)) != (spec.name, spec.shape, spec.dtype):
            raise ValueError(f"{name} {tuple(tensor.shape)} {tensor.dtype} was given where {spec} was planned")
        file = self._open_shard(number)
        content = _bytes_of(tensor)
        checked = self._threads.submit(self._hash, tensor, content)
        if source is None or not _copy(source, file):
            _put(content, file)
        return checked.result()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self.close()
        else:
            self._release()

    def close(self) -> None:
        """Flush all files to disk and write the index if there are several shards."""
        self._finish_shard()
        for file in self._files:
            os.fsync(file.fileno())
        self._release()
        if next(self._expected, None) is not None:
            raise ValueError("not every planned tensor was written")
        if len(self._shards) > 1:
            total = sum(spec.bytes for _, specs in self._shards for spec in specs)
            weight_map = {spec.name: file for file, specs in self._shards for spec in specs}
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            write_json(self._folder / "model.safetensors.index.json", index)

    def _hash(self, tensor: torch.Tensor, content: memoryview) -> bool:
        """Update the shard's hash and check the values, in a thread: it and the writer both release the GIL."""
        self._digest.update(content)
        return all_finite(tensor)

    def _open_shard(self, number: int) -> FileIO:
        """Return the file of this shard; if it is a new one, finish the last and write the header."""
        if number < len(self._files):
            return self._files[number]
        self._finish_shard()
        name, specs = self._shards[number]
        header = _header(specs)
        file = (self._folder / name).open("wb", buffering=0)
        self._files.append(file)
        self._digest = hashlib.sha256(header)
        _put(memoryview(header), file)
        return file

    def _release(self) -> None:
        self._threads.shutdown()
        for file in self._files:
            file.close()

    def _finish_shard(self) -> None:
        if self._files:
            self.hashes[self._shards[len(self._files) - 1][0]] = self._digest.hexdigest()


def _plan_shards(planned: list[TensorSpec]) -> list[tuple[str, list[TensorSpec]]]:
    shards: list[list[TensorSpec]] = [[]]
    filled = 0
    for spec in planned:
        if filled and filled + spec.bytes > _SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += spec.bytes
    if len(shards) == 1:
        return [("model.safetensors", shards[0])]
    return [(f"model-{i:05d}-of-{len(shards):05d}.safetensors", specs) for i, specs in enumerate(shards, start=1)]


def _header(specs: list[TensorSpec]) -> bytes:
    """Return a safetensors header: its length, then JSON padded with spaces to a multiple of 8 bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for spec in specs:
        header[spec.name] = {
            "dtype": _SAFETENSORS_DTYPES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.bytes],
        }
        offset += spec.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    import torch

    if not tensor.numel():
        return memoryview(b"")
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _put(content: memoryview, file: FileIO) -> None:
    while content:
        content = content[file.write(content[:_WRITE_BYTES]) :]


def _copy(source: StoredTensor, file: FileIO) -> bool:
    """Copy the tensor's bytes from file to file in the kernel; return False, with nothing copied, if it cannot."""
    if source.offset is None:
        return False
    copied = 0
    with source.file.open("rb") as opened:
        while copied < source.bytes:
            try:
                count = os.copy_file_range(
                    opened.fileno(), file.fileno(), source.bytes - copied, source.offset + copied
                )
            except OSError as error:
                if not copied and error.errno in _CANNOT_COPY:
                    return False
                raise
            if count == 0:
                raise CheckpointError(f"{source.file} became shorter while it was read")
            copied += count
    return True
