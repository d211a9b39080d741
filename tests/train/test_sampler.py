"""The order of samples: a function of seed, epoch and step alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vhm.recipe import load_recipe
from vhm.train.engine import accumulation_steps, learning_rate
from vhm.train.sampler import BatchSampler, micro_batches


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=300), st.integers(1, 40), st.integers(1, 3))
def test_every_sample_comes_once_an_epoch(lengths: list[int], global_batch: int, epochs: int) -> None:
    order = BatchSampler(lengths, global_batch, epochs, seed=3)
    for epoch in range(epochs):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        seen = [i for step in steps for i in order.batch(step)]
        assert sorted(seen) == list(range(len(lengths)))


def test_lists_are_mixed_by_their_weights() -> None:
    """Twice, once and a third of the list in an epoch, and three epochs have the third list whole."""
    lists = np.repeat(np.array([0, 1, 2], np.int16), [10, 20, 30])
    order = BatchSampler([5] * 60, 8, 3, seed=1, lists=lists, mixture_weights=[2.0, 1.0, 1 / 3])
    epochs = []
    for epoch in range(3):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        epochs.append(Counter(i for step in steps for i in order.batch(step)))
    for seen in epochs:
        assert [seen[i] for i in range(10)] == [2] * 10
        assert [seen[i] for i in range(10, 30)] == [1] * 20
        assert sum(seen[i] for i in range(30, 60)) == 10
    assert all(sum(seen[i] for seen in epochs) == 1 for i in range(30, 60))
    again = BatchSampler([5] * 60, 8, 3, seed=1, lists=lists, mixture_weights=[2.0, 1.0, 1 / 3])
    assert again.batch(13) == order.batch(13), "a position is its step alone"


def test_a_step_does_not_depend_on_the_steps_before_it() -> None:
    lengths = list(range(100))
    forward = [BatchSampler(lengths, 8, 3, 5).batch(step) for step in range(39)]
    order = BatchSampler(lengths, 8, 3, 5)
    assert [order.batch(step) for step in reversed(range(39))] == forward[::-1]
    assert BatchSampler(lengths, 8, 3, 6).batch(0) != forward[0]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 8))
def test_the_ranks_share_a_batch_whatever_their_number(size: int, world_size: int, micro_batch: int) -> None:
    steps = -(-64 // (micro_batch * world_size))
    batch = list(range(100, 100 + size))
    shares = [micro_batches(batch, rank, world_size, micro_batch, steps) for rank in range(world_size)]
    assert sorted(i for share in shares for micro in share for i in micro) == batch
    assert all(len(share) == steps for share in shares)
    assert all(len(micro) <= micro_batch for share in shares for micro in share)


def test_accumulation_follows_from_the_global_batch() -> None:
    stage = load_recipe("vhm-7b").stage("pretrain")
    assert [accumulation_steps(stage, world) for world in (1, 2, 8, 16)] == [16, 8, 2, 1]


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    stage = load_recipe("tiny", ["stages.sft.warmup_ratio=0.1"]).stage("sft")
    rates = [learning_rate(stage, step, 100) for step in range(100)]
    assert rates[0] == stage.learning_rate / 10
    assert max(rates) == rates[9] == rates[10] == stage.learning_rate
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 1e-3 * stage.learning_rate
