"""Ctrl-C, a full disk, a lost shard: the command ends with one line, leaves no process, and resumes."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.signals import listen_to_ctrl_c
from tests.support.terrain import terrain
from vhm.data.shards.pack import pack
from vhm.data.validation.request import ValidationRequest
from vhm.data.validation.splits import check_split
from vhm.data.validation.validate import validate

RESUME = "run the same command again to resume"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A list of 3,000 records over 600 small images: enough for worker processes in both passes."""
    folder = tmp_path / "images" / "src"
    folder.mkdir(parents=True)
    content = [terrain(number, 48) for number in range(20)]
    records = []
    for number in range(3_000):
        image = f"{number % 600}.png"
        if number < 600:
            content[number % 20].save(folder / image)
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": f"A river, view {number}."}]
        records.append({"source_dataset": "src", "image": image, "conversations": turns})
    (tmp_path / "list.json").write_text(json.dumps(records))
    return tmp_path


def start(data: Path, *options: str, images: str = "images", **popen: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vhm.cli", "validate", "list.json", "--images", images, "--out", "out", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=data, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen
    )


def result(run: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """The exit status, and the lines of stderr that are not progress."""
    _, errors = run.communicate(timeout=240)
    return run.returncode, [line for line in errors.splitlines() if not line.startswith(("checking", "fingerprinting"))]


def group_of(run: subprocess.Popen[str]) -> list[int]:
    """The living processes of the session that a run leads."""
    processes = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it ended meanwhile
            continue
        if int(group) == run.pid and state != "Z":
            processes.append(int(path.parent.name))
    return processes


@pytest.mark.parametrize("to", ["the command", "its process group, as a terminal does"])
def test_ctrl_c_ends_with_one_line_and_no_process_and_the_run_resumes(to: str, data: Path) -> None:
    run = start(data, start_new_session=True, preexec_fn=listen_to_ctrl_c)
    records = data / "out" / "chunks" / "records"
    deadline = time.monotonic() + 120
    while not list(records.glob("*.done")) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)  # the workers are starting on the images, or already check them
    (os.kill if to == "the command" else os.killpg)(run.pid, signal.SIGINT)
    status, lines = result(run)
    assert (status, lines) == (
        130,
        [f"vhm: error: interrupted; what is finished is kept in out: {RESUME}"],
    )
    while group_of(run) and time.monotonic() < deadline:  # killed processes take a moment to end
        time.sleep(0.05)
    assert group_of(run) == []
    finished = {path: path.stat().st_mtime_ns for path in records.glob("*.done")}
    assert finished
    check_split(ValidationRequest([data / "list.json"], data / "images"), data / "out")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "what was finished is not done again"


def test_a_full_disk_is_one_line_and_the_run_resumes(data: Path) -> None:
    """The limit on the size of a file stands for a full disk; the next test has one where mounting is permitted."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    status, lines = result(start(data, preexec_fn=limit))
    assert status == 2
    [line] = lines
    assert "File too large; what is finished is kept in out: free space, then " + RESUME in line
    assert not (data / "out" / "validation.json").exists()
    assert not list((data / "out").rglob("*.partial"))
    status, lines = result(start(data))
    assert (status, lines) == (0, [])


@pytest.mark.parametrize("size", ["64k", "700k"])
def test_a_really_full_disk_is_one_line(size: str, data: Path) -> None:
    """Small enough for the records to fail, or for what follows them."""
    out = data / "out"
    out.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", out], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small disk is not permitted here: {mounted.stderr.decode().strip()}")
    try:
        status, lines = result(start(data))
        assert status == 2
        [line] = lines
        assert "No space left on device; what is finished is kept in out: free space, then " + RESUME in line
    finally:
        subprocess.run(["umount", out], check=True)


def test_a_lost_shard_is_one_line_that_names_it(data: Path) -> None:
    request = ValidationRequest([data / "list.json"], data / "images")
    validate(request, data / "valid")
    pack(data / "valid", data / "images", data / "shards", 10**6)
    lost = max((data / "shards").glob("*.tar"), key=lambda path: path.stat().st_size)
    lost.rename(data / "lost")
    status, lines = result(start(data, images="shards"))
    assert status == 2
    assert lines == [
        f"vhm: error: shard shards/{lost.name} does not exist: restore it, or pack or fetch the images again; "
        f"what is finished is kept in out: {RESUME}"
    ]
    (data / "lost").rename(lost)
    assert result(start(data, images="shards")) == (0, [])
