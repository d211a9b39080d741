"""Preparing a run on one rank: the process group, the model, the encoded samples, the sampler and the engine."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as distributed

from vhm.artifacts.lineage import content_hash
from vhm.data.encode import CHAT_TEMPLATES
from vhm.data.images.options import SourceOptions
from vhm.data.images.transform import ImageTransform
from vhm.data.index import Index, open_index
from vhm.errors import TrainError
from vhm.io import sha256_tree
from vhm.model import load_model
from vhm.model.build import image_tokens
from vhm.recipe import DataRecipe, Recipe, StageRecipe
from vhm.train.checkpoint import ResumeKey
from vhm.train.collate import TrainingSet
from vhm.train.engine import build_engine
from vhm.train.log import LOG_NAME
from vhm.train.sampler import BatchSampler
from vhm.train.samples import EncodedSamples, encode_samples
from vhm.train.trainable import count_parameters, set_trainable

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingRun:
    """One training stage, the same on all ranks. `out` becomes the trained model directory."""

    stage: str
    recipe: Recipe
    model: Path
    manifests: tuple[Path, ...]
    images: str
    out: Path
    resume: bool

    @property
    def settings(self) -> StageRecipe:
        return self.recipe.stage(self.stage)

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.out / "samples"

    @property
    def log_file(self) -> Path:
        return self.out / LOG_NAME


@dataclass(frozen=True)
class Rank:
    """This process among those of the run; `local` counts within its machine."""

    index: int
    world_size: int
    local_index: int
    local_world_size: int

    @property
    def is_first(self) -> bool:
        return self.index == 0

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", self.local_index) if torch.cuda.is_available() else torch.device("cpu")


@dataclass(frozen=True)
class PreparedRun:
    """The objects that the steps of a run use on this rank."""

    model: LlavaForConditionalGeneration
    processor: LlavaProcessor
    samples: EncodedSamples
    training_set: TrainingSet
    sampler: BatchSampler
    engine: DeepSpeedEngine
    key: ResumeKey


def prepare(training: TrainingRun, rank: Rank) -> PreparedRun:
    """Prepare everything that the first step needs; all ranks call it.

    Raises TrainError, CheckpointError, InputError.
    """
    settings = training.settings
    _set_deterministic(training.recipe.seed, rank)
    _join_process_group()
    model, processor = load_for_stage(training, check_files=rank.is_first)
    key = _shared_resume_key(training, rank)
    index = open_index(training.manifests)
    check_mixture_weights(settings, index)
    samples = _encode(training, index, processor, key, rank)
    positions = image_tokens(model.config)
    training_set = TrainingSet(
        samples,
        index,
        training.images,
        processor.tokenizer,
        ImageTransform.from_processor(processor),
        positions,
        training.recipe.data,
    )
    sampler = BatchSampler(
        samples.lengths(positions),
        settings.global_batch,
        settings.epochs,
        training.recipe.seed,
        index.lists[samples.records],
        settings.mixture_weights,
    )
    set_trainable(model, settings.trainable)
    if rank.is_first:
        parts = ", ".join(map(str, count_parameters(model)))
        log.info("%s: trainable parameters: %s", training.stage, parts)
    engine = build_engine(model, settings, rank.world_size)
    return PreparedRun(model, processor, samples, training_set, sampler, engine, key)


def _set_deterministic(seed: int, rank: Rank) -> None:
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // rank.local_world_size))


def _join_process_group() -> None:
    import deepspeed

    if not torch.cuda.is_available():
        # DeepSpeed would compile a C++ operator at its first use: gloo does the same without a compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed()


def load_for_stage(
    training: TrainingRun, check_files: bool = True
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The model in the dtype it is trained in, and its processor with the stage's chat template and image transform."""
    settings = training.settings
    # DeepSpeed keeps its own fp32 master copy of bf16 weights.
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    model, processor = load_model(training.model, dtype, check_files=check_files)
    # The exported processor must give the prompts and the pixels that the stage was trained with.
    if settings.template != "plain":
        processor.chat_template = CHAT_TEMPLATES[settings.template]
    stage_transform(settings, training.recipe.data, processor).store_in(processor)
    if settings.attention != "sdpa":
        model.set_attn_implementation(settings.attention)
    model.train()
    return model, processor


def stage_transform(stage: StageRecipe, data: DataRecipe, processor: LlavaProcessor) -> ImageTransform:
    """The image transform of a stage: the tower's size and normalisation, the recipe's aspect and image options."""
    return replace(
        ImageTransform.from_processor(processor),
        aspect=stage.image_aspect,
        options=SourceOptions.from_recipe(data),
        scaled_decode=data.scaled_decode,
    )


def _shared_resume_key(training: TrainingRun, rank: Rank) -> ResumeKey:
    """The resume key, hashed by the first rank alone: a 7B model is read once."""
    keys = [_resume_key(training, rank.world_size) if rank.is_first else None]
    distributed.broadcast_object_list(keys, device=rank.device)
    assert keys[0] is not None
    return keys[0]


def _resume_key(training: TrainingRun, world_size: int) -> ResumeKey:
    return ResumeKey(
        recipe_hash=settings_hash(training.recipe, training.stage),
        model_hash=content_hash(training.model),
        data_hash=_data_hash(training.manifests),
        world_size=world_size,
    )


def settings_hash(recipe: Recipe, stage: str) -> str:
    """A hash of the settings that a step depends on: the stage's, and how images become pixels."""
    pixels = (SourceOptions.from_recipe(recipe.data), recipe.data.scaled_decode, recipe.data.max_pixels)
    return hashlib.sha256(f"{recipe.hash(f'stages.{stage}')} {pixels!r}".encode()).hexdigest()


def _data_hash(manifests: tuple[Path, ...]) -> str:
    hashes = [sha256_tree(manifest) for manifest in manifests]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def check_mixture_weights(stage: StageRecipe, index: Index) -> None:
    """Raise TrainError when the number of mixture weights is not that of the lists, or all weights are 0."""
    weights, lists = stage.mixture_weights, int(index.lists.max()) + 1
    if weights is None:
        return
    if len(weights) != lists:
        raise TrainError(
            f"the stage has {len(weights)} mixture_weights for {lists} lists: give one for each list of data"
        )
    if not any(weights):
        raise TrainError("all mixture_weights of the stage are 0: set at least one above 0")


def _encode(
    training: TrainingRun, index: Index, processor: LlavaProcessor, key: ResumeKey, rank: Rank
) -> EncodedSamples:
    """The samples of the stage; the first rank of each machine encodes them for the others."""
    if rank.local_index == 0:
        source = {"model_hash": key.model_hash, "data_hash": key.data_hash}
        encode_samples(training.samples, index, processor.tokenizer, training.settings, source)
    distributed.barrier()
    return EncodedSamples(training.samples)
