"""Which samples make which step.

The order is a function of the seed, the epoch and the step alone: not of the number of processes, not
of when training was stopped. Samples of like length meet in a global batch, so that little is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

_WINDOW = 16  # global batches that are sorted by length together


@dataclass(frozen=True)
class BatchSampler:
    """The global batches of every epoch: `order.batch(step)` → sample indices of that global step.

    With `mixture_weights`, an epoch has each sample of list i mixture_weights[i] times: 2.0 twice, 0.3 a third of the list, and the
    next epoch the next third. `lists` says which list each sample is of.
    """

    lengths: Sequence[int] | NDArray[np.int64]
    global_batch: int
    epochs: int
    seed: int
    lists: NDArray[np.int16] | None = None
    mixture_weights: Sequence[float] | None = None
    _plans: dict[int, list[list[int]]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self._samples // self.global_batch)

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    def batch(self, step: int) -> list[int]:
        """Sample indices of global step `step`; the last batch of an epoch may be short."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in self._plans:
            self._plans.clear()
            self._plans[epoch] = self._plan(epoch)
        return self._plans[epoch][place]

    @cached_property
    def _samples(self) -> int:
        return len(self._chosen(0))

    def _chosen(self, epoch: int) -> NDArray[np.int64]:
        """The samples of an epoch, those that come several times several times."""
        if self.mixture_weights is None or self.lists is None:
            return np.arange(len(self.lengths))
        chosen = []
        for number, weight in enumerate(self.mixture_weights):
            samples = np.flatnonzero(self.lists == number)
            whole = int(weight)
            part = round((weight - whole) * len(samples))
            turned = np.random.Generator(np.random.PCG64([self.seed, number, 1])).permutation(samples)
            chosen += [samples] * whole + [np.roll(turned, -epoch * part)[:part]]
        return np.concatenate(chosen)

    def _plan(self, epoch: int) -> list[list[int]]:
        generator = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        shuffled = generator.permutation(self._chosen(epoch))
        lengths = np.asarray(self.lengths)
        batches = []
        for start in range(0, len(shuffled), self.global_batch * _WINDOW):
            window = shuffled[start : start + self.global_batch * _WINDOW]
            window = window[np.argsort(lengths[window], kind="stable")]
            batches += [window[i : i + self.global_batch] for i in range(0, len(window), self.global_batch)]
        return [batches[i].tolist() for i in generator.permutation(len(batches))]


def micro_batches(batch: list[int], rank: int, world_size: int, micro_batch: int, steps: int) -> list[list[int]]:
    """This rank's share of a global batch as `steps` micro-batches, empty ones at the end of a short batch.

    Samples are dealt round: neighbours in the batch, of like length, go to different ranks at the same time.
    """
    own = batch[rank::world_size]
    return [own[i * micro_batch : (i + 1) * micro_batch] for i in range(steps)]
