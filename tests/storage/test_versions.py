"""Publishing and fetching directories, against a real S3 service."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.s3 import SeaweedFS, client
from vhm.errors import CheckFailed, InputError, StorageError
from vhm.storage.s3 import Bucket, S3Uri, parse_uri
from vhm.storage.versions import VERSION_FILE, fetch, open_published, publish


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small files and a large one, which has three blocks and two parts."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "empty").write_bytes(b"")
    (folder / "sub" / "large.bin").write_bytes(random.Random(1).randbytes(20 * 2**20))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != VERSION_FILE)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_fetch_returns_what_was_published(bucket: str, folder: Path, tmp_path: Path, s3_server: SeaweedFS) -> None:
    uri = parse_uri(f"s3://{bucket}/models/tiny")
    version = publish(folder, uri)
    assert fetch(uri, tmp_path / "out") == version
    assert contents(tmp_path / "out") == contents(folder)
    assert publish(folder, uri) == version, "equal content is the same version"
    keys = Bucket(bucket).keys("models/tiny/")
    assert f"models/tiny/{version}/sub/large.bin" in keys, "any S3 client can read the plain keys"
    assert [key for key in keys if "/history/" in key] == ["models/tiny/history/00000001"]
    assert not client(s3_server.url).list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_the_stored_json_has_the_documented_bytes(bucket: str, tmp_path: Path) -> None:
    from hashlib import sha256

    content, block = bytes(9 * 2**20), 8 * 2**20
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")
    (tmp_path / "folder" / "b.bin").write_bytes(content)
    version = publish(tmp_path / "folder", S3Uri(bucket, "x"))
    blocks = ",".join(f'"{sha256(part).hexdigest()}"' for part in (content[:block], content[block:]))
    manifest = (
        f'{{"files":{{"a.txt":{{"sha256":"{sha256(b"a").hexdigest()}","size":1}},'
        f'"b.bin":{{"blocks":[{blocks}],"sha256":"{sha256(content).hexdigest()}","size":{len(content)}}}}}}}'
    ).encode()
    assert Bucket(bucket).get(f"x/{version}/{VERSION_FILE}") == manifest
    assert version == sha256(manifest).hexdigest()[:16]
    assert Bucket(bucket).get("x/latest") == f'{{"number":1,"version":"{version}"}}'.encode()
    fetch(S3Uri(bucket, "x"), tmp_path / "out")
    local = json.loads((tmp_path / "out" / VERSION_FILE).read_text())
    assert local == {"version": version, **json.loads(manifest)}


def test_a_new_version_uploads_only_changed_files(
    bucket: str, folder: Path, tmp_path: Path, s3_server: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = S3Uri(bucket, "data")
    first = publish(folder, uri)
    (folder / "a.txt").write_text("b")
    sent: list[str] = []
    monkeypatch.setattr(Bucket, "upload", _record_uploads(sent))
    second = publish(folder, uri)
    assert [key.rsplit("/", 1)[-1] for key in sent] == ["a.txt"]
    assert fetch(uri, tmp_path / "new") == second
    assert contents(tmp_path / "new")["a.txt"] == b"b"
    assert fetch(uri / first, tmp_path / "old") == first
    assert contents(tmp_path / "old")["a.txt"] == b"a"
    assert json.loads(Bucket(bucket).get("data/latest")) == {"number": 2, "version": second}


def _record_uploads(sent: list[str]):
    upload = Bucket.upload

    def recording(self: Bucket, path: Path, key: str, sha256: str) -> None:
        sent.append(key)
        upload(self, path, key, sha256)

    return recording


def test_only_the_newest_versions_are_kept(bucket: str, folder: Path, tmp_path: Path) -> None:
    uri = S3Uri(bucket, "")
    versions = []
    for text in "abc":
        (folder / "a.txt").write_text(text)
        versions.append(publish(folder, uri, keep=2))
    keys = Bucket(bucket).keys("")
    assert {key.split("/")[0] for key in keys} == {"history", "latest", *versions[1:]}
    assert fetch(uri, tmp_path / "out") == versions[2]


def test_one_of_two_concurrent_writers_wins(bucket: str, folder: Path, tmp_path: Path) -> None:
    uri = S3Uri(bucket, "race")
    publish(folder, uri)
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.txt").write_text("other")
    (folder / "a.txt").write_text("ours")
    ready, results = threading.Barrier(2), []

    class Slow(Bucket):
        """Waits before it writes to history until the other writer has uploaded its files, too."""

        def put(self, key: str, content: bytes, **conditions: str) -> bool:
            if "/history/" in key:
                ready.wait(60)
            return super().put(key, content, **conditions)

    def write(source: Path) -> None:
        try:
            results.append(publish(source, uri))
        except CheckFailed as error:
            results.append(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vhm.storage.versions.Bucket", Slow)
        threads = [threading.Thread(target=write, args=[source]) for source in (folder, other)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    [lost] = [r for r in results if isinstance(r, CheckFailed)]
    [won] = [r for r in results if isinstance(r, str)]
    assert "another writer published" in str(lost)
    assert open_published(uri).version == won


def test_an_interrupted_upload_is_resumed(bucket: str, folder: Path, tmp_path: Path, s3_server: SeaweedFS) -> None:
    (folder / "sub" / "large.bin").write_bytes(random.Random(2).randbytes(100 * 2**20))
    code = (
        "import functools, os, sys, vhm.storage.versions as s\n"
        "from pathlib import Path\n"
        "from vhm.storage.s3 import parse_uri\n"
        "retry = s.Bucket._retry\n"
        "sent = []\n"
        "def dying(self, what, call):\n"
        "    done = retry(self, what, call)\n"
        "    sent.append(what.startswith('write part'))\n"
        "    if sum(sent) == 3: os.kill(os.getpid(), 9)\n"
        "    return done\n"
        "s.Bucket._retry = dying\n"
        "s.Bucket = functools.partial(s.Bucket, parallel=1)\n"  # so no request is in flight when it dies
        "s.publish(Path(sys.argv[1]), parse_uri(sys.argv[2]))\n"
    )
    uri = f"s3://{bucket}/resumed"
    done = subprocess.run([sys.executable, "-c", code, str(folder), uri], timeout=120)
    assert done.returncode == -9
    assert open_published(parse_uri(uri)) is None, "readers see no version"
    s3 = client(s3_server.url)
    [upload] = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    parts = s3.list_parts(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])["Parts"]
    assert len(parts) == 3
    sent: list[str] = []
    retry = Bucket._retry
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bucket, "_retry", lambda self, what, call: sent.append(what) or retry(self, what, call))
        publish(folder, parse_uri(uri))
    assert sum(what.startswith("write part") for what in sent) == 7 - 3
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")
    fetch(parse_uri(uri), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(folder)


def test_an_interrupted_fetch_is_resumed(
    bucket: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = S3Uri(bucket, "x")
    publish(folder, uri)
    get, starts = Bucket.get, []

    def failing(self: Bucket, key: str, *rest: object) -> bytes:
        if key.endswith("large.bin"):
            starts.append(rest[0])
            if len(starts) == 3:
                raise StorageError("the network is gone")
        return get(self, key, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Bucket, "get", failing)
    with pytest.raises(StorageError, match="network is gone"):
        fetch(uri, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    fetch(uri, tmp_path / "out")
    assert len(starts) == 4, "downloaded blocks are not requested again"
    assert contents(tmp_path / "out") == contents(folder)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_damaged_objects_are_refused(bucket: str, folder: Path, tmp_path: Path, s3_server: SeaweedFS) -> None:
    uri = S3Uri(bucket, "x")
    version = publish(folder, uri)
    client(s3_server.url).put_object(Bucket=bucket, Key=f"x/{version}/a.txt", Body=b"z")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bucket.__init__, "__defaults__", (*Bucket.__init__.__defaults__[:-2], 2, 8))
        with pytest.raises(StorageError, match=r"a\.txt.*sha256"):
            fetch(uri, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_manifest_cannot_name_a_path_outside_the_directory(bucket: str, tmp_path: Path, s3_server: SeaweedFS) -> None:
    import hashlib

    import orjson

    evil = orjson.dumps({"files": {"../evil": {"size": 1, "sha256": "0" * 64}}})
    version = hashlib.sha256(evil).hexdigest()[:16]
    client(s3_server.url).put_object(Bucket=bucket, Key=f"x/{version}/{VERSION_FILE}", Body=evil)
    with pytest.raises(StorageError, match="outside its directory"):
        fetch(S3Uri(bucket, f"x/{version}"), tmp_path / "deep" / "out")
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "deep" / "evil").exists()


def test_wrong_credentials_give_a_one_line_error(bucket: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(StorageError, match=r"refused .* credentials") as raised:
        publish(folder, S3Uri(bucket, "x"))
    assert "wrong-secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_credentials_name_the_variables_to_set(
    bucket: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    with pytest.raises(StorageError, match="set AWS_ACCESS_KEY_ID"):
        publish(folder, S3Uri(bucket, "x"))


def test_fetch_does_not_replace_another_directory(bucket: str, folder: Path, tmp_path: Path) -> None:
    uri = S3Uri(bucket, "x")
    publish(folder, uri)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("other")
    with pytest.raises(InputError, match="choose another directory"):
        fetch(uri, tmp_path / "other")
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["file"]
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".fetch")]


def test_missing_sources_are_reported(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing was published"):
        fetch(S3Uri(bucket, "nothing"), tmp_path / "out")
    (tmp_path / "hollow").mkdir()
    with pytest.raises(InputError, match="no file to publish"):
        publish(tmp_path / "hollow", S3Uri(bucket, "x"))
    with pytest.raises(StorageError, match="NoSuchBucket"):
        publish(Path(__file__).parent, S3Uri("no-such-bucket-here", "x"))
