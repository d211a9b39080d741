"""One-line messages for invalid recipes: an unknown key gets the nearest known key, at any depth."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Key = str | int


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One error in one line, with the path of the value: the first unknown key with a hint, else the first error.

    An unknown key comes first because a misspelt key is also reported as a missing one.
    """
    errors = error.errors()
    for entry in errors:
        if (unknown := _unknown_key(entry)) is not None:
            path, parents = _walk(model, unknown[:-1])
            name = str(unknown[-1])
            return f"unknown key {'.'.join([*path, name])!r}; {_hint(name, _keys(parents))}"
    path, _ = _walk(model, errors[0]["loc"])
    message = errors[0]["msg"].removeprefix("Value error, ")
    return f"{'.'.join(path)}: {message}" if path else message


def _unknown_key(entry: ErrorDetails) -> Sequence[Key] | None:
    """The location of the key that is unknown, if that is the error."""
    location = entry["loc"]
    if entry["type"] == "extra_forbidden":
        return location
    return location[:-1] if location and location[-1] == "[key]" else None  # "[key]": pydantic, of dictionaries


def _hint(name: str, known: Sequence[str]) -> str:
    """The known key that resembles `name` most, else all known keys."""
    close = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


def _walk(model: type[BaseModel], location: Sequence[Key]) -> tuple[list[str], list[object]]:
    """Follow `location` through the annotations of `model`.

    Returns the path and the types that a value at that path may have. Pydantic's locations also name
    the members of a union ("list[str]"), which are not keys of the recipe: the path omits them.
    """
    path: list[str] = []
    types: list[object] = [model]
    for key in location:
        below = [alternative for one in types for child in _children(one, key) for alternative in _alternatives(child)]
        if below:
            path.append(str(key))
            types = below
    return path, types


def _alternatives(annotation: object) -> Iterator[object]:
    """The types that `annotation` allows, without None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _alternatives(member)
    elif annotation is not type(None):
        yield annotation


def _children(annotation: object, key: Key) -> list[object]:
    """The annotations of the value below `key`; empty when `annotation` has no such key."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(key))
        return [field.annotation] if field else []
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is dict:
        return [arguments[1]]
    if origin in (list, set, frozenset) and isinstance(key, int):
        return [arguments[0]]
    if origin is tuple and isinstance(key, int):
        return [arguments[0]] if arguments[-1] is Ellipsis else list(arguments[key : key + 1])
    return []


def _keys(types: Sequence[object]) -> list[str]:
    """The keys that a value of one of `types` may have."""
    known: list[str] = []
    for annotation in types:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            known += annotation.model_fields
        elif get_origin(annotation) is dict:
            keys = get_args(annotation)[0]
            known += get_args(keys) if get_origin(keys) is Literal else []
    return known
