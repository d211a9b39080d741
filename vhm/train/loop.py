"""The training loop: prepare, resume, step, export."""

from __future__ import annotations

import logging
import math
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
import torch.distributed as distributed

from vhm.errors import TrainError
from vhm.train.checkpoint import Checkpoints, RemoteCheckpoints
from vhm.train.collate import Batch
from vhm.train.engine import accumulation_steps, consolidated_state, gradient_norm, learning_rate
from vhm.train.export import TrainingSummary, export
from vhm.train.log import TrainingLog
from vhm.train.prepare import PreparedRun, Rank, TrainingRun, prepare
from vhm.train.sampler import micro_batches

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

log = logging.getLogger(__name__)


def run(training: TrainingRun, rank: Rank) -> None:
    """Train on this rank until the stage is done. Raises TrainError, CheckpointError, InputError."""
    stop = _StopSignal()
    prepared = prepare(training, rank)
    remote = RemoteCheckpoints(training.recipe.storage.checkpoints, training.stage, prepared.key)
    checkpoints = Checkpoints(training.checkpoints, training.log_file, prepared.key, remote, rank.is_first)
    start = checkpoints.resume(prepared.engine) if training.resume else checkpoints.start_again()
    if stop.on_any_rank(rank.device):
        raise TrainError(f"{training.stage} was stopped by SIGTERM before step {start + 1}: run it again to resume")
    try:
        _train(training, prepared, checkpoints, start, rank, stop)
    finally:
        remote.wait()
    _finish(training, prepared, rank)


def _train(
    training: TrainingRun, prepared: PreparedRun, checkpoints: Checkpoints, start: int, rank: Rank, stop: _StopSignal
) -> None:
    """Run the steps from `start` to the last. Raises TrainError after SIGTERM, with the step saved."""
    settings, engine, steps = training.settings, prepared.engine, prepared.sampler.steps
    if rank.is_first:
        log.info(
            "%s: %d samples (%d skipped), %d steps of %d samples on %d processes, from step %d",
            training.stage,
            len(prepared.samples),
            prepared.samples.skipped.total(),
            steps,
            settings.global_batch,
            rank.world_size,
            start,
        )
    training_log = TrainingLog(training.log_file, training.stage, start, steps, settings.log_every)
    for step, batches in _read_ahead(training, prepared, start, rank):
        lr = learning_rate(settings, step, steps)
        loss, tokens = _step(engine, [batch.to(rank.device) for batch in batches], lr, rank.world_size)
        if rank.is_first:
            training_log.record(step + 1, loss, lr, gradient_norm(engine), tokens)
        stopping = stop.on_any_rank(rank.device)
        if (step + 1) % settings.save_every == 0 or stopping:
            checkpoints.save(engine, step + 1)
        if stopping:
            raise TrainError(f"{training.stage} was stopped by SIGTERM after step {step + 1}: run it again to resume")


def _read_ahead(
    training: TrainingRun, prepared: PreparedRun, start: int, rank: Rank
) -> Iterator[tuple[int, list[Batch]]]:
    """Each step from `start` with this rank's micro-batches; the next step's are read during the current one."""
    settings, sampler = training.settings, prepared.sampler
    accumulation = accumulation_steps(settings, rank.world_size)

    def read(step: int) -> list[Batch]:
        batch = sampler.batch(step)
        shares = micro_batches(batch, rank.index, rank.world_size, settings.micro_batch, accumulation)
        return [prepared.training_set.batch(share) for share in shares]

    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(read, start) if start < sampler.steps else None
        for step in range(start, sampler.steps):
            assert pending is not None
            batches = pending.result()
            pending = reader.submit(read, step + 1) if step + 1 < sampler.steps else None
            yield step, batches


def _step(engine: DeepSpeedEngine, batches: list[Batch], lr: float, world_size: int) -> tuple[float, int]:
    """One optimizer step; the mean loss over all labelled tokens of the global batch, and its tokens."""
    device = batches[0].input_ids.device
    counts = torch.tensor([sum(b.targets for b in batches), sum(b.tokens for b in batches)], device=device)
    distributed.all_reduce(counts)
    targets, tokens = counts.tolist()
    for group in engine.optimizer.param_groups:
        group["lr"] = lr
    total = torch.zeros((), dtype=torch.float64, device=device)
    for batch in batches:
        loss = engine(batch)
        total += loss.detach().double()
        # DeepSpeed divides by the accumulation steps and by the ranks: undo both, so that the gradients are those
        # of the mean over labelled tokens.
        engine.backward(loss * (len(batches) * world_size / targets))
        engine.step()
    distributed.all_reduce(total)
    mean = float(total) / targets
    if not math.isfinite(mean):
        raise TrainError(f"the loss is {mean} at step {engine.global_steps}: lower the learning rate or check the data")
    return mean, tokens


def _finish(training: TrainingRun, prepared: PreparedRun, rank: Rank) -> None:
    """Export the model, then remove the checkpoints and the encoded samples. All ranks call it."""
    state = consolidated_state(prepared.engine)
    if rank.is_first:
        summary = TrainingSummary.of(training.stage, training.settings.epochs, prepared.samples, training.log_file)
        export(training.out, prepared.model, prepared.processor, state, summary)
        shutil.rmtree(training.checkpoints, ignore_errors=True)
        shutil.rmtree(training.samples, ignore_errors=True)
    distributed.barrier()


class _StopSignal:
    """After SIGTERM every rank finishes its step, saves and ends."""

    def __init__(self) -> None:
        self._received = False
        signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, *_: object) -> None:
        self._received = True

    def on_any_rank(self, device: torch.device) -> bool:
        """Whether any rank has received SIGTERM. All ranks call it."""
        received = torch.tensor(int(self._received), device=device)
        distributed.all_reduce(received)
        return bool(received.item())
