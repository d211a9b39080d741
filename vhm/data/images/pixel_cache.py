"""Resized images of a training run: recent ones in memory and, where a disk cache is given, all on disk."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import replace

import numpy as np

from vhm.data.images.cache import DiskCache
from vhm.data.images.decode import DEFAULT_LIMITS, Limits
from vhm.data.images.options import ImageOptions, SourceOptions
from vhm.data.images.stores import ImageStore
from vhm.data.images.transform import ImageTransform, Pixels


class PixelCache:
    """Reads images through a transform, from several threads at once; `max_bytes` bounds what stays in memory."""

    def __init__(
        self,
        store: ImageStore,
        transform: ImageTransform,
        limits: Limits = DEFAULT_LIMITS,
        max_bytes: int = 512 * 2**20,
        disk: DiskCache | None = None,
    ) -> None:
        self._store, self._transform, self._limits, self._disk = store, transform, limits, disk
        self._capacity = max(1, max_bytes // (3 * transform.side**2))
        self._recent: OrderedDict[tuple[str, ImageOptions], Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, name: str, source: str = "") -> Pixels:
        """The image of a record of `source` as uint8 [3, side, side]. Raises ImageError."""
        key = (name, self._transform.options.of(source))
        pixels = self._recent.get(key)
        if pixels is None:
            pixels = self._load(name, source)
        with self._lock:
            self._recent[key] = pixels
            self._recent.move_to_end(key)
            if len(self._recent) > self._capacity:
                self._recent.popitem(last=False)
        return pixels

    def _load(self, name: str, source: str) -> Pixels:
        content = self._store.read(name)
        if self._disk is None:
            return self._transform_file(content, source)
        # The key holds the image's bytes and the transform: when either changes, so does the entry.
        own = replace(self._transform, options=SourceOptions(self._transform.options.of(source)))
        key = f"{own} {hashlib.sha256(content).hexdigest()}"
        cached = self._disk.get(key)
        if cached is not None:
            return np.frombuffer(cached, np.uint8).reshape(3, self._transform.side, self._transform.side)
        pixels = self._transform_file(content, source)
        self._disk.put(key, pixels.tobytes())
        return pixels

    def _transform_file(self, content: bytes, source: str) -> Pixels:
        return self._transform.resize(self._transform.decode(content, self._limits, source=source))
