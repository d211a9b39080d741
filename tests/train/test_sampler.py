"""The order of samples: a function of seed, epoch and step alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
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
@given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 8))
def test_any_number_of_ranks_shares_out_a_batch(size: int, world_size: int, micro_batch: int) -> None:
    steps = -(-64 // (micro_batch * world_size))
    batch = list(range(100, 100 + size))
    shares = [micro_batches(batch, rank, world_size, micro_batch, steps) for rank in range(world_size)]
    assert sorted(i for share in shares for micro in share for i in micro) == batch
    assert all(len(share) == steps for share in shares)
    assert all(len(micro) <= micro_batch for share in shares for micro in share)
