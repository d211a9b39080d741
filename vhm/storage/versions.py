"""Directories in S3: published whole, fetched whole, and read in parts.

    s3://BUCKET/PREFIX/
        VERSION/…                 the files; VERSION is the first 16 digits of the manifest's own hash
        VERSION/.published.json   size and sha256 of every file and of its 8 MiB blocks; written after them
        history/00000007          what was published 7th: created once, by one writer
        latest                    the newest of history, for people and other tools; moves last

What a name means never changes, so an interrupted publication goes on, and readers see the version before it or
the one after it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from vhm.errors import CheckFailed, InputError, StorageError
from vhm.io import check_output_directory, read_json, whole_directory, write_json
from vhm.progress import track
from vhm.storage.s3 import Bucket, S3Uri

BLOCK = 8 * 2**20
VERSION_FILE = ".published.json"  # hidden files are not published: it meets none
_COPY_LIMIT = 5 * 2**30


# --- publishing ----------------------------------------------------------------------------------


def file_table(directory: Path) -> dict[str, Any]:
    """{"files": {name: {"size", "sha256", "blocks"}}} of a directory; hidden files are not part of it.

    `blocks` are the sha256 of each 8 MiB, where there are several.
    """
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    names = [path.relative_to(directory).as_posix() for path in paths]
    chosen = [(n, p) for n, p in zip(names, paths, strict=True) if not any(x.startswith(".") for x in n.split("/"))]
    if not chosen:
        raise InputError(f"{directory} holds no file to publish")
    with ThreadPoolExecutor() as threads:
        entries = list(track(threads.map(lambda item: _entry(item[1]), chosen), "hashing", len(chosen)))
    return {"files": {name: entry for (name, _), entry in zip(chosen, entries, strict=True)}}


def version_of(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(_json(manifest)).hexdigest()[:16]


def publish(directory: Path, uri: S3Uri, keep: int | None = None) -> str:
    """Put a directory at `uri` as its newest version, and return the version.

    Files that an earlier attempt or the version before has are not sent again. `keep` is how many versions stay.
    Raises CheckFailed when somebody else publishes there at the same time and is first, StorageError when the
    service fails for good; then nothing has changed for readers.
    """
    if not directory.is_dir():
        raise InputError(f"{directory} is no directory to publish")
    bucket = Bucket(uri.bucket)
    number, before = _newest(bucket, uri) or (0, None)
    manifest = file_table(directory)
    version = version_of(manifest)
    if version != before:
        _send(bucket, uri, directory, manifest, version, before)
        record = orjson.dumps({"version": version, "writer": os.urandom(8).hex()})
        if not bucket.put(_record(uri, number + 1), record, IfNoneMatch="*"):
            raise CheckFailed(f"somebody else published to {uri} meanwhile: look at it, then publish again")
        number += 1
    _point(bucket, uri, number, version)
    if keep is not None:
        _prune(bucket, uri, number, keep)
    return version


def _send(
    bucket: Bucket, uri: S3Uri, directory: Path, manifest: dict[str, Any], version: str, before: str | None
) -> None:
    """Everything of a version, its manifest last."""
    place = uri / version
    there = set(bucket.keys(f"{place.prefix}/"))
    if (place / VERSION_FILE).prefix in there:
        return
    known: dict[str, str] = {}
    if before is not None:
        old = _manifest(bucket, uri / before)["files"]
        known = {entry["sha256"]: f"{(uri / before).prefix}/{name}" for name, entry in old.items()}

    def send(item: tuple[str, dict[str, Any]]) -> None:
        name, entry = item
        key = f"{place.prefix}/{name}"
        if key in there:
            head = bucket.head(key)
            if head and head["size"] == entry["size"] and head["sha256"] == entry["sha256"]:
                return
        if entry["sha256"] in known and entry["size"] <= _COPY_LIMIT:
            with contextlib.suppress(FileNotFoundError):  # pruned meanwhile
                bucket.copy(known[entry["sha256"]], key)
                return
        bucket.upload(directory / name, key, entry["sha256"])

    files = manifest["files"]
    with ThreadPoolExecutor(bucket.parallel) as threads:
        for _ in track(threads.map(send, files.items()), f"publishing to {uri}", len(files)):
            pass
    bucket.put((place / VERSION_FILE).prefix, _json(manifest))


def _point(bucket: Bucket, uri: S3Uri, number: int, version: str) -> None:
    """Move `latest` to `number`, unless it is further already."""
    key = (uri / "latest").prefix
    content = orjson.dumps({"number": number, "version": version})
    while True:
        head = bucket.head(key)
        if head is None:
            if bucket.put(key, content, IfNoneMatch="*"):
                return
            continue
        if int(orjson.loads(bucket.get(key))["number"]) >= number:
            return
        if bucket.put(key, content, IfMatch=head["etag"]):
            return


def _prune(bucket: Bucket, uri: S3Uri, number: int, keep: int) -> None:
    """Remove all but the newest `keep` versions, each one's manifest first."""
    records = bucket.keys((uri / "history").prefix + "/")
    versions = {key: _record_of(bucket, key) for key in records if int(key.rsplit("/", 1)[1]) <= number}
    kept = {versions[key] for key in records[-keep:] if key in versions}
    for key, version in list(versions.items())[:-keep]:
        if version not in kept:
            files = bucket.keys((uri / version).prefix + "/")
            bucket.delete(sorted(files, key=lambda name: not name.endswith(f"/{VERSION_FILE}")))
        bucket.delete([key])


# --- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """One version of a published directory."""

    bucket: Bucket
    uri: S3Uri
    files: dict[str, dict[str, Any]]

    @property
    def version(self) -> str:
        return self.uri.prefix.rsplit("/", 1)[-1]

    def read(self, name: str) -> bytes:
        """A small file. FileNotFoundError where the version has none of that name."""
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.bucket.get(f"{self.uri.prefix}/{name}", sha256=self.files[name]["sha256"])


def open_published(uri: S3Uri) -> Published | None:
    """The version that `uri` names, else the newest one published there; None where nothing was."""
    bucket = Bucket(uri.bucket)
    if bucket.head((uri / VERSION_FILE).prefix) is None:
        newest = _newest(bucket, uri)
        if newest is None:
            return None
        uri = uri / newest[1]
    return Published(bucket, uri, _manifest(bucket, uri)["files"])


def fetch(uri: S3Uri, out: Path) -> str:
    """Bring a version (the newest one, or the one that `uri` names) to the directory `out`; returns the version.

    Blocks that an interrupted fetch, or an older version at `out`, has already are not sent again, and every
    block is checked. Raises InputError where nothing was published, StorageError.
    """
    published = open_published(uri)
    if published is None:
        raise InputError(f"nothing was published at {uri}")
    out = out.absolute()
    check_output_directory(out, VERSION_FILE)
    beside = out.with_name(f".{out.name}.{published.version}.fetch")  # kept when this is interrupted
    beside.mkdir(parents=True, exist_ok=True)
    old = read_json(out / VERSION_FILE)["files"] if (out / VERSION_FILE).is_file() else {}
    have = {entry["sha256"]: out / name for name, entry in old.items()}

    def bring(item: tuple[str, dict[str, Any]]) -> None:
        name, entry = item
        path = _below(beside, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() and entry["sha256"] in have and have[entry["sha256"]].is_file():
            shutil.copyfile(have[entry["sha256"]], path)
        _bring(published, name, entry, path)

    with ThreadPoolExecutor(published.bucket.parallel) as threads:
        jobs = threads.map(bring, published.files.items())
        for _ in track(jobs, f"fetching {uri}", len(published.files)):
            pass
    with whole_directory(out, VERSION_FILE) as folder:
        for name in published.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.rename(beside / name, folder / name)
        write_json(folder / VERSION_FILE, {"version": published.version, "files": published.files})
    shutil.rmtree(beside)
    return published.version


def _bring(published: Published, name: str, entry: dict[str, Any], path: Path) -> None:
    """Fill `path` with the blocks that it lacks."""
    key, size = f"{published.uri.prefix}/{name}", int(entry["size"])
    hashes = entry.get("blocks") or [entry["sha256"]]
    step = BLOCK if "blocks" in entry else max(size, 1)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.ftruncate(descriptor, size)
        for number, wanted in enumerate(hashes):
            start, length = number * step, min(step, size - number * step)
            if hashlib.sha256(os.pread(descriptor, length, start)).hexdigest() == wanted:
                continue
            content = published.bucket.get(key, start, length, wanted) if size else published.bucket.get(key)
            os.pwrite(descriptor, content, start)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _below(folder: Path, name: str) -> Path:
    if name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
        raise StorageError(f"the published manifest names {name!r}, a path outside of its directory: not fetched")
    return folder / name


# --- names ---------------------------------------------------------------------------------------


def _record(uri: S3Uri, number: int) -> str:
    return (uri / f"history/{number:08d}").prefix


def _record_of(bucket: Bucket, key: str) -> str:
    return str(orjson.loads(bucket.get(key))["version"])


def _newest(bucket: Bucket, uri: S3Uri) -> tuple[int, str] | None:
    """Number and version of what was published last: history tells, `latest` only where to begin to look."""
    latest = bucket.head((uri / "latest").prefix)
    after = ""
    if latest is not None:
        number = int(orjson.loads(bucket.get((uri / "latest").prefix))["number"])
        after = _record(uri, number - 1)
    records = bucket.keys((uri / "history").prefix + "/", after)
    if not records:
        return None
    return int(records[-1].rsplit("/", 1)[1]), _record_of(bucket, records[-1])


def _manifest(bucket: Bucket, place: S3Uri) -> dict[str, Any]:
    """A version's manifest, checked against the version."""
    content = bucket.get((place / VERSION_FILE).prefix)
    if hashlib.sha256(content).hexdigest()[:16] != place.prefix.rsplit("/", 1)[-1]:
        raise StorageError(f"{place / VERSION_FILE} is not what its version says: publish it again")
    return orjson.loads(content)


def _entry(path: Path) -> dict[str, Any]:
    whole, blocks = hashlib.sha256(), []
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            whole.update(block)
            blocks.append(hashlib.sha256(block).hexdigest())
    entry = {"size": path.stat().st_size, "sha256": whole.hexdigest()}
    return entry | {"blocks": blocks} if len(blocks) > 1 else entry


def _json(content: Any) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
