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
    """Files small and large: the last one takes three blocks and two parts."""
    made = tmp_path / "folder"
    (made / "sub").mkdir(parents=True)
    (made / "a.txt").write_text("a")
    (made / "empty").write_bytes(b"")
    (made / "sub" / "large.bin").write_bytes(random.Random(1).randbytes(20 * 2**20))
    return made


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != VERSION_FILE)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_what_is_published_is_fetched(bucket: str, folder: Path, tmp_path: Path, s3_server: SeaweedFS) -> None:
    uri = parse_uri(f"s3://{bucket}/models/tiny")
    version = publish(folder, uri)
    assert fetch(uri, tmp_path / "out") == version
    assert contents(tmp_path / "out") == contents(folder)
    assert publish(folder, uri) == version, "the same bytes are the same version"
    keys = Bucket(bucket).keys("models/tiny/")
    assert f"models/tiny/{version}/sub/large.bin" in keys, "plain keys: any S3 client reads them"
    assert [key for key in keys if "/history/" in key] == ["models/tiny/history/00000001"]
    assert not client(s3_server.url).list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_a_new_version_sends_only_what_changed(
    bucket: str, folder: Path, tmp_path: Path, s3_server: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = S3Uri(bucket, "data")
    first = publish(folder, uri)
    (folder / "a.txt").write_text("b")
    sent: list[str] = []
    monkeypatch.setattr(Bucket, "upload", _noting(sent))
    second = publish(folder, uri)
    assert [key.rsplit("/", 1)[-1] for key in sent] == ["a.txt"]
    assert fetch(uri, tmp_path / "new") == second
    assert contents(tmp_path / "new")["a.txt"] == b"b"
    assert fetch(uri / first, tmp_path / "old") == first
    assert contents(tmp_path / "old")["a.txt"] == b"a"
    assert json.loads(Bucket(bucket).get("data/latest")) == {"number": 2, "version": second}


def _noting(sent: list[str]):
    upload = Bucket.upload

    def noting(self: Bucket, path: Path, key: str, sha256: str) -> None:
        sent.append(key)
        upload(self, path, key, sha256)

    return noting


def test_old_versions_go(bucket: str, folder: Path, tmp_path: Path) -> None:
    uri = S3Uri(bucket, "")
    versions = []
    for text in "abc":
        (folder / "a.txt").write_text(text)
        versions.append(publish(folder, uri, keep=2))
    keys = Bucket(bucket).keys("")
    assert {key.split("/")[0] for key in keys} == {"history", "latest", *versions[1:]}
    assert fetch(uri, tmp_path / "out") == versions[2]


def test_of_two_writers_one_wins(bucket: str, folder: Path, tmp_path: Path) -> None:
    uri = S3Uri(bucket, "race")
    publish(folder, uri)
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.txt").write_text("other")
    (folder / "a.txt").write_text("ours")
    ready, results = threading.Barrier(2), []

    class Slow(Bucket):
        """Waits before it records what it published, until the other has published as well."""

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
    assert "somebody else published" in str(lost)
    assert open_published(uri).version == won


def test_an_interrupted_upload_goes_on(bucket: str, folder: Path, tmp_path: Path, s3_server: SeaweedFS) -> None:
    (folder / "sub" / "large.bin").write_bytes(random.Random(2).randbytes(100 * 2**20))
    code = (
        "import functools, os, sys, vhm.storage.versions as s\n"
        "from pathlib import Path\n"
        "from vhm.storage.s3 import parse_uri\n"
        "old = s.Bucket._try\n"
        "sent = []\n"
        "def dying(self, what, call):\n"
        "    done = old(self, what, call)\n"
        "    sent.append(what.startswith('write part'))\n"
        "    if sum(sent) == 3: os.kill(os.getpid(), 9)\n"
        "    return done\n"
        "s.Bucket._try = dying\n"
        "s.Bucket = functools.partial(s.Bucket, parallel=1)\n"  # nothing is on its way when it dies
        "s.publish(Path(sys.argv[1]), parse_uri(sys.argv[2]))\n"
    )
    uri = f"s3://{bucket}/resumed"
    done = subprocess.run([sys.executable, "-c", code, str(folder), uri], timeout=120)
    assert done.returncode == -9
    assert open_published(parse_uri(uri)) is None, "nothing is there for readers"
    s3 = client(s3_server.url)
    [upload] = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    parts = s3.list_parts(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])["Parts"]
    assert len(parts) == 3
    sent: list[str] = []
    old = Bucket._try
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bucket, "_try", lambda self, what, call: sent.append(what) or old(self, what, call))
        publish(folder, parse_uri(uri))
    assert sum(what.startswith("write part") for what in sent) == 7 - 3
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")
    fetch(parse_uri(uri), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(folder)


def test_an_interrupted_fetch_goes_on(
    bucket: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = S3Uri(bucket, "x")
    publish(folder, uri)
    get, asked = Bucket.get, []

    def failing(self: Bucket, key: str, *rest: object) -> bytes:
        if key.endswith("large.bin"):
            asked.append(rest[0])
            if len(asked) == 3:
                raise StorageError("the network is gone")
        return get(self, key, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Bucket, "get", failing)
    with pytest.raises(StorageError, match="network is gone"):
        fetch(uri, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    fetch(uri, tmp_path / "out")
    assert len(asked) == 4, "blocks that are there are not asked for again"
    assert contents(tmp_path / "out") == contents(folder)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_damage_in_the_store_is_seen(bucket: str, folder: Path, tmp_path: Path, s3_server: SeaweedFS) -> None:
    uri = S3Uri(bucket, "x")
    version = publish(folder, uri)
    client(s3_server.url).put_object(Bucket=bucket, Key=f"x/{version}/a.txt", Body=b"z")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bucket.__init__, "__defaults__", (*Bucket.__init__.__defaults__[:-2], 2, 8))
        with pytest.raises(StorageError, match=r"a\.txt.*sha256"):
            fetch(uri, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_manifest_does_not_lead_out(bucket: str, tmp_path: Path, s3_server: SeaweedFS) -> None:
    import hashlib

    import orjson

    evil = orjson.dumps({"files": {"../evil": {"size": 1, "sha256": "0" * 64}}})
    version = hashlib.sha256(evil).hexdigest()[:16]
    client(s3_server.url).put_object(Bucket=bucket, Key=f"x/{version}/{VERSION_FILE}", Body=evil)
    with pytest.raises(StorageError, match="outside of its directory"):
        fetch(S3Uri(bucket, f"x/{version}"), tmp_path / "deep" / "out")
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "deep" / "evil").exists()


def test_wrong_credentials_are_one_line(bucket: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(StorageError, match=r"refused .* credentials") as raised:
        publish(folder, S3Uri(bucket, "x"))
    assert "wrong-secret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_no_credentials_says_what_to_set(bucket: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    with pytest.raises(StorageError, match="set AWS_ACCESS_KEY_ID"):
        publish(folder, S3Uri(bucket, "x"))


def test_somebody_elses_directory_stays(bucket: str, folder: Path, tmp_path: Path) -> None:
    uri = S3Uri(bucket, "x")
    publish(folder, uri)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_text("theirs")
    with pytest.raises(InputError, match="choose another directory"):
        fetch(uri, tmp_path / "theirs")
    assert [p.name for p in (tmp_path / "theirs").iterdir()] == ["file"]
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".fetch")]


def test_what_is_not_there(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing was published"):
        fetch(S3Uri(bucket, "nothing"), tmp_path / "out")
    (tmp_path / "hollow").mkdir()
    with pytest.raises(InputError, match="no file to publish"):
        publish(tmp_path / "hollow", S3Uri(bucket, "x"))
    with pytest.raises(StorageError, match="NoSuchBucket"):
        publish(Path(__file__).parent / "evaluate", S3Uri("no-such-bucket-here", "x"))
