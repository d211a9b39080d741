"""Tar shards (WebDataset layout) that are read by offset: their table, and a walk over tars that nobody vouches for.

FOLDER/shard-000000.tar …   samples: NAME.EXT beside NAME.json with the records that show it
FOLDER/index.json           the shards with size and sha256
FOLDER/index.arrow          name, shard, offset, size and sha256 of every image, sorted by name; memory-mapped
FOLDER/manifest.parquet     the records, as `vhm validate` accepted them
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from vhm.errors import InputError
from vhm.io import read_json, sha256_file, write_json

INDEX = "index.json"
TABLE = "index.arrow"
IMAGES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif")

_BLOCK = 512
_MAX_HEADER = 64 * 1024  # bytes of an extended header: a long name and little else
_MAX_MEMBERS = 50_000_000
_SHARD = re.compile(r"[\w][\w.-]*\.tar")


@dataclass(frozen=True)
class ShardEntry:
    """Where a file's bytes are."""

    name: str
    shard: int
    offset: int
    size: int
    sha256: bytes


class ShardTable:
    """The files of a folder of shards by their names; a lookup touches a few pages of a mapped file."""

    def __init__(self, shards: list[str], table: Any) -> None:
        self.shards = shards
        columns = {name: table.column(name).combine_chunks() for name in ("name", "shard", "offset", "size", "sha256")}
        self._names = columns.pop("name")
        self._columns = columns

    def __len__(self) -> int:
        return len(self._names)

    def find(self, name: str) -> ShardEntry | None:
        low, high = 0, len(self._names)
        while low < high:
            middle = (low + high) // 2
            if self._names[middle].as_py() < name:
                low = middle + 1
            else:
                high = middle
        if low == len(self._names) or self._names[low].as_py() != name:
            return None
        return ShardEntry(name, *(self._columns[c][low].as_py() for c in ("shard", "offset", "size", "sha256")))


def open_table(index: dict[str, Any], table: Path) -> ShardTable:
    """The table in the file `table`, with the shards that index.json lists. InputError when they are no such thing."""
    import pyarrow as pa

    try:
        shards = [str(entry["name"]) for entry in index["shards"]]
        columns = pa.ipc.open_file(pa.memory_map(str(table))).read_all()
        found = ShardTable(shards, columns)
    except (OSError, pa.ArrowException, KeyError, TypeError) as error:
        raise InputError(
            f"{table} is no table of shards ({str(error).splitlines()[0]}): run `vhm data index`"
        ) from None
    for name in shards:
        if not _SHARD.fullmatch(name):
            raise InputError(f"{table.with_name(INDEX)} names the shard {name!r}: not a file of this folder")
    return found


def write_table(folder: Path, shards: list[dict[str, Any]], places: list[ShardEntry], records: int) -> None:
    """Write index.arrow and, last, index.json."""
    import pyarrow as pa

    places = sorted(places, key=lambda place: place.name)
    table = pa.table(
        {
            "name": pa.array([p.name for p in places], pa.large_string()),
            "shard": pa.array([p.shard for p in places], pa.int32()),
            "offset": pa.array([p.offset for p in places], pa.int64()),
            "size": pa.array([p.size for p in places], pa.int64()),
            "sha256": pa.array([p.sha256 for p in places], pa.binary(32)),
        }
    )
    with pa.OSFile(str(folder / TABLE), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    write_json(folder / INDEX, {"shards": shards, "images": len(places), "records": records})


@dataclass(frozen=True)
class Member:
    """A regular file inside a tar."""

    name: str
    offset: int
    size: int


def walk(path: Path) -> Iterator[Member]:
    """The regular files of an uncompressed tar, without unpacking anything.

    Raises InputError for what has no place in a shard: links, devices, sparse files, names that leave the folder,
    a member longer than the tar, headers that are damaged or huge, compression.
    """
    total = path.stat().st_size
    with path.open("rb") as file:
        at, number = 0, 0
        long_name: str | None = None
        while at + _BLOCK <= total:
            file.seek(at)
            header = file.read(_BLOCK)
            if header == bytes(_BLOCK):
                return
            _refuse(number >= _MAX_MEMBERS, path, "more members", f"than {_MAX_MEMBERS}")
            name, size, kind = _header(header, path, at)
            number += 1
            _refuse(at + _BLOCK + size > total, path, repr(name), "is longer than the archive")
            if kind in (b"x", b"L"):
                _refuse(size > _MAX_HEADER, path, repr(name), f"has an extended header of {size} bytes")
                long_name = _long_name(file.read(size), kind, path)
            elif kind in (b"0", b"\0"):
                name, long_name = long_name or name, None
                _refuse(not _plain(name), path, repr(name), "has a name that leads out of the folder")
                yield Member(name, at + _BLOCK, size)
            else:
                long_name = None
                _refuse(kind not in (b"5", b"g"), path, repr(name), f"is no regular file (type {kind!r})")
            at += _BLOCK + -(-size // _BLOCK) * _BLOCK
        raise InputError(f"{path} has no end: it was cut short, or is no tar")


def _header(header: bytes, path: Path, at: int) -> tuple[str, int, bytes]:
    try:
        told = int(header[148:156].strip(b" \0") or b"0", 8)
        size = int(header[124:136].strip(b" \0") or b"0", 8)
        name = header[:100].split(b"\0")[0].decode()
        prefix = header[345:500].split(b"\0")[0].decode() if header[257:262] == b"ustar" else ""
    except ValueError:
        raise InputError(f"{path} has a damaged header at byte {at}, or is no uncompressed tar") from None
    if told != sum(header) - sum(header[148:156]) + 8 * ord(" ") or size < 0:
        raise InputError(f"{path} has a damaged header at byte {at}, or is no uncompressed tar")
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name, size, header[156:157]


def _long_name(content: bytes, kind: bytes, path: Path) -> str | None:
    """The name that an extended header gives: GNU's (L), or the path of a POSIX one (x)."""
    try:
        if kind == b"L":
            return content.rstrip(b"\0").decode()
        found = None
        while content.strip(b"\0"):
            length = int(content.split(b" ", 1)[0])
            key, _, value = content[:length].split(b" ", 1)[1].partition(b"=")
            _refuse(length < 5, path, "an extended header", "is damaged")
            _refuse(key.startswith(b"GNU.sparse") or key == b"size", path, "a member", f"has the header {key.decode()}")
            found = value[:-1].decode() if key == b"path" else found
            content = content[length:]
        return found
    except (ValueError, IndexError):
        raise InputError(f"{path} has a damaged extended header") from None


def _plain(name: str) -> bool:
    parts = name.split("/")
    return (
        bool(name) and not name.startswith("/") and not {"..", ""} & set(parts) and not re.search(r"[\\\0]|://", name)
    )


def _refuse(wrong: bool, path: Path, what: str, why: str) -> None:
    if wrong:
        raise InputError(f"{path}: {what} {why}: refused")


def index_shards(folder: Path) -> int:
    """Make the table of a folder of tars that came from elsewhere (WebDataset); returns the number of images.

    Raises InputError for archives that `walk` refuses, for images of one name, and where there is no image.
    """
    tars = sorted(folder.glob("*.tar"))
    places: dict[str, ShardEntry] = {}
    records = 0
    shards = []
    for number, path in enumerate(tars):
        with path.open("rb") as file:
            for member in walk(path):
                suffix = PurePosixPath(member.name).suffix.lower()
                records += suffix == ".json"
                if suffix in IMAGES:
                    _refuse(member.name in places, path, repr(member.name), "is there twice")
                    places[member.name] = ShardEntry(
                        member.name, number, member.offset, member.size, _digest(file, member)
                    )
        shards.append({"name": path.name, "size": path.stat().st_size, "sha256": sha256_file(path)})
    if not places:
        raise InputError(f"{folder} holds no *.tar with images")
    write_table(folder, shards, list(places.values()), records)
    return len(places)


def _digest(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    digest, left = hashlib.sha256(), member.size
    while left:
        block = file.read(min(left, 2**20))
        digest.update(block)
        left -= len(block)
    return digest.digest()


def is_packed(folder: Path) -> bool:
    return (folder / INDEX).is_file()


def open_local_table(folder: Path) -> ShardTable:
    """The table of the shards in `folder`."""
    return open_table(read_json(folder / INDEX), folder / TABLE)
