"""Files and directories are written atomically; a directory that is not a result is never replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from vhm.errors import InputError
from vhm.io import read_json, read_jsonl, sha256_tree, whole_directory, write_json, write_text


def test_whole_directory_appears_when_its_block_ends(tmp_path: Path) -> None:
    with whole_directory(tmp_path / "out", "mark") as folder:
        write_text(folder / "mark", "1")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "mark").read_text() == "1"
    with whole_directory(tmp_path / "out", "mark") as folder:
        write_text(folder / "other", "2")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["other"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failing_block_keeps_the_old_directory(tmp_path: Path) -> None:
    write_text(tmp_path / "out" / "mark", "old")

    def fill() -> None:
        with whole_directory(tmp_path / "out", "mark") as folder:
            write_text(folder / "mark", "new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fill()
    assert (tmp_path / "out" / "mark").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_directory_without_the_marker_is_not_replaced(tmp_path: Path) -> None:
    write_text(tmp_path / "home" / "thesis.tex", "years of work")
    with pytest.raises(InputError, match="is not empty and has no mark"), whole_directory(tmp_path / "home", "mark"):
        pass
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


def test_read_errors_name_the_file_and_the_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a\.json is not JSON"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n[2]\n')
    with pytest.raises(InputError, match=r"a\.jsonl line 3 is not a JSON object"):
        read_jsonl(tmp_path / "a.jsonl")


def test_sha256_tree_covers_names_and_contents(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "x.json", {"b": 1, "a": 2})
    first = sha256_tree(tmp_path / "a")
    (tmp_path / "a" / "x.json").rename(tmp_path / "a" / "y.json")
    assert sha256_tree(tmp_path / "a") != first
    assert sha256_tree(tmp_path / "a", skip=frozenset({"y.json"})) != first
