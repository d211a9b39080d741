"""Rows of a predictions file, as `vhm.evaluate.metrics.score` takes them."""

from __future__ import annotations

from collections.abc import Sequence

from vhm.evaluate.answer_types.base import Mode
from vhm.evaluate.metrics import score


def prediction_row(
    answer: str, pred: str | None, query: str = "Q?", size: Sequence[int] = (100, 100)
) -> dict[str, object]:
    return {"filename": "a.png", "size": list(size), "query": query, "answer": answer, "pred": pred}


def accuracy(answer_type: str, answer: str, pred: str, query: str = "Q?", mode: Mode = "strict") -> float:
    """The accuracy of one row."""
    return score(answer_type, [prediction_row(answer, pred, query)], mode)["accuracy"]
