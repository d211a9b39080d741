"""Checks before the first step."""

from __future__ import annotations

from pathlib import Path

import pytest

from vhm.data.index import open_index
from vhm.errors import TrainError
from vhm.recipe import load_recipe
from vhm.train.prepare import check_mixture_weights


@pytest.mark.parametrize(
    ("weights", "message"),
    [("[1.0, 2.0, 3.0]", r"3 mixture_weights for 2 lists"), ("[0, 0]", "all mixture_weights .* are 0")],
)
def test_mixture_weights_that_do_not_fit_the_lists_are_refused(weights: str, message: str, manifests: Path) -> None:
    index = open_index([manifests / "sft", manifests / "pretrain"])
    stage = load_recipe("tiny", [f"stages.sft.mixture_weights={weights}"]).stage("sft")
    with pytest.raises(TrainError, match=message):
        check_mixture_weights(stage, index)
