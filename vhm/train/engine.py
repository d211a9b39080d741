"""DeepSpeed around a model: which parameters learn, the optimizer, and the loss over labelled tokens.

The loss of a step weighs every labelled token of the global batch alike. The reference takes the mean
of each micro-batch first, so that tokens of short answers weigh more; the difference is small.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from vhm.data.encode import IGNORE
from vhm.recipe import StageRecipe, Trainable

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

    from vhm.train.collate import Batch


class LabelledLoss(nn.Module):
    """The model with logits and loss at labelled positions only: the sum of their cross-entropies."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        suppressed = model.generation_config.suppress_tokens or [model.config.text_config.vocab_size]
        # The image token and embedding rows without a token are the last ids: no answer holds them.
        self.vocabulary = min(suppressed)

    def forward(self, batch: Batch) -> torch.Tensor:
        hidden = self.model.model(
            input_ids=batch.input_ids,
            pixel_values=None if batch.pixel_values is None else batch.pixel_values.to(self.model.dtype),
            attention_mask=batch.attention_mask,
            use_cache=False,
        ).last_hidden_state
        targets = batch.labels[:, 1:]
        wanted = targets != IGNORE
        logits = self.model.lm_head(hidden[:, :-1][wanted])[:, : self.vocabulary]
        return functional.cross_entropy(logits.float(), targets[wanted], reduction="sum")


def build_engine(model: LlavaForConditionalGeneration, stage: StageRecipe, world_size: int) -> Any:
    """A DeepSpeed engine over `LabelledLoss(model)`; parameters that do not learn are frozen first."""
    import deepspeed

    set_trainable(model, stage.trainable)
    if stage.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=stage.learning_rate, betas=stage.betas, weight_decay=stage.weight_decay)
    engine, *_ = deepspeed.initialize(
        model=LabelledLoss(model),
        optimizer=optimizer,
        config=deepspeed_config(stage, world_size, sum(p.numel() for p in learning)),
    )
    return engine


def deepspeed_config(stage: StageRecipe, world_size: int, learning: int) -> dict[str, Any]:
    """DeepSpeed's configuration for `learning` parameters."""
    # ZeRO fills its buckets with zeros at every step: its default of 2 GB would cost a small model more
    # than its gradients do.
    bucket = max(2**20, min(learning, 5 * 10**8))
    return {
        "train_batch_size": accumulation_steps(stage, world_size) * stage.micro_batch * world_size,
        "train_micro_batch_size_per_gpu": stage.micro_batch,
        "gradient_accumulation_steps": accumulation_steps(stage, world_size),
        "gradient_clipping": stage.max_grad_norm,
        "zero_optimization": {
            "stage": stage.zero_stage,
            "overlap_comm": False,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": stage.precision == "bf16"},
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


def accumulation_steps(stage: StageRecipe, world_size: int) -> int:
    """Micro-batches that each rank runs for one step; the last may be short where the batch does not divide."""
    return math.ceil(stage.global_batch / (stage.micro_batch * world_size))


def set_trainable(model: LlavaForConditionalGeneration, trainable: Trainable) -> None:
    """Set `requires_grad` of every parameter as the recipe says."""
    tower = model.model.vision_tower
    blocks = tower.config.num_hidden_layers
    learning_blocks = {"none": range(0), "upper_half": range(blocks // 2, blocks), "all": range(blocks)}
    for name, parameter in model.named_parameters():
        if "vision_tower" in name:
            # The last layer norm of CLIP comes after the features that are taken: it never learns.
            parameter.requires_grad = any(
                f".layers.{block}." in name for block in learning_blocks[trainable.vision_tower]
            ) or (trainable.vision_tower == "all" and ".layers." not in name and "post_layernorm" not in name)
        elif "multi_modal_projector" in name:
            parameter.requires_grad = trainable.projector
        else:
            parameter.requires_grad = trainable.language_model


def learning_rate(stage: StageRecipe, step: int, steps: int) -> float:
    """Linear warm-up over `warmup_ratio` of the steps, then half a cosine down to zero."""
    warmup = math.ceil(stage.warmup_ratio * steps)
    if step < warmup:
        return stage.learning_rate * (step + 1) / warmup
    return stage.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
