"""Validates one list with the arguments that most tests need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vhm.data.validation.record_checks import Kind
from vhm.data.validation.request import ValidationRequest
from vhm.data.validation.validate import Validation
from vhm.data.validation.validate import validate as run


def validate(
    source: Path, images: str | Path, out: Path, kind: Kind = "sft", against: Sequence[Path] = (), **options: Any
) -> Validation:
    """`options` are fields of the request or arguments of `vhm.data.validation.validate.validate`."""
    fields = {name: options.pop(name) for name in list(options) if name in ValidationRequest.__dataclass_fields__}
    return run(ValidationRequest([source], images, kind, against, **fields), out, **options)
