"""Shards: the same bytes each time, read as folders are, unpacked again, one record one shard."""

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
from vhm.data.shards.pack import pack, packed_records, parse_size, unpack
from vhm.data.shards.table import index_shards
from vhm.errors import ImageError, InputError


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """40 images, two of one stem, two questions about one of them, and a record without an image."""
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


def test_shards_stand_where_an_image_root_is_asked_for(dataset: Path, tmp_path: Path) -> None:
    packed = pack(dataset / "valid" / "manifest.parquet", dataset / "images", tmp_path / "packed", parse_size("50KB"))
    assert (packed.images, packed.records, packed.shards) == (40, 42, 4)
    again = validate(dataset / "list.json", tmp_path / "packed", tmp_path / "again")
    assert again.manifest_sha256 == json.loads((dataset / "valid/validation.json").read_text())["manifest_sha256"]
    assert len(open_index(tmp_path / "packed")) == 42, "the folder holds the manifest, too"
    assert not (tmp_path / "packed" / "manifest.arrow").exists(), "DVC tracks the folder: nothing is added to it"
    told = sorted(r["id"] for r in packed_records(tmp_path / "packed"))
    assert told == sorted(r["id"] for r in open_index(dataset / "valid"))
    pack(dataset / "valid", dataset / "images", tmp_path / "twice", parse_size("50KB"))
    assert files(tmp_path / "packed") == files(tmp_path / "twice")


def test_any_tar_reads_the_shards(dataset: Path, tmp_path: Path) -> None:
    pack(dataset / "valid", dataset / "images", tmp_path / "packed", parse_size("50KB"))
    seen: dict[str, bytes] = {}
    for path in (tmp_path / "packed").glob("*.tar"):
        with tarfile.open(path) as tar:
            names = tar.getnames()
            seen |= {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]
        assert len(names) == len(set(names))
    assert seen["src/07.jpg"] == (dataset / "images/src/07.jpg").read_bytes()
    assert json.loads(seen["src/07.json"])["id"] == "r7"
    assert [r["id"] for r in json.loads(seen["src/05.json"])] == ["r5", "again"]
    assert json.loads(seen["src/00.png.json"])["id"] == "r39", "two images of one stem keep their records apart"
    assert sum(name.startswith("text/") for name in seen) == 1


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


def test_unpacking_is_the_way_back(dataset: Path, tmp_path: Path) -> None:
    pack(dataset / "valid", dataset / "images", tmp_path / "packed", parse_size("50KB"))
    assert unpack(tmp_path / "packed", tmp_path / "out") == 40
    for path in (dataset / "images").rglob("*.*"):
        back = tmp_path / "out" / "images" / path.relative_to(dataset / "images")
        assert back.read_bytes() == path.read_bytes()
    result = validate(tmp_path / "out" / "list.json", tmp_path / "out" / "images", tmp_path / "again")
    assert (result.accepted, result.rejected) == (42, 0)


def test_shards_from_elsewhere_become_an_image_root(dataset: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "their.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(dataset / "images" / "src", "src")
    assert index_shards(tmp_path) == 40
    root = open_store(tmp_path)
    assert root.read("src/07.jpg") == (dataset / "images/src/07.jpg").read_bytes()
    assert root.size("src/07.jpg") == (dataset / "images/src/07.jpg").stat().st_size


def test_what_is_not_in_the_shards(dataset: Path, tmp_path: Path) -> None:
    pack(dataset / "valid", dataset / "images", tmp_path / "packed")
    root = open_store(tmp_path / "packed")
    for name in ("src/nothing.jpg", "", "zzz", "../list.json"):
        with pytest.raises(ImageError, match="image_missing"):
            root.read(name)
    (tmp_path / "packed" / "index.arrow").write_bytes(b"no arrow")
    with pytest.raises(InputError, match="vhm data index"):
        open_store(tmp_path / "packed")


def test_damage_in_a_shard_is_seen(dataset: Path, tmp_path: Path) -> None:
    pack(dataset / "valid", dataset / "images", tmp_path / "packed")
    shard = tmp_path / "packed" / "shard-000000.tar"
    whole, image = shard.read_bytes(), (dataset / "images" / "src" / "07.jpg").read_bytes()
    middle = whole.index(image) + len(image) // 2
    for damaged in (whole[:middle], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]):
        shard.write_bytes(damaged)
        with pytest.raises(ImageError, match=r"src/07.jpg in .*shard-000000.tar does not have the sha256 of the table"):
            open_store(tmp_path / "packed").read("src/07.jpg")
    shard.write_bytes(whole)
    assert open_store(tmp_path / "packed").read("src/07.jpg") == image


def test_an_empty_manifest_is_not_packed(dataset: Path, tmp_path: Path) -> None:
    (dataset / "list.json").write_text("[]")
    validate(dataset / "list.json", dataset / "images", tmp_path / "valid")
    with pytest.raises(InputError, match="no record to pack"):
        pack(tmp_path / "valid", dataset / "images", tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize("text", ["1", "GB", "-1GB", "1TB", "x5MB"])
def test_sizes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="write it as"):
        parse_size(text)
