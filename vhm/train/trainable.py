"""Which parameters of a model a stage trains.

`set_trainable` applies the recipe's `trainable` section to `requires_grad`; `count_parameters` summarises the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vhm.recipe import Trainable

if TYPE_CHECKING:
    from torch import nn
    from transformers import LlavaForConditionalGeneration

Part = Literal["vision_tower", "projector", "language_model"]


def set_trainable(model: LlavaForConditionalGeneration, trainable: Trainable) -> None:
    """Set `requires_grad` of every parameter as the recipe specifies."""
    blocks = model.model.vision_tower.config.num_hidden_layers
    for name, parameter in model.named_parameters():
        part = _part(name)
        if part == "vision_tower":
            parameter.requires_grad = _trains_in_tower(name, trainable.vision_tower, blocks)
        else:
            parameter.requires_grad = trainable.projector if part == "projector" else trainable.language_model


def _part(name: str) -> Part:
    if "vision_tower" in name:
        return "vision_tower"
    return "projector" if "multi_modal_projector" in name else "language_model"


def _trains_in_tower(name: str, choice: Literal["none", "upper_half", "all"], blocks: int) -> bool:
    first = {"none": blocks, "upper_half": blocks // 2, "all": 0}[choice]
    if ".layers." in name:
        return any(f".layers.{block}." in name for block in range(first, blocks))
    # CLIP's last layer norm comes after the hidden states that the projector reads: it is never trained.
    return choice == "all" and "post_layernorm" not in name


@dataclass(frozen=True)
class ParameterCount:
    """Number of trainable and of all parameters in one part of a model."""

    part: Part
    trainable: int
    total: int

    def __str__(self) -> str:
        return f"{self.part} {self.trainable:,} of {self.total:,}"


def count_parameters(model: nn.Module) -> list[ParameterCount]:
    """The counts of each part, in the order in which an image passes through them; tied weights count once."""
    parameters = [(_part(name), parameter) for name, parameter in model.named_parameters()]
    parts: Sequence[Part] = ("vision_tower", "projector", "language_model")
    return [
        ParameterCount(
            part,
            sum(p.numel() for owner, p in parameters if owner == part and p.requires_grad),
            sum(p.numel() for owner, p in parameters if owner == part),
        )
        for part in parts
    ]
