"""Whether a training image is an evaluation image: the same bytes, or the same picture re-encoded, resized, padded,
brightened, mirrored, turned by 90°, or a part of at least a quarter of its area, either way round.

Candidates come from a 64-bit perceptual hash (signs of the lowest 8×8 cosine coefficients around their median,
Zauner 2010) of the whole picture and of windows at every place and scale, looked up within 11 bits by multi-index
hashing (Norouzi et al. 2012). A candidate counts only when the two pictures, brought to cover each other, correlate
both as they are and in their details: two shores or two fields alike do not pass for one.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, Resampling, fromarray
from scipy.fft import dct
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from vhm.data.images import load_pixels
from vhm.data.images.resize import compiled

log = logging.getLogger(__name__)

Grey = NDArray[np.float16]
_Window = tuple[float, float, float]  # top, left, side, as shares of a picture
_Box = tuple[float, float, float, float]  # top, left, height, width, as shares of a picture

MAX_DISTANCE = 11  # with four words of 16 bits, one of them differs in 2 at most
ALIKE = (0.85, 0.5)  # least correlation of whole pictures, and of their details: what is left without the blurred one
PART_ALIKE = (0.88, 0.78)  # of a part, which there are many of
MIN_CONTRAST = 0.5  # grey levels of 255
MIN_SPREAD = 0.25  # share of a part that shows details of at least …
MIN_STRUCTURE = 1.0  # … so many grey levels
MIN_SIDE = 0.5  # of a window: a quarter of the area
MAX_WINDOWS = 40_000_000  # kept in memory, 24 bytes each; beyond them only whole pictures are compared

_SIDE = 64  # of a thumbnail
_SEEN = 32  # of a window of one
_LOW = 8
_MOST = 20_000  # candidates of one picture by their hashes …
_LOOKED_AT = 60  # … and those that are compared


@dataclass(frozen=True)
class Fingerprint:
    """`views` are [64, 64] grey thumbnails: of the whole picture and, where it is padded, of what is inside."""

    sha256: str
    views: tuple[Grey, ...]


def fingerprint(content: bytes, pixels: NDArray[np.uint8] | None = None) -> Fingerprint:
    """The fingerprint of an image file's bytes; `pixels` [H, W, 3] where it is decoded already. Raises ImageError."""
    image = fromarray(load_pixels(content) if pixels is None else pixels).convert("L")
    views = [_thumbnail(image)]
    inside = _without_padding(image)
    if inside is not None and _is_telling(_thumbnail(inside)):
        views.append(_thumbnail(inside))
    return Fingerprint(hashlib.sha256(content).hexdigest(), tuple(views))


def save_fingerprints(path: Path, prints: Iterable[tuple[str, Fingerprint]]) -> None:
    """Write named fingerprints to one file, for `load_finder` of other processes."""
    pairs = list(prints)
    np.savez(
        path,
        names=np.array([name for name, _ in pairs], np.str_),
        sha256=np.array([print_.sha256 for _, print_ in pairs], np.str_),
        counts=np.array([len(print_.views) for _, print_ in pairs], np.int64),
        views=np.array([view for _, print_ in pairs for view in print_.views], np.float16).reshape(-1, _SIDE, _SIDE),
    )


@functools.lru_cache(1)
def load_finder(path: Path) -> LeakFinder:
    """The finder over what `save_fingerprints` wrote; made once in a process."""
    with np.load(path) as kept:
        names, hashes, counts, views = (kept[key] for key in ("names", "sha256", "counts", "views"))
    ends = np.cumsum(counts)
    spans = zip(names.tolist(), hashes.tolist(), ends - counts, ends, strict=True)
    return LeakFinder([(name, Fingerprint(digest, tuple(views[a:b]))) for name, digest, a, b in spans])


class LeakFinder:
    """Looks images up among the evaluation images given at construction."""

    def __init__(self, evaluation: Iterable[tuple[str, Fingerprint]]) -> None:
        pairs = list(evaluation)
        self._by_bytes = {print_.sha256: name for name, print_ in pairs}
        seen = [(name, view) for name, print_ in pairs for view in print_.views if _shows(view)]
        self._names, self._views = [name for name, _ in seen], [view for _, view in seen]
        # What shows hardly anything is compared whole, and never taken for a part of something.
        self._telling = [place for place, view in enumerate(self._views) if _is_telling(view)]
        windows = _windows()
        if len(self._telling) * len(windows) > MAX_WINDOWS:
            log.warning(
                "%d evaluation images are too many to look for parts of them: only whole ones", len(self._views)
            )
            self._telling = []
        self._windows = [(0.0, 0.0, 1.0), *windows]
        wholes = [_hashes(_turned(_all_low(view)[0])) for view in self._views]
        self._wholes = HashIndex([hashes[:1] for hashes in wholes])
        self._parts = HashIndex([_hashes(_all_low(self._views[place])) for place in self._telling])
        self._small = HashIndex([wholes[place] for place in self._telling])

    def find(self, image: Fingerprint) -> str | None:
        """The name of the evaluation image that `image` is, or None."""
        if image.sha256 in self._by_bytes:
            return self._by_bytes[image.sha256]
        for view in image.views:
            found = self._find(view) if self._names and _shows(view) else None
            if found is not None:
                return found
        return None

    def _find(self, view: Grey) -> str | None:
        low = _all_low(view)
        upright = _hashes(_turned(low[0]))
        for turn, place, _ in _few((turn, place, 0) for turn, place in self._wholes.find(upright)):
            if _same(_orientations(view)[turn], self._views[place], self._windows[0]):
                return self._names[place]
        if not _is_telling(view):
            return None
        parts = ((turn, *divmod(place, len(self._windows))) for turn, place in self._parts.find(upright))
        for turn, small, window in _few(parts):
            if _same(_orientations(view)[turn], self._views[self._telling[small]], self._windows[window]):
                return self._names[self._telling[small]]
        near = ((window, *divmod(place, 8)) for window, place in self._small.find(_hashes(low[1:])))
        for turn, small, window in _few((turn, small, window + 1) for window, small, turn in near):
            if _same(_orientations(self._views[self._telling[small]])[turn], view, self._windows[window]):
                return self._names[self._telling[small]]
        return None


def _few(candidates: Iterable[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """The first candidates, (turn, evaluation view, window), and of each evaluation view the first three."""
    of_view: Counter[int] = Counter()
    for candidate in candidates:
        of_view[candidate[1]] += 1
        if of_view[candidate[1]] <= 3:
            yield candidate
        if of_view.total() >= _LOOKED_AT:
            return


# --- hashes --------------------------------------------------------------------------------------


class HashIndex:
    """64-bit hashes; those within `MAX_DISTANCE` of another are found by their four words of 16 bits."""

    def __init__(self, hashes: list[NDArray[np.uint64]]) -> None:
        self._hashes = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
        words = self._hashes.view(np.uint16).reshape(-1, 4)
        self._order = np.stack([np.argsort(words[:, w], kind="stable").astype(np.int32) for w in range(4)])
        counts = np.stack([np.bincount(words[:, w], minlength=1 << 16) for w in range(4)])
        self._starts = np.concatenate([np.zeros((4, 1), np.int32), np.cumsum(counts, 1, np.int32)], 1)
        # Most words are in no hash: one bit each stays in the processor's nearest cache.
        self._present = np.packbits(counts > 0, axis=1, bitorder="little")

    def find(self, hashes: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
        """(which of `hashes`, place of a hash near it), the nearest first."""
        found = np.empty(_MOST, np.int64)
        tables = (self._hashes, self._order, self._starts, self._present)
        for limit in range(MAX_DISTANCE, -1, -1):
            count = _probe(*tables, hashes, _flips(), limit, found)
            if count < _MOST:  # else the nearest may be among those that had no room
                break
        for one in np.unique(found[:count]):  # a near hash shares several words
            yield int(one) >> 32 & 0xFFFF, int(one) & 0xFFFFFFFF


@functools.cache
def _flips() -> NDArray[np.uint16]:
    """All words of 16 bits with two bits set or less."""
    return np.array([sum(1 << b for b in bits) for n in range(3) for bits in combinations(range(16), n)], np.uint16)


@compiled
def _probe(hashes: Any, order: Any, starts: Any, present: Any, wanted: Any, flips: Any, limit: Any, found: Any) -> Any:
    """Fills `found` with distance · 2⁴⁸ + which · 2³² + place; returns how many."""
    pairs, fours, bytes_, ones = (
        np.uint64(0x5555555555555555), np.uint64(0x3333333333333333),
        np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101),
    )  # fmt: skip
    count = 0
    for which in range(wanted.size):
        for word in range(4):
            own = (wanted[which] >> np.uint64(16 * word)) & np.uint64(0xFFFF)
            for flip in flips:
                value = np.int64(own ^ np.uint64(flip))
                if not present[word, value >> 3] >> (value & 7) & 1:
                    continue
                for at in range(starts[word, value], starts[word, value + 1]):
                    place = order[word, at]
                    differ = hashes[place] ^ wanted[which]
                    differ -= differ >> np.uint64(1) & pairs
                    differ = (differ & fours) + (differ >> np.uint64(2) & fours)
                    differ = (differ + (differ >> np.uint64(4))) & bytes_
                    bits = np.int64(differ * ones >> np.uint64(56))
                    if bits <= limit:
                        found[count] = bits << 48 | which << 32 | place
                        count += 1
                        if count == len(found):
                            return count
    return count


def _hashes(low: NDArray[np.float32]) -> NDArray[np.uint64]:
    """[n, 8, 8] coefficients as n hashes."""
    flat = low.reshape(len(low), -1)
    median = np.partition(flat[:, 1:], 31, axis=1)[:, 31:32]
    return np.packbits(flat > median, axis=1, bitorder="little").view(np.uint64).ravel()


def _turned(low: NDArray[np.float32]) -> NDArray[np.float32]:
    """The coefficients of the 8 orientations of a picture, in the order of `_orientations`."""
    signs = np.where(np.arange(_LOW) % 2, -1, 1).astype(np.float32)
    made = []
    for side in (low, low * signs[None, :]):  # mirrored: odd columns change their sign
        for _ in range(4):
            made.append(side)
            side = side.T * signs[:, None]  # turned by 90° against the clock: columns become rows from the bottom
    return np.stack(made)


def _orientations(view: Grey) -> list[Grey]:
    return [np.rot90(side, turns) for side in (view, view[:, ::-1]) for turns in range(4)]


# --- windows -------------------------------------------------------------------------------------


@functools.cache
def _windows() -> list[_Window]:
    """(top, left, side) of the windows of a picture, as shares of it: near enough to each other for the hash."""
    return [(top, left, side) for side, offsets in _scales() for top in offsets for left in offsets]


@functools.cache
def _scales() -> list[tuple[float, list[float]]]:
    scales, side = [], 0.95
    while side > MIN_SIDE - 0.01:
        count = int(np.ceil((1 - side) / (0.06 * side))) + 1
        scales.append((side, np.linspace(0, 1 - side, count).tolist()))
        side *= 0.94
    return scales


def _all_low(view: Grey) -> NDArray[np.float32]:
    """The lowest 8×8 cosine coefficients of the whole picture and of each window: [1 + windows, 8, 8]."""
    found = []
    view = view.astype(np.float32)  # type: ignore[assignment]
    for rows in _bases():
        low = (rows.reshape(-1, _SIDE) @ view) @ rows.reshape(-1, _SIDE).T
        count = len(rows)
        found.append(low.reshape(count, _LOW, count, _LOW).transpose(0, 2, 1, 3).reshape(-1, _LOW, _LOW))
    return np.concatenate(found)


@functools.cache
def _bases() -> list[NDArray[np.float32]]:
    """For each scale, the whole first, [offsets, 8, 64]: a window's mean over 32 cells, then their cosine transform."""
    cosine = dct(np.eye(_SEEN), axis=0, norm="ortho")[:_LOW]
    made = []
    for side, offsets in [(1.0, [0.0]), *_scales()]:
        made.append(np.stack([cosine @ _cells(offset, side) for offset in offsets]).astype(np.float32))
    return made


def _cells(offset: float, side: float) -> NDArray[np.float64]:
    """[32, 64]: the mean of a picture's row over each 32nd of a window."""
    edges = (offset + side * np.arange(_SEEN + 1) / _SEEN) * _SIDE
    pixels = np.arange(_SIDE)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    covered = np.maximum(covered, 0)
    return covered / np.maximum(covered.sum(axis=1, keepdims=True), 1e-9)


# --- certainty -----------------------------------------------------------------------------------


def _same(part: Grey, whole: Grey, window: _Window) -> bool:
    """Whether `part` is `whole` at about `window`: moved and stretched until they correlate best."""
    part, whole = part.astype(np.float64), whole.astype(np.float64)
    near = box = (window[0], window[1], window[2], window[2])
    all_of_it = (0.0, 0.0, 1.0, 1.0)
    correlation, detail = ALIKE if window[2] == 1 else PART_ALIKE
    for blurred, steps, enough in ((True, (0.03, 0.015), correlation - 0.25), (False, (0.01, 0.005), correlation)):
        score, box = _aligned(_normal(_seen(part, all_of_it, blurred)), whole, near, box, blurred, steps)
        if score < enough:
            return False
    return _match(_normal(_details(part, all_of_it)), _details(whole, box)) >= detail


def _aligned(
    normal: NDArray[np.float64], whole: Grey, near: _Box, box: _Box, blurred: bool, steps: Iterable[float]
) -> tuple[float, _Box]:
    """The best correlation from `box` on, not far from `near`, and where; blurred pictures lead there from further away."""
    score = _match(normal, _seen(whole, box, blurred))
    if score < 0.3:
        return score, box
    for step in steps:
        moved = True
        while moved:
            moved = False
            for axis in range(4):
                for change in (-step, step):
                    tried: _Box = tuple(v + change * (i == axis) for i, v in enumerate(box))  # type: ignore[assignment]
                    if abs(tried[axis] - near[axis]) > 0.07 or not _inside(tried):
                        continue
                    found = _match(normal, _seen(whole, tried, blurred))
                    if found > score + 1e-4:
                        box, score, moved = tried, found, True
    return score, box


def _inside(box: _Box) -> bool:
    top, left, height, width = box
    return min(top, left) >= -0.01 and max(top + height, left + width) <= 1.01


def _is_telling(view: Grey) -> bool:
    """Whether enough of a picture shows something: a lone island in a lake is found in many lakes."""
    details = _details(view, (0.0, 0.0, 1.0, 1.0))
    return float((np.sqrt(gaussian_filter(details**2, 2)) >= MIN_STRUCTURE).mean()) >= MIN_SPREAD


def _details(whole: Grey, box: _Box) -> NDArray[np.float64]:
    """What a box shows, without what is left of it when it is blurred."""
    return _seen(whole, box) - _seen(whole, box, blurred=True)


def _seen(whole: Grey, box: _Box, blurred: bool = False) -> NDArray[np.float64]:
    """A box in 32×32 cells."""
    top, left, height, width = box
    return _sight(top, height, blurred) @ whole @ _sight(left, width, blurred).T


@functools.lru_cache(2048)
def _sight(offset: float, side: float, blurred: bool) -> NDArray[np.float64]:
    """What takes a picture's rows to the cells of a window; blurring is a product, too."""
    cells = _cells(offset, side)
    return gaussian_filter1d(cells, 2.0, axis=0) if blurred else cells


def _match(normal: NDArray[np.float64], seen: NDArray[np.float64]) -> float:
    """The correlation of a picture of mean 0 and deviation 1 with another."""
    deviation = float(np.vdot(seen, seen)) / seen.size - float(seen.mean()) ** 2
    return float(np.vdot(normal, seen)) / seen.size / max(deviation**0.5 if deviation > 0 else 0.0, 1e-6)


def _normal(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return (values - values.mean()) / max(float(values.std()), 1e-6)


# --- thumbnails ----------------------------------------------------------------------------------


def _shows(view: Grey) -> bool:
    return float(view.astype(np.float32).std()) >= MIN_CONTRAST


def _thumbnail(image: Image) -> Grey:
    return np.asarray(image.convert("F").resize((_SIDE, _SIDE), Resampling.BOX), np.float16)


def _without_padding(image: Image) -> Image | None:
    """What is inside borders of one colour; None where there are none, or hardly anything is inside."""
    grey = np.asarray(image)
    (top, bottom), (left, right) = _inner(grey), _inner(grey.T)
    height, width = grey.shape
    shares = (bottom - top) / height, (right - left) / width
    if min(shares) > 0.98 or min(shares) < 0.1:
        return None
    return image.crop((left, top, right, bottom))


def _inner(grey: NDArray[np.uint8]) -> tuple[int, int]:
    """First and last row, exclusive, that are not of a border's colour."""
    flat = np.ptp(grey, axis=1) <= 2  # JPEG leaves one colour as it is; calm water is not one colour
    ends = []
    for rows, plain in ((grey, flat), (grey[::-1], flat[::-1])):
        inner = int(np.argmin(plain)) if not plain.all() else len(plain)
        while 0 < inner < len(rows) and (np.abs(rows[inner].astype(int) - int(rows[0, 0])) <= 16).mean() > 0.9:
            inner += 1  # the last rows of the border, stirred by JPEG
        ends.append(inner)
    return ends[0], max(len(grey) - ends[1], ends[0])
