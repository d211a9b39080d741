"""The training loop, from top to bottom."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as distributed

from vhm.artifacts.lineage import content_hash
from vhm.data.encode import CHAT_TEMPLATES
from vhm.data.images.transform import ImageTransform
from vhm.data.index import Index, open_index
from vhm.errors import TrainError
from vhm.io import jsonl, read_jsonl, sha256_tree, write_bytes, write_json
from vhm.model import load_model
from vhm.model.build import image_tokens, save_model
from vhm.recipe import DataRecipe, Recipe, StageRecipe
from vhm.train import checkpoint
from vhm.train.collate import Batch, TrainingSet
from vhm.train.engine import accumulation_steps, build_engine, learning_rate
from vhm.train.sampler import BatchSampler, micro_batches
from vhm.train.samples import EncodedSamples, encode_samples

if TYPE_CHECKING:
    from transformers import LlavaProcessor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingRun:
    """One training stage: what the ranks of a run agree on. `out` becomes the trained model directory."""

    stage: str
    recipe: Recipe
    model: Path
    manifests: tuple[Path, ...]
    images: str
    out: Path
    resume: bool

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.out / "samples"

    @property
    def log_file(self) -> Path:
        return self.out / "train_log.jsonl"


def run(job: TrainingRun, rank: int, world_size: int) -> None:
    """Train on this rank until the stage is done. Raises TrainError, CheckpointError, InputError."""
    stopping = _StopSignal()
    stage = job.recipe.stage(job.stage)
    _deterministic(job.recipe.seed)
    import deepspeed

    if not torch.cuda.is_available():
        # DeepSpeed would compile a C++ operator at its first use: gloo does the same without a compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    # Weights are kept in the dtype that they are trained in: bf16's own master copy is DeepSpeed's.
    dtype = torch.bfloat16 if stage.precision == "bf16" else torch.float32
    model, processor = load_model(job.model, dtype, check_files=rank == 0)
    # What it learns from is what it will be asked with.
    if stage.template != "plain":
        processor.chat_template = CHAT_TEMPLATES[stage.template]
    transform = stage_transform(stage, job.recipe.data, processor)
    transform.store_in(processor)
    if stage.attention != "sdpa":
        model.set_attn_implementation(stage.attention)
    model.train()
    keys = [_resume_key(job, world_size) if rank == 0 else {}]
    distributed.broadcast_object_list(keys, device=device)  # a 7B is hashed once, not by every rank
    key = keys[0]
    index = open_index(job.manifests)
    if int(os.environ["LOCAL_RANK"]) == 0:
        encode_samples(job.samples, index, processor.tokenizer, stage, {k: key[k] for k in ("model_hash", "data_hash")})
    distributed.barrier()
    encoded = EncodedSamples(job.samples)
    image = image_tokens(model.config)
    samples = TrainingSet(encoded, index, job.images, processor.tokenizer, transform, image, job.recipe.data)
    lists = index.lists[encoded.records]
    check_mixture_weights(stage, index)
    order = BatchSampler(
        encoded.lengths(image), stage.global_batch, stage.epochs, job.recipe.seed, lists, stage.mixture_weights
    )
    engine = build_engine(model, stage, world_size)
    stored = checkpoint.RemoteCheckpoints(job.recipe.storage.checkpoints, job.stage, key)
    start = _resume(job, engine, key, stored, rank)
    if stopping.anywhere(device):
        raise TrainError(f"{job.stage} was told to stop before step {start + 1}: run it again to go on")
    if rank == 0:
        log.info(
            "%s: %d samples (%d left out), %d steps of %d samples on %d processes, from step %d",
            job.stage,
            len(samples),
            encoded.skipped.total(),
            order.steps,
            stage.global_batch,
            world_size,
            start,
        )
    clock = _Clock(start, order.steps)
    accumulation = accumulation_steps(stage, world_size)

    def read(step: int) -> list[Batch]:
        shares = micro_batches(order.batch(step), rank, world_size, stage.micro_batch, accumulation)
        return [samples.batch(share) for share in shares]

    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, start) if start < order.steps else None
        for step in range(start, order.steps):
            assert coming is not None
            batches = coming.result()
            coming = reader.submit(read, step + 1) if step + 1 < order.steps else None
            rate = learning_rate(stage, step, order.steps)
            loss, tokens = _step(engine, [_to(batch, device) for batch in batches], rate, world_size)
            if rank == 0:
                clock.note(job, {"step": step + 1, "loss": loss, "lr": rate, "tokens": tokens}, stage.log_every)
            stop = stopping.anywhere(device)
            if (step + 1) % stage.save_every == 0 or stop:
                clock.write(job)
                checkpoint.save(engine, job.checkpoints, step + 1, key, rank, stored, job.log_file)
            if stop:
                stored.wait()
                raise TrainError(f"{job.stage} was told to stop after step {step + 1}: run it again to go on")
    stored.wait()
    _export(job, engine, model, processor, encoded, rank)


def stage_transform(stage: StageRecipe, data: DataRecipe, processor: LlavaProcessor) -> ImageTransform:
    """How a stage sees images: the tower's size and normalisation, the recipe's aspect and bands."""
    return replace(
        ImageTransform.from_processor(processor),
        aspect=stage.image_aspect,
        bands=data.bands,
        scaled_decode=data.scaled_decode,
    )


def check_mixture_weights(stage: StageRecipe, index: Index) -> None:
    """TrainError when the recipe weighs other lists than there are."""
    lists = int(index.lists.max()) + 1
    if stage.mixture_weights is not None and len(stage.mixture_weights) != lists:
        raise TrainError(
            f"the stage has {len(stage.mixture_weights)} mixture_weights for {lists} lists: give one for each list of data"
        )
    if stage.mixture_weights is not None and not any(stage.mixture_weights):
        raise TrainError("all mixture_weights of the stage are 0: nothing would be trained on")


def _step(engine: Any, batches: list[Batch], rate: float, world_size: int) -> tuple[float, int]:
    """One optimizer step; the mean loss over all labelled tokens of the global batch, and its tokens."""
    device = batches[0].input_ids.device
    counts = torch.tensor([sum(b.targets for b in batches), sum(b.tokens for b in batches)], device=device)
    distributed.all_reduce(counts)
    targets, tokens = counts.tolist()
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    total = torch.zeros((), dtype=torch.float64, device=device)
    for batch in batches:
        loss = engine(batch)
        total += loss.detach().double()
        # DeepSpeed divides by the accumulation steps and by the ranks: undo both, so that what is left
        # is the mean over labelled tokens.
        engine.backward(loss * (len(batches) * world_size / targets))
        engine.step()
    distributed.all_reduce(total)
    mean = float(total) / targets
    if not math.isfinite(mean):
        raise TrainError(f"the loss is {mean} at step {engine.global_steps}: lower the learning rate or check the data")
    return mean, tokens


def _resume_key(job: TrainingRun, world_size: int) -> dict[str, Any]:
    """What must be equal for a resume to be exact."""
    return {
        "recipe_hash": job.recipe.hash(f"stages.{job.stage}"),
        "model_hash": content_hash(job.model),
        "data_hash": _data_hash(job.manifests),
        "world_size": world_size,
    }


def _data_hash(manifests: tuple[Path, ...]) -> str:
    hashes = [sha256_tree(manifest) for manifest in manifests]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _resume(job: TrainingRun, engine: Any, key: dict[str, Any], stored: checkpoint.RemoteCheckpoints, rank: int) -> int:
    if not job.resume:
        return 0
    if rank == 0:
        stored.fetch(job.checkpoints, job.log_file)
    distributed.barrier()
    found = checkpoint.newest(job.checkpoints, key)
    if found is None:
        return 0
    folder, step = found
    checkpoint.load(engine, folder)
    return step


def _export(job: TrainingRun, engine: Any, model: Any, processor: Any, samples: EncodedSamples, rank: int) -> None:
    """Write the trained model into `out`; `config.json` comes last, so a directory that has one is whole."""
    state = engine._zero3_consolidated_16bit_state_dict() if engine.zero_optimization_stage() == 3 else None
    if rank == 0:
        if state is not None:
            state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
        beside = job.out / ".model.partial"
        shutil.rmtree(beside, ignore_errors=True)
        save_model(beside, model, processor, state)
        entries = read_jsonl(job.log_file)
        summary = {
            "stage": job.stage,
            "samples": len(samples),
            "skipped": dict(samples.skipped),
            "truncated": samples.truncated,
            "steps": entries[-1]["step"],
            "first_loss": entries[0]["loss"],
            "last_loss": entries[-1]["loss"],
        }
        write_json(job.out / "training.json", summary)
        for path in sorted(beside.iterdir(), key=lambda p: p.name == "config.json"):
            os.replace(path, job.out / path.name)
        beside.rmdir()
        shutil.rmtree(job.checkpoints, ignore_errors=True)
        shutil.rmtree(job.samples, ignore_errors=True)
    distributed.barrier()


def _to(batch: Batch, device: torch.device) -> Batch:
    pixels = None if batch.pixel_values is None else batch.pixel_values.to(device)
    return Batch(batch.input_ids.to(device), batch.labels.to(device), batch.attention_mask.to(device), pixels)


def _deterministic(seed: int) -> None:
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


class _StopSignal:
    """SIGTERM asks to stop: every rank finishes its step, saves, and ends."""

    def __init__(self) -> None:
        self._asked = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: object) -> None:
        self._asked = True

    def anywhere(self, device: torch.device) -> bool:
        """Whether any rank was asked. All ranks call."""
        asked = torch.tensor(int(self._asked), device=device)
        distributed.all_reduce(asked)
        return bool(asked.item())


class _Clock:
    """Writes the log file and says how long is left."""

    def __init__(self, start: int, steps: int) -> None:
        self._start, self._steps = start, steps
        self._since = time.monotonic()
        self._entries: list[dict[str, Any]] | None = None

    def note(self, job: TrainingRun, entry: dict[str, Any], every: int) -> None:
        if self._entries is None:
            kept = read_jsonl(job.log_file) if job.log_file.exists() else []
            self._entries = [old for old in kept if old["step"] <= self._start]
        passed = time.monotonic() - self._since
        done = entry["step"] - self._start
        self._entries.append(entry | {"seconds": round(passed, 3)})
        if entry["step"] % every == 0 or entry["step"] == self._steps:
            self.write(job)
            left = passed / done * (self._steps - entry["step"])
            log.info(
                "%s step %d of %d, loss %.3f, %.0f s left",
                job.stage,
                entry["step"],
                self._steps,
                entry["loss"],
                left,
            )

    def write(self, job: TrainingRun) -> None:
        """Put the entries on disk; ranks that note nothing write nothing."""
        if self._entries is not None:
            write_bytes(job.log_file, jsonl(self._entries))
