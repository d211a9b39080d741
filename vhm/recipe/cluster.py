"""`cluster`: where the endpoint runs on Kubernetes, and the resources of one replica."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from vhm.recipe.section import Name, Section


def _check_quantity(text: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)?(m|k|[MGTPE]|[KMGTPE]i)?", text):
        raise ValueError(f"{text!r} is not a Kubernetes quantity, such as 4, 500m or 16Gi")
    return text


Quantity = Annotated[str, AfterValidator(_check_quantity)]


class ClusterRecipe(Section):
    """The namespace of the endpoint, and the resources of one replica."""

    namespace: Name = "vhm"
    gpus: int = Field(0, ge=0)
    cpu: Quantity = Field("4", description="Kubernetes quantity, such as 4 or 500m")
    memory: Quantity = Field("16Gi", description="Kubernetes quantity, such as 16Gi")
