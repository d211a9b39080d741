"""`serving`: the limits of the endpoint."""

from __future__ import annotations

from pydantic import Field

from vhm.recipe.section import Name, PositiveInt, Section


class ServingRecipe(Section):
    """Limits of the endpoint."""

    name: Name = Field("vhm", description="name of the served model")
    max_image_bytes: PositiveInt = Field(20 * 2**20, description="bytes of a request's image, at most")
    max_pixels: PositiveInt = Field(50_000_000, description="pixels of a request's image, at most")
    max_new_tokens: PositiveInt = Field(512, description="tokens of an answer, at most")
    max_batch: PositiveInt = Field(8, description="requests per batch, at most")
    max_wait_ms: float = Field(5.0, ge=0, description="milliseconds that a batch waits for more requests")
    max_queue: PositiveInt = Field(64, description="waiting requests, at most; further ones are refused")
