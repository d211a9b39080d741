"""Projectors on disk: the layouts that LLaVA-type projects write, read as two linear layers.

model.mm_projector.{0,2}.{weight,bias}             LLaVA-1.5 `mm_projector.bin`, reference checkpoints
mm_projector.{0,2}.…                               the same without its prefix
[model.]multi_modal_projector.linear_{1,2}.…       Hugging Face LLaVA
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from vhm.errors import CheckpointError
from vhm.model.weights import StoredTensor, has_nan, list_tensors, read_tensors, weight_files

if TYPE_CHECKING:
    import torch

NAMES = ("linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias")

_KEYS = (
    (re.compile(r"(?:^|\.)mm_projector\.0\.(weight|bias)$"), r"linear_1.\1"),
    (re.compile(r"(?:^|\.)mm_projector\.2\.(weight|bias)$"), r"linear_2.\1"),
    (re.compile(r"(?:^|\.)multi_modal_projector\.(linear_[12])\.(weight|bias)$"), r"\1.\2"),
)


def read_projector(source: Path) -> dict[str, torch.Tensor]:
    """The four tensors `linear_{1,2}.{weight,bias}` of a projector file or a LLaVA directory.

    Of a directory nothing but the projector is read. Pickles are read with `weights_only`, which runs no
    code. Raises CheckpointError that names what is missing, of the wrong shape or not a number.
    """
    listed = list_tensors(_files(source))
    wanted: dict[str, StoredTensor] = {}
    for stored in listed.values():
        name = _name(stored.name)
        if name in wanted:
            raise CheckpointError(f"{source}: {wanted[name].name} and {stored.name} are both projector {name}")
        if name:
            wanted[name] = stored
    missing = [name for name in NAMES if name not in wanted]
    if missing:
        raise CheckpointError(f"{source} is no two-layer projector: it lacks {', '.join(missing)}")
    found = {}
    for name in NAMES:
        [(stored, tensor)] = read_tensors([wanted[name]])
        if has_nan(tensor):
            raise CheckpointError(f"{source}: {stored.name} holds NaN or infinite values")
        found[name] = tensor.clone()
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    if len(shapes["linear_1.weight"]) != 2 or len(shapes["linear_2.weight"]) != 2:
        raise CheckpointError(f"{source}: projector weights are {shapes}, not two matrices and two biases")
    inner, width = shapes["linear_1.weight"][0], shapes["linear_2.weight"][1]
    if inner != width or shapes["linear_1.bias"] != (inner,):
        raise CheckpointError(f"{source}: layer 1 gives {inner} channels, layer 2 takes {width}")
    return found


def _files(source: Path) -> list[Path]:
    if not source.exists():
        raise CheckpointError(f"projector {source} does not exist")
    if source.is_file():
        return [source]
    alone = source / "mm_projector.bin"
    return [alone] if alone.is_file() else weight_files(source)


def _name(key: str) -> str | None:
    for pattern, name in _KEYS:
        match = pattern.search(key)
        if match:
            return match.expand(name)
    return None
