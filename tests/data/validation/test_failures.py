"""What a validation does when the storage fails: it stops, says why, and blames no record for it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.lists import validate
from tests.support.terrain import terrain
from vhm.data.images.stores import FolderStore
from vhm.data.shards.pack import pack
from vhm.data.validation import record_checks
from vhm.data.validation.validate import require_passed
from vhm.errors import CheckFailed, ImageError, StorageError


def record(number: int, **changes: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": f"A river, view {number}."}]
    return {"id": f"r{number}", "source_dataset": "src", "image": f"{number}.jpg", "conversations": turns} | changes


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Eight images in a folder, and tmp_path/list.json with a record for each."""
    folder = tmp_path / "images"
    (folder / "src").mkdir(parents=True)
    for number in range(8):
        terrain(number, 64).save(folder / "src" / f"{number}.jpg")
    (tmp_path / "list.json").write_text(json.dumps([record(number) for number in range(8)]))
    return folder


@pytest.fixture
def shards(images: Path, tmp_path: Path) -> Path:
    """The same images in several shards."""
    validate(tmp_path / "list.json", images, tmp_path / "valid")
    pack(tmp_path / "valid", images, tmp_path / "shards", 5_000)
    return tmp_path / "shards"


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE])
@pytest.mark.parametrize("method", ["stat", "read_bytes"])
def test_only_an_absent_file_is_a_missing_image(
    method: str, code: int, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails says nothing about the image on it, neither when it is read nor when it is looked up."""
    original = getattr(Path, method)

    def failing(self: Path, *args: Any, **options: Any) -> Any:
        if self.name == "3.jpg":
            raise OSError(code, os.strerror(code), str(self))
        return original(self, *args, **options)

    monkeypatch.setattr(Path, method, failing)
    with pytest.raises(StorageError, match=rf"3\.jpg cannot be read \({os.strerror(code)}\)"):
        FolderStore(images).read("src/3.jpg")
    with pytest.raises(StorageError, match=r"3\.jpg cannot be read"):
        validate(tmp_path / "list.json", images, tmp_path / "out", max_rejected=1)
    assert not (tmp_path / "out" / "validation.json").exists()
    assert not list((tmp_path / "out" / "chunks" / "images").iterdir())
    monkeypatch.undo()
    assert validate(tmp_path / "list.json", images, tmp_path / "out").accepted == 8
    with pytest.raises(ImageError, match="image_missing"):
        FolderStore(images).read("src/9.jpg")
    with pytest.raises(ImageError, match="image_missing"):
        FolderStore(images).read("src/3.jpg/below")


def test_a_missing_shard_stops_the_run_and_names_the_shard(shards: Path, tmp_path: Path) -> None:
    lost = max(shards.glob("*.tar"), key=lambda path: path.stat().st_size)
    lost.rename(tmp_path / "lost")
    with pytest.raises(StorageError, match=f"shard .*{lost.name} does not exist"):
        validate(tmp_path / "list.json", shards, tmp_path / "out", max_rejected=1)
    (tmp_path / "lost").rename(lost)
    assert validate(tmp_path / "list.json", shards, tmp_path / "out").accepted == 8


def test_an_image_that_differs_from_the_table_fails_the_run_whatever_is_allowed(shards: Path, tmp_path: Path) -> None:
    content = (tmp_path / "images" / "src" / "5.jpg").read_bytes()
    shard = next(path for path in shards.glob("*.tar") if content in path.read_bytes())
    shard.write_bytes(shard.read_bytes().replace(content, content[:-9] + bytes(9)))
    result = validate(tmp_path / "list.json", shards, tmp_path / "out", max_rejected=1)
    assert (result.accepted, result.reasons) == (7, {"image_changed": 1})
    with pytest.raises(CheckFailed, match="1 records have images whose bytes are not those in the table"):
        require_passed(result, tmp_path / "out")


def test_an_unforeseen_error_in_one_record_is_its_reason_with_the_exception(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = record_checks.is_refusal

    def failing(text: str) -> bool:
        if text.endswith("view 2."):
            raise IndexError("no such turn")
        return original(text)

    monkeypatch.setattr(record_checks, "is_refusal", failing)
    result = validate(tmp_path / "list.json", images, tmp_path / "out", max_rejected=1)
    assert (result.accepted, result.reasons) == (7, {"unreadable": 1})
    [row] = map(json.loads, (tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    assert (row["index"], row["detail"]) == (2, "the check ended with IndexError: no such turn")


def test_the_content_of_a_shard_is_what_the_table_says(shards: Path) -> None:
    """The images are the packed ones, so the tests above damage what they mean to damage."""
    index = json.loads((shards / "index.json").read_text())
    assert len(index["shards"]) > 1
    for entry in index["shards"]:
        assert hashlib.sha256((shards / entry["name"]).read_bytes()).hexdigest() == entry["sha256"]
