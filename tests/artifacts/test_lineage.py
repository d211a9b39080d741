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
from vhm.recipe import Recipe, load_recipe, parse_recipe


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


def trained_on(folder: Path, sources: list[str], recipe: Recipe | None = None, **inputs: Path) -> dict[str, str]:
    """The licence of each source that a model trained on these sources derives from."""
    folder.mkdir()
    lineage = write_lineage(folder, "model/sft", inputs, recipe, sources=sources)
    return {licence.of: licence.licence for licence in lineage.licences}


def test_the_licence_of_a_source_applies_to_models_trained_on_it_alone(tmp_path: Path) -> None:
    """A recipe copied from the sample's says nothing of the sample about a model of other data, and the reverse."""
    copied = load_recipe("tiny", ["data.sources.mine={licence: cc-by-4.0}"])
    assert trained_on(tmp_path / "a", ["mine"], copied) == {"mine": "cc-by-4.0"}
    assert trained_on(tmp_path / "b", ["solaris"], copied) == {"solaris": "cc-by-sa-4.0"}
    assert trained_on(tmp_path / "c", ["mine", "solaris"], Recipe()) == {"mine": "not stated", "solaris": "not stated"}
    assert trained_on(tmp_path / "d", ["mine"], load_recipe("tiny")) == {"mine": "not stated"}


def test_records_without_a_source_have_the_licences_of_the_recipe(tmp_path: Path) -> None:
    stated = parse_recipe({"licences": [{"of": "our imagery", "licence": "cc-by-4.0"}]})
    assert trained_on(tmp_path / "a", [""], stated) == {"our imagery": "cc-by-4.0"}
    assert trained_on(tmp_path / "b", [""], Recipe()) == {"training data": "not stated"}


def test_a_licence_stated_later_replaces_one_that_was_not_stated(tmp_path: Path) -> None:
    assert trained_on(tmp_path / "a", ["mine"]) == {"mine": "not stated"}
    stated = parse_recipe({"data": {"sources": {"mine": {"licence": "mit"}}}})
    assert trained_on(tmp_path / "b", ["mine"], stated, model=tmp_path / "a") == {"mine": "mit"}
    other = parse_recipe({"data": {"sources": {"mine": {"licence": "other"}}}})
    assert trained_on(tmp_path / "c", ["mine"], other, model=tmp_path / "b") == {"mine": "mit"}


def test_a_source_whose_name_has_a_slash_is_no_base_model(tmp_path: Path) -> None:
    lineage = write_lineage(tmp_path, "model/sft", {}, sources=["images/s2"])
    assert lineage.base_models == []
