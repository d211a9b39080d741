"""Read a projector file in any layout of LLaVA-type projects as two linear layers.

model.mm_projector.{0,2}.{weight,bias}             LLaVA-1.5 `mm_projector.bin`, reference checkpoints
mm_projector.{0,2}.…                               the same without its prefix
[model.]multi_modal_projector.linear_{1,2}.…       Hugging Face LLaVA
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from vhm.errors import CheckpointError
from vhm.model.weights import StoredTensor, all_finite, list_tensors, read_tensors, weight_files

if TYPE_CHECKING:
    import torch

NAMES = ("linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias")

_KEYS = (
    (re.compile(r"(?:^|\.)mm_projector\.0\.(weight|bias)$"), r"linear_1.\1"),
    (re.compile(r"(?:^|\.)mm_projector\.2\.(weight|bias)$"), r"linear_2.\1"),
    (re.compile(r"(?:^|\.)multi_modal_projector\.(linear_[12])\.(weight|bias)$"), r"\1.\2"),
)


def read_projector(source: Path) -> dict[str, torch.Tensor]:
    """Return the four tensors `linear_{1,2}.{weight,bias}` of a projector file or a LLaVA directory.

    Only the projector of a directory is read. Pickles are read with `weights_only`, which runs no code.
    Raises CheckpointError that names a tensor that is missing, has the wrong shape or is not finite.
    """
    stored_tensors = _find_tensors(source)
    tensors = {}
    for name in NAMES:
        [(stored, tensor)] = read_tensors([stored_tensors[name]])
        if not all_finite(tensor):
            raise CheckpointError(f"{source}: {stored.name} holds NaN or infinite values")
        tensors[name] = tensor.clone()
    _check_shapes(source, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    return tensors


def _find_tensors(source: Path) -> dict[str, StoredTensor]:
    matches: dict[str, StoredTensor] = {}
    for stored in list_tensors(_files(source)).values():
        name = _name(stored.name)
        if name in matches:
            raise CheckpointError(f"{source}: {matches[name].name} and {stored.name} are both projector {name}")
        if name:
            matches[name] = stored
    missing = [name for name in NAMES if name not in matches]
    if missing:
        raise CheckpointError(f"{source} is not a two-layer projector: it lacks {', '.join(missing)}")
    return matches


def _files(source: Path) -> list[Path]:
    if not source.exists():
        raise CheckpointError(f"projector {source} does not exist")
    if source.is_file():
        return [source]
    projector = source / "mm_projector.bin"
    return [projector] if projector.is_file() else weight_files(source)


def _name(key: str) -> str | None:
    for pattern, name in _KEYS:
        match = pattern.search(key)
        if match:
            return match.expand(name)
    return None


def _check_shapes(source: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    if len(shapes["linear_1.weight"]) != 2 or len(shapes["linear_2.weight"]) != 2:
        raise CheckpointError(f"{source}: projector weights are {shapes}, not two matrices and two biases")
    outputs, inputs = shapes["linear_1.weight"][0], shapes["linear_2.weight"][1]
    if outputs != inputs or shapes["linear_1.bias"] != (outputs,):
        raise CheckpointError(f"{source}: layer 1 gives {outputs} channels, layer 2 takes {inputs}")
