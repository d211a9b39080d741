"""The order of samples: a function of seed, epoch and step alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vhm.train.sampler import BatchSampler, micro_batches


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=300), st.integers(1, 40), st.integers(1, 3))
def test_every_sample_comes_once_an_epoch(lengths: list[int], global_batch: int, epochs: int) -> None:
    sampler = BatchSampler(lengths, global_batch, epochs, seed=3)
    for epoch in range(epochs):
        steps = range(epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch)
        drawn = [i for step in steps for i in sampler.batch(step)]
        assert sorted(drawn) == list(range(len(lengths)))


def test_mixture_weights_repeat_and_thin_out_lists() -> None:
    """An epoch has list 0 twice, list 1 once and a third of list 2; three epochs cover list 2."""
    lists = np.repeat(np.array([0, 1, 2], np.int16), [10, 20, 30])
    sampler = BatchSampler([5] * 60, 8, 3, seed=1, lists=lists, mixture_weights=[2.0, 1.0, 1 / 3])
    epochs = []
    for epoch in range(3):
        steps = range(epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch)
        epochs.append(Counter(i for step in steps for i in sampler.batch(step)))
    for counts in epochs:
        assert [counts[i] for i in range(10)] == [2] * 10
        assert [counts[i] for i in range(10, 30)] == [1] * 20
        assert sum(counts[i] for i in range(30, 60)) == 10
    assert all(sum(counts[i] for counts in epochs) == 1 for i in range(30, 60))
    again = BatchSampler([5] * 60, 8, 3, seed=1, lists=lists, mixture_weights=[2.0, 1.0, 1 / 3])
    assert again.batch(13) == sampler.batch(13), "a batch depends on its step alone"


def test_a_step_does_not_depend_on_the_steps_before_it() -> None:
    lengths = list(range(100))
    forward = [BatchSampler(lengths, 8, 3, 5).batch(step) for step in range(39)]
    sampler = BatchSampler(lengths, 8, 3, 5)
    assert [sampler.batch(step) for step in reversed(range(39))] == forward[::-1]
    assert BatchSampler(lengths, 8, 3, 6).batch(0) != forward[0]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.floats(0.05, 3))
def test_a_fractional_epoch_is_the_beginning_of_a_complete_one(samples: int, global_batch: int, epochs: float) -> None:
    part = BatchSampler([5] * samples, global_batch, epochs, seed=3)
    complete = BatchSampler([5] * samples, global_batch, 4, seed=3)
    assert part.steps_per_epoch * epochs <= part.steps + 1e-6 < part.steps_per_epoch * epochs + 1 + 2e-6
    assert [part.batch(step) for step in range(part.steps)] == [complete.batch(step) for step in range(part.steps)]


@pytest.mark.parametrize(
    ("samples", "epochs", "steps"),
    [(30, 0.1, 3), (30, 1.1, 33), (7, 0.5, 4), (7, 1.5, 11), (7, 2, 14), (7, 2.0, 14), (1, 0.01, 1)],
)
def test_the_steps_of_a_fractional_epoch_are_rounded_up(samples: int, epochs: float, steps: int) -> None:
    assert BatchSampler([5] * samples, 1, epochs, seed=3).steps == steps


def test_a_fractional_epoch_has_its_share_of_each_list() -> None:
    """Half an epoch of a list that occurs twice and of one that occurs once: shuffled together, about half of each."""
    lists = np.repeat(np.array([0, 1], np.int16), [200, 400])
    sampler = BatchSampler([5] * 600, 8, 0.5, seed=1, lists=lists, mixture_weights=[2.0, 1.0])
    drawn = [i for step in range(sampler.steps) for i in sampler.batch(step)]
    assert len(drawn) == 400
    assert 150 <= sum(i < 200 for i in drawn) <= 250


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 8))
def test_any_number_of_ranks_shares_out_a_batch(size: int, world_size: int, micro_batch: int) -> None:
    steps = -(-64 // (micro_batch * world_size))
    batch = list(range(100, 100 + size))
    shares = [micro_batches(batch, rank, world_size, micro_batch, steps) for rank in range(world_size)]
    assert sorted(i for share in shares for micro in share for i in micro) == batch
    assert all(len(share) == steps for share in shares)
    assert all(len(micro) <= micro_batch for share in shares for micro in share)
