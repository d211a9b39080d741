"""Publishing and fetching directories, against a real S3 service."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.s3 import FaultyProxy, SeaweedFS, client
from tests.support.signals import listen_to_ctrl_c
from vhm.errors import CheckFailed, DamagedObjectError, InputError, StorageError
from vhm.storage.files import hash_files, snapshot
from vhm.storage.s3 import Bucket, S3Uri, parse_uri
from vhm.storage.versions import VERSION_FILE, fetch, open_published, publish, version_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small files and a large one of two blocks."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "empty").write_bytes(b"")
    (folder / "sub" / "large.bin").write_bytes(random.Random(1).randbytes(9 * 2**20))
    return folder


@contextmanager
def watched(server: SeaweedFS, before: Callable[[str], None] = lambda request: None) -> Iterator[FaultyProxy]:
    """Within the block, requests go through a proxy that records them."""
    with FaultyProxy(server.port, before=before) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


class Once:
    """Calls `action` before the first request that contains `text`."""

    def __init__(self, text: str, action: Callable[[], object]) -> None:
        self._text, self._action, self._lock = text, action, threading.Lock()

    def __call__(self, request: str) -> None:
        with self._lock:
            found = self._text in request
            self._text = "never again" if found else self._text
        if found:
            self._action()


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
    bucket: str, folder: Path, tmp_path: Path, s3_server: SeaweedFS
) -> None:
    uri = S3Uri(bucket, "data")
    first = publish(folder, uri)
    (folder / "a.txt").write_text("b")
    with watched(s3_server) as proxy:
        second = publish(folder, uri)
    assert len([r for r in proxy.requests if r.startswith("PUT") and r.endswith("a.txt")]) == 1
    assert not [r for r in proxy.requests if "large.bin?" in r], "the large file is copied within the bucket"
    assert fetch(uri, tmp_path / "new") == second
    assert contents(tmp_path / "new")["a.txt"] == b"b"
    assert fetch(uri / first, tmp_path / "old") == first
    assert contents(tmp_path / "old")["a.txt"] == b"a"
    assert json.loads(Bucket(bucket).get("data/latest")) == {"number": 2, "version": second}


def test_only_the_newest_versions_are_kept(bucket: str, folder: Path, tmp_path: Path) -> None:
    uri = S3Uri(bucket, "")
    versions = []
    for text in "abc":
        (folder / "a.txt").write_text(text)
        versions.append(publish(folder, uri, keep=2))
    keys = Bucket(bucket).keys("")
    assert {key.split("/")[0] for key in keys} == {"history", "latest", *versions[1:]}
    assert fetch(uri, tmp_path / "out") == versions[2]


def test_pruning_spares_what_another_writer_has_just_published(
    bucket: str, folder: Path, tmp_path: Path, s3_server: SeaweedFS
) -> None:
    uri, old = S3Uri(bucket, "x"), tmp_path / "old"
    shutil.copytree(folder, old)
    publish(old, uri)
    (folder / "a.txt").write_text("b")
    with watched(s3_server, Once(f"PUT /{bucket}/x/latest", lambda: publish(old, uri))):
        publish(folder, uri, keep=1)
    fetch(uri, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(old)


def test_two_writers_of_the_same_content_both_succeed(bucket: str, folder: Path, s3_server: SeaweedFS) -> None:
    uri = S3Uri(bucket, "x")
    with watched(s3_server, Once("/history/00000001", lambda: publish(folder, uri))):
        publish(folder, uri)
    assert len(Bucket(bucket).keys("x/history/")) == 1


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


# --- files that change, uploads that are interrupted ---------------------------------------------


def rewrite(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def assert_nothing_was_published(bucket: str, uri: S3Uri, url: str) -> None:
    assert open_published(uri) is None
    assert not [key for key in Bucket(bucket).keys("") if key.endswith(VERSION_FILE) or "/history/" in key]
    assert not client(url).list_multipart_uploads(Bucket=bucket).get("Uploads")


HASHED, SENT = "prefix=x%2F{version}", "HEAD"  # requests that follow these events
READING, COMPLETING = "uploads", "POST /{bucket}/x/{version}/sub/large.bin?uploadId"


@pytest.mark.parametrize(
    ("name", "moment", "change"),
    [
        ("a.txt", HASHED, rewrite),
        ("a.txt", HASHED, truncate),
        ("a.txt", HASHED, grow),
        ("a.txt", HASHED, Path.unlink),
        ("a.txt", SENT, rewrite),
        ("sub/large.bin", HASHED, rewrite),
        ("sub/large.bin", HASHED, truncate),
        ("sub/large.bin", READING, grow),
        ("sub/large.bin", COMPLETING, rewrite),
        ("sub/large.bin", COMPLETING, Path.unlink),
    ],
)
def test_a_file_that_changes_during_its_upload_is_not_published(
    bucket: str,
    folder: Path,
    tmp_path: Path,
    s3_server: SeaweedFS,
    name: str,
    moment: str,
    change: Callable[[Path], None],
) -> None:
    uri, path = S3Uri(bucket, "x"), folder / name
    moment = moment.format(bucket=bucket, version=version_of(hash_files(folder, snapshot(folder))))
    change_once = Once(moment, lambda: change(path))
    with watched(s3_server, change_once):
        with pytest.raises(InputError, match=f"{name} changed while it was published: publish again"):
            publish(folder, uri)
        assert_nothing_was_published(bucket, uri, s3_server.url)
        publish(folder, uri)
        fetch(uri, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(folder)


def test_a_file_that_appears_during_the_upload_is_not_left_out(bucket: str, folder: Path, s3_server: SeaweedFS) -> None:
    appear = Once("HEAD", (folder / "b.txt").touch)
    with watched(s3_server, appear), pytest.raises(InputError, match=r"b\.txt changed while"):
        publish(folder, S3Uri(bucket, "x"))


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_upload_is_resumed(
    bucket: str, folder: Path, tmp_path: Path, s3_server: SeaweedFS, sign: signal.Signals
) -> None:
    (folder / "sub" / "large.bin").write_bytes(random.Random(2).randbytes(40 * 2**20))
    uri, s3 = S3Uri(bucket, "x"), client(s3_server.url)
    push = [sys.executable, "-m", "vhm.cli", "data", "push", str(folder), str(uri)]
    children: list[subprocess.Popen[str]] = []

    def interrupt() -> None:
        while s3.list_objects_v2(Bucket=bucket).get("KeyCount", 0) < 2:  # the small files are uploaded
            time.sleep(0.05)
        children[0].send_signal(sign)

    with watched(s3_server, Once("partNumber=3", interrupt)):
        children.append(subprocess.Popen(push, stderr=subprocess.PIPE, text=True, preexec_fn=listen_to_ctrl_c))
        error = children[0].communicate(timeout=60)[1]
    assert open_published(uri) is None, "readers see no version"
    if sign == signal.SIGINT:
        assert (children[0].returncode, error) == (130, "vhm: error: interrupted\n")
        assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")
    with watched(s3_server) as proxy:
        publish(folder, uri)
    assert not [r for r in proxy.requests if r.startswith("PUT") and r.endswith(("a.txt", "empty"))]
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")
    fetch(uri, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(folder)


def test_uploads_of_other_tools_are_not_aborted(bucket: str, folder: Path, s3_server: SeaweedFS) -> None:
    s3, version = client(s3_server.url), "0123456789abcdef"
    for key in ("x/other.bin", f"y/{version}/z.bin", f"x/{version}/z.bin"):
        s3.create_multipart_upload(Bucket=bucket, Key=key)
    publish(folder, S3Uri(bucket, "x"))
    left = [upload["Key"] for upload in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]]
    assert sorted(left) == ["x/other.bin", f"y/{version}/z.bin"], "only that of a version below x/ is an orphan"


# --- damaged versions ----------------------------------------------------------------------------


def delete(s3, bucket: str, key: str, content: bytes) -> None:
    s3.delete_object(Bucket=bucket, Key=key)


def overwrite(s3, bucket: str, key: str, content: bytes) -> None:
    s3.put_object(Bucket=bucket, Key=key, Body=b"z" * len(content))


def overwrite_with_our_metadata(s3, bucket: str, key: str, content: bytes) -> None:
    metadata = {"sha256": hashlib.sha256(content).hexdigest()}
    damaged = b"z" * len(content)
    s3.put_object(Bucket=bucket, Key=key, Body=damaged, Metadata=metadata, ChecksumAlgorithm="SHA256")


def decay(s3, bucket: str, key: str, content: bytes) -> None:
    """What neither size, hash nor checksum shows: here, on a service that computes no SHA-256."""
    metadata = {"sha256": hashlib.sha256(content).hexdigest()}
    s3.put_object(Bucket=bucket, Key=key, Body=b"z" * len(content), Metadata=metadata)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("a.txt", delete),
        ("a.txt", overwrite),
        ("a.txt", overwrite_with_our_metadata),
        ("sub/large.bin", delete),
        ("sub/large.bin", overwrite_with_our_metadata),
        (VERSION_FILE, delete),
        (VERSION_FILE, overwrite),
    ],
)
def test_pushing_again_repairs_an_object(
    bucket: str, folder: Path, tmp_path: Path, s3_server: SeaweedFS, name: str, damage: Callable[..., None]
) -> None:
    uri, s3 = S3Uri(bucket, "x"), client(s3_server.url)
    version = publish(folder, uri)
    key = f"x/{version}/{name}"
    damage(s3, bucket, key, Bucket(bucket).get(key))
    with pytest.raises((FileNotFoundError, StorageError)):
        fetch(uri, tmp_path / "out")
    with watched(s3_server) as proxy:
        assert publish(folder, uri) == version
    written = {r.split(" ")[1].split("?")[0] for r in proxy.requests if r.startswith(("PUT", "POST"))}
    assert written == {f"/{bucket}/{key}"}, "nothing else is sent"
    fetch(uri, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(folder)


def test_decay_is_found_by_reading(
    bucket: str, folder: Path, tmp_path: Path, s3_server: SeaweedFS, caplog: pytest.LogCaptureFixture
) -> None:
    uri = S3Uri(bucket, "x")
    version = publish(folder, uri)
    decay(client(s3_server.url), bucket, f"x/{version}/sub/large.bin", (folder / "sub/large.bin").read_bytes())
    publish(folder, uri)
    with pytest.raises(DamagedObjectError, match=r"large\.bin.*sha256"):
        fetch(uri, tmp_path / "out")
    publish(folder, uri, verify=True)
    assert caplog.messages == [f"{uri / version} was damaged: 1 of 3 files were sent again"]
    fetch(uri, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(folder)


@pytest.mark.parametrize("damage", [delete, overwrite_with_our_metadata])
def test_a_damaged_object_is_not_copied_to_the_next_version(
    bucket: str, folder: Path, tmp_path: Path, s3_server: SeaweedFS, damage: Callable[..., None]
) -> None:
    uri = S3Uri(bucket, "x")
    first = publish(folder, uri)
    damage(client(s3_server.url), bucket, f"x/{first}/sub/large.bin", (folder / "sub/large.bin").read_bytes())
    (folder / "a.txt").write_text("b")
    publish(folder, uri)
    fetch(uri, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(folder)


def test_a_damaged_manifest_does_not_prevent_the_next_version(
    bucket: str, folder: Path, tmp_path: Path, s3_server: SeaweedFS
) -> None:
    uri = S3Uri(bucket, "x")
    first = publish(folder, uri)
    client(s3_server.url).delete_object(Bucket=bucket, Key=f"x/{first}/{VERSION_FILE}")
    with pytest.raises(StorageError, match="does not exist: publish the directory again"):
        fetch(uri, tmp_path / "out")
    (folder / "a.txt").write_text("b")
    publish(folder, uri)
    fetch(uri, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(folder)


# --- what a directory may contain ----------------------------------------------------------------


def test_links_are_followed(bucket: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.txt").write_text("b")
    (folder / "c.txt").symlink_to(tmp_path / "elsewhere" / "b.txt")
    (folder / "images").symlink_to(tmp_path / "elsewhere")
    publish(folder, S3Uri(bucket, "x"))
    fetch(S3Uri(bucket, "x"), tmp_path / "out")
    fetched = contents(tmp_path / "out")
    assert (fetched["c.txt"], fetched["images/b.txt"]) == (b"b", b"b")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.symlink_to("nowhere"), "cannot read .*b: No such file"),
        (lambda path: path.symlink_to(".."), "b is a link to a directory that contains it"),
        (os.mkfifo, "b is not a file"),
        (lambda path: path.with_name("b\\c").touch(), "has a backslash"),
        (lambda path: Path(os.fsdecode(bytes(path) + b"\xff")).touch(), "is not UTF-8"),
    ],
)
def test_what_could_not_be_fetched_again_is_refused(
    bucket: str, folder: Path, make: Callable[[Path], None], message: str
) -> None:
    make(folder / "sub" / "b")
    with pytest.raises(InputError, match=message):
        publish(folder, S3Uri(bucket, "x"))
    assert Bucket(bucket).keys("") == []


# --- fetching ------------------------------------------------------------------------------------


def test_an_interrupted_fetch_is_resumed(
    bucket: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = S3Uri(bucket, "x")
    publish(folder, uri)
    get, starts = Bucket.get, []

    def failing(self: Bucket, key: str, *rest: object) -> bytes:
        if key.endswith("large.bin"):
            starts.append(rest[0])
            if len(starts) == 2:
                raise StorageError("the network is gone")
        return get(self, key, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Bucket, "get", failing)
    with pytest.raises(StorageError, match="network is gone"):
        fetch(uri, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    fetch(uri, tmp_path / "out")
    assert len(starts) == 3, "downloaded blocks are not requested again"
    assert contents(tmp_path / "out") == contents(folder)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_full_disk_ends_a_fetch_that_can_be_resumed(
    bucket: str, folder: Path, tmp_path: Path, s3_server: SeaweedFS
) -> None:
    uri, out = S3Uri(bucket, "x"), tmp_path / "out"
    publish(folder, uri)
    code = (
        "import resource, sys; from vhm.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (17 * 2**19, 17 * 2**19)); main()"
    )
    pull = [sys.executable, "-c", code, "data", "pull", str(uri), "--out", str(out)]
    done = subprocess.run(pull, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("vhm: error: cannot write ")
    assert done.stderr.endswith("File too large; fetch again to resume with what is downloaded\n")
    assert not out.exists()
    with watched(s3_server) as proxy:
        fetch(uri, out)
    assert len([r for r in proxy.requests if r.startswith("GET") and r.endswith("large.bin")]) == 1, (
        "the block that was written is not requested again"
    )
    assert contents(out) == contents(folder)


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
