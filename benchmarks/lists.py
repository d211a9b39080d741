"""Validates a list of 1.4 million records, opens and reads its index; compared with json.load of the same list."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_WORDS = 'river harbour runway forest ships the a of "quoted" field, houses in dense rows é water'.split()
_INDEX = """
import random, sys, time
from vhm.data.index import open_index
import pyarrow
def private():  # anonymous memory: pages of a file that was just written are dirty, and count as private, too
    return sum(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Anonymous:")) / 1024
before, start = private(), time.perf_counter()
index = open_index(sys.argv[1])
opened = time.perf_counter() - start
indices = random.Random(0).choices(range(len(index)), k=20_000)
times = []
for i in indices:
    start = time.perf_counter()
    index[i]
    times.append(time.perf_counter() - start)
print(opened, sorted(times)[len(times) // 2] * 1e6, private() - before)
"""
_GOAL = 6  # times json.load of the same file in the same run, on two cores
_LOAD = "import json, sys, time; s = time.perf_counter(); json.load(open(sys.argv[1])); print(time.perf_counter() - s)"


def lists(records: int = 1_400_000) -> Iterator[str]:
    """Seconds and memory of `vhm validate`, of opening its index and of reading a record."""
    with tempfile.TemporaryDirectory(prefix="vhm-bench-") as folder:
        source, out = Path(folder) / "list.json", Path(folder) / "out"
        size = write_list(source, records)
        command = [sys.executable, "-m", "vhm.cli", "validate", str(source), "--images", folder, "--skip-images"]
        start = time.perf_counter()
        subprocess.run([*command, "--kind", "pretrain", "--out", str(out)], check=True, capture_output=True)
        seconds = time.perf_counter() - start
        # Before json.load runs: its process would be the largest child.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        [loaded] = _numbers(_LOAD, source)
        start = time.perf_counter()
        elements = _scan(source)
        scanned = time.perf_counter() - start
        yield (
            f"validating {records} records, {size / 1e9:.2f} GB {seconds:9.1f} s, {seconds / loaded:.1f}× json.load "
            f"(goal: at most {_GOAL}×), largest process {peak:.2f} GB; finding the {elements} records alone takes "
            f"{scanned:.1f} s"
        )
        opened, read, private = _numbers(_INDEX, out / "manifest.parquet")
        yield (
            f"index of {records} records {1e3 * opened:22.1f} ms, {loaded / opened:.0f}× faster than json.load; "
            f"a random record {read:.0f} µs (median), {private:.0f} MB private"
        )


def write_list(path: Path, records: int) -> int:
    """Write a list of random captions; return its size in bytes."""
    rng = random.Random(0)
    with path.open("w") as file:
        file.write("[")
        for number in range(records):
            answer = " ".join(rng.choices(_WORDS, k=75))
            turns = [
                {"from": "human", "value": "<image>\nDescribe the image in detail."},
                {"from": "gpt", "value": answer},
            ]
            record = {
                "id": f"r{number}",
                "source_dataset": f"source{number % 7}",
                "image": f"{number}.jpg",
                "conversations": turns,
            }
            file.write((",\n" if number else "") + json.dumps(record, ensure_ascii=number % 2 == 0))
        file.write("]\n")
    return path.stat().st_size


def _scan(source: Path) -> int:
    from vhm.data.validation.stream import open_list

    return len(open_list(source))


def _numbers(program: str, argument: Path) -> list[float]:
    process = subprocess.run([sys.executable, "-c", program, str(argument)], check=True, capture_output=True, text=True)
    return [float(word) for word in process.stdout.split()]
