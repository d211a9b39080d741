"""`storage`: where a run's results go in S3."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from vhm.errors import InputError
from vhm.recipe.section import Section
from vhm.storage.s3 import parse_uri


def _check_uri(uri: str) -> str:
    try:
        parse_uri(uri)
    except InputError as error:
        raise ValueError(str(error)) from None
    return uri


S3Address = Annotated[str, AfterValidator(_check_uri)]


class StorageRecipe(Section):
    """S3 prefixes (s3://BUCKET/PREFIX); credentials come from the environment alone."""

    checkpoints: S3Address | None = Field(
        None, description="training checkpoints; a run without local ones resumes from here"
    )
    models: S3Address | None = Field(None, description="promoted models")
