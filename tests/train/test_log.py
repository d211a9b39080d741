"""The training log: one line per step, and the same lines after a kill and a resume."""

from __future__ import annotations

import logging
from pathlib import Path

import orjson
import pytest

from vhm.errors import InputError
from vhm.train.log import LogEntry, TrainingLog, read_log, reset_log


def record(path: Path, start: int, steps: range) -> None:
    log = TrainingLog(path, "sft", start, 6, report_every=2)
    for step in steps:
        log.record(step, loss=1 / step, lr=1e-3, grad_norm=2.5, tokens=100)


def test_each_step_is_on_disk_as_soon_as_it_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "train_log.jsonl"
    log = TrainingLog(path, "sft", 0, 2, report_every=10)
    log.record(1, 4.5, 1e-3, None, 100)
    first = path.read_bytes()
    assert list(orjson.loads(first)) == ["step", "loss", "lr", "grad_norm", "tokens", "seconds", "tokens_per_second"]
    log.record(2, 3.5, 5e-4, 1.25, 200)
    assert path.read_bytes().startswith(first)
    one, two = read_log(path)
    assert (one.step, one.loss, one.lr, one.grad_norm, one.tokens) == (1, 4.5, 1e-3, None, 100)
    assert (two.step, two.loss, two.lr, two.grad_norm, two.tokens) == (2, 3.5, 5e-4, 1.25, 200)
    assert two.seconds >= one.seconds >= 0
    assert two.tokens_per_second is not None
    assert two.tokens_per_second > 0


def test_a_kill_after_the_checkpoint_loses_and_repeats_no_step(tmp_path: Path) -> None:
    """The checkpoint is of step 2; the process is killed when steps 3 and 4 are logged but not saved."""
    path, saved = tmp_path / "train_log.jsonl", tmp_path / "saved.jsonl"
    record(path, 0, range(1, 3))
    saved.write_bytes(path.read_bytes())
    record(path, 2, range(3, 5))
    with path.open("ab") as file:
        file.write(b'{"step":5,"lo')
    reset_log(path, saved)
    assert path.read_bytes() == saved.read_bytes()
    record(path, 2, range(3, 7))
    assert [(entry.step, entry.loss) for entry in read_log(path)] == [(step, 1 / step) for step in range(1, 7)]
    reset_log(path, None)
    assert path.read_bytes() == b""


def test_progress_is_reported_at_intervals_and_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    record(tmp_path / "train_log.jsonl", 2, range(3, 7))
    assert [message.split(",")[0] for message in caplog.messages] == ["sft step 4 of 6", "sft step 6 of 6"]


def test_a_log_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "train_log.jsonl"
    path.write_text('{"step":1,"loss":6.5,"lr":0.001,"tokens":3715,"seconds":1.663}\n')
    assert read_log(path) == [LogEntry(1, 6.5, 0.001, None, 3715, 1.663, None)]


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "train_log.jsonl").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*train_log.jsonl"):
        record(tmp_path / "train_log.jsonl", 0, range(1, 2))
