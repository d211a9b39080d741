"""R2 for model directories: killed anywhere, a reader sees the old one or the new one; damage is refused by name."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.reference_checkpoint import write_reference
from vhm.artifacts.lineage import verify
from vhm.errors import CheckpointError
from vhm.io import read_json
from vhm.model.convert import convert

# For each N, a child of this process converts into a copy of the old directory and ends itself by SIGKILL before
# its N-th file-system call; prints what a reader finds then. The first run, whole, counts the calls.
KILLER = """
import json, os, shutil, signal, sys
from pathlib import Path
old, source, out, kills = (Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
import vhm.model.convert as conversion
import vhm.model.weights as weights
from transformers import LlavaForConditionalGeneration, LlavaProcessor
from vhm.artifacts.lineage import verify
seen, at, watching = 0, 10**9, False
def note():
    global seen
    seen += 1
    if seen == at:
        os.kill(os.getpid(), signal.SIGKILL)
WATCHED = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "ctypes.call_function"}
def watch(event, arguments):
    if watching and event in WATCHED and (event[0] == "c" or any(str(out.parent) in str(a) for a in arguments)):
        note()
def counted(self, stored):
    note()
    with stored.file.open("rb") as file:
        os.copy_file_range(file.fileno(), self._file.fileno(), stored.bytes // 2, stored.offset)
    note()
    self._file.seek(-(stored.bytes // 2), 1)
    return copy(self, stored)
copy, weights.ShardWriter._copy = weights.ShardWriter._copy, counted
sys.addaudithook(watch)
def run(place):
    global at, watching, seen
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(old, out)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        at, watching = place, True
        conversion.convert(source, out)
        os.write(writer, str(seen).encode())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    os.close(writer)
    assert os.WIFSIGNALED(status) == (place < 10**9), (place, status)
    calls = os.read(reader, 20)
    os.close(reader)
    assert verify(out)
    found = json.loads((out / "lineage.json").read_text())["files"]["model.safetensors"]["sha256"]
    return found, int(calls or 0)
last, calls = run(10**9)
kills = min(kills, calls)
places = sorted({1 + calls * i // kills for i in range(kills)} | {calls - i for i in range(4)})
print(json.dumps({"calls": calls, "whole": last, "found": [run(place)[0] for place in places]}))
"""


def test_a_reader_sees_the_old_or_the_new_directory(llama_pieces, tmp_path: Path, proof) -> None:
    small = llama_pieces[:400]
    sources = [write_reference(tmp_path / name, small) for name in ("a", "b")]
    path = sources[1] / "pytorch_model-00002-of-00002.bin"
    torch.save({k: v + 1 for k, v in torch.load(path, weights_only=True).items()}, path)
    hashes = []
    for source in sources:
        convert(source, tmp_path / "ready" / source.name)
        listed = read_json(tmp_path / "ready" / source.name / "lineage.json")["files"]
        hashes.append(listed["model.safetensors"]["sha256"])
    out = tmp_path / "work" / "model"
    kills = proof.size(25, 100_000)
    command = [sys.executable, "-c", KILLER, str(tmp_path / "ready" / "a"), str(sources[1]), str(out), str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["whole"] == hashes[1]
    assert set(result["found"]) == set(hashes), "kills before and after the exchange were tried"
    convert(sources[1], out)
    assert [path.name for path in out.parent.iterdir()] == ["model"], "what killed runs left is swept"
    proof.record(
        "R2",
        f"{len(result['found'])} kills at {result['calls']} file-system calls of a conversion: old or new, never a mix",
    )


def test_every_flip_and_cut_is_refused_by_name(reference: Path, tmp_path: Path, proof) -> None:
    convert(reference, tmp_path / "model")
    listed = ["lineage.json", *read_json(tmp_path / "model" / "lineage.json")["files"]]
    draw = random.Random(2)
    cases = proof.size(60, 1000)
    for number in range(cases):
        name = listed[number % len(listed)]
        path = tmp_path / "model" / name
        content = path.read_bytes()
        place = draw.randrange(len(content))
        if number % 3 == 2:
            path.write_bytes(content[:place])
        else:
            changed = bytearray(content)
            changed[place] ^= 1 << draw.randrange(8)
            path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=path.name.replace(".", r"\.")):
            verify(tmp_path / "model")
        path.write_bytes(content)
    assert verify(tmp_path / "model")
    proof.record(
        "R2", f"{cases} flips and cuts in {len(listed)} files of a model directory: {cases} refused, each by name"
    )
