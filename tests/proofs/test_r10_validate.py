"""R10: `vhm validate` over a failing network: the same outputs as without faults, whatever interrupts it."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.proofs.conftest import FULL
from tests.support.s3 import Faults, FaultyProxy, SeaweedFS
from tests.support.terrain import terrain
from vhm.data.shards.table import index_shards
from vhm.storage.s3 import S3Uri
from vhm.storage.versions import publish


@dataclass
class Run:
    """One `vhm validate` of the same list; each has a cache of its own, so that it reads every image from S3."""

    arguments: list[str]
    folder: Path
    images: int

    def start(self, name: str, url: str, cache: str, timeout: float = 2) -> subprocess.Popen[str]:
        environment = os.environ | {
            "AWS_ENDPOINT_URL": url, "VHM_CACHE": str(self.folder / f"cache-{cache}"), "VHM_S3_TIMEOUT": str(timeout)
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", "vhm.cli", *self.arguments, "--out", str(self.folder / name)],
            env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def outputs(self, name: str) -> dict[str, bytes]:
        root = self.folder / name
        files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
        return {str(path): (root / path).read_bytes() for path in files if "chunks" not in path.parts}


class Countdown:
    """Calls `action` before the given number of images more has been requested."""

    def __init__(self, images: int, action: Callable[[], object]) -> None:
        self._left, self._action, self._lock = images, action, threading.Lock()

    def __call__(self, request: str) -> None:
        with self._lock:
            self._left -= request.startswith("GET") and request.endswith(".tar")
            if self._left == 0:
                self._left = -1
                self._action()


def _archive(path: Path, images: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in images.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def _jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    terrain(seed, 48).save(file, "JPEG")
    return file.getvalue()


def _record(name: str) -> dict[str, object]:
    turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": f"A river near {name}."}]
    return {"id": name, "source_dataset": "src", "image": name, "conversations": turns}


@pytest.fixture
def run(proof, bucket: str, tmp_path: Path) -> Run:
    """A list whose images are in S3: good ones, a damaged, a missing one and a leak."""
    count = proof.size(620, 6000)
    folder = tmp_path / "images"
    folder.mkdir()
    names = [f"{number:05d}.jpg" for number in range(count)]
    images = {f"src/{name}": _jpeg(number) for number, name in enumerate(names)}
    images[f"src/{names[7]}"] = images[f"src/{names[7]}"][:700]
    evaluation = {f"eval/{number}.jpg": _jpeg(9000 + number) for number in range(8)}
    images[f"src/{names[11]}"] = evaluation["eval/3.jpg"]
    _archive(folder / "a.tar", images | evaluation)
    index_shards(folder)
    uri = S3Uri(bucket, "images")
    publish(folder, uri)
    records = [_record(name) for name in [*names, "missing.jpg"]]
    (tmp_path / "list.json").write_text(json.dumps(records))
    questions = [{"from": "human", "value": "Is there water?"}, {"from": "gpt", "value": "yes"}]
    rows = [{"image": f"{number}.jpg", "image_path": "eval", "conversations": questions} for number in range(8)]
    (tmp_path / "eval.json").write_text(json.dumps(rows))
    arguments = ["validate", str(tmp_path / "list.json"), "--images", str(uri)]
    if FULL:
        arguments += ["--against", str(tmp_path / "eval.json"), "--against-images", str(uri)]
    return Run(arguments, tmp_path / "runs", count)


def test_validation_over_a_failing_network_gives_the_same_bytes(proof, run: Run, s3_server: SeaweedFS) -> None:
    calm = _complete(run, "calm", s3_server.url)
    rejected = [json.loads(line)["reason"] for line in calm["rejected.jsonl"].splitlines()]
    assert sorted(rejected) == ["image_missing", "image_truncated", *(["leak"] if FULL else [])]
    faults = Faults(error=0.2, reset=0.05, truncate=0.02, flip=0.01, stall=0.002, stall_seconds=3)
    with FaultyProxy(s3_server.port, faults) as proxy:
        assert _complete(run, "storm", proxy.url) == calm
    images = len([request for request in proxy.requests if request.endswith(".tar")])
    _survive_an_outage(run, s3_server, calm)
    kills = _survive_kills(run, s3_server, calm, proof.size(1, 20))
    counts = ", ".join(f"{faults.counts[kind]} {kind}" for kind in ("error", "reset", "truncate", "flip", "stall"))
    proof.record("R10", f"validate: {images} reads through {counts}; 1 outage; {kills} kills: the same bytes each time")


def _complete(run: Run, name: str, url: str, cache: str | None = None) -> dict[str, bytes]:
    process = run.start(name, url, cache or name)
    error = process.communicate(timeout=500)[1]
    assert process.returncode == 0, error
    return run.outputs(name)


def _survive_an_outage(run: Run, server: SeaweedFS, calm: dict[str, bytes]) -> None:
    def cut() -> None:
        proxy.outage = True

    with FaultyProxy(server.port, before=Countdown(run.images - 40, cut)) as proxy:
        process = run.start("outage", proxy.url, "before", timeout=0.5)
        error = process.communicate(timeout=500)[1]
        lines = error.splitlines()
        assert process.returncode == 2
        assert lines[-1].startswith("vhm: error: cannot read images/"), error
        assert not [line for line in lines[:-1] if not line.startswith(("validating ", "checking "))], "one line"
        assert "validation.json" not in run.outputs("outage")
        proxy.outage = False
        proxy.requests.clear()
        assert _complete(run, "outage", proxy.url, "after") == calm
        repeated = [request for request in proxy.requests if request.endswith(".tar")]
    assert len(repeated) < run.images - 40, "what was checked before the outage is not read again"


def _survive_kills(run: Run, server: SeaweedFS, calm: dict[str, bytes], kills: int) -> int:
    """Kill runs before random requests, some of them several times, and complete them."""
    rng = random.Random(10)
    done = runs = 0
    while done < kills:
        name = f"killed-{runs}"
        runs += 1
        for _ in range(min(rng.randint(1, 3), kills - done)):
            started: list[subprocess.Popen[str]] = []
            kill = Countdown(rng.randint(1, run.images), lambda started=started: started[0].kill())
            with FaultyProxy(server.port, before=kill) as proxy:
                started.append(run.start(name, proxy.url, f"{name}-{done}"))
                started[0].communicate(timeout=500)
            done += started[0].returncode == -signal.SIGKILL
        assert _complete(run, name, server.url) == calm
    return done
