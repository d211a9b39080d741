"""Streaming of an answer: text that can no longer change, stop strings, cancellation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_INCOMPLETE = "\ufffd"  # what an incomplete UTF-8 sequence decodes to


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop string, and whether one occurred."""
    ends = [text.index(string) for string in stop if string in text]
    return (text[: min(ends)], True) if ends else (text, False)


class TextStreamer:
    """A transformers streamer that passes text on once it can no longer change."""

    def __init__(
        self, on_text: Callable[[str], None], tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()
    ) -> None:
        self._on_text, self._tokenizer, self._stop = on_text, tokenizer, stop
        self._ids: list[int] = []
        self._sent = ""
        self._is_prompt = True
        self._held = max(map(len, stop), default=0)  # characters that may still become a stop string

    def put(self, value: torch.Tensor) -> None:
        """Receive new token ids; transformers sends the prompt's first."""
        if self._is_prompt:
            self._is_prompt = False
            return
        self._ids += value.flatten().tolist()
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True).lstrip()
        text, stopped = cut_at_stop(text, self._stop)
        if not stopped and not text.endswith(_INCOMPLETE):
            self._send(text[: max(0, len(text) - self._held)].rstrip())

    def end(self) -> None:
        """Part of transformers' interface; `finish` sends the rest."""

    def finish(self, text: str) -> None:
        """Send the part of the final text that was not sent yet."""
        self._send(text)

    def _send(self, text: str) -> None:
        if len(text) > len(self._sent) and text.startswith(self._sent):
            self._on_text(text[len(self._sent) :])
            self._sent = text


class CancelCriterion:
    """A transformers stopping criterion that ends generation once `cancelled` returns True."""

    def __init__(self, cancelled: Callable[[], bool]) -> None:
        self._cancelled = cancelled

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        import torch

        return torch.full((input_ids.shape[0],), self._cancelled(), device=input_ids.device)
