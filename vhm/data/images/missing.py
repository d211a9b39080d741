"""A missing image → the file that its name may stand for: what `image_missing` suggests.

    another Unicode form    macOS writes é as e and an accent (NFD), most other systems as one character (NFC)
    another case            IMG.JPG and img.jpg are one file on Windows and macOS
    another extension       after a conversion
    one folder too many     in the record or in the image root, or one too few

A suggestion depends on the name and the store alone. Folders are listed, and names are indexed, once per process and
only after a miss, so that a million missing images take little longer than without suggestions.
"""

from __future__ import annotations

import os
import posixpath
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_MAX_ENTRIES = 200_000  # of a folder: listing a larger one takes too long
_MAX_NAME = 500  # characters
_MAX_FOLDERS = 4  # leading folders of a name that may be one too many
_INDICES = 4  # name indices kept in memory, of 32 bytes a name


class Names(Protocol):
    """The files of a store, to be searched for names that differ a little."""

    def similar(self, name: str) -> str | None:
        """The file with this name in another case or Unicode form, else with another extension; None: there is none."""
        ...


def suggest(name: str, files: Names) -> str:
    """The end of a message about the missing file `name`: "; did you mean …?", or nothing."""
    if len(name) > _MAX_NAME:
        return ""
    for variant in _variants(name):
        found = files.similar(variant)
        if found is not None:
            return f"; did you mean {found!r} ({_difference(name, found)})?"
    return ""


def _variants(name: str) -> Iterator[str]:
    """The name, without one of its folders, and in one more folder."""
    yield name
    parts = name.split("/")
    for number in range(min(len(parts) - 1, _MAX_FOLDERS)):
        yield "/".join(parts[:number] + parts[number + 1 :])
    if len(parts) > 1:
        yield f"{parts[0]}/{name}"
    yield f"images/{name}"


def _difference(name: str, found: str) -> str:
    if unicodedata.normalize("NFC", found) == unicodedata.normalize("NFC", name):
        return "another Unicode form"
    if _key(found) == _key(name):
        return "another case"
    folders, existing = name.count("/"), found.count("/")
    if folders == existing:
        return "another extension"
    return "one folder too many" if folders > existing else "one folder too few"


def _key(name: str) -> str:
    """Names with the same key differ by case and Unicode form only."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]


# --- folders -------------------------------------------------------------------------------------


class FolderNames:
    """The files below a folder; only the folders that a name leads to are listed."""

    def __init__(self, root: Path) -> None:
        self._root, self._real = str(root), os.path.realpath(root)  # text: a Path takes longer than what it is used for

    def similar(self, name: str) -> str | None:
        folder, _, last = name.rpartition("/")
        existing = self._folder(folder)
        listing = None if existing is None else self._list(existing)
        if existing is None or listing is None:
            return None
        key = _key(last)
        found = listing[0].get(key) or listing[1].get(_stem(key))
        return None if found is None else self._inside(posixpath.join(existing, found))

    def _folder(self, name: str) -> str | None:
        """The folder with this name up to case and Unicode form."""
        existing = ""
        for part in filter(None, name.split("/")):
            listing = self._list(existing)
            found = None if listing is None else listing[0].get(_key(part))
            if found is None:
                return None
            existing = posixpath.join(existing, found)
        return existing

    def _list(self, folder: str) -> _Listing | None:
        path = posixpath.join(self._root, folder)
        try:
            return _list_folder(path, os.stat(path).st_mtime_ns)
        except OSError:
            return None

    def _inside(self, name: str) -> str | None:
        """The name, if it is a file below the root: a link may lead elsewhere."""
        path = os.path.realpath(posixpath.join(self._root, name))
        return name if os.path.isfile(path) and os.path.commonpath([path, self._real]) == self._real else None


_Listing = tuple[dict[str, str], dict[str, str]]


@lru_cache(256)
def _list_folder(path: str, modified: int) -> _Listing | None:
    """The entries of a folder by key, and by key without extension; None of a folder with too many.

    `modified` is the folder's time, so that a changed folder is listed again.
    """
    entries = []
    with os.scandir(path) as scanned:
        for entry in scanned:
            entries.append(entry.name)
            if len(entries) > _MAX_ENTRIES:
                return None
    entries.sort(reverse=True)  # of several entries with one key the first counts
    by_key = {_key(name): name for name in entries}
    return by_key, {_stem(key): name for key, name in by_key.items()}


# --- tables --------------------------------------------------------------------------------------


class NameIndex:
    """The names of a table of files: hashes of their keys, sorted, and the rows that they belong to."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        keys = np.fromiter((hash(_key(name)) for name in names), np.int64, len(names))
        stems = np.fromiter((hash(_stem(_key(name))) for name in names), np.int64, len(names))
        self._by_key, self._by_stem = _sorted(keys), _sorted(stems)

    def similar(self, name: str) -> str | None:
        key = _key(name)
        for sought, (hashes, rows), of in ((key, self._by_key, _key), (_stem(key), self._by_stem, _key_of_stem)):
            value = hash(sought)
            position = int(np.searchsorted(hashes, value))
            while position < len(hashes) and hashes[position] == value:
                found: str = self._names[int(rows[position])]
                if of(found) == sought:
                    return found
                position += 1
        return None


def _key_of_stem(name: str) -> str:
    return _stem(_key(name))


def _sorted(hashes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows = np.argsort(hashes, kind="stable")
    return hashes[rows], rows


_indices: OrderedDict[str, NameIndex] = OrderedDict()
_lock = threading.Lock()


def name_index(identity: str, names: Callable[[], Sequence[str]]) -> NameIndex:
    """The index of a table, built once per process; `identity` changes when the table does."""
    with _lock:
        if identity not in _indices:
            _indices[identity] = NameIndex(names())
        _indices.move_to_end(identity)
        while len(_indices) > _INDICES:
            _indices.popitem(last=False)
        return _indices[identity]
