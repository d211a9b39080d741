"""Image roots: a folder of files, a folder of tar shards, or either in S3; read the same way.

FOLDER/SOURCE/IMAGE                     files
FOLDER/index.json, shard-000000.tar …   what `vhm data pack` writes; images are read by offset
s3://BUCKET/PREFIX                      either of them, published (`vhm data push`) or plain; images are read in
                                        ranges and kept in a folder of limited size
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import stat
import threading
from pathlib import Path
from typing import Any, Protocol

import orjson

from vhm.data.images.cache import DiskCache, kept_file
from vhm.data.shards.table import INDEX, TABLE, ShardEntry, ShardTable, is_packed, open_local_table, open_table
from vhm.errors import ImageError, InputError
from vhm.io import cache_directory, write_bytes
from vhm.storage.s3 import Bucket, is_uri, parse_uri
from vhm.storage.versions import Published, open_published

MAX_FILE = 2**30


class ImageStore(Protocol):
    """Gives the bytes of an image by its name below the root; from several threads at once."""

    remote: bool

    def read(self, name: str) -> bytes:
        """The file's bytes. Raises ImageError when there is no such file or it leaves the root."""
        ...

    def size(self, name: str) -> int:
        """How many bytes `read` gives. Raises ImageError as `read` does."""
        ...

    def stamp(self, name: str) -> str:
        """What changes when the file does, told without reading it. Raises ImageError as `read` does."""
        ...


def open_store(place: str | Path) -> ImageStore:
    """The image root at a path or an s3:// address; InputError when there is none."""
    if is_uri(place):
        return _open_remote(str(place))
    path = Path(place)
    if not path.is_dir():
        raise InputError(f"image root {path} does not exist")
    return ShardStore(path) if is_packed(path) else FolderStore(path)


def join(root: str | Path, name: str) -> str | Path:
    """`name` below a data root; an address or an absolute path stands for itself."""
    if is_uri(name):
        return name
    return f"{root}/{name}" if is_uri(root) else Path(root) / name


class FolderStore:
    remote = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._real = path.resolve()

    def read(self, name: str) -> bytes:
        status = self._status(name)
        if status.st_size > MAX_FILE:
            raise ImageError("image_bomb", f"{self._path / name} has {status.st_size} bytes")
        try:
            return (self._path / name).read_bytes()
        except OSError:
            raise ImageError("image_missing", f"{self._path / name} cannot be read") from None

    def size(self, name: str) -> int:
        return self._status(name).st_size

    def stamp(self, name: str) -> str:
        status = self._status(name)
        return f"{status.st_size} {status.st_mtime_ns}"

    def _status(self, name: str) -> os.stat_result:
        path = self._path / name
        try:
            path.resolve().relative_to(self._real)
        except (ValueError, RuntimeError):  # the latter for links that lead in a circle
            raise ImageError("bad_path", f"{name} leaves the image root through a link") from None
        try:
            status = path.stat()
        except OSError:
            raise ImageError("image_missing", f"{path} does not exist") from None
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("image_unknown", f"{path} is no file")
        return status


class _Shards:
    """What local and remote shards share: the table."""

    def __init__(self, where: str, table: ShardTable) -> None:
        self._where, self._table = where, table

    def size(self, name: str) -> int:
        return self._place(name).size

    def stamp(self, name: str) -> str:
        return self._place(name).sha256.hex()

    def _place(self, name: str) -> ShardEntry:
        place = self._table.find(name)
        if place is None:
            raise ImageError("image_missing", f"{name} is not in {self._where}")
        return place


class ShardStore(_Shards):
    """Shards are memory-mapped; the table says where each image's bytes are, and what they must be."""

    remote = False

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), open_local_table(path))
        self._path = path
        self._mapped: dict[int, mmap.mmap] = {}
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes:
        place = self._place(name)
        shard = self._shard(place.shard)
        content = shard[max(place.offset, 0) : place.offset + place.size]
        if hashlib.sha256(content).digest() != place.sha256:  # a twentieth of what decoding it takes
            told = self._path / self._table.shards[place.shard]
            raise ImageError(
                "image_truncated", f"{told} does not hold {name} as its table says: pack or fetch it again"
            )
        return content

    def _shard(self, number: int) -> mmap.mmap:
        with self._lock:
            if number not in self._mapped:
                try:
                    path = self._path / self._table.shards[number]
                    with path.open("rb") as file:
                        self._mapped[number] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                except (OSError, IndexError, ValueError):
                    raise InputError(f"shard {number} of {self._path} is missing or empty") from None
            return self._mapped[number]


# --- S3 ------------------------------------------------------------------------------------------


def _open_remote(place: str) -> ImageStore:
    uri = parse_uri(place)
    published = open_published(uri)
    if published is None:
        published = Published(Bucket(uri.bucket), uri, {})
        if not published.bucket.keys(f"{uri.prefix}/" if uri.prefix else "", limit=1):
            raise InputError(f"image root {place} is empty or does not exist")
        return RemoteFolderStore(published)
    return RemoteShardStore(published) if INDEX in published.files else RemoteFolderStore(published)


def image_cache() -> DiskCache:
    """Where images from S3 are kept: `s3` below $VHM_CACHE, at most $VHM_CACHE_GB (20)."""
    told = os.environ.get("VHM_CACHE_GB", "20")
    if not re.fullmatch(r"\d+(\.\d+)?", told):
        raise InputError(f"VHM_CACHE_GB={told!r} is no number of gigabytes")
    return DiskCache(cache_directory() / "s3", int(float(told) * 1e9))


def fetch_file(published: Published, name: str) -> Path:
    """A file of a published directory on this machine, to be mapped."""
    return kept_file(published.files[name]["sha256"], lambda path: write_bytes(path, published.read(name)))


class RemoteFolderStore:
    """One object an image."""

    remote = True

    def __init__(self, published: Published) -> None:
        self._published, self._cache = published, image_cache()

    def read(self, name: str) -> bytes:
        key = self.stamp(name)
        content = self._cache.get(key)
        if content is None:
            digest = key if self._published.files else None
            try:
                content = self._published.bucket.get((self._published.uri / name).prefix, sha256=digest)
            except FileNotFoundError:
                raise ImageError("image_missing", f"{self._published.uri / name} does not exist") from None
            self._cache.put(key, content)
        return content

    def size(self, name: str) -> int:
        return int(self._entry(name)["size"])

    def stamp(self, name: str) -> str:
        entry = self._entry(name)
        return str(entry["sha256"]) if self._published.files else f"{self._published.uri / name} {entry['etag']}"

    def _entry(self, name: str) -> dict[str, Any]:
        """The file's size and hash as published, or what S3 says of a plain object."""
        files = self._published.files
        entry = files.get(name) if files else self._published.bucket.head((self._published.uri / name).prefix)
        if entry is None:
            raise ImageError("image_missing", f"{name} is not in {self._published.uri}")
        return entry


class RemoteShardStore(_Shards):
    """Images are ranges of shards; each one's hash is in the table, so what comes damaged is asked for again."""

    remote = True

    def __init__(self, published: Published) -> None:
        index = orjson.loads(published.read(INDEX))
        super().__init__(str(published.uri), open_table(index, fetch_file(published, TABLE)))
        self._published, self._cache = published, image_cache()

    def read(self, name: str) -> bytes:
        place = self._place(name)
        digest = place.sha256.hex()
        content = self._cache.get(digest)
        if content is None:
            shard = (self._published.uri / self._table.shards[place.shard]).prefix
            content = self._published.bucket.get(shard, place.offset, place.size, digest)
            self._cache.put(digest, content)
        return content
