"""lineage.json: its content, inherited licences, and detection of damage."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import orjson
import pytest

import vhm
from vhm.artifacts.lineage import LINEAGE, Lineage, LineageFile, content_hash, verify, write_lineage
from vhm.errors import CheckpointError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An artifact made from a file whose name implies the licence of Vicuna."""
    (tmp_path / "vicuna").mkdir()
    (tmp_path / "vicuna" / "weights").write_text("base")
    directory = tmp_path / "source"
    directory.mkdir()
    (directory / "weights").write_text("weights")
    inputs = {"base": tmp_path / "vicuna" / "weights"}
    write_lineage(directory, "model/assemble", inputs, names=["lmsys/vicuna-7b-v1.5"])
    return directory


def test_the_file_has_the_documented_format(source: Path) -> None:
    content = json.loads((source / LINEAGE).read_text())
    stored_hash = content.pop("sha256")
    assert stored_hash == hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
    assert content.pop("code")
    files = {"weights": {"size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}}
    assert content == {
        "kind": "model/assemble",
        "vhm": vhm.__version__,
        "recipe": None,
        "inputs": {"base": {"path": "weights", "sha256": hashlib.sha256(b"base").hexdigest()}},
        "files": files,
        "licences": [{"of": "Vicuna", "licence": "llama2", "research_only": True}],
        "base_models": ["lmsys/vicuna-7b-v1.5"],
        "metrics": {},
        "output_sha256": hashlib.sha256(orjson.dumps(files, option=orjson.OPT_SORT_KEYS)).hexdigest(),
    }


def test_licences_and_base_models_are_inherited_and_the_ancestor_is_copied(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "weights").write_text("tuned")
    lineage = write_lineage(out, "model/sft", {"model": source}, metrics={"steps": 3})
    assert lineage.research_only == ["Vicuna"]
    assert lineage.base_models == ["lmsys/vicuna-7b-v1.5"]
    assert lineage.files == {"weights": LineageFile(5, hashlib.sha256(b"tuned").hexdigest())}
    assert lineage.inputs["model"].sha256 == content_hash(source)
    stored = json.loads((out / LINEAGE).read_text())
    assert stored["inputs"]["model"]["lineage"] == json.loads((source / LINEAGE).read_text())
    assert Lineage.from_json(stored) == lineage


def test_only_the_listed_files_are_verified(source: Path, tmp_path: Path) -> None:
    assert verify(source)
    (source / "README.md").write_text("edited later")
    assert verify(source)
    (tmp_path / "other").mkdir()
    assert not verify(tmp_path / "other"), "no lineage"


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "weights is missing"), ("weight", "does not have the size"), ("weighty", "its sha256 is not the one in")],
)
def test_a_changed_file_is_named(source: Path, content: str | None, message: str) -> None:
    if content is None:
        (source / "weights").unlink()
    else:
        (source / "weights").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        verify(source)


@pytest.mark.parametrize("change", [{"kind": "model/sft"}, {"files": None}, {"sha256": "0"}], ids=repr)
def test_a_changed_lineage_is_detected(source: Path, change: dict[str, object]) -> None:
    content = json.loads((source / LINEAGE).read_text())
    (source / LINEAGE).write_text(json.dumps(content | change))
    with pytest.raises(CheckpointError, match=r"lineage\.json is damaged: fetch the directory again"):
        verify(source)


def test_an_input_with_a_damaged_lineage_is_refused(source: Path, tmp_path: Path) -> None:
    (source / LINEAGE).write_text('{"kind": "model/sft"}')
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="is damaged"):
        write_lineage(tmp_path / "out", "model/sft", {"model": source})
