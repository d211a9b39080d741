"""What is kept on this machine because making it again takes time, shared by its processes.

`DiskCache` is a folder of bytes by key with a limit on its size: what was used longest ago goes first, and an entry
carries its own hash, so that a torn or damaged one counts as absent. `kept_file` is one large file, to be mapped.
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

_HASH = 16
_KEEP = 30 * 86_400  # seconds


class DiskCache:
    """`max_bytes` bounds the folder, but for what is written between two looks (a twentieth of it)."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max = folder, max_bytes
        self._written = max_bytes  # look at the folder before the first entry: an earlier run may have filled it
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> bytes | None:
        """The bytes that were put under `key`, if they are still there and whole."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        if hashlib.blake2b(content[_HASH:], digest_size=_HASH).digest() != content[:_HASH]:
            path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):  # another process may just have made room
            os.utime(path)
        return content[_HASH:]

    def put(self, key: str, content: bytes) -> None:
        """Keep `content`; a full disk is no error: then it is not kept."""
        size = len(content) + _HASH
        if size > self._max // 2:
            return
        with self._lock:
            self._written += size
            if self._written > self._max // 20:
                self._written = size
                self._make_room(size)
        path = self._path(key)
        beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            path.parent.mkdir(exist_ok=True)
            beside.write_bytes(hashlib.blake2b(content, digest_size=_HASH).digest() + content)
            os.replace(beside, path)
        except OSError:
            beside.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        name = hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
        return self._folder / name[:2] / name[2:]

    def _make_room(self, coming: int) -> None:
        """Remove what was used longest ago until nine tenths are left; one process at a time."""
        with (self._folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return
            found = []
            for folder in os.scandir(self._folder):
                if folder.is_dir():
                    for entry in os.scandir(folder.path):
                        with contextlib.suppress(OSError):
                            status = entry.stat()
                            found.append((status.st_mtime_ns, status.st_size, entry.path))
            room = self._max * 9 // 10 - coming - sum(size for _, size, _ in found)
            for _, size, path in sorted(found):
                if room >= 0:
                    break
                with contextlib.suppress(OSError):
                    os.unlink(path)
                room += size


def kept_file(name: str, make: Callable[[Path], None]) -> Path:
    """The file `name`, which tells its content, below `tables` in $VHM_CACHE; one process makes it where it is absent.

    Then others go that nobody has asked for in 30 days.
    """
    folder = cache_directory() / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            for other in folder.iterdir():
                if other.name != ".lock" and other.stat().st_mtime < time.time() - _KEEP:
                    other.unlink()
            beside = folder / f".{name}.partial"
            make(beside)
            os.replace(beside, path)
        os.utime(path)
    return path
