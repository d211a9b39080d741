"""Recipes: presets and defaults are valid, values are bounded, batches divide, hashes follow the sections."""

from __future__ import annotations

from pathlib import Path

import pytest

from vhm.errors import RecipeError
from vhm.recipe import Recipe, load_recipe, presets


@pytest.mark.parametrize("name", presets())
def test_presets_are_valid_and_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    path = tmp_path / "resolved.yaml"
    path.write_text(recipe.text())
    assert load_recipe(path) == recipe
    assert load_recipe(path).hash() == recipe.hash()


def test_defaults_make_a_recipe_without_stages() -> None:
    recipe = Recipe()
    assert (recipe.name, recipe.stages, recipe.evaluation.max_new_tokens) == ("default", {}, 512)
    with pytest.raises(RecipeError, match=r"recipe default has no stage 'sft': it has no stages; give .* --recipe"):
        recipe.stage("sft")


def test_a_missing_stage_is_named_with_those_that_exist() -> None:
    with pytest.raises(RecipeError, match="recipe tiny has no stage 'dpo': it has align, pretrain, sft"):
        load_recipe("tiny").stage("dpo")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.sft.micro_batch=5", "no multiple of micro_batch=5"),
        ("stages.sft.precision=fp8", "stages.sft.precision"),
        ("stages.sft.betas=[0.9, 1.0]", "stages.sft.betas.1: Input should be less than 1"),
        ("stages.sft.learning_rate=.nan", "stages.sft.learning_rate: Input should be a finite number"),
        ("stages.sft.mixture_weights=[1, -1]", "stages.sft.mixture_weights.1"),
        ("stages.sft.epochs=0", "stages.sft.epochs: Input should be greater than 0"),
        ("seed=-1", "seed: Input should be greater"),
        ("data.expect={min_side: 9, max_side: 8}", "data.expect: min_side=9 is above max_side=8"),
        ("data.bands=[1, 2]", "data.bands.2: Field required"),
        ("data.stretch=[98, 2]", "data.stretch: the low end 98 is not below the high end 2"),
        ("data.stretch=[2, 101]", "data.stretch.percentiles.1: Input should be less than or equal to 100"),
        ("data.stretch={}", "data.stretch: give either percentiles or a range"),
        ("data.stretch={percentile: [2, 98]}", "unknown key 'data.stretch.percentile'; did you mean 'percentiles'?"),
        ("data.sources={s2: {band: [4, 3, 2]}}", "unknown key 'data.sources.s2.band'; did you mean 'bands'?"),
        ("evaluation.tasks=[]", "evaluation.tasks"),
        ("storage.models=/models", "storage.models: /models"),
        ("cluster.memory=16 GB", "cluster.memory: '16 GB' is not a Kubernetes quantity"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(override: str, words: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("tiny", [override])
    assert words in str(error.value)


def test_section_hash_ignores_other_sections() -> None:
    recipe, other = load_recipe("tiny"), load_recipe("tiny", ["gate.max_regression=0.5"])
    assert recipe.hash("stages.sft") == other.hash("stages.sft")
    assert recipe.hash() != other.hash()
