"""One-line errors: an unknown key gets the nearest known key, at any depth and through optional sections."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from vhm.errors import RecipeError
from vhm.recipe import load_recipe
from vhm.recipe.hints import explain


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("evalution.splits=1", "unknown key 'evalution'; did you mean 'evaluation'?"),
        ("stages.sft.learning_rat=1", "unknown key 'stages.sft.learning_rat'; did you mean 'learning_rate'?"),
        ("stages.sftt.epochs=1", "unknown key 'stages.sftt'; did you mean 'sft'?"),
        ("stages.rlhf.epochs=1", "unknown key 'stages.rlhf'; known are align, pretrain, sft"),
        ("stages.sft.trainable.projctor=true", "did you mean 'projector'?"),
        ("base.parts.vision_towr=x", "unknown key 'base.parts.vision_towr'; did you mean 'vision_tower'?"),
        ("licences=[{ofs: x, licence: mit}]", "unknown key 'licences.0.ofs'; did you mean 'of'?"),
        ("gate.x=1", "known are thresholds, beat_majority, beat_blind, max_regression"),
    ],
)
def test_an_unknown_key_names_the_nearest(override: str, words: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("tiny", [override])
    assert words in str(error.value)


class Leaf(BaseModel):
    model_config = ConfigDict(extra="forbid")
    colour: int = 0


class Tree(BaseModel):
    optional: Leaf | None = None
    listed: list[Leaf | None] = []
    named: dict[str, list[Leaf]] = {}
    pair: tuple[int, Leaf] | None = None
    many: tuple[Leaf, ...] = ()
    either: Leaf | list[Leaf] | None = None


LEAF = {"color": 1}


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"optional": LEAF}, "optional.color"),
        ({"listed": [None, LEAF]}, "listed.1.color"),
        ({"named": {"a": [LEAF]}}, "named.a.0.color"),
        ({"pair": [1, LEAF]}, "pair.1.color"),
        ({"many": [{}, LEAF]}, "many.1.color"),
        ({"either": LEAF}, "either.color"),
        ({"either": [LEAF]}, "either.0.color"),
    ],
)
def test_hints_follow_every_kind_of_annotation(values: dict[str, object], path: str) -> None:
    with pytest.raises(ValidationError) as error:
        Tree.model_validate(values)
    assert explain(error.value, Tree) == f"unknown key {path!r}; did you mean 'colour'?"
