"""Caches on this machine, shared by its processes.

`DiskCache` is a folder of byte strings by key with a limit on its size. The least recently used entries are removed
first. Each entry carries its own hash, so an incomplete or damaged one counts as absent. `cached_file` is one large
file for memory-mapping.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from vhm.io import cache_directory

_HASH_SIZE = 16
_MAX_AGE = 30 * 86_400  # seconds


class DiskCache:
    """Byte strings on disk, at most about `max_bytes`: the size is checked after every twentieth of it is written."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max = folder, max_bytes
        self._written = max_bytes  # makes the first `put` check the size: an earlier run may have filled the folder
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> bytes | None:
        """The bytes stored under `key`; None if they were removed or are damaged."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        if hashlib.blake2b(content[_HASH_SIZE:], digest_size=_HASH_SIZE).digest() != content[:_HASH_SIZE]:
            path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):  # another process may just have removed it
            os.utime(path)
        return content[_HASH_SIZE:]

    def put(self, key: str, content: bytes) -> None:
        """Store `content`. If it is larger than half the limit, or the disk is full, it is not stored."""
        size = len(content) + _HASH_SIZE
        if size > self._max // 2:
            return
        with self._lock:
            self._written += size
            if self._written > self._max // 20:
                self._written = size
                self._shrink(size)
        path = self._path(key)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            path.parent.mkdir(exist_ok=True)
            temporary.write_bytes(hashlib.blake2b(content, digest_size=_HASH_SIZE).digest() + content)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        name = hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
        return self._folder / name[:2] / name[2:]

    def _shrink(self, new_bytes: int) -> None:
        """Remove the least recently used entries until, with `new_bytes`, nine tenths of the limit are in use.

        Only one process at a time does so; the others return at once.
        """
        with (self._folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return
            entries = self._entries()
            excess = new_bytes + sum(size for _, size, _ in entries) - self._max * 9 // 10
            for _, size, path in sorted(entries):
                if excess <= 0:
                    break
                with contextlib.suppress(OSError):
                    os.unlink(path)
                excess -= size

    def _entries(self) -> list[tuple[int, int, str]]:
        """Time of last use in nanoseconds, size and path of every entry."""
        entries = []
        for folder in os.scandir(self._folder):
            if folder.is_dir():
                for entry in os.scandir(folder.path):
                    with contextlib.suppress(OSError):
                        status = entry.stat()
                        entries.append((status.st_mtime_ns, status.st_size, entry.path))
        return entries


def cached_file(name: str, create: Callable[[Path], None]) -> Path:
    """The file `name` in the folder `tables` of $VHM_CACHE; if it is absent, one process creates it.

    `name` identifies the content, for example by its hash. Creating a file removes those unused for 30 days.
    """
    folder = cache_directory() / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            for other in folder.iterdir():
                if other.name != ".lock" and other.stat().st_mtime < time.time() - _MAX_AGE:
                    other.unlink()
            temporary = folder / f".{name}.partial"
            create(temporary)
            os.replace(temporary, path)
        os.utime(path)
    return path
