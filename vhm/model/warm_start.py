"""Put a trained single-layer projector into a model that reads several feature layers, exactly.

The target's first projector layer receives the features of k layers, concatenated. The source's weight goes into the
block of columns of one of them and the other blocks are zero. The new model therefore computes what the source's model
computed, until training makes use of the other layers.
LLaVA-1.5 trained its projector on one layer; VHM reads three (arXiv 2403.20213, section 3).

`warm_start.json` (WarmStart.to_json) lists the base, the feature layers and every block of the projector and, if a
projector was loaded, its name, hashes and the measured exactness.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vhm.artifacts.model_card import finish_model
from vhm.errors import CheckFailed, CheckpointError
from vhm.io import JsonObject, read_json_object, whole_directory, write_json
from vhm.model.build import check_feature_layers, load_model, save_model
from vhm.model.projector import NAMES, read_projector

if TYPE_CHECKING:
    import torch
    from transformers import LlavaForConditionalGeneration

log = logging.getLogger(__name__)

REPORT = "warm_start.json"
State = Literal["the base's", "new", "loaded", "zero"]


@dataclass(frozen=True)
class Exactness:
    """Largest relative difference of image features, and the bound that it must not exceed."""

    float64: float
    float64_bound: float
    float32: float
    float32_bound: float

    @property
    def passed(self) -> bool:
        return self.float64 <= self.float64_bound and self.float32 <= self.float32_bound

    def __str__(self) -> str:
        return (
            f"{self.float64:.1e} (float64, bound {self.float64_bound:.1e}), "
            f"{self.float32:.1e} (float32, bound {self.float32_bound:.1e})"
        )


@dataclass(frozen=True)
class ProjectorTensor:
    """A tensor of the written projector, or the columns of `linear_1.weight` that belong to one feature layer."""

    name: str
    state: State
    shape: list[int]
    norm: float
    sha256: str
    layer: int | None = None
    columns: list[int] | None = None


@dataclass(frozen=True)
class LoadedProjector:
    """The source of the projector's weights.

    `trained_on` is the feature layer in the source's configuration, None if there is none. `source_layer` is the
    feature layer whose block got the first weight, None if the source reads as many layers as the model.
    """

    name: str
    sha256: dict[str, str]
    trained_on: object
    source_layer: int | None
    exactness: Exactness


@dataclass(frozen=True)
class WarmStart:
    """What a warm start did; `projector` is None if none was given."""

    base: str
    feature_layers: list[int]
    tensors: list[ProjectorTensor]
    projector: LoadedProjector | None

    def to_json(self) -> JsonObject:
        """Return the content of warm_start.json."""
        report: JsonObject = {
            "base": self.base,
            "feature_layers": self.feature_layers,
            "projector": self.projector.name if self.projector else None,
            "tensors": [{k: v for k, v in asdict(tensor).items() if v is not None} for tensor in self.tensors],
        }
        if self.projector:
            report |= {
                "projector_sha256": self.projector.sha256,
                "projector_trained_on": self.projector.trained_on,
                "source_layer": self.projector.source_layer,
                "exactness": asdict(self.projector.exactness),
            }
        return report


def warm_start(
    base: Path,
    out: Path,
    projector: Path | None = None,
    source_layer: int | None = None,
    read_layers: list[int] | None = None,
) -> WarmStart:
    """Write the model of `base` with the projector's weights to `out`; return what was done.

    Without `projector` the base's projector is kept, for `align` to train. `source_layer` is the feature layer whose
    block gets the weights, by default the deepest; negative layers count from the end. `read_layers` replaces the
    feature layers that the base reads.
    Raises CheckpointError when shapes do not match, CheckFailed when the result does not compute what the source
    computes.
    """
    import torch

    model, processor = load_model(base)
    if read_layers is not None:
        _read_layers(model, read_layers)
    loaded, block = None, None
    state: State = "new" if read_layers else "the base's"
    if projector is not None:
        loaded, block = _load_projector(model, projector, source_layer)
        state = "loaded"
    result = WarmStart(base.name, feature_layers(model), _list_tensors(model, state, block), loaded)
    with whole_directory(out, REPORT) as directory, torch.no_grad():
        save_model(directory, model, processor)
        write_json(directory / REPORT, result.to_json())
        inputs = {"base": base} | ({"projector": projector} if projector else {})
        finish_model(directory, "model/warm-start", inputs, names=[projector.name] if projector else [])
    return result


def feature_layers(model: LlavaForConditionalGeneration) -> list[int]:
    """Return the feature layers that the model reads, in the order in which they are concatenated."""
    layers = model.config.vision_feature_layer
    return [layers] if isinstance(layers, int) else list(layers)


def _read_layers(model: LlavaForConditionalGeneration, layers: list[int]) -> None:
    """Make the model read these layers, with a new first projector layer if their number changes."""
    import torch
    from torch import nn

    check_feature_layers(layers, model.config.vision_config.num_hidden_layers)
    old = model.model.multi_modal_projector.linear_1
    inputs = len(layers) * model.config.vision_config.hidden_size
    model.config.vision_feature_layer = list(layers)
    if old.in_features != inputs:
        new = nn.Linear(inputs, old.out_features, bias=old.bias is not None, dtype=old.weight.dtype)
        with torch.no_grad():
            new.weight.normal_(0.0, inputs**-0.5, generator=torch.Generator().manual_seed(0))
            if new.bias is not None:
                new.bias.zero_()
        model.model.multi_modal_projector.linear_1 = new


def _load_projector(
    model: LlavaForConditionalGeneration, projector: Path, source_layer: int | None
) -> tuple[LoadedProjector, int | None]:
    """Load the projector's weights into the model, check that it computes the same, and return the block used."""
    source = read_projector(projector)
    block = _insert(model, source, source_layer)
    exactness = _compare(model, source, block)
    log.info("largest relative difference from the single-layer model's image features: %s", exactness)
    if not exactness.passed:
        raise CheckFailed(f"the warm-started model differs from its source: {exactness}")
    loaded = LoadedProjector(
        projector.name,
        {name: _digest(tensor) for name, tensor in source.items()},
        _trained_on(projector),
        None if block is None else feature_layers(model)[block],
        exactness,
    )
    return loaded, block


def _trained_on(projector: Path) -> object:
    """Return the feature layer in the source's configuration; None if there is none."""
    path = (projector if projector.is_dir() else projector.parent) / "config.json"
    if not path.is_file():
        return None
    config = read_json_object(path)
    return config.get("vision_feature_layer", config.get("mm_vision_select_layer"))


def _insert(
    model: LlavaForConditionalGeneration, source: dict[str, torch.Tensor], source_layer: int | None
) -> int | None:
    """Copy `source` into the model's projector; return the block that got it, None if all columns did."""
    import torch

    target = dict(model.model.multi_modal_projector.named_parameters())
    block = _block_for(model, source, source_layer)
    for name in NAMES[1:]:
        given, needed = tuple(source[name].shape), tuple(target[name].shape)
        if given != needed:
            raise CheckpointError(f"projector {name} is {given}; the model needs {needed}")
    with torch.no_grad():
        first = target["linear_1.weight"]
        if block is not None:
            first.zero_()
            first = first.chunk(len(feature_layers(model)), dim=1)[block]
        first.copy_(source["linear_1.weight"])
        for name in NAMES[1:]:
            target[name].copy_(source[name])
    return block


def _block_for(
    model: LlavaForConditionalGeneration, source: dict[str, torch.Tensor], source_layer: int | None
) -> int | None:
    """Return the block of the first projector layer that the source's weight fills; None if it fills them all."""
    layers = feature_layers(model)
    given = tuple(source["linear_1.weight"].shape)
    needed = tuple(model.model.multi_modal_projector.linear_1.weight.shape)
    if given == needed:
        return None
    block_shape = (needed[0], needed[1] // len(layers))
    if given != block_shape:
        raise CheckpointError(
            f"projector layer 1 is {given}; the model needs {needed}, or {block_shape} for one of its "
            f"{len(layers)} feature layers"
        )
    return _index_of(source_layer, layers, model.config.vision_config.num_hidden_layers)


def _index_of(source_layer: int | None, layers: list[int], depth: int) -> int:
    """Return the index of `source_layer` in `layers`; by default that of the deepest layer."""
    from_the_start = [layer % (depth + 1) for layer in layers]
    if source_layer is None:
        return from_the_start.index(max(from_the_start))
    if not -depth - 1 <= source_layer <= depth or source_layer % (depth + 1) not in from_the_start:
        raise CheckpointError(
            f"--source-layer {source_layer} is not read by the model: it reads {layers}; "
            "--feature-layers makes it read others"
        )
    return from_the_start.index(source_layer % (depth + 1))


def _compare(model: LlavaForConditionalGeneration, source: dict[str, torch.Tensor], block: int | None) -> Exactness:
    """Compare image features of random images through the model's projector and through the source's alone.

    The bound follows from the arithmetic: a sum of n products in another order differs by about √n roundings
    (Higham 2002, section 3.1, in the mean); the factor 16 is a margin.
    """
    import torch

    config = model.config.vision_config
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((2, 3, config.image_size, config.image_size), generator=generator)
    layers, original = feature_layers(model), model.dtype
    projector = model.model.multi_modal_projector
    differences = {}
    with torch.no_grad():
        states = model.model.vision_tower(
            images.to(original), output_hidden_states=True, return_dict=True
        ).hidden_states
        for dtype in (torch.float64, torch.float32):
            joined = torch.cat([states[layer] for layer in layers], -1).to(dtype)
            single = joined if block is None else states[layers[block]].to(dtype)
            weights = {name: source[name].to(original).to(dtype) for name in NAMES}
            hidden = torch.nn.functional.linear(single, weights["linear_1.weight"], weights["linear_1.bias"])
            expected = torch.nn.functional.linear(
                projector.act(hidden), weights["linear_2.weight"], weights["linear_2.bias"]
            )
            actual = projector.to(dtype)(joined)
            projector.to(original)
            differences[dtype] = float((actual - expected).abs().max() / expected.abs().max())
    inputs = len(layers) * config.hidden_size
    bounds = {dtype: 16 * inputs**0.5 * torch.finfo(dtype).eps for dtype in differences}
    return Exactness(
        differences[torch.float64],
        max(1e-12, bounds[torch.float64]),
        differences[torch.float32],
        bounds[torch.float32],
    )


def _list_tensors(model: LlavaForConditionalGeneration, state: State, block: int | None) -> list[ProjectorTensor]:
    """Describe every tensor of the projector; the first weight block by block if one block was loaded."""
    layers = feature_layers(model)
    listed = []
    for key, parameter in model.model.multi_modal_projector.named_parameters():
        tensor, name = parameter.detach(), f"multi_modal_projector.{key}"
        if key != "linear_1.weight" or block is None:
            listed.append(_describe(name, tensor, state))
            continue
        width = tensor.shape[1] // len(layers)
        for number, columns in enumerate(tensor.chunk(len(layers), dim=1)):
            span = [number * width, (number + 1) * width]
            listed.append(_describe(name, columns, state if number == block else "zero", layers[number], span))
    return listed


def _describe(
    name: str, tensor: torch.Tensor, state: State, layer: int | None = None, columns: list[int] | None = None
) -> ProjectorTensor:
    norm = float(tensor.double().norm())
    return ProjectorTensor(name, state, list(tensor.shape), norm, _digest(tensor), layer, columns)


def _digest(tensor: torch.Tensor) -> str:
    import torch

    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
