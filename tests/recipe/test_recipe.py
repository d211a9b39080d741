"""Recipes: presets are valid, unknown keys name the nearest, batches divide."""

from __future__ import annotations

from pathlib import Path

import pytest

from vhm.errors import RecipeError
from vhm.recipe import load_recipe, parse_recipe, presets


@pytest.mark.parametrize("name", presets())
def test_presets_are_valid_and_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    path = tmp_path / "resolved.yaml"
    path.write_text(recipe.text())
    assert load_recipe(path) == recipe
    assert load_recipe(path).hash() == recipe.hash()


def test_override_reads_numbers_as_yaml_1_1_does_not() -> None:
    assert load_recipe("tiny", ["stages.sft.learning_rate=1e-5"]).stage("sft").learning_rate == 1e-5


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.sft.learning_rat=1", "did you mean 'learning_rate'?"),
        ("evalution.shards=1", "did you mean 'evaluation'?"),
        ("stages.sft.micro_batch=5", "no multiple of micro_batch=5"),
        ("stages.sft.precision=fp8", "stages.sft.precision"),
        ("seed", "write it as section.key=value"),
    ],
)
def test_wrong_overrides_are_named(override: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words.replace("?", r"\?")):
        load_recipe("tiny", [override])


def test_section_hash_ignores_other_sections() -> None:
    recipe, other = load_recipe("tiny"), load_recipe("tiny", ["gate.max_regression=0.5"])
    assert recipe.hash("stages.sft") == other.hash("stages.sft")
    assert recipe.hash() != other.hash()


def test_a_recipe_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(RecipeError, match="not a mapping"):
        parse_recipe([1, 2])
