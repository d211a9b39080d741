"""Questions about images → answers: prompts, batches, decoding and stopping.

Evaluation, serving and `vhm ask` generate through `Generator`. Greedy answers do not depend on the batch, up to the
rounding of padded positions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vhm.data.images.transform import ImageTransform, Pixels
from vhm.errors import EncodeError, first_line
from vhm.inference.prompts import prompt_ids
from vhm.inference.streaming import CancelCriterion, TextStreamer, cut_at_stop
from vhm.model.build import image_tokens, load_model

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """A question about one image, RGB uint8 [H, W, 3]."""

    image: Pixels
    text: str


@dataclass(frozen=True)
class Sampling:
    """How an answer is generated; temperature 0 is greedy decoding."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    @property
    def batchable(self) -> bool:
        """Whether questions can share a batch: with random sampling or stop strings, each needs its own."""
        return self.temperature == 0 and not self.stop


@dataclass(frozen=True)
class Generation:
    """An answer. `finish_reason` is "length" when it was cut at `max_new_tokens`, as in the OpenAI API."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True)
class Failure:
    """Why a question has no answer."""

    reason: str


class Generator:
    """A loaded model that answers batches of questions."""

    def __init__(self, directory: Path, dtype: str | None = None, device: str | None = None) -> None:
        import torch

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.processor = load_model(directory, dtype=dtype, device=device)
        self.transform = ImageTransform.from_processor(self.processor)
        self.special_tokens = frozenset(self.processor.tokenizer.get_added_vocab())
        self._image_tokens = image_tokens(self.model.config)

    def generate(
        self,
        questions: Sequence[Question],
        sampling: Sampling,
        on_text: Callable[[str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> list[Generation]:
        """Answers in the order of the questions.

        `on_text` receives the text of a single question's answer as soon as it can no longer change; generation
        ends early when `cancelled` returns True. Raises EncodeError when a question contains special tokens.
        """
        import torch
        from transformers import StoppingCriteriaList

        if on_text is not None and len(questions) != 1:
            raise ValueError(f"only one question can be streamed, not {len(questions)}")
        prompts = [prompt_ids(question.text, self.processor, self._image_tokens) for question in questions]
        streamer = TextStreamer(on_text, self.processor.tokenizer, sampling.stop) if on_text else None
        stopping = StoppingCriteriaList([CancelCriterion(cancelled)] if cancelled else [])
        inputs = self._batch(prompts, [question.image for question in questions])
        with torch.inference_mode(), self._seeded(sampling.seed):
            output = self.model.generate(
                **inputs, **self._settings(sampling), streamer=streamer, stopping_criteria=stopping
            )
        answers = output[:, inputs["input_ids"].shape[1] :].tolist()
        generations = [
            self._generation(ids, len(prompt), sampling) for ids, prompt in zip(answers, prompts, strict=True)
        ]
        if streamer is not None:
            streamer.finish(generations[0].text)
        return generations

    def generate_each(self, questions: Sequence[Question], sampling: Sampling) -> list[Generation | Failure]:
        """As `generate`; if the batch fails, the questions are retried one by one; each that fails gives a Failure."""
        if not questions:
            return []
        try:
            return list(self.generate(questions, sampling))
        except (RuntimeError, EncodeError) as error:
            if len(questions) == 1:
                return [Failure(first_line(error))]
            log.warning("a batch of %d questions failed (%s): retrying one by one", len(questions), first_line(error))
        return [answer for question in questions for answer in self.generate_each([question], sampling)]

    def _batch(self, prompts: list[list[int]], images: list[Pixels]) -> dict[str, torch.Tensor]:
        """input_ids and attention_mask [B, T], padded on the left; pixel_values [B, 3, S, S]."""
        import torch

        longest = max(map(len, prompts))
        padding = self.processor.tokenizer.pad_token_id
        pixels = self.transform.normalise([self.transform.resize(image) for image in images])
        batch = {
            "input_ids": torch.tensor([[padding] * (longest - len(ids)) + ids for ids in prompts]),
            "attention_mask": torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]),
            "pixel_values": pixels.to(self.model.dtype),
        }
        return {name: tensor.to(self.model.device) for name, tensor in batch.items()}

    @contextmanager
    def _seeded(self, seed: int | None) -> Iterator[None]:
        """Sampling from `seed` within the block; the state of the random generators is restored after it."""
        import torch

        device = self.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            yield

    def _settings(self, sampling: Sampling) -> dict[str, object]:
        settings: dict[str, object] = {"max_new_tokens": sampling.max_new_tokens}
        if sampling.temperature > 0:
            settings |= {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        if sampling.stop:
            settings |= {"stop_strings": list(sampling.stop), "tokenizer": self.processor.tokenizer}
        return settings

    def _generation(self, ids: list[int], prompt_tokens: int, sampling: Sampling) -> Generation:
        tokenizer = self.processor.tokenizer
        ended = tokenizer.eos_token_id in ids
        if ended:
            ids = ids[: ids.index(tokenizer.eos_token_id) + 1]
        text, stopped = cut_at_stop(tokenizer.decode(ids, skip_special_tokens=True).lstrip(), sampling.stop)
        # A stop string of white space alone can end generation before the first word, where it is not text.
        complete = ended or stopped or len(ids) < sampling.max_new_tokens
        return Generation(text if stopped else text.rstrip(), prompt_tokens, len(ids), "stop" if complete else "length")
