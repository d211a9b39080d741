"""Image stores in S3: shards and folders, published and plain, over an unreliable network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.lists import validate
from tests.support.s3 import Faults, FaultyProxy, SeaweedFS, client
from tests.support.terrain import terrain
from vhm.data.images.stores import open_store
from vhm.data.index import open_index
from vhm.data.shards.pack import pack
from vhm.errors import ImageError, InputError, StorageError
from vhm.storage.s3 import Bucket, S3Uri
from vhm.storage.versions import publish


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images in the folder `files`, and packed in the folder `shards`."""
    folder = tmp_path_factory.mktemp("packed")
    (folder / "files" / "src").mkdir(parents=True)
    records = []
    for number in range(60):
        terrain(number, 64).save(folder / "files" / "src" / f"{number}.jpg")
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": f"View {number}."}]
        records.append({"source_dataset": "src", "image": f"{number}.jpg", "conversations": turns})
    (folder / "list.json").write_text(json.dumps(records))
    validate(folder / "list.json", folder / "files", folder / "valid")
    pack(folder / "valid", folder / "files", folder / "shards", 50_000)
    return folder


@pytest.mark.parametrize("published", ["shards", "files"])
def test_images_are_read_from_a_published_store(
    published: str, packed: Path, bucket: str, s3_server: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are read in ranges; damaged responses are requested again; the second pass reads the disk cache."""
    publish(packed / published, S3Uri(bucket, "data"))
    faults = Faults(error=0.1, reset=0.05, truncate=0.05, flip=0.1)
    with FaultyProxy(s3_server.port, faults) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        for _ in range(2):
            store = open_store(f"s3://{bucket}/data")
            for number in range(60):
                name = f"src/{number}.jpg"
                path = packed / "files" / name
                assert store.read(name) == path.read_bytes()
                assert store.size(name) == path.stat().st_size
        with pytest.raises(ImageError, match="image_missing"):
            store.read("src/none.jpg")
    assert faults.counts["flip"] > 2
    assert faults.counts["requests"] < 140, "the second pass sends no request for an image"


def test_a_plain_prefix_is_a_folder_store(packed: Path, bucket: str, s3_server: SeaweedFS) -> None:
    s3 = client(s3_server.url)
    for number in range(3):
        s3.upload_file(str(packed / "files" / "src" / f"{number}.jpg"), bucket, f"plain/src/{number}.jpg")
    store = open_store(f"s3://{bucket}/plain")
    assert store.read("src/1.jpg") == (packed / "files" / "src" / "1.jpg").read_bytes()
    with pytest.raises(ImageError, match="image_missing"):
        store.read("src/9.jpg")
    s3.upload_file(str(packed / "files" / "src" / "2.jpg"), bucket, "plain/src/1.jpg")
    assert store.read("src/1.jpg") == (packed / "files" / "src" / "2.jpg").read_bytes(), (
        "a changed object has another cache entry"
    )
    with pytest.raises(InputError, match="is empty or does not exist"):
        open_store(f"s3://{bucket}/nothing")


def test_the_disk_cache_has_a_limit(packed: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(packed / "shards", S3Uri(bucket, "data"))
    monkeypatch.setenv("VHM_CACHE_GB", "0.00004")
    store = open_store(f"s3://{bucket}/data")
    for number in range(60):
        store.read(f"src/{number}.jpg")
    kept = sum(p.stat().st_size for p in (tmp_path / "cache" / "s3").rglob("*") if p.is_file())
    assert 0 < kept <= 44_000
    monkeypatch.setenv("VHM_CACHE_GB", "many")
    with pytest.raises(InputError, match="VHM_CACHE_GB"):
        open_store(f"s3://{bucket}/data")


def test_a_published_store_is_validated_like_a_folder(packed: Path, bucket: str, tmp_path: Path) -> None:
    publish(packed / "shards", S3Uri(bucket, "data"))
    result = validate(packed / "list.json", f"s3://{bucket}/data", tmp_path / "out")
    assert (result.accepted, result.rejected) == (60, 0)
    local = json.loads((packed / "valid" / "validation.json").read_text())
    assert result.manifest_sha256 == local["manifest_sha256"]
    index = open_index(f"s3://{bucket}/data")
    assert index[7] == open_index(packed / "valid")[7]
    with pytest.raises(InputError, match=r"has no manifest.parquet"):
        open_index(f"s3://{bucket}/nothing")


def test_other_schemes_are_refused(tmp_path: Path) -> None:
    for uri in ("https://example.org/x", "file:///etc", "gs://bucket/x"):
        with pytest.raises(InputError, match="write it as s3://"):
            open_store(uri)
    with pytest.raises(InputError, match="does not exist"):
        open_store(tmp_path / "nothing")


def test_pipes_and_folders_are_refused_as_images(tmp_path: Path) -> None:
    """Opening a pipe would block forever."""
    import os

    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").mkdir()
    for name in ("a.jpg", "b.jpg"):
        with pytest.raises(ImageError, match="image_unknown"):
            open_store(tmp_path).read(name)
    shutil.rmtree(tmp_path / "b.jpg")


@pytest.mark.parametrize("published", ["shards", "files"])
def test_a_published_image_that_was_damaged_or_deleted_is_not_called_missing(
    published: str, packed: Path, bucket: str, s3_server: SeaweedFS
) -> None:
    version = publish(packed / published, S3Uri(bucket, "data"))
    s3 = client(s3_server.url)
    keys = [key for key in Bucket(bucket).keys(f"data/{version}/") if key.endswith((".tar", "/3.jpg"))]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=bytes(10**6))
    store = open_store(f"s3://{bucket}/data")
    with pytest.raises(
        ImageError, match=r"src/3\.jpg in s3://.* is not what was published: publish it again"
    ) as raised:
        store.read("src/3.jpg")
    assert raised.value.reason == "image_changed"
    for key in keys:
        s3.delete_object(Bucket=bucket, Key=key)
    with pytest.raises(StorageError, match="publish it again"):
        store.read("src/3.jpg")
