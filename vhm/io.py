"""Files: written beside and renamed, hashed by content, read with one clear error.

Everything that another process may read appears whole or not at all.
"""

from __future__ import annotations

import ctypes
import glob
import hashlib
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from vhm.errors import InputError

# A JSON object as read from a file; code that computes with it parses it into a dataclass first.
JsonObject: TypeAlias = dict[str, Any]


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `content` to `path` so that a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON with sorted keys, one trailing newline."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
    write_bytes(path, orjson.dumps(content, option=options))


def read_json(path: Path) -> Any:
    """The JSON value in `path`. InputError names the file when it is absent or not JSON."""
    try:
        return orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON: {error}") from error


def read_json_object(path: Path) -> JsonObject:
    """The JSON object in `path`. InputError names the file when it is absent, not JSON, or not an object."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a JSON object")
    return content


def read_jsonl(path: Path) -> list[JsonObject]:
    """All objects of a JSON-lines file; InputError names the line that is not an object."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    rows: list[JsonObject] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InputError(f"{path} line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f"{path} line {number} is not a JSON object")
        rows.append(row)
    return rows


def jsonl(rows: Iterator[Any] | list[Any]) -> bytes:
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def check_place(path: Path, marker: str) -> None:
    """InputError unless `path` may become a result: absent, empty, or an older one, which holds `marker`."""
    if path.is_dir() and any(path.iterdir()) and not (path / marker).exists():
        raise InputError(f"{path} is not empty and holds no {marker} of an earlier result: choose another place")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: choose another place")


@contextmanager
def whole_directory(path: Path, marker: str) -> Iterator[Path]:
    """A directory to fill that takes the place of `path` when the block ends without an error.

    At every moment `path` is the old directory or the new one, whole. An older result is replaced when it
    holds `marker`, a file that every such result has; InputError for any other directory that is not empty:
    it is somebody's.
    """
    path = path.absolute()
    check_place(path, marker)
    _sweep(path)
    beside = path.with_name(_beside(path, os.getpid()))
    try:
        beside.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot write beside {path}: {error.strerror}") from error
    try:
        yield beside
        _sync_directory(beside)
        if path.exists():
            _exchange(beside, path)
        else:
            os.rename(beside, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    except Exception as error:
        if "(os error " in str(error):  # what libraries written in Rust say of a full disk
            raise InputError(f"cannot write {path}: {error}") from error
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _beside(path: Path, process: int | str) -> str:
    return f".{path.name}.{socket.gethostname()}.{process}.partial"


def _sweep(path: Path) -> None:
    """Remove what killed processes of this machine left beside `path`."""
    for left in path.parent.glob(glob.escape(_beside(path, "")).replace("..partial", ".*.partial")):
        process = left.name.split(".")[-2]
        if process.isdigit() and (int(process) == os.getpid() or not _alive(int(process))):
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _exchange(new: Path, old: Path) -> None:
    """Swap two directories in one step (Linux); where that cannot be done, by two renames."""
    if sys.platform == "linux":
        at_cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of renameat2(2)
        libc = ctypes.CDLL(None, use_errno=True)
        if hasattr(libc, "renameat2") and not libc.renameat2(at_cwd, bytes(new), at_cwd, bytes(old), exchange):
            return
    aside = old.with_name(f"{new.name}.old")
    os.rename(old, aside)
    os.rename(new, old)
    shutil.rmtree(aside)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_directory() -> Path:
    """Where downloads are kept: $VHM_CACHE, else the user's cache directory."""
    if place := os.environ.get("VHM_CACHE"):
        return Path(place)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vhm"


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tree(root: Path, skip: frozenset[str] = frozenset()) -> str:
    """One hash over the names and contents of all files below `root` (or of the file `root`).

    Files and folders whose name is in `skip` do not count.
    """
    if root.is_file():
        return sha256_file(root)
    if not root.is_dir():
        raise InputError(f"{root} does not exist")
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = path.relative_to(root)
        if not skip.intersection(name.parts):
            digest.update(f"{name.as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()
