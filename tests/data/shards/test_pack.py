"""Shards: reproducible, read like folders, unpacked without loss; one changed record changes one shard."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.lists import validate
from vhm.data.images.stores import open_store
from vhm.data.index import open_index
from vhm.data.shards.pack import pack, parse_size, unpack
from vhm.data.shards.table import index_shards
from vhm.errors import ImageError, InputError


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """40 images, two with the same stem, one with two records, and a record without an image."""
    folder = tmp_path / "data"
    (folder / "images" / "src").mkdir(parents=True)
    names = [f"{n:02d}.jpg" for n in range(39)] + ["00.png"]
    records = []
    for number, name in enumerate(names):
        noise = np.random.default_rng(number).integers(0, 255, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "images" / "src" / name)
        records.append(record(f"r{number}", name, f"Noise number {number}."))
    records.append(record("again", "05.jpg", "Another answer."))
    records.append(record("text", None, "Words alone."))
    (folder / "list.json").write_text(json.dumps(records))
    validate(folder / "list.json", folder / "images", folder / "valid")
    return folder


def record(name: str, image: str | None, answer: str) -> dict[str, object]:
    question = {"from": "human", "value": "<image>\nWhat is it?" if image else "What is it?"}
    about = {"source_dataset": "src", "image": image} if image else {}
    return {"id": name, **about, "conversations": [question, {"from": "gpt", "value": answer}]}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".arrow"}


def test_packed_shards_are_an_image_store(dataset: Path, tmp_path: Path) -> None:
    packed = pack(dataset / "valid" / "manifest.parquet", dataset / "images", tmp_path / "packed", parse_size("50KB"))
    assert (packed.images, packed.records, packed.shards) == (40, 42, 4)
    again = validate(dataset / "list.json", tmp_path / "packed", tmp_path / "again")
    assert again.manifest_sha256 == json.loads((dataset / "valid/validation.json").read_text())["manifest_sha256"]
    assert len(open_index(tmp_path / "packed")) == 42, "the folder contains the manifest, too"
    assert not (tmp_path / "packed" / "manifest.arrow").exists(), "DVC tracks the folder, so opening it adds no file"
    pack(dataset / "valid", dataset / "images", tmp_path / "twice", parse_size("50KB"))
    assert files(tmp_path / "packed") == files(tmp_path / "twice")


def test_shards_are_plain_tar_files(dataset: Path, tmp_path: Path) -> None:
    pack(dataset / "valid", dataset / "images", tmp_path / "packed", parse_size("50KB"))
    contents: dict[str, bytes] = {}
    for path in (tmp_path / "packed").glob("*.tar"):
        with tarfile.open(path) as tar:
            names = tar.getnames()
            contents |= {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]
        assert len(names) == len(set(names))
    assert contents["src/07.jpg"] == (dataset / "images/src/07.jpg").read_bytes()
    assert json.loads(contents["src/07.json"])["id"] == "r7"
    assert [r["id"] for r in json.loads(contents["src/05.json"])] == ["r5", "again"]
    assert json.loads(contents["src/00.png.json"])["id"] == "r39", "images with the same stem have separate records"
    assert sum(name.startswith("text/") for name in contents) == 1


def test_changing_one_record_changes_one_shard(dataset: Path, tmp_path: Path) -> None:
    pack(dataset / "valid", dataset / "images", tmp_path / "before", parse_size("50KB"))
    records = json.loads((dataset / "list.json").read_text())
    records[11]["conversations"][1]["value"] = "Something else, and a good deal longer than it was before."
    (dataset / "list.json").write_text(json.dumps(records))
    validate(dataset / "list.json", dataset / "images", dataset / "valid")
    pack(dataset / "valid", dataset / "images", tmp_path / "after", parse_size("50KB"))
    old, new = files(tmp_path / "before"), files(tmp_path / "after")
    changed = {name for name in old if old[name] != new[name]}
    assert len([name for name in changed if name.endswith(".tar")]) == 1
    assert changed - {"index.json", "manifest.parquet"} == {n for n in changed if n.endswith(".tar")}


def test_unpacking_restores_images_and_records(dataset: Path, tmp_path: Path) -> None:
    pack(dataset / "valid", dataset / "images", tmp_path / "packed", parse_size("50KB"))
    assert unpack(tmp_path / "packed", tmp_path / "out") == 40
    for path in (dataset / "images").rglob("*.*"):
        restored = tmp_path / "out" / "images" / path.relative_to(dataset / "images")
        assert restored.read_bytes() == path.read_bytes()
    result = validate(tmp_path / "out" / "list.json", tmp_path / "out" / "images", tmp_path / "again")
    assert (result.accepted, result.rejected) == (42, 0)
    ids = sorted(record["id"] for record in json.loads((tmp_path / "out" / "list.json").read_text()))
    assert ids == sorted(record["id"] for record in open_index(dataset / "valid"))


def test_indexed_tar_files_are_an_image_store(dataset: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "their.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(dataset / "images" / "src", "src")
    assert index_shards(tmp_path) == 40
    store = open_store(tmp_path)
    assert store.read("src/07.jpg") == (dataset / "images/src/07.jpg").read_bytes()
    assert store.size("src/07.jpg") == (dataset / "images/src/07.jpg").stat().st_size


def test_missing_names_and_a_damaged_table_are_refused(dataset: Path, tmp_path: Path) -> None:
    pack(dataset / "valid", dataset / "images", tmp_path / "packed")
    store = open_store(tmp_path / "packed")
    for name in ("src/nothing.jpg", "", "zzz", "../list.json"):
        with pytest.raises(ImageError, match="image_missing"):
            store.read(name)
    (tmp_path / "packed" / "index.arrow").write_bytes(b"no arrow")
    with pytest.raises(InputError, match="vhm data index"):
        open_store(tmp_path / "packed")


def test_damage_in_a_shard_is_detected(dataset: Path, tmp_path: Path) -> None:
    pack(dataset / "valid", dataset / "images", tmp_path / "packed")
    shard = tmp_path / "packed" / "shard-000000.tar"
    content, image = shard.read_bytes(), (dataset / "images" / "src" / "07.jpg").read_bytes()
    middle = content.index(image) + len(image) // 2
    for damaged in (content[:middle], content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]):
        shard.write_bytes(damaged)
        with pytest.raises(ImageError, match=r"src/07.jpg in .*shard-000000.tar does not have the sha256 of the table"):
            open_store(tmp_path / "packed").read("src/07.jpg")
    shard.write_bytes(content)
    assert open_store(tmp_path / "packed").read("src/07.jpg") == image


def test_an_empty_manifest_is_refused(dataset: Path, tmp_path: Path) -> None:
    (dataset / "list.json").write_text("[]")
    validate(dataset / "list.json", dataset / "images", tmp_path / "valid")
    with pytest.raises(InputError, match="no record to pack"):
        pack(tmp_path / "valid", dataset / "images", tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize("text", ["1", "GB", "-1GB", "1TB", "x5MB"])
def test_invalid_shard_sizes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="write it as"):
        parse_size(text)
