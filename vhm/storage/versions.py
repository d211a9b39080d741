"""Versioned directories in S3: published atomically, fetched with checks, and read file by file.

    s3://BUCKET/PREFIX/
        VERSION/…                 the files; VERSION is the first 16 hex digits of the manifest's sha256
        VERSION/.published.json   the manifest, uploaded after the files:
                                  {"files": {NAME: {"size", "sha256", "blocks"?: [sha256 of each 8 MiB]}}}
        history/00000007          the version that was published 7th; created once, by one writer
        latest                    the newest entry of history, for people and other tools; updated last

A version never changes. An interrupted publication can therefore be resumed, and readers see either the previous
version or the new one.
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

import orjson

from vhm.errors import CheckFailed, InputError, StorageError
from vhm.io import JsonObject, check_output_directory, read_json, whole_directory, write_json
from vhm.progress import track
from vhm.storage.s3 import Bucket, S3Uri

BLOCK = 8 * 2**20
VERSION_FILE = ".published.json"  # hidden files are not published, so no file of this name is overwritten
_COPY_LIMIT = 5 * 2**30


@dataclass(frozen=True)
class FileEntry:
    """One file of a manifest; `blocks` are the sha256 of each 8 MiB if there are several, otherwise empty."""

    size: int
    sha256: str
    blocks: tuple[str, ...] = ()

    def to_json(self) -> JsonObject:
        blocks = {"blocks": list(self.blocks)} if self.blocks else {}
        return {"size": self.size, "sha256": self.sha256, **blocks}


FileTable = Mapping[str, FileEntry]


# --- publishing ----------------------------------------------------------------------------------


def file_table(directory: Path) -> FileTable:
    """The files of a directory by name, without hidden ones. Raises InputError if there is none."""
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    names = [path.relative_to(directory).as_posix() for path in paths]
    chosen = [(n, p) for n, p in zip(names, paths, strict=True) if not any(x.startswith(".") for x in n.split("/"))]
    if not chosen:
        raise InputError(f"{directory} holds no file to publish")
    with ThreadPoolExecutor() as threads:
        entries = list(track(threads.map(lambda item: _hash_file(item[1]), chosen), "hashing", len(chosen)))
    return {name: entry for (name, _), entry in zip(chosen, entries, strict=True)}


def version_of(files: FileTable) -> str:
    return hashlib.sha256(_manifest_bytes(files)).hexdigest()[:16]


def publish(directory: Path, uri: S3Uri, keep: int | None = None) -> str:
    """Upload a directory to `uri` as its newest version, and return the version.

    Files that an interrupted attempt has uploaded, or that the previous version has, are not sent again. `keep` is
    the number of versions to retain (default: all). Raises CheckFailed if another writer publishes there first, and
    StorageError if the service fails permanently; in both cases readers see no change.
    """
    if not directory.is_dir():
        raise InputError(f"{directory} is not a directory: nothing to publish")
    bucket = Bucket(uri.bucket)
    number, previous = _newest(bucket, uri) or (0, None)
    files = file_table(directory)
    version = version_of(files)
    if version != previous:
        _upload_version(bucket, uri, directory, files, previous)
        record = orjson.dumps({"version": version, "writer": os.urandom(8).hex()})
        if not bucket.put(_history_key(uri, number + 1), record, IfNoneMatch="*"):
            raise CheckFailed(f"another writer published to {uri} first: check its version, then publish again")
        number += 1
    _update_latest(bucket, uri, number, version)
    if keep is not None:
        _prune(bucket, uri, number, keep)
    return version


def _upload_version(bucket: Bucket, uri: S3Uri, directory: Path, files: FileTable, previous: str | None) -> None:
    """Upload the files of a version, then its manifest."""
    target = uri / version_of(files)
    existing = set(bucket.keys(f"{target.prefix}/"))
    if (target / VERSION_FILE).prefix in existing:
        return
    copies: dict[str, str] = {}
    if previous is not None:
        source = uri / previous
        copies = {entry.sha256: (source / name).prefix for name, entry in _read_manifest(bucket, source).items()}

    def send(item: tuple[str, FileEntry]) -> None:
        name, entry = item
        key = (target / name).prefix
        if key in existing and _is_uploaded(bucket, key, entry):
            return
        if entry.sha256 in copies and entry.size <= _COPY_LIMIT:
            with contextlib.suppress(FileNotFoundError):  # another writer may have pruned the previous version
                bucket.copy(copies[entry.sha256], key)
                return
        bucket.upload(directory / name, key, entry.sha256)

    with ThreadPoolExecutor(bucket.parallel) as threads:
        for _ in track(threads.map(send, files.items()), f"publishing to {uri}", len(files)):
            pass
    bucket.put((target / VERSION_FILE).prefix, _manifest_bytes(files))


def _is_uploaded(bucket: Bucket, key: str, entry: FileEntry) -> bool:
    head = bucket.head(key)
    return head is not None and (head.size, head.sha256) == (entry.size, entry.sha256)


def _update_latest(bucket: Bucket, uri: S3Uri, number: int, version: str) -> None:
    """Set `latest` to `number`, unless it names that entry or a newer one already."""
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
        if bucket.put(key, content, IfMatch=head.etag):
            return


def _prune(bucket: Bucket, uri: S3Uri, number: int, keep: int) -> None:
    """Remove all but the newest `keep` versions; of each, the manifest first."""
    records = bucket.keys((uri / "history").prefix + "/")
    versions = {key: _version_at(bucket, key) for key in records if int(key.rsplit("/", 1)[1]) <= number}
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
    files: FileTable

    @property
    def version(self) -> str:
        return self.uri.prefix.rsplit("/", 1)[-1]

    def read(self, name: str) -> bytes:
        """The content of a small file. Raises FileNotFoundError if the version has no file of that name."""
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.bucket.get((self.uri / name).prefix, sha256=self.files[name].sha256)


def open_published(uri: S3Uri) -> Published | None:
    """The version that `uri` names, or the newest one published at `uri`; None if nothing is published there."""
    bucket = Bucket(uri.bucket)
    if bucket.head((uri / VERSION_FILE).prefix) is None:
        newest = _newest(bucket, uri)
        if newest is None:
            return None
        uri = uri / newest[1]
    return Published(bucket, uri, _read_manifest(bucket, uri))


def fetch(uri: S3Uri, out: Path) -> str:
    """Download the newest version at `uri`, or the version that `uri` names, to the directory `out`; return it.

    Blocks from an interrupted download, and files of an older version at `out`, are reused. Every block is checked.
    Raises InputError if nothing is published at `uri`, and StorageError.
    """
    published = open_published(uri)
    if published is None:
        raise InputError(f"nothing was published at {uri}")
    out = out.absolute()
    check_output_directory(out, VERSION_FILE)
    # The name has no process id: the next fetch of this version resumes with what an interrupted one downloaded.
    temporary = out.with_name(f".{out.name}.{published.version}.fetch")
    temporary.mkdir(parents=True, exist_ok=True)
    _download(published, temporary, _files_by_hash(out))
    with whole_directory(out, VERSION_FILE) as folder:
        for name in published.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.rename(temporary / name, folder / name)
        files = {name: entry.to_json() for name, entry in published.files.items()}
        write_json(folder / VERSION_FILE, {"version": published.version, "files": files})
    shutil.rmtree(temporary)
    return published.version


def _files_by_hash(directory: Path) -> dict[str, Path]:
    """The files of a fetched version by their sha256; empty if `directory` is not one."""
    path = directory / VERSION_FILE
    if not path.is_file():
        return {}
    return {entry.sha256: directory / name for name, entry in _parse_files(read_json(path), str(path)).items()}


def _download(published: Published, folder: Path, existing: Mapping[str, Path]) -> None:
    """Download all files to `folder`; files whose hash is in `existing` are copied from there."""

    def download(item: tuple[str, FileEntry]) -> None:
        name, entry = item
        path = _path_below(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() and entry.sha256 in existing and existing[entry.sha256].is_file():
            shutil.copyfile(existing[entry.sha256], path)
        _complete_file(published, name, entry, path)

    with ThreadPoolExecutor(published.bucket.parallel) as threads:
        downloads = threads.map(download, published.files.items())
        for _ in track(downloads, f"fetching {published.uri}", len(published.files)):
            pass


def _complete_file(published: Published, name: str, entry: FileEntry, path: Path) -> None:
    """Download the blocks that are missing or wrong in `path`."""
    key, size = (published.uri / name).prefix, entry.size
    hashes = entry.blocks or (entry.sha256,)
    step = BLOCK if entry.blocks else max(size, 1)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.ftruncate(descriptor, size)
        for number, expected in enumerate(hashes):
            start, length = number * step, min(step, size - number * step)
            if hashlib.sha256(os.pread(descriptor, length, start)).hexdigest() == expected:
                continue
            content = published.bucket.get(key, start, length, expected) if size else published.bucket.get(key)
            os.pwrite(descriptor, content, start)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _path_below(folder: Path, name: str) -> Path:
    if name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
        raise StorageError(f"the published manifest names {name!r}, a path outside its directory: not fetched")
    return folder / name


# --- history and manifests -----------------------------------------------------------------------


def _history_key(uri: S3Uri, number: int) -> str:
    return (uri / f"history/{number:08d}").prefix


def _version_at(bucket: Bucket, key: str) -> str:
    """The version that an entry of history names."""
    return str(orjson.loads(bucket.get(key))["version"])


def _newest(bucket: Bucket, uri: S3Uri) -> tuple[int, str] | None:
    """Number and version of the last entry of history; None if it is empty.

    `latest` may be behind: it only shortens the listing.
    """
    after = ""
    if bucket.head((uri / "latest").prefix) is not None:
        number = int(orjson.loads(bucket.get((uri / "latest").prefix))["number"])
        after = _history_key(uri, number - 1)
    records = bucket.keys((uri / "history").prefix + "/", after)
    if not records:
        return None
    return int(records[-1].rsplit("/", 1)[1]), _version_at(bucket, records[-1])


def _read_manifest(bucket: Bucket, uri: S3Uri) -> FileTable:
    """The manifest of the version at `uri`, checked against the version."""
    location = uri / VERSION_FILE
    content = bucket.get(location.prefix)
    if hashlib.sha256(content).hexdigest()[:16] != uri.prefix.rsplit("/", 1)[-1]:
        raise StorageError(f"{location} does not have the hash of its version: publish the directory again")
    return _parse_files(orjson.loads(content), str(location))


def _parse_files(content: JsonObject, where: str) -> FileTable:
    try:
        return {
            str(name): FileEntry(int(entry["size"]), str(entry["sha256"]), tuple(map(str, entry.get("blocks", ()))))
            for name, entry in content["files"].items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise StorageError(f"{where} is not a manifest of `vhm data push`: publish the directory again") from None


def _manifest_bytes(files: FileTable) -> bytes:
    content = {"files": {name: entry.to_json() for name, entry in files.items()}}
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)


def _hash_file(path: Path) -> FileEntry:
    complete, blocks = hashlib.sha256(), []
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            complete.update(block)
            blocks.append(hashlib.sha256(block).hexdigest())
    return FileEntry(path.stat().st_size, complete.hexdigest(), tuple(blocks) if len(blocks) > 1 else ())
