"""Put a trained single-layer projector into a model that reads several feature layers, exactly.

The target's first layer sees the features of k layers side by side. The source's weight goes into the
block of one of them and the other blocks are zero, so that the model computes at its start what the
source's model computed; training then finds what the other layers are good for.
LLaVA-1.5 trained its projector on one layer; VHM reads three (arXiv 2403.20213, section 3).
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhm.artifacts.model_card import finish_model
from vhm.errors import CheckFailed, CheckpointError
from vhm.io import read_json, whole_directory, write_json
from vhm.model.build import load_model, save_model
from vhm.model.projector import NAMES, read_projector

if TYPE_CHECKING:
    import torch
    from transformers import LlavaForConditionalGeneration

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exactness:
    """Largest relative difference of image features, and the bound that it must stay below."""

    float64: float
    float64_bound: float
    float32: float
    float32_bound: float

    @property
    def passed(self) -> bool:
        return self.float64 <= self.float64_bound and self.float32 <= self.float32_bound


def warm_start(
    base: Path,
    out: Path,
    projector: Path | None = None,
    source_layer: int | None = None,
    read_layers: list[int] | None = None,
) -> dict[str, Any]:
    """Write to `out` the model of `base` with the projector's weights in it; returns what warm_start.json holds.

    Without `projector` the model goes on as it is, for `align` to train one. `source_layer` is the feature
    layer whose block gets the weights, the deepest by default; negative layers count from the end.
    `read_layers` are the layers that the new model reads, where they are to differ from the base's.
    Raises CheckpointError when shapes do not fit, CheckFailed when the result does not compute what the
    source computed.
    """
    import torch

    model, processor = load_model(base)
    if read_layers is not None:
        _read_layers(model, read_layers)
    report: dict[str, Any] = {
        "base": base.name,
        "feature_layers": feature_layers(model),
        "projector": None,
        "tensors": _list_tensors(model, "new" if read_layers else "the base's", None),
    }
    names: list[str] = []
    if projector is not None:
        source = read_projector(projector)
        block = _insert(model, source, source_layer)
        layers = feature_layers(model)
        exact = _compare(model, source, block)
        log.info(
            "image features equal the single-layer model's: %.1e of at most %.1e in float64, %.1e of at most %.1e in float32",
            exact.float64,
            exact.float64_bound,
            exact.float32,
            exact.float32_bound,
        )
        if not exact.passed:
            raise CheckFailed(f"the warm-started model differs from its source: {exact}")
        report |= {
            "projector": projector.name,
            "projector_sha256": {name: _digest(tensor) for name, tensor in source.items()},
            "projector_trained_on": _trained_on(projector),
            "source_layer": None if block is None else layers[block],
            "exactness": vars(exact),
            "tensors": _list_tensors(model, "loaded", block),
        }
        names.append(projector.name)
    with whole_directory(out, "warm_start.json") as directory, torch.no_grad():
        save_model(directory, model, processor)
        write_json(directory / "warm_start.json", report)
        inputs = {"base": base} | ({"projector": projector} if projector else {})
        finish_model(directory, "model/warm-start", inputs, names=names)
    return report


def feature_layers(model: LlavaForConditionalGeneration) -> list[int]:
    """The feature layers that the model reads, in the order in which they are joined."""
    layers = model.config.vision_feature_layer
    return [layers] if isinstance(layers, int) else list(layers)


def _read_layers(model: LlavaForConditionalGeneration, layers: list[int]) -> None:
    """Make the model read these layers, with a new first projector layer where their number changes."""
    import torch
    from torch import nn

    depth = model.config.vision_config.num_hidden_layers
    for layer in layers:
        if not -depth - 1 <= layer <= depth:
            raise CheckpointError(f"feature layer {layer} does not exist: the vision tower has {depth} layers")
    old = model.model.multi_modal_projector.linear_1
    inputs = len(layers) * model.config.vision_config.hidden_size
    model.config.vision_feature_layer = list(layers)
    if old.in_features != inputs:
        new = nn.Linear(inputs, old.out_features, bias=old.bias is not None, dtype=old.weight.dtype)
        with torch.no_grad():
            draw = torch.Generator().manual_seed(0)
            new.weight.normal_(0.0, inputs**-0.5, generator=draw)
            if new.bias is not None:
                new.bias.zero_()
        model.model.multi_modal_projector.linear_1 = new


def _trained_on(projector: Path) -> Any:
    """The feature layer that the source says it was trained on; None where it does not say."""
    path = (projector if projector.is_dir() else projector.parent) / "config.json"
    if not path.is_file():
        return None
    config = read_json(path)
    return config.get("vision_feature_layer", config.get("mm_vision_select_layer"))


def _insert(
    model: LlavaForConditionalGeneration, source: dict[str, torch.Tensor], source_layer: int | None
) -> int | None:
    """Load `source` into the model's projector; the block that got it, or None for a plain load."""
    import torch

    target = model.model.multi_modal_projector
    shapes = {name: tuple(dict(target.named_parameters())[name].shape) for name in NAMES}
    layers = feature_layers(model)
    width = shapes["linear_1.weight"][1] // len(layers)
    given = tuple(source["linear_1.weight"].shape)
    block: int | None = None
    if given != shapes["linear_1.weight"]:
        if given != (shapes["linear_1.weight"][0], width):
            raise CheckpointError(
                f"projector layer 1 is {given}; the model needs {shapes['linear_1.weight']}, or "
                f"{(shapes['linear_1.weight'][0], width)} for one of its {len(layers)} feature layers"
            )
        block = _block(layers, source_layer, model.config.vision_config.num_hidden_layers)
    for name in NAMES[1:]:
        if tuple(source[name].shape) != shapes[name]:
            raise CheckpointError(f"projector {name} is {tuple(source[name].shape)}; the model needs {shapes[name]}")
    with torch.no_grad():
        if block is None:
            target.linear_1.weight.copy_(source["linear_1.weight"])
        else:
            target.linear_1.weight.zero_()
            target.linear_1.weight[:, block * width : (block + 1) * width].copy_(source["linear_1.weight"])
        target.linear_1.bias.copy_(source["linear_1.bias"])
        target.linear_2.weight.copy_(source["linear_2.weight"])
        target.linear_2.bias.copy_(source["linear_2.bias"])
    return block


def _block(layers: list[int], source_layer: int | None, depth: int) -> int:
    """The place of `source_layer` among `layers`; by default that of the deepest."""
    places = [layer % (depth + 1) for layer in layers]
    if source_layer is None:
        return places.index(max(places))
    if not -depth - 1 <= source_layer <= depth or source_layer % (depth + 1) not in places:
        raise CheckpointError(
            f"--source-layer {source_layer} is not read by the model: it reads {layers}; "
            "--feature-layers makes it read others"
        )
    return places.index(source_layer % (depth + 1))


def _compare(model: LlavaForConditionalGeneration, source: dict[str, torch.Tensor], block: int | None) -> Exactness:
    """Image features of test pictures through the whole projector, and through the source's alone.

    The bound follows from the arithmetic: a sum of n products in another order differs by at most about
    √n roundings (Higham 2002, section 3.1, in the mean), here with a factor of 16 to spare.
    """
    import torch
    from torch.nn import functional

    config = model.config.vision_config
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn((2, 3, config.image_size, config.image_size), generator=generator)
    layers = feature_layers(model)
    activation = model.model.multi_modal_projector.act
    inputs = len(layers) * config.hidden_size
    differences = {}
    with torch.no_grad():
        states = model.model.vision_tower(
            pictures.to(model.dtype), output_hidden_states=True, return_dict=True
        ).hidden_states
        for dtype in (torch.float64, torch.float32):
            joined = torch.cat([states[layer] for layer in layers], -1).to(dtype)
            single = joined if block is None else states[layers[block]].to(dtype)
            weights = {name: source[name].to(model.dtype).to(dtype) for name in NAMES}
            hidden = activation(functional.linear(single, weights["linear_1.weight"], weights["linear_1.bias"]))
            expected = functional.linear(hidden, weights["linear_2.weight"], weights["linear_2.bias"])
            original = model.dtype
            got = model.model.multi_modal_projector.to(dtype)(joined)
            model.model.multi_modal_projector.to(original)
            differences[dtype] = float((got - expected).abs().max() / expected.abs().max())
    bounds = {dtype: 16 * inputs**0.5 * torch.finfo(dtype).eps for dtype in differences}
    return Exactness(
        differences[torch.float64],
        max(1e-12, bounds[torch.float64]),
        differences[torch.float32],
        bounds[torch.float32],
    )


def _list_tensors(model: LlavaForConditionalGeneration, state: str, block: int | None) -> list[dict[str, Any]]:
    """Every tensor of the projector, the first weight by its blocks: what it is, its shape, norm and hash."""
    listed = []
    for name, parameter in model.model.multi_modal_projector.named_parameters():
        tensor = parameter.detach()
        full = f"multi_modal_projector.{name}"
        if name != "linear_1.weight" or block is None:
            listed.append(_entry(full, tensor, state))
            continue
        layers = feature_layers(model)
        for number, columns in enumerate(tensor.chunk(len(layers), dim=1)):
            place = {"layer": layers[number], "columns": [number * columns.shape[1], (number + 1) * columns.shape[1]]}
            listed.append(_entry(full, columns, state if number == block else "zero") | place)
    return listed


def _entry(name: str, tensor: torch.Tensor, state: str) -> dict[str, Any]:
    norm = float(tensor.double().norm())
    return {"name": name, "state": state, "shape": list(tensor.shape), "norm": norm, "sha256": _digest(tensor)}


def _digest(tensor: torch.Tensor) -> str:
    import torch

    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
