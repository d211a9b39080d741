"""Pictures and questions → answers, many at once: what evaluation and serving share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vhm.data.encode import ask_text
from vhm.model.build import load_model


@dataclass(frozen=True)
class Question:
    """One question about one picture."""

    image: Image.Image
    question: str


class Generator:
    """A loaded model that answers batches of questions."""

    def __init__(self, directory: Path, dtype: str | None = None, device: str | None = None) -> None:
        import torch

        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.processor = load_model(directory, dtype=dtype, device=place)
        self.processor.tokenizer.padding_side = "left"

    def inputs(self, asked: Sequence[Question]) -> dict[str, Any]:
        """The batch as tensors: input_ids and attention_mask [B, T], left-padded; pixel_values [B, 3, S, S].

        Raises EncodeError when a question holds special tokens.
        """
        batch = self.processor(
            images=[item.image for item in asked],
            text=[ask_text(item.question, self.processor) for item in asked],
            padding=True,
            add_special_tokens=False,
            return_tensors="pt",
        ).to(self.model.device)
        batch["pixel_values"] = batch["pixel_values"].to(self.model.dtype)
        return dict(batch)

    def answer(self, asked: Sequence[Question], max_new_tokens: int, **sampling: Any) -> list[str]:
        """Answers in the order of the questions; greedy unless `sampling` says otherwise."""
        import torch

        inputs = self.inputs(asked)
        with torch.inference_mode():
            output = self.model.generate(**inputs, max_new_tokens=max_new_tokens, **sampling)
        new = output[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(new, skip_special_tokens=True)]
