"""`vhm validate --against` evaluation images, compared with the same validation without."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

_SIDE = 256
_GOAL = 1.3  # times the validation without evaluation images
_RUNS = 3


def leaks(few: int = 500, many: int = 2_500, evaluation: int = 100) -> Iterator[str]:
    """Validates lists of `few` and of `many` images against 100 that none of them shows, and without, alternately.

    Their difference leaves out what takes a constant time: starting processes, and reading the evaluation images.
    """
    with tempfile.TemporaryDirectory(prefix="vhm-bench-") as name:
        folder = Path(name)
        for number in range(many + evaluation):
            _write_image(folder / f"{number}.jpg", number)
        against = _write_list(folder / "evaluation.json", range(many, many + evaluation))
        lists = {count: _write_list(folder / f"{count}.json", range(count)) for count in (few, many)}
        _validate(lists[few], ["--against", str(against)], evaluation)  # compiles what is not compiled yet
        plain, compared = [], []
        for _ in range(_RUNS):
            for times, options in ((plain, []), (compared, ["--against", str(against)])):
                seconds = {count: _validate(path, options, evaluation) for count, path in lists.items()}
                times.append((seconds[many] - seconds[few]) / (many - few))
        without, with_leaks = statistics.median(plain), statistics.median(compared)
        yield (
            f"validating {_SIDE}² images --against {evaluation} {1e3 * with_leaks:8.2f} ms of processor time each, "
            f"{with_leaks / without:.2f}× the {1e3 * without:.2f} ms without (goal: at most {_GOAL}×)"
        )


def _write_image(path: Path, seed: int) -> None:
    """Fields, roads and noise at several scales: as many corners as an aerial image has, and none of another image."""
    rng = np.random.default_rng(seed)
    pixels = np.full((_SIDE, _SIDE, 3), 110, np.float32)
    for cells, contrast in ((4, 25), (16, 20), (64, 15), (256, 8)):
        noise = rng.normal(0, contrast, (cells, cells, 3)).clip(-100, 100) + 128
        scaled = Image.fromarray(noise.clip(0, 255).astype(np.uint8)).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        pixels += np.asarray(scaled, np.float32) - 128
    for x, y, width, height in rng.integers(4, 60, (12, 4)).tolist():
        pixels[4 * y : 4 * y + height, 4 * x : 4 * x + width] += rng.normal(0, 30, 3)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def _write_list(path: Path, numbers: range) -> Path:
    records = [
        {
            "image": f"{number}.jpg",
            "conversations": [
                {"from": "human", "value": "<image>\nDescribe."},
                {"from": "gpt", "value": f"A caption about {number}."},
            ],
        }
        for number in numbers
    ]
    path.write_text(json.dumps(records))
    return path


def _validate(path: Path, options: list[str], evaluation: int) -> float:
    """Processor seconds of `vhm validate` and its processes; other work on the machine hardly changes them."""
    out = path.with_suffix(f".{time.monotonic_ns()}")
    command = [sys.executable, "-m", "vhm.cli", "validate", str(path), "--images", str(path.parent), *options]
    before = os.times()
    subprocess.run([*command, "--out", str(out)], check=True, capture_output=True)
    after = os.times()
    compared = json.loads((out / "validation.json").read_text())["compared"]
    assert (compared["evaluation_images"] if options else None) == (evaluation if options else None)
    return after.children_user + after.children_system - before.children_user - before.children_system
