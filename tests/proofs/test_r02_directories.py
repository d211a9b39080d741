"""R2 for model directories: killed anywhere, a reader sees the old one or the new one; damage is refused by name."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from reference_checkpoint import write_reference

from vhm.errors import CheckpointError
from vhm.io import read_json
from vhm.lineage import verify
from vhm.model.convert import convert

# Runs a conversion and ends itself by SIGKILL before the N-th file-system call below its folder; N too large: it ends.
KILLED = """
import os, signal, sys
from pathlib import Path
source, out, at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
import vhm.model.convert as conversion
import vhm.model.weights as weights
from transformers import LlavaForConditionalGeneration, LlavaProcessor
seen = 0
def note():
    global seen
    seen += 1
    if seen == at:
        os.kill(os.getpid(), signal.SIGKILL)
def watch(event, arguments):
    if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree", "os.truncate", "ctypes.call_function"):
        if any(str(out.parent) in str(a) for a in arguments) or event == "ctypes.call_function":
            note()
put = weights.ShardWriter._put
def counted(self, piece):
    note()
    self._file.write(bytes(piece[: len(piece) // 2]))
    note()
    self._file.seek(-(len(piece) // 2), 1)
    put(self, piece)
weights.ShardWriter._put = counted
sys.addaudithook(watch)
conversion.convert(source, out)
print(seen)
"""


def convert_killed_at(source: Path, out: Path, call: int) -> int:
    """The number of calls of a whole run; 0 when it was killed."""
    command = [sys.executable, "-c", KILLED, str(source), str(out), str(call)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
    if done.returncode == -signal.SIGKILL:
        return 0
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.splitlines()[-1])


def which(out: Path, old: str, new: str) -> str:
    """`old` or `new`: what a reader finds; CheckpointError when it is neither, whole."""
    assert verify(out)
    found = read_json(out / "lineage.json")["files"]["model.safetensors"]["sha256"]
    assert found in (old, new)
    return found


def test_a_reader_sees_the_old_or_the_new_directory(llama_pieces, tmp_path: Path, proof) -> None:
    small = [*llama_pieces[:400]]
    sources = [write_reference(tmp_path / name, small) for name in ("a", "b")]
    path = sources[1] / "pytorch_model-00002-of-00002.bin"
    import torch

    torch.save({k: v + 1 for k, v in torch.load(path, weights_only=True).items()}, path)
    hashes = []
    for source in sources:
        convert(source, tmp_path / "ready" / source.name)
        hashes.append(
            read_json(tmp_path / "ready" / source.name / "lineage.json")["files"]["model.safetensors"]["sha256"]
        )
    out = tmp_path / "work" / "model"
    shutil.copytree(tmp_path / "ready" / "a", out)
    calls = convert_killed_at(sources[1], out, 10**9)
    assert which(out, *hashes) == hashes[1]
    number = proof.size(8, calls)
    places = sorted({1 + calls * i // number for i in range(number)} | {calls - i for i in range(4)})
    seen = set()
    for place in places:
        shutil.rmtree(out)
        shutil.copytree(tmp_path / "ready" / "a", out)
        assert convert_killed_at(sources[1], out, place) == 0
        seen.add(which(out, *hashes))
    assert seen == set(hashes), "kills before and after the exchange were tried"
    convert(sources[1], out)
    assert [path.name for path in out.parent.iterdir()] == ["model"], "what killed runs left is swept"
    proof.record("R2", f"{len(places)} kills of {calls} file-system calls of a conversion: old or new, never a mix")


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
