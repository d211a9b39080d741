"""Suggestions for missing images: from a folder, from shards, and from a published directory."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from tests.support.lists import validate
from tests.support.s3 import SeaweedFS
from tests.support.terrain import terrain
from vhm.data.images.missing import FolderNames, NameIndex, suggest
from vhm.data.images.stores import ImageStore, open_store
from vhm.data.shards.pack import pack
from vhm.errors import ImageError
from vhm.storage.s3 import S3Uri
from vhm.storage.versions import publish

NFC = unicodedata.normalize("NFC", "Zürich.jpg")
NFD = unicodedata.normalize("NFD", "Zürich.jpg")
FILES = ("src/a.jpg", "src/B.JPG", f"src/{NFD}", "top.png", "images/deep/c.tif", "twice/twice/d.jpg")
CASES = [
    ("src/A.jpg", "src/a.jpg", "another case"),
    ("SRC/b.jpg", "src/B.JPG", "another case"),
    (f"src/{NFC}", f"src/{NFD}", "another Unicode form"),
    ("src/a.png", "src/a.jpg", "another extension"),
    ("src/b.jpeg", "src/B.JPG", "another extension"),
    ("src/src/a.jpg", "src/a.jpg", "one folder too many"),
    ("data/src/a.jpg", "src/a.jpg", "one folder too many"),
    ("src/top.png", "top.png", "one folder too many"),
    ("deep/c.tif", "images/deep/c.tif", "one folder too few"),
    ("images/deep/x/c.tiff", "images/deep/c.tif", "one folder too many"),
    ("twice/d.jpg", "twice/twice/d.jpg", "one folder too few"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of FILES as images of a dataset, in the folder `files`, and packed in the folder `shards`."""
    root = tmp_path_factory.mktemp("missing")
    records = []
    for number, name in enumerate(FILES):
        path = root / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        terrain(number, 64).save(path, "TIFF" if path.suffix == ".tif" else None)
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": f"View {number}."}]
        records.append({"image": name, "conversations": turns})
    (root / "list.json").write_text(json.dumps(records))
    validate(root / "list.json", root / "files", root / "valid")
    pack(root / "valid", root / "files", root / "shards", 50_000)
    return root


def detail(store: ImageStore, name: str) -> str:
    with pytest.raises(ImageError) as error:
        store.read(name)
    assert error.value.reason == "image_missing"
    return error.value.detail


@pytest.mark.parametrize(("name", "existing", "difference"), CASES)
def test_a_folder_and_shards_suggest_the_file_that_may_be_meant(
    folder: Path, name: str, existing: str, difference: str
) -> None:
    for store in ("files", "shards"):
        assert detail(open_store(folder / store), name).endswith(f"; did you mean {existing!r} ({difference})?")


@pytest.mark.parametrize("name", ["src/none.jpg", "none/a.gif", "src", "x" * 3000, "a/" * 40 + "a.jpg"])
def test_without_a_similar_file_there_is_no_suggestion(folder: Path, name: str) -> None:
    assert "did you mean" not in detail(open_store(folder / "shards"), name)
    assert suggest(name, FolderNames(folder / "files")) == ""


@pytest.mark.parametrize("published", ["files", "shards"])
def test_a_published_directory_suggests_names_of_its_manifest(
    published: str, folder: Path, bucket: str, s3_server: SeaweedFS
) -> None:
    publish(folder / published, S3Uri(bucket, "data"))
    store = open_store(f"s3://{bucket}/data")
    for name, existing, difference in CASES:
        assert detail(store, name).endswith(f"; did you mean {existing!r} ({difference})?")


def test_a_changed_folder_is_listed_again(tmp_path: Path) -> None:
    names = FolderNames(tmp_path)
    assert suggest("A.jpg", names) == ""
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert suggest("A.jpg", names) == "; did you mean 'a.jpg' (another case)?"


def test_a_file_outside_of_the_store_is_not_suggested(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a.jpg").write_bytes(b"x")
    (tmp_path / "store" / "link").symlink_to(tmp_path / "secret")
    assert suggest("link/A.jpg", FolderNames(tmp_path / "store")) == ""


def test_the_first_of_several_similar_names_is_suggested(tmp_path: Path) -> None:
    """So the suggestion depends neither on the order of a folder nor on the process."""
    for name in ("a.png", "a.JPG", "A.jpg"):
        (tmp_path / name).write_bytes(b"x")
    for files in (FolderNames(tmp_path), NameIndex(["A.jpg", "a.JPG", "a.png"])):
        assert suggest("a.Jpg", files) == "; did you mean 'A.jpg' (another case)?"
        assert suggest("a.tif", files) == "; did you mean 'A.jpg' (another extension)?"


def test_validation_reports_the_suggestion(folder: Path, tmp_path: Path) -> None:
    records = json.loads((folder / "list.json").read_text())
    records[0]["image"] = "src/A.JPG"
    (tmp_path / "list.json").write_text(json.dumps(records))
    validate(tmp_path / "list.json", folder / "files", tmp_path / "out")
    [row] = map(json.loads, (tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    assert row["reason"] == "image_missing"
    assert row["detail"].endswith("src/A.JPG does not exist; did you mean 'src/a.jpg' (another case)?")
