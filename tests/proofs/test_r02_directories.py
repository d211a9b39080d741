"""R2 for model directories: after a kill a reader sees the old or the new one; damage is refused by name."""

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

# For each N, a child of this process converts into a copy of the old directory and kills itself with SIGKILL before
# its N-th file-system call; the program prints the hash that a reader sees afterwards. The first run is not killed:
# it counts the calls.
KILLER = """
import json, os, shutil, signal, sys
from pathlib import Path
old, source, out, kills = (Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
import vhm.model.convert as conversion
import vhm.model.weights as weights
from transformers import LlavaForConditionalGeneration, LlavaProcessor
from vhm.artifacts.lineage import verify
calls_so_far, kill_at, counting = 0, 10**9, False
def count_call():
    global calls_so_far
    calls_so_far += 1
    if calls_so_far == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
COUNTED = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "ctypes.call_function"}
def audit(event, arguments):
    if counting and event in COUNTED and (event[0] == "c" or any(str(out.parent) in str(a) for a in arguments)):
        count_call()
def copy_in_halves(stored, file):
    count_call()
    with stored.file.open("rb") as opened:
        os.copy_file_range(opened.fileno(), file.fileno(), stored.bytes // 2, stored.offset)
    count_call()
    file.seek(-(stored.bytes // 2), 1)
    return copy(stored, file)
copy, weights._copy = weights._copy, copy_in_halves
sys.addaudithook(audit)
def run(number):
    global kill_at, counting
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(old, out)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        kill_at, counting = number, True
        conversion.convert(source, out)
        os.write(writer, str(calls_so_far).encode())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    os.close(writer)
    assert os.WIFSIGNALED(status) == (number < 10**9), (number, status)
    calls = os.read(reader, 20)
    os.close(reader)
    assert verify(out)
    digest = json.loads((out / "lineage.json").read_text())["files"]["model.safetensors"]["sha256"]
    return digest, int(calls or 0)
last, calls = run(10**9)
kills = min(kills, calls)
numbers = sorted({1 + calls * i // kills for i in range(kills)} | {calls - i for i in range(4)})
print(json.dumps({"calls": calls, "last": last, "digests": [run(number)[0] for number in numbers]}))
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
    assert result["last"] == hashes[1]
    assert set(result["digests"]) == set(hashes), "some kills come before the exchange and some after it"
    convert(sources[1], out)
    assert [path.name for path in out.parent.iterdir()] == ["model"], "temporary directories of killed runs are removed"
    kills = len(result["digests"])
    proof.record("R2", f"{kills} kills at {result['calls']} file-system calls of a conversion: old or new, never a mix")


def test_every_bit_flip_and_truncation_is_refused_by_name(reference: Path, tmp_path: Path, proof) -> None:
    convert(reference, tmp_path / "model")
    listed = ["lineage.json", *read_json(tmp_path / "model" / "lineage.json")["files"]]
    rng = random.Random(2)
    cases = proof.size(60, 1000)
    for number in range(cases):
        name = listed[number % len(listed)]
        path = tmp_path / "model" / name
        content = path.read_bytes()
        offset = rng.randrange(len(content))
        if number % 3 == 2:
            path.write_bytes(content[:offset])
        else:
            changed = bytearray(content)
            changed[offset] ^= 1 << rng.randrange(8)
            path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=path.name.replace(".", r"\.")):
            verify(tmp_path / "model")
        path.write_bytes(content)
    assert verify(tmp_path / "model")
    proof.record(
        "R2", f"{cases} bit flips and truncations in {len(listed)} files of a model directory: all refused by name"
    )
