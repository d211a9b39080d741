"""Images of an import: the image root of foreign paths, sizes, and the files that embedded images become."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import posixpath
import re
import shutil
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import IO

from vhm.data.importing.rows import EmbeddedImage
from vhm.errors import RecordError

_FOLDERS = (
    "",
    "images",
    "image",
    "imgs",
    "JPEGImages",
    "Images",
    "train",
    "data",
    "Images_LR",
    "Images_train",
    "Images_val",
)
_UNSAFE = re.compile(r"[^\w./ +=@()-]")
_SUFFIXES = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    b"GIF8": ".gif",
    b"BM": ".bmp",
}


def find_root(folder: Path, names: Iterable[str]) -> Path:
    """The folder, or one of its usual subfolders or its parent, that has most of the first images; else `folder`."""
    sample = list(itertools.islice(names, 50))
    absolute = [name for name in sample if name.startswith("/")]
    if absolute:
        return Path(os.path.commonpath([posixpath.dirname(name) for name in absolute]))
    siblings = folder.parent.iterdir() if folder.name == "annotations" else ()  # COCO: train2017, val2017, …
    candidates = [folder / name for name in _FOLDERS] + [
        folder.parent,
        *(folder.parent / name for name in _FOLDERS[1:]),
        *sorted(sibling for sibling in siblings if sibling.is_dir()),
    ]
    counts = {root: sum((root / name).is_file() for name in sample) for root in candidates}
    best = max(candidates, key=lambda root: counts[root])
    return best if counts[best] else folder


def relative_name(name: str, root: Path) -> str:
    """An image's path relative to the root. Raises RecordError if it is not below it."""
    if name.startswith("/"):
        try:
            return Path(name).relative_to(root).as_posix()
        except ValueError:
            raise RecordError("bad_path", f"{name!r} is not below the image root {root}: give --images") from None
    return posixpath.normpath(name.replace("\\", "/"))


@lru_cache(maxsize=4096)
def image_size(path: Path) -> tuple[int, int] | None:
    """(width, height) of an image file; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return _size(file)
    except OSError:
        return None


def _size(file: IO[bytes]) -> tuple[int, int] | None:
    import PIL.Image  # here: most imports need no size

    try:
        with PIL.Image.open(file) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        return None


class ImageWriter:
    """Writes embedded images below a folder, each once; names stay as they were where they can."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._written)

    def write(self, image: EmbeddedImage) -> str:
        """The name of the image's file below the folder. Raises RecordError if the image has no bytes."""
        if not image.content:
            raise RecordError("image_empty", "the image has no bytes")
        digest = hashlib.sha256(image.content).digest()[:16]
        name = _safe_name(image.name, image.content) or f"{digest.hex()[:2]}/{digest.hex()}{_suffix(image.content)}"
        if self._written.get(name, digest) != digest:
            stem, suffix = posixpath.splitext(name)
            name = f"{stem}-{digest.hex()[:12]}{suffix}"
        if name not in self._written:
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image.content)
            self._written[name] = digest
        return name

    @staticmethod
    def size(image: EmbeddedImage) -> tuple[int, int] | None:
        return _size(io.BytesIO(image.content))


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where links are not possible."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _safe_name(name: str | None, content: bytes) -> str | None:
    """A path that is the same on every system; None if there is none."""
    if name is None:
        return None
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    safe = _UNSAFE.sub("_", "/".join(parts))[-200:].lstrip("/. ")
    if not safe:
        return None
    return safe if posixpath.splitext(safe)[1] else f"{safe}{_suffix(content)}"


def _suffix(content: bytes) -> str:
    if content[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for magic, suffix in _SUFFIXES.items() if content.startswith(magic)), ".img")
