"""`stages`: what one training stage trains, on what, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vhm.recipe.section import ChatTemplate, PositiveFloat, PositiveInt, Section, Share


class Trainable(Section):
    """The trainable parts of the model; the others are frozen."""

    vision_tower: Literal["none", "upper_half", "all"] = Field(
        "none", description='"upper_half" is the second half of the blocks'
    )
    projector: bool = True
    language_model: bool = True


class StageRecipe(Section):
    """One training stage; gradient accumulation follows from `global_batch`, `micro_batch` and the processes."""

    template: Literal["plain"] | ChatTemplate = Field(description="plain (captions), v1 (Vicuna) or chatml (SmolLM2)")
    image_aspect: Literal["crop", "pad"] = Field("pad", description="how an image becomes square")
    trainable: Trainable = Trainable()
    mixture_weights: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)] | None = Field(
        None, description="per list of `data`: how often each sample occurs in an epoch; null: once"
    )
    learning_rate: float = Field(2e-5, gt=0, description="peak learning rate of AdamW")
    warmup_ratio: Share = Field(0.03, description="share of the steps with a rising learning rate")
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0, description="norm to which gradients are clipped")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.999), description="decay rates of AdamW's two moments"
    )
    global_batch: PositiveInt = Field(description="samples in an optimizer step, over all processes")
    micro_batch: PositiveInt = Field(description="samples in one forward pass of one process")
    epochs: PositiveInt | PositiveFloat = Field(1, description="passes over the data; 0.5 is half of one")
    max_length: PositiveInt = Field(2048, description="tokens of a sample, at most; an image counts as one")
    precision: Literal["fp32", "bf16"] = "bf16"
    zero_stage: Literal[0, 1, 2, 3] = Field(3, description="what ZeRO partitions over the processes")
    gradient_checkpointing: bool = Field(True, description="recompute activations to save memory")
    save_every: PositiveInt = Field(2000, description="steps between checkpoints")
    log_every: PositiveInt = Field(10, description="steps between log lines")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field("sdpa", description="attention implementation")
