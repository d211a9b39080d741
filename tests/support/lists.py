"""Validating one list, as most tests do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vhm.data.validation.chunks import Request
from vhm.data.validation.record_checks import Kind
from vhm.data.validation.validate import Validation
from vhm.data.validation.validate import validate as run


def validate(
    source: Path, images: str | Path, out: Path, kind: Kind = "sft", against: Sequence[Path] = (), **rest: Any
) -> Validation:
    """`rest` goes to the request where it has such a field, else to the validation."""
    asked = {name: rest.pop(name) for name in list(rest) if name in Request.__dataclass_fields__}
    return run(Request([source], images, kind, against, **asked), out, **rest)
