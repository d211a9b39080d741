"""A preset's name, a YAML file or a model directory → the recipe, with `section.key=value` overrides applied."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import yaml
from pydantic import ValidationError

from vhm.errors import RecipeError, first_line
from vhm.recipe.hints import explain
from vhm.recipe.recipe import Recipe

RECIPE_FILE = "recipe.yaml"


def load_recipe(source: str | Path, overrides: Sequence[str] | None = None) -> Recipe:
    """The recipe of a preset's name or a YAML file. Raises RecipeError, which names the key or value that is wrong."""
    text, where = _read(source)
    return parse_recipe(_parse_yaml(text, where), where, overrides)


def choose_recipe(given: str | None, overrides: Sequence[str] | None = None, model: Path | None = None) -> Recipe:
    """The recipe of a command: `given`, else the one in the model directory, else the defaults."""
    if given is not None:
        return load_recipe(given, overrides)
    if model is not None and (model / RECIPE_FILE).is_file():
        return load_recipe(model / RECIPE_FILE, overrides)
    return parse_recipe({}, "the default recipe", overrides)


def parse_recipe(values: object, where: str = "recipe", overrides: Sequence[str] | None = None) -> Recipe:
    """The recipe of values that are already read; `where` is named in errors. RecipeError as `load_recipe`."""
    if not isinstance(values, dict):
        raise RecipeError(f"{where} is not a mapping of sections")
    for override in overrides or ():
        _override(values, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{where}: {explain(error, Recipe)}") from None


def presets() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = resources.files("vhm.recipe").joinpath("presets")
    return sorted(Path(item.name).stem for item in folder.iterdir() if item.name.endswith(".yaml"))


def _read(source: str | Path) -> tuple[str, str]:
    """The YAML text, and the name of its source for messages."""
    if str(source) in presets():
        return resources.files("vhm.recipe").joinpath("presets", f"{source}.yaml").read_text(), f"recipe {source}"
    try:
        return Path(source).read_text(), str(source)
    except (OSError, UnicodeDecodeError) as error:
        close = difflib.get_close_matches(str(source), presets(), 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise RecipeError(
            f"recipe {source} {reason}: give a YAML file or one of {', '.join(presets())}{hint}"
        ) from None


def _parse_yaml(text: str, where: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is not YAML: {' '.join(str(error).split())}") from None


def _override(values: dict[str, object], override: str) -> None:
    """Set one `section.key=value` in `values`; a section that is absent or null is created."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override!r}: write it as section.key=value")
    *parents, last = key.split(".")
    section = values
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        below = section[parent]
        if not isinstance(below, dict):
            raise RecipeError(f"--set {override!r}: {parent} is a value, not a section")
        section = below
    try:
        section[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override!r}: the value is not YAML ({first_line(error)})") from None
