"""Checks before the first step."""

from __future__ import annotations

from pathlib import Path

import pytest

from vhm.data.index import open_index
from vhm.errors import TrainError
from vhm.recipe import load_recipe
from vhm.train.prepare import check_mixture_weights, settings_hash


@pytest.mark.parametrize(
    ("weights", "message"),
    [("[1.0, 2.0, 3.0]", r"3 mixture_weights for 2 lists"), ("[0, 0]", "all mixture_weights .* are 0")],
)
def test_mixture_weights_that_do_not_fit_the_lists_are_refused(weights: str, message: str, manifests: Path) -> None:
    index = open_index([manifests / "sft", manifests / "pretrain"])
    stage = load_recipe("tiny", [f"stages.sft.mixture_weights={weights}"]).stage("sft")
    with pytest.raises(TrainError, match=message):
        check_mixture_weights(stage, index)


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("stages.pretrain.learning_rate=0.1", True),
        ("data.sources.s2={licence: mit}", True),
        ("stages.sft.epochs=1.5", False),
        ("data.stretch=[1, 99]", False),
        ("data.sources.s2={bands: [4, 3, 2]}", False),
        ("data.scaled_decode=true", False),
    ],
)
def test_a_run_resumes_only_with_the_settings_that_its_steps_depend_on(override: str, same: bool) -> None:
    before, after = load_recipe("tiny"), load_recipe("tiny", [override])
    assert (settings_hash(before, "sft") == settings_hash(after, "sft")) is same
