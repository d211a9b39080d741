"""`base` and `licences`: the model that training starts from, and the terms that its weights come under."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vhm.recipe.section import ChatTemplate, Name, Section


class Licence(Section):
    """Terms of something that weights derive from; they follow the weights through every stage."""

    of: Name = Field(description="what has these terms, such as a dataset or a base model")
    licence: Name = Field(description="SPDX identifier in lower case, llama2, or other")
    research_only: bool = Field(False, description="the terms exclude any other use")


class BaseParts(Section):
    """The parts that a base model is assembled from; paths are relative to the data root."""

    vision_tower: Name = Field(description="directory of a CLIP vision tower")
    language_model: Name = Field(description="directory of a Llama-type LLM, or a GGUF file")
    vision_feature_layer: Annotated[list[int], Field(min_length=1)] | int = Field(
        [8, 16, 24], description="hidden states that are concatenated"
    )
    template: ChatTemplate = Field("v1", description="chat format: v1 (Vicuna) or chatml (SmolLM2)")


class BaseRecipe(Section):
    """The model to start from; paths are relative to the data root."""

    model: Name = Field("base", description="directory of the base model")
    parts: BaseParts | None = Field(None, description="assemble the base from these instead of reading `model`")
    projector: Name | None = Field(None, description="LLaVA-layout projector to warm-start from; null: train `align`")
    source_layer: int | None = Field(
        None, description="feature layer whose block gets the source's weights; null: the deepest"
    )
