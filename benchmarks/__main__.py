"""Runs the named benchmarks, or all, and prints one table: `python -m benchmarks [NAME …]`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn import functional

from benchmarks.conversion import conversion
from benchmarks.images import images, pixels
from benchmarks.leaks import leaks
from benchmarks.lists import lists
from benchmarks.timing import Comparison, compare


def loss_head() -> Comparison:
    """Loss at labelled positions only, compared with full logits: hidden size 1024, vocabulary 32000, 18 % labelled."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn((2, 706, 1024), generator=generator, requires_grad=True)
    labels = torch.randint(0, 32000, (2, 706), generator=generator)
    labels[torch.rand((2, 706), generator=generator) > 0.18] = -100
    head = nn.Linear(1024, 32000, bias=False)

    def full() -> torch.Tensor:
        loss = functional.cross_entropy(head(hidden).flatten(0, 1), labels.flatten(), reduction="sum")
        loss.backward()
        return loss

    def labelled() -> torch.Tensor:
        mask = labels != -100
        loss = functional.cross_entropy(head(hidden[mask]), labels[mask], reduction="sum")
        loss.backward()
        return loss

    assert torch.allclose(full(), labelled(), rtol=1e-4)
    return compare("loss head, forward and backward", "full logits", labelled, full)


def scoring() -> list[str]:
    """Seconds for 100,000 answers of each type; there is no baseline."""
    from vhm.evaluate.answer_types import ANSWER_TYPES
    from vhm.evaluate.metrics import score

    lines = []
    for answer_type in ANSWER_TYPES.values():
        row = answer_type.example
        rows = [{"size": row.size, "query": row.query, "answer": row.target, "pred": row.prediction}] * 100_000
        start = time.perf_counter()
        score(answer_type.name, rows)
        lines.append(f"scoring 100,000 of {answer_type.name:26} {time.perf_counter() - start:9.2f} s")
    return lines


BENCHMARKS: dict[str, Callable[[], Iterable[object]]] = {
    "pixels": lambda: (pixels(side) for side in (256, 512, 1024, 4000)),
    "images": images,
    "loss-head": lambda: [loss_head()],
    "scoring": scoring,
    "lists": lists,
    "leaks": leaks,
    "conversion": conversion,
}


def main() -> None:
    unknown = [name for name in sys.argv[1:] if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"unknown benchmark {unknown[0]!r}: use {', '.join(BENCHMARKS)}")
    for name in sys.argv[1:] or BENCHMARKS:
        for line in BENCHMARKS[name]():
            print(line, flush=True)


if __name__ == "__main__":
    main()
