"""The table of a folder of tar shards (WebDataset layout), and a safe reader for untrusted tar files.

FOLDER/shard-000000.tar …   samples: NAME.EXT next to NAME.json with its records
FOLDER/index.json           name, size and sha256 of the shards, numbers of images and records
FOLDER/index.arrow          name, shard, offset, size and sha256 of every image, sorted by name; memory-mapped
FOLDER/manifest.parquet     the records, as accepted by `vhm validate`
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, overload

from vhm.errors import InputError
from vhm.io import JsonObject, read_json_object, sha256_file, write_json

if TYPE_CHECKING:
    import pyarrow as pa

INDEX = "index.json"
TABLE = "index.arrow"
IMAGES = tuple(".jpg .jpeg .mpo .png .tif .tiff .webp .bmp .gif .avif .heic .heif .jp2 .j2k".split())

_BLOCK = 512
_MAX_HEADER = 64 * 1024  # bytes of an extended header, which should contain little but a long name
_MAX_MEMBERS = 50_000_000
_SHARD = re.compile(r"[\w][\w.-]*\.tar")


@dataclass(frozen=True)
class ShardEntry:
    """The bytes of one file: `size` bytes from `offset` in shard number `shard`."""

    name: str
    shard: int
    offset: int
    size: int
    sha256: bytes


@dataclass(frozen=True)
class ShardFile:
    """One tar file of a folder of shards."""

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> ShardFile:
        return cls(path.name, path.stat().st_size, sha256_file(path))


class ShardTable:
    """The files of a folder of shards by name; a lookup reads a few pages of a memory-mapped file."""

    def __init__(self, shards: list[str], table: pa.Table) -> None:
        self.shards = shards
        columns = {name: table.column(name).combine_chunks() for name in ("name", "shard", "offset", "size", "sha256")}
        self._names = columns.pop("name")
        self._columns = columns

    def __len__(self) -> int:
        return len(self._names)

    @property
    def names(self) -> Sequence[str]:
        """The names of the files, sorted; they are read from the table, not held in memory."""
        return _Names(self._names)

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


class _Names(Sequence[str]):
    def __init__(self, names: pa.Array) -> None:
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return list(self._names[row].to_pylist())
        return str(self._names[int(row)].as_py())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 10_000):
            yield from self[start : start + 10_000]


def is_packed(folder: Path) -> bool:
    """Whether `folder` contains shards with a table."""
    return (folder / INDEX).is_file()


def open_local_table(folder: Path) -> ShardTable:
    """The table of the shards in `folder`. Raises InputError if it is missing or invalid."""
    return open_table(read_json_object(folder / INDEX), folder / TABLE)


def open_table(index: JsonObject, table: Path) -> ShardTable:
    """The table in the file `table`, for the shards listed in `index`, the content of index.json.

    Raises InputError if either is invalid.
    """
    import pyarrow as pa

    try:
        shards = [str(entry["name"]) for entry in index["shards"]]
        columns = pa.ipc.open_file(pa.memory_map(str(table))).read_all()
        shard_table = ShardTable(shards, columns)
    except (OSError, pa.ArrowException, KeyError, TypeError) as error:
        raise InputError(
            f"{table} is not a table of shards ({str(error).splitlines()[0]}): run `vhm data index`"
        ) from None
    for name in shards:
        if not _SHARD.fullmatch(name):
            raise InputError(
                f"{table.with_name(INDEX)} names the shard {name!r}, which is not a file name in this folder"
            )
    return shard_table


def write_table(folder: Path, shards: list[ShardFile], entries: list[ShardEntry], records: int) -> None:
    """Write index.arrow, then index.json; `records` is the number of records in the shards."""
    import pyarrow as pa

    entries = sorted(entries, key=lambda entry: entry.name)
    table = pa.table(
        {
            "name": pa.array([entry.name for entry in entries], pa.large_string()),
            "shard": pa.array([entry.shard for entry in entries], pa.int32()),
            "offset": pa.array([entry.offset for entry in entries], pa.int64()),
            "size": pa.array([entry.size for entry in entries], pa.int64()),
            "sha256": pa.array([entry.sha256 for entry in entries], pa.binary(32)),
        }
    )
    with pa.OSFile(str(folder / TABLE), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    write_json(folder / INDEX, {"shards": [asdict(s) for s in shards], "images": len(entries), "records": records})


def index_shards(folder: Path) -> int:
    """Write the table of a folder of tar files from elsewhere (WebDataset); returns the number of images.

    Raises InputError if `walk` refuses an archive, if two images have the same name, or if there is no image.
    """
    entries: dict[str, ShardEntry] = {}
    records = 0
    shards = []
    for number, path in enumerate(sorted(folder.glob("*.tar"))):
        with path.open("rb") as file:
            for member in walk(path):
                suffix = PurePosixPath(member.name).suffix.lower()
                records += suffix == ".json"
                if suffix in IMAGES:
                    _refuse(member.name in entries, path, repr(member.name), "occurs twice")
                    digest = _digest(file, member)
                    entries[member.name] = ShardEntry(member.name, number, member.offset, member.size, digest)
        shards.append(ShardFile.of(path))
    if not entries:
        raise InputError(f"{folder} holds no *.tar with images")
    write_table(folder, shards, list(entries.values()), records)
    return len(entries)


def _digest(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    digest, remaining = hashlib.sha256(), member.size
    while remaining:
        block = file.read(min(remaining, 2**20))
        digest.update(block)
        remaining -= len(block)
    return digest.digest()


# --- untrusted tar files -------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """A regular file in a tar: `size` bytes from `offset`."""

    name: str
    offset: int
    size: int


def walk(path: Path) -> Iterator[Member]:
    """The regular files of an uncompressed tar; nothing is extracted.

    Raises InputError for members that do not belong in a shard (links, devices, sparse files, names that lead out of
    the folder, a member longer than the tar), for damaged or huge headers, and for compressed files.
    """
    total = path.stat().st_size
    with path.open("rb") as file:
        offset, number = 0, 0
        long_name: str | None = None
        while offset + _BLOCK <= total:
            file.seek(offset)
            header = file.read(_BLOCK)
            if header == bytes(_BLOCK):
                return
            _refuse(number >= _MAX_MEMBERS, path, "the archive", f"has more than {_MAX_MEMBERS} members")
            name, size, kind = _header(header, path, offset)
            number += 1
            _refuse(offset + _BLOCK + size > total, path, repr(name), "is longer than the archive")
            if kind in (b"x", b"L"):
                _refuse(size > _MAX_HEADER, path, repr(name), f"has an extended header of {size} bytes")
                long_name = _long_name(file.read(size), kind, path)
            elif kind in (b"0", b"\0"):
                name, long_name = long_name or name, None
                _refuse(not _is_safe(name), path, repr(name), "has a name that leads out of the folder")
                yield Member(name, offset + _BLOCK, size)
            else:
                long_name = None
                _refuse(kind not in (b"5", b"g"), path, repr(name), f"is not a regular file (type {kind!r})")
            offset += _BLOCK + -(-size // _BLOCK) * _BLOCK
        raise InputError(f"{path} has no end marker: it is truncated, or not a tar")


def _header(header: bytes, path: Path, offset: int) -> tuple[str, int, bytes]:
    """Name, size and type of the member with this header. Raises InputError if its checksum is wrong."""
    try:
        checksum = int(header[148:156].strip(b" \0") or b"0", 8)
        size = int(header[124:136].strip(b" \0") or b"0", 8)
        name = header[:100].split(b"\0")[0].decode()
        prefix = header[345:500].split(b"\0")[0].decode() if header[257:262] == b"ustar" else ""
    except ValueError:
        raise InputError(f"{path} has a damaged header at byte {offset}, or is not an uncompressed tar") from None
    if checksum != sum(header) - sum(header[148:156]) + 8 * ord(" ") or size < 0:
        raise InputError(f"{path} has a damaged header at byte {offset}, or is not an uncompressed tar")
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name, size, header[156:157]


def _long_name(content: bytes, kind: bytes, path: Path) -> str | None:
    """The name in an extended header of type L (GNU) or x (POSIX); None if it has no path."""
    try:
        if kind == b"L":
            return content.rstrip(b"\0").decode()
        name = None
        while content.strip(b"\0"):
            length = int(content.split(b" ", 1)[0])
            key, _, value = content[:length].split(b" ", 1)[1].partition(b"=")
            _refuse(length < 5, path, "an extended header", "is damaged")
            _refuse(key.startswith(b"GNU.sparse") or key == b"size", path, "a member", f"has the header {key.decode()}")
            name = value[:-1].decode() if key == b"path" else name
            content = content[length:]
        return name
    except (ValueError, IndexError):
        raise InputError(f"{path} has a damaged extended header") from None


def _is_safe(name: str) -> bool:
    parts = name.split("/")
    return (
        bool(name) and not name.startswith("/") and not {"..", ""} & set(parts) and not re.search(r"[\\\0]|://", name)
    )


def _refuse(wrong: bool, path: Path, what: str, why: str) -> None:
    if wrong:
        raise InputError(f"{path}: {what} {why}: refused")
