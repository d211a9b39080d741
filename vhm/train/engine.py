"""DeepSpeed around a model: the optimizer, the learning rate, and the loss over labelled tokens.

The loss of a step weighs every labelled token of the global batch alike. The reference takes the mean
of each micro-batch first, so that tokens of short answers weigh more; the difference is small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from vhm.data.encode import IGNORE
from vhm.recipe import StageRecipe

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from transformers import LlavaForConditionalGeneration

    from vhm.train.collate import Batch


class LabelledLoss(nn.Module):
    """The model with logits and loss at labelled positions only: the sum of their cross-entropies."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        suppressed = model.generation_config.suppress_tokens or [model.config.text_config.vocab_size]
        # The last ids are the image token and embedding rows without a token: they are never a target.
        self.vocabulary = min(suppressed)

    def forward(self, batch: Batch) -> torch.Tensor:
        with self._image_path(batch) as pixel_values:
            hidden = self.model.model(
                input_ids=batch.input_ids,
                pixel_values=pixel_values,
                attention_mask=batch.attention_mask,
                use_cache=False,
            ).last_hidden_state
        targets = batch.labels[:, 1:]
        labelled = targets != IGNORE
        logits = self.model.lm_head(hidden[:, :-1][labelled])[:, : self.vocabulary]
        return functional.cross_entropy(logits.float(), targets[labelled], reduction="sum")

    @contextmanager
    def _image_path(self, batch: Batch) -> Iterator[torch.Tensor]:
        """The batch's pixels; for a batch without images, a black image whose features are dropped.

        Vision tower and projector run in every forward pass, in the same order: ZeRO gathers parameters and reduces
        gradients as the modules run, and ranks that ran different ones would wait for each other for ever. The
        gradients that the black image adds are exactly zero.
        """
        if batch.pixel_values is not None:
            yield batch.pixel_values.to(self.model.dtype)
            return
        vision = self.model.config.vision_config
        shape = (1, vision.num_channels, vision.image_size, vision.image_size)
        projector = self.model.model.multi_modal_projector
        hook = projector.register_forward_hook(lambda module, inputs, features: features[:, :0])
        try:
            yield torch.zeros(shape, dtype=self.model.dtype, device=batch.input_ids.device)
        finally:
            hook.remove()


def build_engine(model: LlavaForConditionalGeneration, stage: StageRecipe, world_size: int) -> DeepSpeedEngine:
    """A DeepSpeed engine over `LabelledLoss(model)` that optimizes the parameters with `requires_grad`."""
    import deepspeed

    if stage.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=stage.learning_rate, betas=stage.betas, weight_decay=stage.weight_decay)
    engine, *_ = deepspeed.initialize(
        model=LabelledLoss(model),
        optimizer=optimizer,
        config=deepspeed_config(stage, world_size, sum(p.numel() for p in trainable)),
    )
    return engine


def deepspeed_config(stage: StageRecipe, world_size: int, trainable: int) -> dict[str, object]:
    """DeepSpeed's configuration for a model with `trainable` trainable parameters."""
    # ZeRO fills its buckets with zeros at every step: its default of 2 GB would cost a small model more
    # than its gradients do.
    bucket = max(2**20, min(trainable, 5 * 10**8))
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
    """Micro-batches that each rank runs for one step; the last is smaller when the batch does not divide evenly."""
    return math.ceil(stage.global_batch / (stage.micro_batch * world_size))


def learning_rate(stage: StageRecipe, step: int, steps: int) -> float:
    """Linear warm-up over `warmup_ratio` of the steps, then half a cosine down to zero."""
    warmup = math.ceil(stage.warmup_ratio * steps)
    if step < warmup:
        return stage.learning_rate * (step + 1) / warmup
    return stage.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def gradient_norm(engine: DeepSpeedEngine) -> float | None:
    """The norm of the last step's gradients before clipping, as DeepSpeed computed it for the clipping.

    None where DeepSpeed does not keep it (ZeRO stage 0 in fp32) or where it is not finite.
    """
    norm = engine.get_global_grad_norm()
    return float(norm) if norm is not None and math.isfinite(norm) else None


def consolidated_state(engine: DeepSpeedEngine) -> dict[str, torch.Tensor] | None:
    """The complete weights by the model's own names where ZeRO stage 3 partitions them, else None.

    All ranks call it; ranks other than the first get None.
    """
    partitioned = engine.zero_optimization_stage() == 3
    state = engine._zero3_consolidated_16bit_state_dict() if partitioned else None
    return None if state is None else {name.removeprefix("model."): tensor for name, tensor in state.items()}
