"""Files and directories: atomic writes, JSON with clear errors, content hashes.

A result is written to a temporary path next to its own and renamed, so another process sees it complete or not at all.
"""

from __future__ import annotations

import ctypes
import glob
import hashlib
import os
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from vhm.errors import InputError, StorageError

# A JSON object as read from a file; code that computes with it parses it into a dataclass first.
JsonObject: TypeAlias = dict[str, Any]


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `content` to `path` atomically: a reader sees the old file or the new one.

    Raises StorageError if the disk is full or fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def write_json(path: Path, content: object) -> None:
    """Write `content` as indented JSON with sorted keys, one trailing newline."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
    write_bytes(path, orjson.dumps(content, option=options))


def read_json(path: Path) -> Any:
    """The JSON value in `path`. Raises InputError if the file is absent or not JSON."""
    try:
        return orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON: {error}") from error


def read_json_object(path: Path) -> JsonObject:
    """The JSON object in `path`. Raises InputError if the file is absent, not JSON, or not an object."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a JSON object")
    return content


def read_jsonl(path: Path) -> list[JsonObject]:
    """The objects of a JSON-lines file. Raises InputError, which names the first line that is not an object."""
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


def jsonl(rows: Iterable[object]) -> bytes:
    """The rows as JSON lines."""
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def check_output_directory(path: Path, marker: str) -> None:
    """Raise InputError unless a result may be written to `path`.

    The directory must be absent, empty, or an earlier result, which contains the file `marker`.
    """
    if path.is_dir() and any(path.iterdir()) and not (path / marker).exists():
        raise InputError(f"{path} is not empty and has no {marker} of an earlier result: choose another directory")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: choose another directory")


@contextmanager
def whole_directory(path: Path, marker: str) -> Iterator[Path]:
    """Yield a temporary directory to fill; it replaces `path` when the block ends without an error.

    At every moment `path` is the complete old directory or the complete new one. An earlier result, recognised by
    the file `marker`, is replaced. Raises InputError for any other directory that is not empty.
    """
    path = path.absolute()
    check_output_directory(path, marker)
    _remove_abandoned(path)
    temporary = path.with_name(_temporary_name(path, os.getpid()))
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot write next to {path}: {error.strerror}") from error
    try:
        yield temporary
        _sync_directory(temporary)
        if path.exists():
            _exchange(temporary, path)
        else:
            os.rename(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    except Exception as error:
        if "(os error " in str(error):  # how libraries written in Rust report a full disk
            raise InputError(f"cannot write {path}: {error}") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary_name(path: Path, process: int | str) -> str:
    return f".{path.name}.{socket.gethostname()}.{process}.partial"


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary directories of `path` whose processes on this machine were killed."""
    for abandoned in path.parent.glob(glob.escape(_temporary_name(path, "")).replace("..partial", ".*.partial")):
        process = abandoned.name.split(".")[-2]
        if process.isdigit() and (int(process) == os.getpid() or not _alive(int(process))):
            shutil.rmtree(abandoned, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _exchange(new: Path, old: Path) -> None:
    """Swap two directories atomically on Linux; elsewhere with two renames."""
    if sys.platform == "linux":
        at_cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of renameat2(2)
        libc = ctypes.CDLL(None, use_errno=True)
        if hasattr(libc, "renameat2") and not libc.renameat2(at_cwd, bytes(new), at_cwd, bytes(old), exchange):
            return
    previous = old.with_name(f"{new.name}.old")
    os.rename(old, previous)
    os.rename(new, old)
    shutil.rmtree(previous)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_directory() -> Path:
    """The directory for downloads: $VHM_CACHE, or `vhm` in the user's cache directory."""
    if directory := os.environ.get("VHM_CACHE"):
        return Path(directory)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vhm"


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tree(root: Path, skip: frozenset[str] = frozenset()) -> str:
    """One hash over the names and contents of all files below `root` (or of the file `root`).

    Files and folders whose name is in `skip` are ignored.
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
