"""Carry out a plan: tensors are read, cut or padded, checked and written one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vhm.errors import CheckpointError
from vhm.model.convert.plan import Plan, PlannedTensor, TensorMapping
from vhm.model.weights import ShardWriter, read_tensors
from vhm.progress import track

if TYPE_CHECKING:
    import torch


def write_tensors(outputs: Iterable[tuple[Path, Plan]], allow_nan: bool) -> tuple[list[TensorMapping], dict[Path, str]]:
    """Write the planned tensors into each directory; return what each became, and the sha256 of each file.

    Raises CheckpointError that names the first tensor with NaN or infinite values, unless `allow_nan`.
    """
    mappings: list[TensorMapping] = []
    hashes: dict[Path, str] = {}
    for folder, plan in outputs:
        with ShardWriter(folder, [planned.target for planned in plan.tensors]) as writer:
            for planned, tensor in track(_converted(plan.tensors), "converting", len(plan.tensors)):
                mappings.append(_write(writer, planned, tensor, allow_nan))
        hashes |= {folder / name: digest for name, digest in writer.hashes.items()}
    return mappings, hashes


def _write(writer: ShardWriter, planned: PlannedTensor, tensor: torch.Tensor, allow_nan: bool) -> TensorMapping:
    source, target, note = planned.source, planned.target, planned.note
    unchanged = source if source is not None and source.bytes == target.bytes else None
    if not writer.write(target.name, tensor, unchanged):
        if source is not None and not allow_nan:
            raise CheckpointError(
                f"{source.file}: tensor {source.name} holds NaN or infinite values: --allow-nan converts it anyway"
            )
        note = f"{note}; holds NaN or infinite values".removeprefix("; ")
    return TensorMapping(source.name if source else None, target.name, list(tensor.shape), target.dtype, note)


def _converted(tensors: list[PlannedTensor]) -> Iterator[tuple[PlannedTensor, torch.Tensor]]:
    by_source = {planned.source: planned for planned in tensors if planned.source is not None}
    for stored, tensor in read_tensors(by_source):
        planned = by_source[stored]
        yield planned, _resized(tensor, planned.target.shape)
    for planned in tensors:
        if planned.source is None:
            yield planned, _identity(planned)


def _resized(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Cut the tensor's rows, or pad them with their mean, to `shape`."""
    import torch

    if tuple(tensor.shape) == shape:
        return tensor
    rows = shape[0]
    if rows < tensor.shape[0]:
        return tensor[:rows]
    mean = tensor.mean(0, keepdim=True, dtype=torch.float32).to(tensor.dtype)
    return torch.cat([tensor, mean.expand(rows - tensor.shape[0], -1)])


def _identity(planned: PlannedTensor) -> torch.Tensor:
    """Return the weight or the bias of a linear layer that changes nothing."""
    import torch

    shape, dtype = planned.target.shape, getattr(torch, planned.target.dtype)
    return torch.eye(shape[0], dtype=dtype) if len(shape) == 2 else torch.zeros(shape, dtype=dtype)
