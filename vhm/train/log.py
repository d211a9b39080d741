"""The training log: `train_log.jsonl`, one line per optimizer step, appended and flushed when the step is done.

    {"step":12,"loss":3.25,"lr":0.001,"grad_norm":1.5,"tokens":3715,"seconds":8.031,"tokens_per_second":5571.2}

A checkpoint carries a copy of the log so far. A run that resumes from it starts with that copy, so lines of steps
after the checkpoint, which will be repeated, are dropped.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from vhm.errors import InputError
from vhm.io import JsonObject, read_jsonl, write_bytes

LOG_NAME = "train_log.jsonl"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LogEntry:
    """One optimizer step.

    step               steps done so far, this one included
    loss               mean cross-entropy over the labelled tokens of the global batch
    lr                 learning rate of the step
    grad_norm          norm of the gradients before clipping; None where DeepSpeed does not keep it
    tokens             positions of the global batch without padding
    seconds            since this process began its first step
    tokens_per_second  of this step alone, reading and saving included
    """

    step: int
    loss: float
    lr: float
    grad_norm: float | None
    tokens: int
    seconds: float
    tokens_per_second: float | None

    @classmethod
    def from_json(cls, row: JsonObject) -> LogEntry:
        """An entry from its line; logs of earlier versions have no grad_norm and no tokens_per_second."""
        return cls(
            step=int(row["step"]),
            loss=float(row["loss"]),
            lr=float(row["lr"]),
            grad_norm=row.get("grad_norm"),
            tokens=int(row["tokens"]),
            seconds=float(row["seconds"]),
            tokens_per_second=row.get("tokens_per_second"),
        )


def read_log(path: Path) -> list[LogEntry]:
    """All entries of a training log. Raises InputError, which names a line that is not a JSON object."""
    return [LogEntry.from_json(row) for row in read_jsonl(path)]


def reset_log(path: Path, saved: Path | None) -> None:
    """Replace the log by `saved`, the copy in the checkpoint that a run resumes from; empty it when that is None."""
    write_bytes(path, saved.read_bytes() if saved is not None else b"")


class TrainingLog:
    """Appends the steps of one process to the log and reports progress every `report_every` steps."""

    def __init__(self, path: Path, stage: str, start: int, steps: int, report_every: int) -> None:
        self._path, self._stage = path, stage
        self._start, self._steps, self._report_every = start, steps, report_every
        self._started = self._last = time.monotonic()

    def record(self, step: int, loss: float, lr: float, grad_norm: float | None, tokens: int) -> None:
        """Append the entry of `step`, the number of steps done so far."""
        now = time.monotonic()
        seconds = now - self._started
        speed = tokens / (now - self._last)
        self._last = now
        self._append(LogEntry(step, loss, lr, grad_norm, tokens, round(seconds, 3), round(speed, 1)))
        if step % self._report_every == 0 or step == self._steps:
            left = seconds / (step - self._start) * (self._steps - step)
            log.info("%s step %d of %d, loss %.3f, %.0f s left", self._stage, step, self._steps, loss, left)

    def _append(self, entry: LogEntry) -> None:
        line = orjson.dumps(asdict(entry), option=orjson.OPT_APPEND_NEWLINE)
        try:
            with self._path.open("ab") as file:  # closing flushes the line in one write: it is complete or absent
                file.write(line)
        except OSError as error:
            raise InputError(f"cannot write {self._path}: {error.strerror or error}") from error
