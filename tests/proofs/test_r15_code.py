"""R15: files that try to run code do not succeed, whichever reader of the package opens them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from tests.support.reference_checkpoint import write_reference

# Reads the given cases and prints what ran: commands, sockets, and modules from inside the given folder.
READER = """
import json, os, sys
canary, folder = sys.argv[1], sys.argv[2]
from pathlib import Path
import torch, transformers
from transformers import LlavaForConditionalGeneration, LlavaProcessor
from vhm.errors import VhmError
from vhm.model import load_model
from vhm.model.convert import convert
from vhm.model.assemble import assemble_base
from vhm.model.projector import read_projector
from vhm.model.warm_start import warm_start
ran = []
def audit(event, arguments):
    if event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pty.spawn"):
        if arguments[0] != "git":  # the package reads its own version for the lineage
            ran.append(event)
    if event == "import" and folder in str(arguments[1]):
        ran.append("import " + str(arguments[1]))
    if event == "exec" and folder in str(getattr(arguments[0], "co_filename", "")):
        ran.append("exec")
sys.addaudithook(audit)
results = {}
for case in json.loads(sys.stdin.read()):
    path, out = Path(case["path"]), Path(case["out"])
    ran.clear()
    try:
        {
            "load": lambda: load_model(path),
            "convert": lambda: convert(path, out),
            "back": lambda: convert(path, out, to="reference"),
            "projector": lambda: read_projector(path),
            "assemble": lambda: assemble_base(path, path, out, [1]),
            "warm": lambda: warm_start(path, out),
        }[case["reader"]]()
        end = "read"
    except VhmError as error:
        end = "refused" if chr(10) not in str(error) else "refused in several lines"
    except Exception as error:
        end = f"{type(error).__name__}: {error}"
    if Path(canary).exists():
        ran.append("canary")
        Path(canary).unlink()
    results[case["name"]] = [end, list(ran)]
print(json.dumps(results))
"""


class _Call:
    """Pickles into a call of `function(*arguments)`."""

    def __init__(self, function, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def payloads(canary: str) -> dict[str, object]:
    touch = f"open({canary!r}, 'w')"
    import builtins
    import runpy
    import shutil as other

    return {
        "os.system": _Call(os.system, f"touch {canary}"),
        "eval": _Call(builtins.eval, touch),
        "exec": _Call(builtins.exec, touch),
        "open": _Call(builtins.open, canary, "w"),
        "popen": _Call(subprocess.Popen, ["touch", canary]),
        "check_output": _Call(subprocess.check_output, ["touch", canary]),
        "mkdir": _Call(os.mkdir, canary),
        "copyfile": _Call(other.copyfile, "/etc/hostname", canary),
        "runpy": _Call(runpy.run_path, canary),
        "getattr": _Call(builtins.getattr, _Call(builtins.__import__, "os"), "system"),
        "torch.load": _Call(torch.load, canary),
        "path.touch": _Call(Path.touch, Path(canary)),
    }


def test_no_code_in_a_file_runs(llama_pieces, tmp_path: Path, proof) -> None:
    canary = str(tmp_path / "canary")
    small = llama_pieces[:400]
    source = write_reference(tmp_path / "reference", small)
    from vhm.model.convert import convert

    convert(source, tmp_path / "hf")
    (tmp_path / "hf" / "lineage.json").unlink()
    cases = [*pickle_cases(tmp_path, source, canary), *repository_cases(tmp_path, canary)]
    done = subprocess.run(
        [sys.executable, "-c", READER, canary, str(tmp_path)],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout.splitlines()[-1])
    assert len(results) == len(cases) >= 60
    assert {name: ran for name, (_, ran) in results.items() if ran} == {}
    assert {name: end for name, (end, _) in results.items() if end not in ("read", "refused")} == {}
    pickles = [name for name in results if name.startswith("pickle")]
    assert all(results[name][0] == "refused" for name in pickles)
    refused = sum(end == "refused" for end, _ in results.values())
    proof.record("R15", f"{len(cases)} pickles, configurations and repositories with code: 0 ran, {refused} refused")


def pickle_cases(tmp_path: Path, source: Path, canary: str) -> list[dict[str, str]]:
    """Return every payload as a projector, as a shard of a checkpoint, and inside a dictionary of tensors."""
    cases = []
    for name, payload in payloads(canary).items():
        kinds = {
            "zip": lambda path, p=payload: torch.save(p, path),
            "raw": lambda path, p=payload: path.write_bytes(pickle.dumps(p)),
            "tar": lambda path, p=payload: torch.save({"x": p}, path, _use_new_zipfile_serialization=False),
            "inside": lambda path, p=payload: torch.save({"model.mm_projector.0.weight": torch.ones(2), "x": p}, path),
        }
        for kind, write in kinds.items():
            folder = tmp_path / f"pickle-{name}-{kind}"
            if kind in ("zip", "inside"):
                shutil.copytree(source, folder)
                write(folder / "pytorch_model-00002-of-00002.bin")
                cases.append({"name": f"pickle {name} {kind} shard", "path": str(folder), "reader": "convert"})
            else:
                folder.mkdir()
                write(folder / "mm_projector.bin")
                cases.append(
                    {"name": f"pickle {name} {kind}", "path": str(folder / "mm_projector.bin"), "reader": "projector"}
                )
    return [case | {"out": str(tmp_path / "out")} for case in cases]


def repository_cases(tmp_path: Path, canary: str) -> list[dict[str, str]]:
    """Return model directories that request their own code, in every way that transformers has supported."""
    code = f"open({canary!r}, 'w')\nclass Evil:\n    pass\n"
    maps = {"AutoConfig": "evil.Evil", "AutoModelForImageTextToText": "evil.Evil", "AutoModel": "evil.Evil",
            "AutoTokenizer": ["evil.Evil", "evil.Evil"], "AutoProcessor": "evil.Evil",
            "AutoImageProcessor": "evil.Evil"}  # fmt: skip
    changes = {
        "config": {"config.json": {"auto_map": maps, "trust_remote_code": True}},
        "config-type": {"config.json": {"auto_map": maps, "model_type": "evil"}},
        "tokenizer": {"tokenizer_config.json": {"auto_map": maps, "tokenizer_class": "Evil"}},
        "processor": {"processor_config.json": {"auto_map": maps, "processor_class": "Evil"}},
        "generation": {"generation_config.json": {"auto_map": maps, "custom_generate": "evil.py"}},
        "text-config": {"config.json": {"text_config": {"model_type": "evil", "auto_map": maps}}},
    }
    template = (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}"
        "{% for c in cycler.__init__.__globals__.os.popen('touch CANARY') %}{% endfor %}"
    )
    cases = []
    for name, files in changes.items():
        for reader in ("load", "back", "warm", "assemble"):
            folder = tmp_path / f"repository-{name}-{reader}"
            shutil.copytree(tmp_path / "hf", folder)
            (folder / "evil.py").write_text(code)
            (folder / "modeling_evil.py").write_text(code)
            (folder / "custom_generate").mkdir()
            (folder / "custom_generate" / "generate.py").write_text(code)
            (folder / "chat_template.jinja").write_text(template.replace("CANARY", canary))
            for file, values in files.items():
                path = folder / file
                path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))
            cases.append(
                {"name": f"{name} by {reader}", "path": str(folder), "reader": reader, "out": str(tmp_path / "out")}
            )
    return cases


def test_a_hostile_chat_template_runs_in_a_sandbox(base, tmp_path: Path) -> None:
    import jinja2
    import pytest

    _, processor = base
    for expression in ("''.__class__.__mro__", "cycler.__init__.__globals__", "self._TemplateReference__context"):
        with pytest.raises(jinja2.exceptions.SecurityError):
            processor.apply_chat_template(
                [{"role": "user", "content": "x"}], chat_template="{{ " + expression + "[0] }}"
            )


def test_the_package_never_loads_code() -> None:
    """A lint: nothing unpickles, evaluates YAML tags, or runs the code of a repository."""
    import re

    root = Path(__file__).parents[2]
    unsafe = re.compile(
        r"pickle\.loads?\(|joblib|yaml\.(unsafe_)?load\(|allow_pickle=True|trust_remote_code=True|weights_only=False"
        r"|torch\.load\((?![^()]*weights_only=True)|hub\.load\("
    )
    matches = [
        f"{path.relative_to(root)}: {match.group()}"
        for folder in ("vhm", "components", "pipelines", "benchmarks")
        for path in (root / folder).rglob("*.py")
        for match in unsafe.finditer(path.read_text())
    ]
    assert matches == []
