"""The index: a sequence of records over mapped files, of one manifest or several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from tests.support.lists import validate
from vhm.data.index import open_index
from vhm.errors import InputError


def manifest(folder: Path, names: list[str]) -> Path:
    turns = lambda name: [{"from": "human", "value": f"Question {name}?"}, {"from": "gpt", "value": f"Answer {name}."}]  # noqa: E731
    folder.mkdir()
    (folder / "list.json").write_text(json.dumps([{"id": name, "conversations": turns(name)} for name in names]))
    validate(folder / "list.json", folder, folder / "valid")
    return folder / "valid" / "manifest.parquet"


def test_it_is_a_sequence_of_the_accepted_records(tmp_path: Path) -> None:
    index = open_index(manifest(tmp_path / "a", ["x", "y", "z"]))
    assert len(index) == 3
    assert index[1] == json.loads((tmp_path / "a" / "list.json").read_text())[1]
    assert [record["id"] for record in index] == ["x", "y", "z"]
    assert [record["id"] for record in index[1:]] == ["y", "z"]
    assert index[-1]["id"] == "z"
    for place in (3, -4):
        with pytest.raises(IndexError, match=f"record {place} of 3"):
            index[place]


def test_several_manifests_are_one(tmp_path: Path) -> None:
    index = open_index([manifest(tmp_path / "a", ["x", "y"]), manifest(tmp_path / "b", ["z"])])
    assert [record["id"] for record in index] == ["x", "y", "z"]
    assert index.lists.tolist() == [0, 0, 1]


def test_a_file_of_other_rows_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `dvc checkout` of an older manifest: its time says nothing. And nothing is written beside the data."""
    monkeypatch.setenv("VHM_CACHE", str(tmp_path / "cache"))
    place, other = manifest(tmp_path / "a", ["x", "y"]), manifest(tmp_path / "b", ["z"])
    place.write_bytes(other.read_bytes())
    os.utime(place, (0, 0))
    before = place.with_suffix(".arrow").read_bytes()
    assert [record["id"] for record in open_index(place)] == ["z"]
    assert open_index(place).lists.tolist() == [0]
    assert place.with_suffix(".arrow").read_bytes() == before
    place.with_suffix(".arrow").write_bytes(b"torn")
    assert [record["id"] for record in open_index(place)] == ["z"]
    assert len(list((tmp_path / "cache" / "tables").glob("*.arrow"))) == 1


def test_what_nobody_opens_for_a_month_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VHM_CACHE", str(tmp_path / "cache"))
    for name, last in (("a", 0), ("b", None)):
        place = manifest(tmp_path / name, [name])
        place.with_suffix(".arrow").unlink()
        open_index(place)
        [table] = set((tmp_path / "cache" / "tables").glob("*.arrow"))
        if last is not None:
            os.utime(table, (last, last))
    assert [record["id"] for record in open_index(place)] == ["b"]


def test_a_damaged_manifest_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VHM_CACHE", str(tmp_path / "cache"))
    place = manifest(tmp_path / "a", ["x", "y"])
    place.with_suffix(".arrow").unlink()
    table, metadata = parquet.read_table(place), parquet.read_metadata(place).metadata
    with parquet.ParquetWriter(tmp_path / "cut.parquet", table.schema) as writer:
        writer.write_table(table.slice(0, 1))
        writer.add_key_value_metadata({"vhm.rows": metadata[b"vhm.rows"].decode()})
    with pytest.raises(InputError, match="is damaged: its rows are not those"):
        open_index(tmp_path / "cut.parquet")
    assert not list((tmp_path / "cache" / "tables").glob("*.arrow"))


def test_opening_it_takes_no_memory_of_pandas(tmp_path: Path) -> None:
    code = "import sys; from vhm.data.index import open_index; open_index(sys.argv[1]); print('pandas' in sys.modules)"
    place = manifest(tmp_path / "a", ["x", "y"])
    done = subprocess.run([sys.executable, "-c", code, str(place)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_what_is_no_manifest_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make it with `vhm validate`"):
        open_index(tmp_path / "nothing.parquet")
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(InputError, match="no manifest of `vhm validate`"):
        open_index(tmp_path / "text.parquet")
    parquet.write_table(pa.table({"other": [1]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"no manifest of this version of `vhm validate`: run it again"):
        open_index(tmp_path / "other.parquet")
