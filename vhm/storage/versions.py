"""Versioned directories in S3: published atomically, fetched with checks, and read file by file.

    s3://BUCKET/PREFIX/
        VERSION/…                 the files; VERSION is the first 16 hex digits of the manifest's sha256
        VERSION/.published.json   the manifest, uploaded after the files:
                                  {"files": {NAME: {"size", "sha256", "blocks"?: [sha256 of each 8 MiB]}}}
        history/00000007          the version that was published 7th; created once, by one writer
        latest                    the newest entry of history, for people and other tools; updated last

A version never changes: publishing it again sends what is missing or damaged, which is how an interrupted publication
is resumed and a published version repaired. Readers see either the previous version or the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import orjson

from vhm.errors import CheckFailed, DamagedObjectError, InputError, StorageError, first_line
from vhm.io import JsonObject, check_output_directory, read_json, whole_directory, write_json
from vhm.progress import track
from vhm.storage.files import FileEntry, FileTable, hash_files, require_unchanged, snapshot
from vhm.storage.s3 import Bucket, S3Uri
from vhm.storage.upload import Uploader, is_stored

VERSION_FILE = ".published.json"  # hidden files are not published, so no file of this name is overwritten
_COPY_LIMIT = 5 * 2**30

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")

# --- publishing ----------------------------------------------------------------------------------


def publish(directory: Path, uri: S3Uri, keep: int | None = None, verify: bool = False) -> str:
    """Upload a directory to `uri` as its newest version, and return the version.

    Files that are stored already, or that the previous version has, are not sent again; with `verify` their content is
    read back first, otherwise size, hash and checksum are queried. `keep` is the number of versions to retain
    (default: all). Raises InputError if a file changes meanwhile, CheckFailed if another writer publishes there first,
    and StorageError if the service fails permanently; in all cases readers see no change.
    """
    if not directory.is_dir():
        raise InputError(f"{directory} is not a directory: nothing to publish")
    bucket = Bucket(uri.bucket)
    number, previous = _newest(bucket, uri) or (0, None)
    before = snapshot(directory)
    files = hash_files(directory, before)
    version = version_of(files)
    publication = _Publication(bucket, uri, directory, files, verify)
    publication.send_files({} if previous in (None, version) else _objects_by_hash(bucket, uri / str(previous)))
    require_unchanged(directory, before)
    publication.send_manifest()
    if version != previous:
        record = orjson.dumps({"version": version, "writer": os.urandom(8).hex()})
        key = _history_key(uri, number + 1)
        if not bucket.put(key, record, IfNoneMatch="*") and _version_at(bucket, key) != version:
            raise CheckFailed(f"another writer published to {uri} first: check its version, then publish again")
        number += 1
    _update_latest(bucket, uri, number, version)
    _abort_uploads(bucket, uri)
    if keep is not None:
        _prune(bucket, uri, keep)
    return version


def version_of(files: FileTable) -> str:
    return hashlib.sha256(_manifest_bytes(files)).hexdigest()[:16]


class _Publication:
    """The objects of one version that is published from a directory."""

    def __init__(self, bucket: Bucket, uri: S3Uri, directory: Path, files: FileTable, verify: bool) -> None:
        self._bucket, self._directory, self._files, self._verify = bucket, directory, files, verify
        self._target = uri / version_of(files)
        self._manifest_key = (self._target / VERSION_FILE).prefix
        self._existing = set(bucket.keys(f"{self._target.prefix}/"))

    def send_files(self, copies: Mapping[str, str]) -> None:
        """Copy or upload the files that are missing or damaged; `copies` are keys of the bucket by sha256."""
        uploader = Uploader(self._bucket)

        def send(name: str) -> bool:
            key, entry = (self._target / name).prefix, self._files[name]
            if key in self._existing and self._is_stored(key, entry):
                return False
            if not (entry.sha256 in copies and self._copy(copies[entry.sha256], key, entry)):
                uploader.upload(self._directory / name, key, entry)
            return True

        with ThreadPoolExecutor(self._bucket.parallel) as threads, uploader:
            sent = sum(_each(threads, send, self._files, f"publishing to {self._target}"))
        if sent and self._manifest_key in self._existing:
            log.warning("%s was damaged: %d of %d files were sent again", self._target, sent, len(self._files))

    def send_manifest(self) -> None:
        content = _manifest_bytes(self._files)
        entry = FileEntry(len(content), hashlib.sha256(content).hexdigest())
        if not (self._manifest_key in self._existing and self._is_stored(self._manifest_key, entry)):
            self._bucket.put(self._manifest_key, content)

    def _is_stored(self, key: str, entry: FileEntry) -> bool:
        return is_stored(self._bucket, key, entry, self._verify)

    def _copy(self, source: str, key: str, entry: FileEntry) -> bool:
        """Copy within the bucket; False if the copy is not the file."""
        if entry.size > _COPY_LIMIT:
            return False
        with contextlib.suppress(FileNotFoundError):  # another writer may have pruned the previous version
            self._bucket.copy(source, key)
        return self._is_stored(key, entry)


def _each(threads: Executor, call: Callable[[T], R], items: Iterable[T], label: str) -> Iterator[R]:
    """The results of `call` in the order in which they are complete; the first error cancels what has not begun."""
    futures = [threads.submit(call, item) for item in items]
    try:
        for future in track(as_completed(futures), label, len(futures)):
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


def _objects_by_hash(bucket: Bucket, uri: S3Uri) -> dict[str, str]:
    """The keys of a version by the sha256 of their content; empty if its manifest is missing or damaged."""
    try:
        return {entry.sha256: (uri / name).prefix for name, entry in _read_manifest(bucket, uri).items()}
    except StorageError as error:
        log.warning("nothing is copied from the previous version: %s", first_line(error))
        return {}


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
        if (_latest_number(bucket, uri) or 0) >= number:
            return
        if bucket.put(key, content, IfMatch=head.etag):
            return


def _abort_uploads(bucket: Bucket, uri: S3Uri) -> None:
    """Abort the unfinished multipart uploads of killed writers, and of those that this one was faster than."""
    prefix = f"{uri.prefix}/" if uri.prefix else ""
    try:
        bucket.abort_uploads(prefix, re.escape(prefix) + "[0-9a-f]{16}/")
    except StorageError as error:  # a permission of its own; the version is published
        log.warning("unfinished uploads were not removed: %s", first_line(error))


def _prune(bucket: Bucket, uri: S3Uri, keep: int) -> None:
    """Remove all but the newest `keep` versions; of each, the manifest first."""
    versions = {key: _version_at(bucket, key) for key in bucket.keys((uri / "history").prefix + "/")}
    kept = set(list(versions.values())[-keep:])
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

    try:
        with ThreadPoolExecutor(published.bucket.parallel) as threads:
            for _ in _each(threads, download, published.files.items(), f"fetching {published.uri}"):
                pass
    except OSError as error:
        raise InputError(
            f"cannot write {folder}: {error.strerror}; fetch again to resume with what is downloaded"
        ) from error


def _complete_file(published: Published, name: str, entry: FileEntry, path: Path) -> None:
    """Download the blocks that are missing or wrong in `path`."""
    key = (published.uri / name).prefix
    path.touch()
    with path.open("r+b") as file:
        file.truncate(min(path.stat().st_size, entry.size))
        for start, length, expected in entry.spans():
            file.seek(start)
            if hashlib.sha256(file.read(length)).hexdigest() != expected:
                content = _read_block(published.bucket, key, start, length, expected)
                file.seek(start)
                file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _read_block(bucket: Bucket, key: str, start: int, length: int, sha256: str) -> bytes:
    try:
        return bucket.get(key, start, length, sha256)
    except FileNotFoundError:
        raise DamagedObjectError(f"s3://{bucket.name}/{key} does not exist: publish its directory again") from None


def _path_below(folder: Path, name: str) -> Path:
    if name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
        raise StorageError(f"the published manifest names {name!r}, a path outside its directory: not fetched")
    return folder / name


# --- history and manifests -----------------------------------------------------------------------


def _history_key(uri: S3Uri, number: int) -> str:
    return (uri / f"history/{number:08d}").prefix


def _version_at(bucket: Bucket, key: str) -> str:
    """The version that an entry of history names."""
    try:
        return str(orjson.loads(bucket.get(key))["version"])
    except (KeyError, TypeError, orjson.JSONDecodeError):
        raise StorageError(f"s3://{bucket.name}/{key} is not an entry that `vhm data push` wrote") from None


def _latest_number(bucket: Bucket, uri: S3Uri) -> int | None:
    """The number in `latest`; None if it is missing or damaged."""
    try:
        return int(orjson.loads(bucket.get((uri / "latest").prefix))["number"])
    except (FileNotFoundError, KeyError, TypeError, ValueError, DamagedObjectError):
        return None


def _newest(bucket: Bucket, uri: S3Uri) -> tuple[int, str] | None:
    """Number and version of the last entry of history; None if it is empty.

    `latest` may be behind: it only shortens the listing.
    """
    latest = _latest_number(bucket, uri)
    after = "" if latest is None else _history_key(uri, latest - 1)
    records = bucket.keys((uri / "history").prefix + "/", after)
    if not records:
        return None
    return int(records[-1].rsplit("/", 1)[1]), _version_at(bucket, records[-1])


def _read_manifest(bucket: Bucket, uri: S3Uri) -> FileTable:
    """The manifest of the version at `uri`, checked against the version."""
    location = uri / VERSION_FILE
    try:
        content = bucket.get(location.prefix)
    except FileNotFoundError:
        raise StorageError(f"{location} does not exist: publish the directory again") from None
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
