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

if TYPE_CHECKING:
    import torch

NAMES = ("linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias")

_KEYS = (
    (re.compile(r"(?:^|\.)mm_projector\.0\.(weight|bias)$"), r"linear_1"),
    (re.compile(r"(?:^|\.)mm_projector\.2\.(weight|bias)$"), r"linear_2"),
    (re.compile(r"(?:^|\.)multi_modal_projector\.(linear_[12])\.(weight|bias)$"), None),
)


def read_projector(source: Path) -> dict[str, torch.Tensor]:
    """The four tensors `linear_{1,2}.{weight,bias}` of a projector file or a LLaVA directory.

    Pickles are read with `weights_only`, which runs no code. Raises CheckpointError that names what is
    missing or of the wrong shape.
    """
    found: dict[str, torch.Tensor] = {}
    for path in _files(source):
        for key, tensor in read_tensors(path).items():
            name = _name(key)
            if name:
                found[name] = tensor
    missing = [name for name in NAMES if name not in found]
    if missing:
        raise CheckpointError(f"{source} is no two-layer projector: it lacks {', '.join(missing)}")
    inner, width = found["linear_1.weight"].shape[0], found["linear_2.weight"].shape[1]
    if inner != width or found["linear_1.bias"].shape != (inner,):
        raise CheckpointError(f"{source}: layer 1 gives {inner} channels, layer 2 takes {width}")
    return found


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a `.safetensors` or `.bin` file; CheckpointError when it is damaged or holds code."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except (SafetensorError, OSError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} is damaged or not a weights file: {str(error).splitlines()[0]}") from None
    except Exception as error:  # torch raises pickle's own errors, among others
        raise CheckpointError(f"{path} is refused: it holds more than tensors ({type(error).__name__})") from None
    if not isinstance(loaded, dict) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise CheckpointError(f"{path} is not a dictionary of tensors")
    return loaded


def _files(source: Path) -> list[Path]:
    if not source.exists():
        raise CheckpointError(f"projector {source} does not exist")
    if source.is_file():
        return [source]
    files = sorted(source.glob("*.safetensors")) or sorted(source.glob("*.bin"))
    if not files:
        raise CheckpointError(f"{source} holds no .safetensors or .bin file")
    return files


def _name(key: str) -> str | None:
    for pattern, layer in _KEYS:
        match = pattern.search(key)
        if match:
            return f"{layer or match.group(1)}.{match.group(match.lastindex or 0)}"
    return None
