"""Reading recipes: overrides, errors of the file, and the recipe of a command that takes a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from vhm.errors import RecipeError
from vhm.recipe import Recipe, choose_recipe, load_recipe, parse_recipe


def test_override_reads_numbers_as_yaml_1_1_does_not() -> None:
    assert load_recipe("tiny", ["stages.sft.learning_rate=1e-5"]).stage("sft").learning_rate == 1e-5


def test_an_override_creates_a_section_that_is_null() -> None:
    parts = ["base.parts.vision_tower=tower", "base.parts.language_model=llm"]
    resolved = parse_recipe({"base": {"parts": None}}, overrides=parts)
    assert resolved.base.parts is not None
    assert resolved.base.parts.language_model == "llm"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed", "write it as section.key=value"),
        ("=1", "write it as section.key=value"),
        ("seed.x=1", "seed is a value, not a section"),
        ("seed=[", "the value is not YAML"),
    ],
)
def test_a_malformed_override_is_refused(override: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        load_recipe("tiny", [override])


def test_a_recipe_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(RecipeError, match="not a mapping"):
        parse_recipe([1, 2])


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "does not exist: give a YAML file or one of"), ("a: [", "is not YAML"), ("", "not a mapping")],
)
def test_an_unreadable_recipe_is_refused_by_name(content: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RecipeError, match=words) as error:
        load_recipe(path)
    assert str(path) in str(error.value)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model directory that carries the recipe it was made with."""
    (tmp_path / "recipe.yaml").write_text("name: carried\nevaluation: {max_new_tokens: 99}\n")
    return tmp_path


def test_a_model_is_used_with_the_recipe_that_it_carries(model: Path) -> None:
    recipe = choose_recipe(None, None, model)
    assert (recipe.name, recipe.evaluation.max_new_tokens) == ("carried", 99)


def test_the_given_recipe_replaces_the_carried_one(model: Path) -> None:
    assert choose_recipe("tiny", None, model) == load_recipe("tiny")


def test_without_a_recipe_the_defaults_apply(tmp_path: Path) -> None:
    assert choose_recipe(None, None, tmp_path) == Recipe()
    assert choose_recipe(None) == Recipe()


@pytest.mark.parametrize("given", [None, "tiny"])
def test_overrides_apply_to_every_choice(given: str | None, model: Path) -> None:
    for directory in (model, model / "absent"):
        recipe = choose_recipe(given, ["evaluation.max_new_tokens=3"], directory)
        assert recipe.evaluation.max_new_tokens == 3


@pytest.mark.parametrize(("content", "words"), [("nam: x\n", "did you mean 'name'?"), ("{", "is not YAML")])
def test_a_broken_carried_recipe_is_an_error_that_names_the_file(content: str, words: str, model: Path) -> None:
    (model / "recipe.yaml").write_text(content)
    with pytest.raises(RecipeError) as error:
        choose_recipe(None, None, model)
    assert words in str(error.value)
    assert str(model / "recipe.yaml") in str(error.value)
