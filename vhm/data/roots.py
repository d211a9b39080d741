"""Image roots: a folder of files or a folder of tar shards, read the same way.

FOLDER/SOURCE/IMAGE                     files
FOLDER/index.json, shard-000000.tar …   what `vhm data pack` writes; images are read by offset
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Protocol

from vhm.errors import ImageError, InputError
from vhm.io import read_json

INDEX = "index.json"


class ImageRoot(Protocol):
    """Gives the bytes of an image by its name below the root."""

    def read(self, name: str) -> bytes:
        """The file's bytes. Raises ImageError when there is no such file or it leaves the root."""
        ...


def open_root(path: Path) -> ImageRoot:
    """The image root at `path`; InputError when it does not exist."""
    if not path.is_dir():
        raise InputError(f"image root {path} does not exist")
    return PackedRoot(path) if (path / INDEX).is_file() else FolderRoot(path)


class FolderRoot:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._real = path.resolve()

    def read(self, name: str) -> bytes:
        path = self._path / name
        try:
            path.resolve().relative_to(self._real)
        except ValueError:
            raise ImageError("bad_path", f"{name} leaves the image root through a link") from None
        try:
            return path.read_bytes()
        except OSError:
            raise ImageError("image_missing", f"{path} does not exist") from None


class PackedRoot:
    """Shards are memory-mapped; the index says where each image's bytes are."""

    def __init__(self, path: Path) -> None:
        self._path = path
        index = read_json(path / INDEX)
        self._shards = [shard["name"] for shard in index["shards"]]
        self._files: dict[str, list[int]] = index["files"]
        self._mapped: dict[int, mmap.mmap] = {}

    def read(self, name: str) -> bytes:
        place = self._files.get(name)
        if place is None:
            raise ImageError("image_missing", f"{name} is not in {self._path}")
        shard, offset, size = place
        if shard not in self._mapped:
            with (self._path / self._shards[shard]).open("rb") as file:
                self._mapped[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._mapped[shard][offset : offset + size]
