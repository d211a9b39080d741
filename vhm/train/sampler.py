"""Selects the samples of each step.

The order of samples depends on the seed, the epoch and the step alone: not on the number of processes or on when
training was stopped. A global batch holds samples of similar length, which keeps padding low.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

_WINDOW = 16  # global batches that are sorted by length together


@dataclass(frozen=True)
class BatchSampler:
    """The global batches of all epochs: `sampler.batch(step)` → sample indices of that global step.

    `lists` gives the list of each sample. With `mixture_weights`, an epoch holds each sample of list i
    mixture_weights[i] times: 2.0 means twice; 0.3 means a third of the list, and the next epoch has the next third.
    With `epochs` 1.5 the second epoch ends after half of its steps, rounded up; its order is that of a complete one.
    """

    lengths: Sequence[int] | NDArray[np.int64]
    global_batch: int
    epochs: float
    seed: int
    lists: NDArray[np.int16] | None = None
    mixture_weights: Sequence[float] | None = None
    _plans: dict[int, list[list[int]]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self._samples_per_epoch // self.global_batch)

    @property
    def steps(self) -> int:
        # Rounded first: 30 steps × 0.1 is slightly above 3 in floating point.
        return math.ceil(round(self.steps_per_epoch * self.epochs, 6))

    def batch(self, step: int) -> list[int]:
        """Sample indices of global step `step`; the last batch of an epoch may be smaller."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        if epoch not in self._plans:
            self._plans.clear()
            self._plans[epoch] = self._plan(epoch)
        return self._plans[epoch][step_in_epoch]

    @cached_property
    def _samples_per_epoch(self) -> int:
        return len(self._mixture(0))

    def _plan(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch: shuffled, sorted by length within windows, shuffled again as batches."""
        generator = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        shuffled = generator.permutation(self._mixture(epoch))
        lengths = np.asarray(self.lengths)
        batches = []
        for start in range(0, len(shuffled), self.global_batch * _WINDOW):
            window = shuffled[start : start + self.global_batch * _WINDOW]
            window = window[np.argsort(lengths[window], kind="stable")]
            batches += [window[i : i + self.global_batch] for i in range(0, len(window), self.global_batch)]
        return [batches[i].tolist() for i in generator.permutation(len(batches))]

    def _mixture(self, epoch: int) -> NDArray[np.int64]:
        """The samples of an epoch before shuffling; a sample that occurs twice is listed twice."""
        if self.mixture_weights is None or self.lists is None:
            return np.arange(len(self.lengths))
        mixture = []
        for number, weight in enumerate(self.mixture_weights):
            samples = np.flatnonzero(self.lists == number)
            repeats = int(weight)
            remainder = round((weight - repeats) * len(samples))
            shuffled = np.random.Generator(np.random.PCG64([self.seed, number, 1])).permutation(samples)
            mixture += [samples] * repeats + [np.roll(shuffled, -epoch * remainder)[:remainder]]
        return np.concatenate(mixture)


def micro_batches(batch: list[int], rank: int, world_size: int, micro_batch: int, steps: int) -> list[list[int]]:
    """This rank's share of a global batch as `steps` micro-batches, empty ones at the end of a small batch.

    Samples are distributed round-robin: neighbours in the batch, of similar length, reach different ranks at the
    same time.
    """
    share = batch[rank::world_size]
    return [share[i * micro_batch : (i + 1) * micro_batch] for i in range(steps)]
