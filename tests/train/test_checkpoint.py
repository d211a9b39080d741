"""Checkpoints are loaded only when they are complete and belong to the run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from vhm.errors import CheckpointError
from vhm.io import sha256_file, write_json
from vhm.train.checkpoint import FileEntry, Manifest, ResumeKey, newest

KEY = ResumeKey("recipe", "model", "data", world_size=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The checkpoint of step 4 with one file."""
    folder = tmp_path / "step-00000004"
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "x.pt").write_bytes(b"12345")
    files = {"state/x.pt": FileEntry.of(folder / "state" / "x.pt")}
    write_json(folder / "manifest.json", Manifest(KEY, 4, files).to_json())
    return folder


def test_the_manifest_lists_step_key_and_files(folder: Path) -> None:
    assert json.loads((folder / "manifest.json").read_text()) == {
        "step": 4,
        "recipe_hash": "recipe",
        "model_hash": "model",
        "data_hash": "data",
        "world_size": 2,
        "files": {"state/x.pt": {"size": 5, "sha256": sha256_file(folder / "state" / "x.pt")}},
    }
    assert newest(folder.parent, KEY) == (folder, 4)


def test_a_damaged_checkpoint_is_named_and_not_loaded(folder: Path) -> None:
    (folder / "state" / "x.pt").write_bytes(b"12346")
    with pytest.raises(CheckpointError, match=r"x.pt is damaged"):
        newest(folder.parent, KEY)
    (folder / "state" / "x.pt").unlink()
    with pytest.raises(CheckpointError, match=r"x.pt is missing"):
        newest(folder.parent, KEY)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"manifest.json is not the manifest of a checkpoint"):
        newest(folder.parent, KEY)
    shutil.rmtree(folder)
    assert newest(folder.parent, KEY) is None


def test_a_checkpoint_of_another_run_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"another world size \(2, now 4\)"):
        newest(folder.parent, replace(KEY, world_size=4))
    with pytest.raises(CheckpointError, match=r"another data hash \(data, now other\)"):
        newest(folder.parent, replace(KEY, data_hash="other"))


def test_the_location_in_s3_depends_on_the_key_alone() -> None:
    """A fixed value: another would hide the checkpoints that are already stored."""
    assert KEY.digest == "1fc0867e64ce"
    assert replace(KEY, world_size=4).digest != KEY.digest
