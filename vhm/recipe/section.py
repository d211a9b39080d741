"""What the sections of a recipe have in common: strict keys, frozen values, bounded numbers."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

Stage: TypeAlias = Literal["align", "pretrain", "sft"]
ChatTemplate: TypeAlias = Literal["v1", "chatml"]
Name: TypeAlias = Annotated[str, Field(min_length=1)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
PositiveFloat: TypeAlias = Annotated[float, Field(gt=0)]
PositiveInt: TypeAlias = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A section is immutable and rejects unknown keys and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
