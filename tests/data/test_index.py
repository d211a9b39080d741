"""The index: a sequence of records over the memory-mapped files of one or several manifests."""

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


def test_the_index_is_a_sequence_of_the_accepted_records(tmp_path: Path) -> None:
    index = open_index(manifest(tmp_path / "a", ["x", "y", "z"]))
    assert len(index) == 3
    assert index[1] == json.loads((tmp_path / "a" / "list.json").read_text())[1]
    assert [record["id"] for record in index] == ["x", "y", "z"]
    assert [record["id"] for record in index[1:]] == ["y", "z"]
    assert index[-1]["id"] == "z"
    for position in (3, -4):
        with pytest.raises(IndexError, match=f"record {position} of 3"):
            index[position]


def test_several_manifests_form_one_index(tmp_path: Path) -> None:
    index = open_index([manifest(tmp_path / "a", ["x", "y"]), manifest(tmp_path / "b", ["z"])])
    assert [record["id"] for record in index] == ["x", "y", "z"]
    assert index.lists.tolist() == [0, 0, 1]


def test_an_arrow_file_of_other_rows_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `dvc checkout` of an older manifest: times do not matter. Nothing is written next to the data."""
    monkeypatch.setenv("VHM_CACHE", str(tmp_path / "cache"))
    path, other = manifest(tmp_path / "a", ["x", "y"]), manifest(tmp_path / "b", ["z"])
    path.write_bytes(other.read_bytes())
    os.utime(path, (0, 0))
    before = path.with_suffix(".arrow").read_bytes()
    assert [record["id"] for record in open_index(path)] == ["z"]
    assert open_index(path).lists.tolist() == [0]
    assert path.with_suffix(".arrow").read_bytes() == before
    path.with_suffix(".arrow").write_bytes(b"torn")
    assert [record["id"] for record in open_index(path)] == ["z"]
    assert len(list((tmp_path / "cache" / "tables").glob("*.arrow"))) == 1


def test_cached_tables_unused_for_a_month_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VHM_CACHE", str(tmp_path / "cache"))
    for name, last in (("a", 0), ("b", None)):
        path = manifest(tmp_path / name, [name])
        path.with_suffix(".arrow").unlink()
        open_index(path)
        [table] = set((tmp_path / "cache" / "tables").glob("*.arrow"))
        if last is not None:
            os.utime(table, (last, last))
    assert [record["id"] for record in open_index(path)] == ["b"]


def test_a_damaged_manifest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VHM_CACHE", str(tmp_path / "cache"))
    path = manifest(tmp_path / "a", ["x", "y"])
    path.with_suffix(".arrow").unlink()
    table, metadata = parquet.read_table(path), parquet.read_metadata(path).metadata
    with parquet.ParquetWriter(tmp_path / "cut.parquet", table.schema) as writer:
        writer.write_table(table.slice(0, 1))
        writer.add_key_value_metadata({"vhm.rows": metadata[b"vhm.rows"].decode()})
    with pytest.raises(InputError, match="is damaged: its rows do not have the hash"):
        open_index(tmp_path / "cut.parquet")
    assert not list((tmp_path / "cache" / "tables").glob("*.arrow"))


def test_opening_an_index_does_not_import_pandas(tmp_path: Path) -> None:
    code = "import sys; from vhm.data.index import open_index; open_index(sys.argv[1]); print('pandas' in sys.modules)"
    path = manifest(tmp_path / "a", ["x", "y"])
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make it with `vhm validate`"):
        open_index(tmp_path / "nothing.parquet")
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(InputError, match="not a manifest of `vhm validate`"):
        open_index(tmp_path / "text.parquet")
    parquet.write_table(pa.table({"other": [1]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"not a manifest of this version of `vhm validate`: run it again"):
        open_index(tmp_path / "other.parquet")
