"""Which parameters a recipe trains."""

from __future__ import annotations

import copy

import pytest
from transformers import LlavaForConditionalGeneration

from vhm.recipe import Trainable, load_recipe
from vhm.train.trainable import count_parameters, set_trainable


@pytest.fixture
def model(base) -> LlavaForConditionalGeneration:
    return copy.deepcopy(base[0])


def test_upper_half_of_the_vision_tower(model: LlavaForConditionalGeneration) -> None:
    set_trainable(model, load_recipe("tiny").stage("pretrain").trainable)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad and "vision_tower" in n}
    blocks = {int(name.split(".layers.")[1].split(".")[0]) for name in trainable}
    assert blocks == {3, 4, 5}


def test_parameters_are_counted_by_part(model: LlavaForConditionalGeneration) -> None:
    set_trainable(model, Trainable(vision_tower="all", projector=True, language_model=False))
    tower, projector, language_model = count_parameters(model)
    norm = sum(p.numel() for n, p in model.named_parameters() if "post_layernorm" in n)
    assert norm > 0
    assert (tower.part, tower.total - tower.trainable) == ("vision_tower", norm)
    assert (
        projector.trainable == projector.total == sum(p.numel() for p in model.model.multi_modal_projector.parameters())
    )
    assert (language_model.trainable, str(language_model)) == (0, f"language_model 0 of {language_model.total:,}")
    assert tower.total + projector.total + language_model.total == sum(p.numel() for p in model.parameters())
