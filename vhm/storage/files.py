"""The files of a directory that is published: which they are, and that what is sent is what was hashed.

`snapshot` lists a directory, `hash_files` makes the table that becomes the manifest, and `PlannedFile` reads a file
for the upload and refuses content other than the hashed one.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vhm.errors import InputError
from vhm.io import JsonObject
from vhm.progress import track

BLOCK = 8 * 2**20  # bytes; also the size of a multipart upload's parts
_MAX_PARTS = 10_000  # of a multipart upload; parts of larger files have several blocks


@dataclass(frozen=True)
class FileEntry:
    """One file of a manifest; `blocks` are the sha256 of each 8 MiB if there are several, otherwise empty."""

    size: int
    sha256: str
    blocks: tuple[str, ...] = ()

    def to_json(self) -> JsonObject:
        blocks = {"blocks": list(self.blocks)} if self.blocks else {}
        return {"size": self.size, "sha256": self.sha256, **blocks}

    def spans(self) -> Iterator[tuple[int, int, str]]:
        """Offset, size and sha256 of each block; of the whole file if it has only one."""
        for number, digest in enumerate(self.blocks or (self.sha256,)):
            yield number * BLOCK, min(BLOCK, self.size - number * BLOCK), digest

    def contradicts(self, checksum: str | None) -> bool:
        """Whether the SHA-256 checksum that S3 computed of an object shows that it is not this file.

        It is the base64 hash of the content or, after a multipart upload, that of the parts' hashes and the number of
        parts. Without a checksum, or with one of other parts than our blocks, nothing is known.
        """
        if checksum is None:
            return False
        digest, _, parts = checksum.partition("-")
        if not parts:
            return digest != base64_digest(self.sha256)
        if int(parts) != len(self.blocks) or len(self.blocks) > _MAX_PARTS:
            return False
        return digest != base64_digest(hashlib.sha256(bytes.fromhex("".join(self.blocks))).hexdigest())


FileTable = Mapping[str, FileEntry]
Snapshot = Mapping[str, tuple[int, int]]  # size and time of change (ns) of each file


def base64_digest(sha256: str) -> str:
    """A hash as S3 writes it in a checksum."""
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def changed(path: Path) -> InputError:
    return InputError(f"{path} changed while it was published: publish again")


def snapshot(directory: Path) -> Snapshot:
    """The files of a directory by name, without hidden ones; links to files and directories are followed.

    Raises InputError for what could not be fetched again: a broken link, a link to a directory around it, a socket, a
    name that is not UTF-8 or has a backslash.
    """
    files: dict[str, tuple[int, int]] = {}
    for folder, folders, names in os.walk(directory, followlinks=True, onerror=_raise_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            _check_link(Path(folder, name))
        for name in names:
            if not name.startswith("."):
                path = Path(folder, name)
                files[_published_name(directory, path)] = _stamp(path)
    if not files:
        raise InputError(f"{directory} holds no file to publish")
    return dict(sorted(files.items()))


def _raise_unreadable(error: OSError) -> None:
    raise InputError(f"cannot read {error.filename}: {error.strerror}") from error


def _check_link(path: Path) -> None:
    if path.is_symlink() and path.resolve() in path.parent.resolve().joinpath("x").parents:
        raise InputError(f"{path} is a link to a directory that contains it: remove it, then publish again")


def _published_name(directory: Path, path: Path) -> str:
    name = path.relative_to(directory).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"the name of {str(path)!r} is not UTF-8: rename it, then publish again") from None
    if "\\" in name:
        raise InputError(f"the name of {path} has a backslash: rename it, then publish again")
    return name


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is not a file: move it out of the directory, then publish again")
    return status.st_size, status.st_mtime_ns


def require_unchanged(directory: Path, before: Snapshot) -> None:
    """Raise InputError if a file of the directory was changed, added or removed since `before`."""
    differing = sorted(dict(before.items() ^ snapshot(directory).items()))
    if differing:
        raise changed(directory / differing[0])


def hash_files(directory: Path, names: Snapshot) -> FileTable:
    """The entries of the files."""
    with ThreadPoolExecutor() as threads:
        entries = list(track(threads.map(lambda name: _hash_file(directory / name), names), "hashing", len(names)))
    return dict(zip(names, entries, strict=True))


def _hash_file(path: Path) -> FileEntry:
    complete, blocks, size = hashlib.sha256(), [], 0
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                complete.update(block)
                blocks.append(hashlib.sha256(block).hexdigest())
                size += len(block)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return FileEntry(size, complete.hexdigest(), tuple(blocks) if len(blocks) > 1 else ())


class PlannedFile(io.RawIOBase):
    """A file whose hashes are known, for reading in multiples of `BLOCK`.

    `read` raises InputError if the file no longer has the content of its entry.
    """

    def __init__(self, path: Path, entry: FileEntry) -> None:
        try:
            self._file = path.open("rb")
        except FileNotFoundError:
            raise changed(path) from None
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        self._path, self._entry = path, entry
        self._hashes = [digest for _, _, digest in entry.spans()]
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        try:
            self._file.seek(self._position)
            content = self._file.read(size)
        except OSError as error:
            raise InputError(f"cannot read {self._path}: {error.strerror}") from error
        first = self._position // BLOCK
        blocks = [memoryview(content)[start : start + BLOCK] for start in range(0, max(len(content), 1), BLOCK)]
        if [hashlib.sha256(block).hexdigest() for block in blocks] != self._hashes[first : first + len(blocks)]:
            raise changed(self._path)
        self._position += len(content)
        return content

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file; its end is that of the entry, also if the file has another size now."""
        self._position = offset + (0, self._position, self._entry.size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self._file.close()
        super().close()
