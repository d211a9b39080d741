"""The table of answer types: every module of this package contributes the rows in its `TYPES`.

To add a type, add a module with a `TYPES` tuple. Scoring, baselines, the report and the gate read the row.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from vhm.errors import InputError
from vhm.evaluate.answer_types.base import AnswerType


def collect_types() -> dict[str, AnswerType]:
    """The rows of all modules by name, modules in alphabetical order. ValueError when two rows share a name."""
    collected: dict[str, AnswerType] = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        rows: tuple[AnswerType, ...] = getattr(import_module(f"{__name__}.{name}"), "TYPES", ())
        for row in rows:
            if row.name in collected:
                raise ValueError(f"answer type {row.name!r} is defined twice, the second time in {__name__}.{name}")
            collected[row.name] = row
    return collected


ANSWER_TYPES = collect_types()


def find_answer_type(name: str) -> AnswerType:
    """The answer type of a name. Raises InputError, which lists the known ones."""
    if name not in ANSWER_TYPES:
        raise InputError(f"task type {name!r} is unknown: use one of {', '.join(ANSWER_TYPES)}")
    return ANSWER_TYPES[name]
