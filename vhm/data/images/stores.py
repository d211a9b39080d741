"""Image stores: a folder of files, a folder of tar shards, or either in S3, with one interface.

FOLDER/SOURCE/IMAGE                     files
FOLDER/index.json, shard-000000.tar …   written by `vhm data pack`; images are read by offset
s3://BUCKET/PREFIX                      either of them, published (`vhm data push`), or plain files; images are read
                                        in ranges and cached in a folder of limited size
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import re
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import orjson

from vhm.data.images.cache import DiskCache, cached_file
from vhm.data.images.missing import FolderNames, Names, name_index, suggest
from vhm.data.shards.table import INDEX, TABLE, ShardEntry, ShardTable, is_packed, open_local_table, open_table
from vhm.errors import DamagedObjectError, ImageError, InputError, StorageError, VhmError
from vhm.io import cache_directory, write_bytes
from vhm.storage.files import FileEntry
from vhm.storage.s3 import Bucket, ObjectHead, is_uri, parse_uri
from vhm.storage.versions import Published, open_published

MAX_FILE = 2**30  # bytes


class ImageStore(Protocol):
    """Image files by their name relative to the store; safe to use from several threads."""

    remote: bool

    def read(self, name: str) -> bytes:
        """The file's bytes. Raises ImageError if it does not exist or lies outside the store."""
        ...

    def size(self, name: str) -> int:
        """The number of bytes that `read` returns. Raises ImageError as `read` does."""
        ...

    def stamp(self, name: str) -> str:
        """A string that changes when the file does; the file is not read. Raises ImageError as `read` does."""
        ...


def open_store(location: str | Path) -> ImageStore:
    """The image store at a path or an s3:// URI. Raises InputError if it does not exist."""
    if is_uri(location):
        return _open_remote(str(location))
    path = Path(location)
    if not path.is_dir():
        raise InputError(f"image store {path} does not exist")
    return ShardStore(path) if is_packed(path) else FolderStore(path)


def join(root: str | Path, name: str) -> str | Path:
    """`name` below a data root; a URI or an absolute path is returned unchanged."""
    if is_uri(name):
        return name
    return f"{root}/{name}" if is_uri(root) else Path(root) / name


class FolderStore:
    remote = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._real = path.resolve()
        self._names = FolderNames(path)

    def read(self, name: str) -> bytes:
        try:
            status = self._status(name)
        except ImageError as error:
            raise _with_suggestion(error, name, lambda: self._names) from None
        if status.st_size > MAX_FILE:
            raise ImageError("image_bomb", f"{self._path / name} has {status.st_size} bytes")
        try:
            return (self._path / name).read_bytes()
        except OSError as error:
            raise _folder_error(self._path / name, error) from None

    def size(self, name: str) -> int:
        return self._status(name).st_size

    def stamp(self, name: str) -> str:
        status = self._status(name)
        return f"{status.st_size} {status.st_mtime_ns}"

    def _status(self, name: str) -> os.stat_result:
        path = self._path / name
        try:
            path.resolve().relative_to(self._real)
        except (ValueError, RuntimeError):  # RuntimeError: a cycle of links
            raise ImageError("bad_path", f"{name} leads out of the image store through a link") from None
        except OSError as error:
            raise _folder_error(path, error) from None
        try:
            status = path.stat()
        except OSError as error:
            raise _folder_error(path, error) from None
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("image_unknown", f"{path} is not a file")
        return status


def _folder_error(path: Path, error: OSError) -> VhmError:
    """Only what says that there is no such file is about the image; the rest is about the storage that it is on."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return ImageError("image_missing", f"{path} does not exist")
    if error.errno == errno.ELOOP:
        return ImageError("bad_path", f"{path} is a cycle of links")
    return StorageError(f"{path} cannot be read ({error.strerror})")


def _with_suggestion(error: ImageError, name: str, files: Callable[[], Names]) -> ImageError:
    """The error; that of a missing file also says which one may be meant. Only `read` looks for it: it takes time."""
    if error.reason != "image_missing":
        return error
    return ImageError(error.reason, f"{error.detail}{suggest(name, files())}")


class _Shards:
    """The table of a store of shards, local or remote; `identity` changes when the table does."""

    def __init__(self, location: str, table: ShardTable, identity: str) -> None:
        self._location, self._table, self._identity = location, table, identity

    def size(self, name: str) -> int:
        return self._entry(name).size

    def stamp(self, name: str) -> str:
        return self._entry(name).sha256.hex()

    def _entry_to_read(self, name: str) -> ShardEntry:
        try:
            return self._entry(name)
        except ImageError as error:
            index = lambda: name_index(self._identity, lambda: self._table.names)  # noqa: E731
            raise _with_suggestion(error, name, index) from None

    def _entry(self, name: str) -> ShardEntry:
        entry = self._table.find(name)
        if entry is None:
            raise ImageError("image_missing", f"{name} is not in {self._location}")
        return entry


class ShardStore(_Shards):
    """Memory-mapped shards; the table has the offset and the sha256 of each image."""

    remote = False

    def __init__(self, path: Path) -> None:
        table = open_local_table(path)
        super().__init__(str(path), table, f"{path.resolve()} {(path / TABLE).stat().st_mtime_ns}")
        self._path = path
        self._mapped: dict[int, mmap.mmap] = {}
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes:
        entry = self._entry_to_read(name)
        shard = self._shard(entry.shard)
        content = shard[max(entry.offset, 0) : entry.offset + entry.size]
        if hashlib.sha256(content).digest() != entry.sha256:  # takes a twentieth of the time of decoding the image
            path = self._path / self._table.shards[entry.shard]
            raise ImageError(
                "image_changed", f"{name} in {path.name} does not have the sha256 of the table: pack or fetch it again"
            )
        return content

    def _shard(self, number: int) -> mmap.mmap:
        with self._lock:
            if number not in self._mapped:
                self._mapped[number] = self._map(number)
            return self._mapped[number]

    def _map(self, number: int) -> mmap.mmap:
        if number >= len(self._table.shards):
            raise InputError(
                f"the table of {self._path} refers to shard {number}, which it does not list: pack it again"
            )
        path = self._path / self._table.shards[number]
        try:
            with path.open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise StorageError(f"shard {path} does not exist: restore it, or pack or fetch the images again") from None
        except ValueError:
            raise StorageError(f"shard {path} is empty: restore it, or pack or fetch the images again") from None
        except OSError as error:
            raise StorageError(f"shard {path} cannot be read ({error.strerror})") from None


# --- S3 ------------------------------------------------------------------------------------------


def _open_remote(location: str) -> ImageStore:
    uri = parse_uri(location)
    published = open_published(uri)
    if published is None:
        published = Published(Bucket(uri.bucket), uri, {})
        if not published.bucket.keys(f"{uri.prefix}/" if uri.prefix else "", limit=1):
            raise InputError(f"image store {location} is empty or does not exist")
        return RemoteFolderStore(published)
    return RemoteShardStore(published) if INDEX in published.files else RemoteFolderStore(published)


def image_cache() -> DiskCache:
    """The cache of images from S3: the folder `s3` in $VHM_CACHE, of at most $VHM_CACHE_GB (default 20) gigabytes."""
    limit = os.environ.get("VHM_CACHE_GB", "20")
    if not re.fullmatch(r"\d+(\.\d+)?", limit):
        raise InputError(f"VHM_CACHE_GB={limit!r} is not a number of gigabytes")
    return DiskCache(cache_directory() / "s3", int(float(limit) * 1e9))


def fetch_file(published: Published, name: str) -> Path:
    """The local copy of a file of a published directory, for memory-mapping."""
    return cached_file(published.files[name].sha256, lambda path: write_bytes(path, published.read(name)))


class RemoteFolderStore:
    """One S3 object per image."""

    remote = True

    def __init__(self, published: Published) -> None:
        self._published, self._cache = published, image_cache()

    def read(self, name: str) -> bytes:
        try:
            key = self.stamp(name)
        except ImageError as error:
            files = self._published.files
            index = lambda: name_index(str(self._published.uri), lambda: list(files))  # noqa: E731
            raise (_with_suggestion(error, name, index) if files else error) from None
        content = self._cache.get(key)
        if content is None:
            digest = key if self._published.files else None
            try:
                content = self._published.bucket.get((self._published.uri / name).prefix, sha256=digest)
            except FileNotFoundError:
                if digest is not None:
                    raise StorageError(f"{self._published.uri / name} was deleted: publish it again") from None
                raise ImageError("image_missing", f"{self._published.uri / name} does not exist") from None
            except DamagedObjectError:
                raise _changed(name, self._published) from None
            self._cache.put(key, content)
        return content

    def size(self, name: str) -> int:
        return self._entry(name).size

    def stamp(self, name: str) -> str:
        entry = self._entry(name)
        return entry.sha256 if isinstance(entry, FileEntry) else f"{self._published.uri / name} {entry.etag}"

    def _entry(self, name: str) -> FileEntry | ObjectHead:
        """The file's entry in the published manifest; for plain objects, the response of S3."""
        files = self._published.files
        entry = files.get(name) if files else self._published.bucket.head((self._published.uri / name).prefix)
        if entry is None:
            raise ImageError("image_missing", f"{name} is not in {self._published.uri}")
        return entry


class RemoteShardStore(_Shards):
    """Images are ranges of shards; their sha256 is in the table, so a damaged response is requested again."""

    remote = True

    def __init__(self, published: Published) -> None:
        index = orjson.loads(published.read(INDEX))
        super().__init__(str(published.uri), open_table(index, fetch_file(published, TABLE)), str(published.uri))
        self._published, self._cache = published, image_cache()

    def read(self, name: str) -> bytes:
        entry = self._entry_to_read(name)
        digest = entry.sha256.hex()
        content = self._cache.get(digest)
        if content is None:
            shard = (self._published.uri / self._table.shards[entry.shard]).prefix
            try:
                content = self._published.bucket.get(shard, entry.offset, entry.size, digest)
            except FileNotFoundError:
                raise StorageError(
                    f"shard {shard} is not in bucket {self._published.bucket.name}: publish it again"
                ) from None
            except DamagedObjectError:
                raise _changed(name, self._published) from None
            self._cache.put(digest, content)
        return content


def _changed(name: str, published: Published) -> ImageError:
    return ImageError("image_changed", f"{name} in {published.uri} is not what was published: publish it again")
