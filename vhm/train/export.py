"""The end of a training run: its weights, processor and summary as a Hugging Face directory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vhm.io import write_json
from vhm.model.build import save_model
from vhm.train.log import read_log
from vhm.train.samples import EncodedSamples

if TYPE_CHECKING:
    import torch
    from transformers import LlavaForConditionalGeneration, LlavaProcessor


@dataclass(frozen=True)
class TrainingSummary:
    """`training.json` of a trained model. `skipped` counts the records that could not be trained on, by reason."""

    stage: str
    epochs: float
    samples: int
    skipped: Mapping[str, int]
    truncated: int
    steps: int
    first_loss: float
    last_loss: float

    @classmethod
    def of(cls, stage: str, epochs: float, samples: EncodedSamples, log_file: Path) -> TrainingSummary:
        entries = read_log(log_file)
        first, last = entries[0], entries[-1]
        skipped = dict(samples.skipped)
        return cls(stage, epochs, len(samples), skipped, samples.truncated, last.step, first.loss, last.loss)


def export(
    out: Path,
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    state: dict[str, torch.Tensor] | None,
    summary: TrainingSummary,
) -> None:
    """Write the trained model and its summary into `out`; `state` replaces the weights in `model` where given.

    `config.json` is moved last, so a directory that has one is complete.
    """
    temporary = out / ".model.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    save_model(temporary, model, processor, state)
    write_json(out / "training.json", asdict(summary))
    for path in sorted(temporary.iterdir(), key=lambda p: p.name == "config.json"):
        os.replace(path, out / path.name)
    temporary.rmdir()
