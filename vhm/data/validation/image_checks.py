"""Checks one image: its bytes are read and decoded once, however many records show it.

The result is what the verdict on its records needs: the reason why it cannot be used, or its hash, its size, the
evaluation image that it shows, and a summary for finding blank images and near-duplicates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from vhm.data.images import Limits, load_pixels
from vhm.data.images.options import SourceOptions
from vhm.data.images.stores import open_store
from vhm.data.validation.findings import Leak
from vhm.data.validation.record_checks import split_key, unforeseen
from vhm.data.validation.similarity import LeakFinder, fingerprint, summarise
from vhm.errors import BandError, ImageError, VhmError


@dataclass(frozen=True)
class CheckedImage:
    """One image: `reason` and `detail` if it cannot be used, otherwise all other fields.

    `bands` are those of an image that lacks a requested one.
    `sha256` has 32 bytes; `leak` is the `Leak` as JSON, see `read_leak`; `brightness`, `blank`, `hash` and
    `thumbnail` are those of `ImageSummary`.
    """

    key: str
    reason: str | None = None
    detail: str | None = None
    sha256: bytes | None = None
    width: int | None = None
    height: int | None = None
    leak: bytes | None = None
    brightness: float | None = None
    blank: bool = False
    hash: int = 0
    thumbnail: bytes | None = None
    bands: int | None = None


class ImageChecker:
    """Checks images of the store at `location`; without a finder, they are not compared with evaluation images."""

    def __init__(self, location: str | Path, options: SourceOptions, limits: Limits, finder: LeakFinder | None) -> None:
        self._store = open_store(location)
        self._location = f"{location}/"
        self._options, self._limits, self._finder = options, limits, finder

    def check(self, key: str) -> CheckedImage:
        """The image with this key (`image_key`).

        Raises StorageError or InputError when the store fails: that says nothing about the image.
        """
        source, name = split_key(key)
        try:
            content = self._store.read(name)
        except ImageError as error:
            # Details do not tell where the store is: the same images elsewhere give the same results.
            return CheckedImage(key, error.reason, error.detail.replace(self._location, ""))
        try:
            return self._check(key, content, source)
        except ImageError as error:
            bands = error.bands if isinstance(error, BandError) else None
            return CheckedImage(key, error.reason, f"{name}: {error.detail}", bands=bands)
        except (VhmError, OSError, MemoryError):
            raise
        except Exception as error:  # one image must not end the run, whatever it contains
            return CheckedImage(key, "unreadable", f"{name}: {unforeseen(error)}")

    def _check(self, key: str, content: bytes, source: str) -> CheckedImage:
        pixels = load_pixels(content, self._limits, options=self._options.of(source))
        leak = None if self._finder is None else self._finder.find(fingerprint(content, pixels))
        summary = summarise(pixels)
        return CheckedImage(
            key=key,
            sha256=hashlib.sha256(content).digest(),
            width=pixels.shape[1],
            height=pixels.shape[0],
            leak=None if leak is None else orjson.dumps(asdict(leak)),
            brightness=summary.brightness,
            blank=summary.blank,
            hash=summary.hash,
            thumbnail=summary.thumbnail,
        )


def read_leak(content: bytes) -> Leak:
    """The leak in `CheckedImage.leak`."""
    fields: Mapping[str, object] = orjson.loads(content)
    outlines = {name: _outline(fields[name]) for name in ("outline", "evaluation_outline")}
    return Leak(**{**fields, **outlines})  # type: ignore[arg-type]


def _outline(corners: object) -> tuple[tuple[float, float], ...]:
    assert isinstance(corners, list)
    return tuple((float(x), float(y)) for x, y in corners)
