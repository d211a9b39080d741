"""Whether a training image is an evaluation image: the same bytes, or the same picture re-encoded,
resized, mirrored or turned.

Candidates come from a 64-bit perceptual hash (sign of the lowest 8×8 cosine coefficients of a 32×32
grey thumbnail, Zauner 2010), compared in eight orientations; a candidate counts only when the two
thumbnails correlate, so that two flat pictures of water do not pass for one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, Resampling
from scipy.fft import dctn

from vhm.data.images import load_image

_SIDE = 32
MAX_DISTANCE = 10
MIN_CORRELATION = 0.95
MIN_CONTRAST = 2.0


@dataclass(frozen=True)
class Fingerprint:
    """`thumbnail` is [32, 32] grey; `bits` the 64 hash bits of its upright orientation."""

    sha256: str
    thumbnail: NDArray[np.float32]
    bits: NDArray[np.bool_]


def fingerprint(content: bytes, image: Image | None = None) -> Fingerprint:
    """The fingerprint of an image file's bytes; `image` where it is already decoded. Raises ImageError."""
    grey = (image or load_image(content)).convert("L").resize((_SIDE, _SIDE), Resampling.BOX)
    thumbnail = np.asarray(grey, np.float32)
    return Fingerprint(hashlib.sha256(content).hexdigest(), thumbnail, _hash(thumbnail))


class LeakFinder:
    """Looks images up among the evaluation images given at construction."""

    def __init__(self, evaluation: Iterable[tuple[str, Fingerprint]]) -> None:
        pairs = list(evaluation)
        self._names = [name for name, _ in pairs]
        self._by_bytes = {print_.sha256: name for name, print_ in pairs}
        self._bits = np.array([print_.bits for _, print_ in pairs], bool).reshape(-1, 64)
        self._thumbnails = [_normal(print_.thumbnail) for _, print_ in pairs]

    def find(self, image: Fingerprint) -> str | None:
        """The name of the evaluation image that `image` is, or None."""
        if image.sha256 in self._by_bytes:
            return self._by_bytes[image.sha256]
        if not self._names or image.thumbnail.std() < MIN_CONTRAST:
            return None
        for turned in _orientations(image.thumbnail):
            distances = (self._bits != _hash(turned)).sum(1)
            normal = _normal(turned)
            for candidate in np.flatnonzero(distances <= MAX_DISTANCE):
                if float((normal * self._thumbnails[candidate]).mean()) >= MIN_CORRELATION:
                    return self._names[candidate]
        return None


def _hash(thumbnail: NDArray[np.float32]) -> NDArray[np.bool_]:
    low = dctn(thumbnail, norm="ortho")[:8, :8].ravel()
    return np.asarray(low > np.median(low[1:]))


def _normal(thumbnail: NDArray[np.float32]) -> NDArray[np.float32]:
    return (thumbnail - thumbnail.mean()) / max(float(thumbnail.std()), 1e-6)


def _orientations(thumbnail: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [np.rot90(side, turns) for side in (thumbnail, thumbnail[:, ::-1]) for turns in range(4)]
