"""Finds training images that show an evaluation image: the same bytes, or the same image re-encoded, resized, padded,
brightened, mirrored or rotated by 90°, or a crop of at least a quarter of its area, or an image of which the evaluation
image is such a crop.

Candidates come from a 64-bit perceptual hash (signs of the lowest 8×8 DCT coefficients around their median,
Zauner 2010) of the complete image and of windows at all positions and scales, looked up within 11 bits by multi-index
hashing (Norouzi et al. 2012). A candidate is confirmed by the normalised cross-correlation of the two images after
alignment, both of the images and of their high-frequency details, so that two similar shores or fields do not match.
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

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, Resampling, fromarray
from scipy.fft import dct
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from vhm.data.images import load_pixels
from vhm.data.images.resize import compiled
from vhm.data.validation.findings import Leak

log = logging.getLogger(__name__)

GreyImage = NDArray[np.float16]
_Pixels = NDArray[np.float64]
_Window = tuple[float, float, float]  # top, left, side, as fractions of an image
_Box = tuple[float, float, float, float]  # top, left, height, width, as fractions of an image

MAX_DISTANCE = 11  # bits; of four words of 16 bits, one then differs in at most 2
IMAGE_CORRELATION = (0.85, 0.5)  # minimum correlation of two complete images, and of their details
CROP_CORRELATION = (0.88, 0.78)  # the same for a crop: higher, as there are many more windows than images
MIN_CONTRAST = 0.5  # standard deviation in grey levels of 255
MIN_TEXTURED_AREA = 0.25  # fraction of an image whose details have at least MIN_DETAIL
MIN_DETAIL = 1.0  # root mean square in grey levels
MIN_SIDE = 0.5  # of a window: a quarter of the area
MAX_WINDOWS = 40_000_000  # in memory, 24 bytes each; beyond that only complete images are compared

_THUMBNAIL = 64  # pixels of a side
_CELLS = 32  # per side of a sampled window
_COEFFICIENTS = 8  # DCT coefficients of a side
_MAX_MATCHES = 20_000  # hashes near those of one image
_MAX_CANDIDATES = 60  # matches of one image that are compared
_MAX_CANDIDATES_PER_IMAGE = 3  # of them, those with the same evaluation image
_WHOLE: _Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Fingerprint:
    """`views` are [64, 64] grey thumbnails: of the image and, if it is padded, of its content without padding."""

    sha256: str
    views: tuple[GreyImage, ...]


def fingerprint(content: bytes, pixels: NDArray[np.uint8] | None = None) -> Fingerprint:
    """The fingerprint of an image file's bytes; `pixels` [H, W, 3] if it is already decoded. Raises ImageError."""
    image = fromarray(load_pixels(content) if pixels is None else pixels).convert("L")
    views = [_thumbnail(image)]
    unpadded = _without_padding(image)
    if unpadded is not None and _is_textured(_thumbnail(unpadded)):
        views.append(_thumbnail(unpadded))
    return Fingerprint(hashlib.sha256(content).hexdigest(), tuple(views))


def save_fingerprints(path: Path, named: Iterable[tuple[str, Fingerprint]]) -> None:
    """Write (name, fingerprint) pairs to one file, for `load_finder` in other processes."""
    pairs = list(named)
    np.savez(
        path,
        names=np.array([name for name, _ in pairs], np.str_),
        sha256=np.array([print_.sha256 for _, print_ in pairs], np.str_),
        counts=np.array([len(print_.views) for _, print_ in pairs], np.int64),
        views=np.array([view for _, print_ in pairs for view in print_.views], np.float16).reshape(
            -1, _THUMBNAIL, _THUMBNAIL
        ),
    )


@functools.lru_cache(1)
def load_finder(path: Path) -> LeakFinder:
    """The finder over a file of `save_fingerprints`; built once per process."""
    with np.load(path) as arrays:
        names, hashes, counts, views = (arrays[key] for key in ("names", "sha256", "counts", "views"))
    ends = np.cumsum(counts)
    spans = zip(names.tolist(), hashes.tolist(), ends - counts, ends, strict=True)
    return LeakFinder([(name, Fingerprint(digest, tuple(views[a:b]))) for name, digest, a, b in spans])


class LeakFinder:
    """Searches for images among the evaluation images given at construction."""

    def __init__(self, evaluation: Iterable[tuple[str, Fingerprint]]) -> None:
        pairs = list(evaluation)
        self._by_sha256 = {print_.sha256: name for name, print_ in pairs}
        views = [(name, view) for name, print_ in pairs for view in print_.views if _has_contrast(view)]
        self._names, self._views = [name for name, _ in views], [view for _, view in views]
        # An image with hardly any texture is only compared as a complete image, not as a crop or by its windows.
        self._textured = [number for number, view in enumerate(self._views) if _is_textured(view)]
        windows = _windows()
        if len(self._textured) * len(windows) > MAX_WINDOWS:
            log.warning(
                "%d evaluation images are too many to search for crops: only complete images are compared",
                len(self._views),
            )
            self._textured = []
        self._windows = [(0.0, 0.0, 1.0), *windows]
        oriented = [_perceptual_hashes(_oriented_coefficients(_coefficients(view)[0])) for view in self._views]
        self._images_index = HashIndex([hashes[:1] for hashes in oriented])
        self._windows_index = HashIndex(
            [_perceptual_hashes(_coefficients(self._views[number])) for number in self._textured]
        )
        self._oriented_index = HashIndex([oriented[number] for number in self._textured])

    def find(self, image: Fingerprint) -> Leak | None:
        """The evaluation image that `image` shows, or None."""
        if image.sha256 in self._by_sha256:
            return Leak(self._by_sha256[image.sha256], "identical", 1.0)
        for view in image.views:
            leak = self._find(view) if self._names and _has_contrast(view) else None
            if leak is not None:
                return leak
        return None

    def _find(self, view: GreyImage) -> Leak | None:
        coefficients = _coefficients(view)
        hashes = _perceptual_hashes(_oriented_coefficients(coefficients[0]))
        leak = self._find_image(view, hashes)
        if leak is None and _is_textured(view):
            name = self._find_crop_of_evaluation(view, hashes)
            if name is None:
                name = self._find_crop_of_training(view, _perceptual_hashes(coefficients[1:]))
            leak = None if name is None else Leak(name, "part", 1.0)
        return leak

    def _find_image(self, view: GreyImage, oriented: NDArray[np.uint64]) -> Leak | None:
        """An evaluation image that is `view` in any orientation."""
        matches = ((orientation, number, 0) for orientation, number in self._images_index.find(oriented))
        for orientation, number, _ in _candidates(matches):
            if _correlate(_orientations(view)[orientation], self._views[number], self._windows[0]):
                return Leak(self._names[number], "transformed" if orientation else "re-encoded", 1.0)
        return None

    def _find_crop_of_evaluation(self, view: GreyImage, oriented: NDArray[np.uint64]) -> str | None:
        """An evaluation image of which `view` is a crop."""
        hits = self._windows_index.find(oriented)
        matches = ((orientation, *divmod(position, len(self._windows))) for orientation, position in hits)
        for orientation, textured, window in _candidates(matches):
            number = self._textured[textured]
            if _correlate(_orientations(view)[orientation], self._views[number], self._windows[window]):
                return self._names[number]
        return None

    def _find_crop_of_training(self, view: GreyImage, windows: NDArray[np.uint64]) -> str | None:
        """An evaluation image that is a crop of `view`."""
        hits = ((window + 1, *divmod(position, 8)) for window, position in self._oriented_index.find(windows))
        matches = ((orientation, textured, window) for window, textured, orientation in hits)
        for orientation, textured, window in _candidates(matches):
            number = self._textured[textured]
            if _correlate(_orientations(self._views[number])[orientation], view, self._windows[window]):
                return self._names[number]
        return None


def _candidates(matches: Iterable[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """The first matches (orientation, evaluation image, window) to compare, at most three per evaluation image."""
    counts: Counter[int] = Counter()
    for match in matches:
        counts[match[1]] += 1
        if counts[match[1]] <= _MAX_CANDIDATES_PER_IMAGE:
            yield match
        if counts.total() >= _MAX_CANDIDATES:
            return


# --- hashes --------------------------------------------------------------------------------------


class HashIndex:
    """64-bit hashes; finds those within `MAX_DISTANCE` bits of a query by their four words of 16 bits."""

    def __init__(self, hashes: list[NDArray[np.uint64]]) -> None:
        self._hashes = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
        words = self._hashes.view(np.uint16).reshape(-1, 4)
        self._order = np.stack([np.argsort(words[:, w], kind="stable").astype(np.int32) for w in range(4)])
        counts = np.stack([np.bincount(words[:, w], minlength=1 << 16) for w in range(4)])
        self._starts = np.concatenate([np.zeros((4, 1), np.int32), np.cumsum(counts, 1, np.int32)], 1)
        # Most words are in no hash: a table of one bit per word fits in the processor's first-level cache.
        self._present = np.packbits(counts > 0, axis=1, bitorder="little")

    def find(self, queries: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
        """(index of the query, index of a hash near it), the nearest first."""
        matches = np.empty(_MAX_MATCHES, np.int64)
        tables = (self._hashes, self._order, self._starts, self._present)
        for limit in range(MAX_DISTANCE, -1, -1):
            count = _probe(*tables, queries, _bit_flips(), limit, matches)
            if count < _MAX_MATCHES:  # otherwise the nearest may be among those that did not fit
                break
        for match in np.unique(matches[:count]):  # a near hash shares several words
            yield int(match) >> 32 & 0xFFFF, int(match) & 0xFFFFFFFF


@functools.cache
def _bit_flips() -> NDArray[np.uint16]:
    """All words of 16 bits with at most two bits set."""
    return np.array([sum(1 << b for b in bits) for n in range(3) for bits in combinations(range(16), n)], np.uint16)


@compiled
def _probe(
    hashes: NDArray[np.uint64],
    order: NDArray[np.int32],
    starts: NDArray[np.int32],
    present: NDArray[np.uint8],
    queries: NDArray[np.uint64],
    flips: NDArray[np.uint16],
    limit: int,
    matches: NDArray[np.int64],
) -> int:
    """Fill `matches` with distance · 2⁴⁸ + query · 2³² + hash index; return how many there are."""
    pairs, fours, bytes_, ones = (
        np.uint64(0x5555555555555555), np.uint64(0x3333333333333333),
        np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101),
    )  # fmt: skip
    count = 0
    for query in range(queries.size):
        for word in range(4):
            own = (queries[query] >> np.uint64(16 * word)) & np.uint64(0xFFFF)
            for flip in flips:
                value = np.int64(own ^ np.uint64(flip))
                if not present[word, value >> 3] >> (value & 7) & 1:
                    continue
                for position in range(starts[word, value], starts[word, value + 1]):
                    index = order[word, position]
                    differ = hashes[index] ^ queries[query]
                    differ -= differ >> np.uint64(1) & pairs
                    differ = (differ & fours) + (differ >> np.uint64(2) & fours)
                    differ = (differ + (differ >> np.uint64(4))) & bytes_
                    bits = np.int64(differ * ones >> np.uint64(56))
                    if bits <= limit:
                        matches[count] = bits << 48 | query << 32 | index
                        count += 1
                        if count == len(matches):
                            return count
    return count


def _perceptual_hashes(coefficients: NDArray[np.float32]) -> NDArray[np.uint64]:
    """[n, 8, 8] DCT coefficients as n hashes."""
    flat = coefficients.reshape(len(coefficients), -1)
    median = np.partition(flat[:, 1:], 31, axis=1)[:, 31:32]
    return np.packbits(flat > median, axis=1, bitorder="little").view(np.uint64).ravel()


def _oriented_coefficients(coefficients: NDArray[np.float32]) -> NDArray[np.float32]:
    """[8, 8, 8]: the DCT coefficients of an image's 8 orientations, in the order of `_orientations`."""
    signs = np.where(np.arange(_COEFFICIENTS) % 2, -1, 1).astype(np.float32)
    oriented = []
    for rotated in (coefficients, coefficients * signs[None, :]):  # mirroring negates odd columns
        for _ in range(4):
            oriented.append(rotated)
            rotated = rotated.T * signs[:, None]  # rotating by 90° anticlockwise transposes and negates odd rows
    return np.stack(oriented)


def _orientations(view: GreyImage) -> list[GreyImage]:
    """The image rotated by 0°, 90°, 180° and 270° anticlockwise, then the same of its mirror image."""
    return [np.rot90(side, turns) for side in (view, view[:, ::-1]) for turns in range(4)]


# --- windows -------------------------------------------------------------------------------------


@functools.cache
def _windows() -> list[_Window]:
    """The windows of an image; their spacing is close enough for the hash to tolerate a crop between two of them."""
    return [(top, left, side) for side, offsets in _scales() for top in offsets for left in offsets]


@functools.cache
def _scales() -> list[tuple[float, list[float]]]:
    """(side, offsets) of the windows of each size."""
    scales, side = [], 0.95
    while side > MIN_SIDE - 0.01:
        count = int(np.ceil((1 - side) / (0.06 * side))) + 1
        scales.append((side, np.linspace(0, 1 - side, count).tolist()))
        side *= 0.94
    return scales


def _coefficients(view: GreyImage) -> NDArray[np.float32]:
    """[1 + windows, 8, 8]: the lowest DCT coefficients of the complete image and of each window."""
    coefficients = []
    pixels = view.astype(np.float32)
    for basis in _window_bases():
        flat = basis.reshape(-1, _THUMBNAIL)
        low = flat @ pixels @ flat.T
        shape = (len(basis), _COEFFICIENTS, len(basis), _COEFFICIENTS)
        coefficients.append(low.reshape(shape).transpose(0, 2, 1, 3).reshape(-1, _COEFFICIENTS, _COEFFICIENTS))
    return np.concatenate(coefficients)


@functools.cache
def _window_bases() -> list[NDArray[np.float32]]:
    """[offsets, 8, 64] for the complete image and each scale: averages a window into 32 cells, then applies the DCT."""
    cosines = dct(np.eye(_CELLS), axis=0, norm="ortho")[:_COEFFICIENTS]
    return [
        np.stack([cosines @ _cell_weights(offset, side) for offset in offsets]).astype(np.float32)
        for side, offsets in [(1.0, [0.0]), *_scales()]
    ]


def _cell_weights(offset: float, side: float) -> NDArray[np.float64]:
    """[32, 64]: averages the rows of a thumbnail over each of a window's 32 cells."""
    edges = (offset + side * np.arange(_CELLS + 1) / _CELLS) * _THUMBNAIL
    pixels = np.arange(_THUMBNAIL)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    covered = np.maximum(overlap, 0)
    weights: NDArray[np.float64] = covered / np.maximum(covered.sum(axis=1, keepdims=True), 1e-9)
    return weights


# --- verification --------------------------------------------------------------------------------


def _correlate(crop: GreyImage, image: GreyImage, window: _Window) -> bool:
    """Whether `crop` shows what `image` shows near `window`, after the box that correlates best is found.

    Blurred images are aligned first: they correlate from further away.
    """
    crop_pixels, pixels = crop.astype(np.float64), image.astype(np.float64)
    start = box = (window[0], window[1], window[2], window[2])
    min_correlation, min_details = IMAGE_CORRELATION if window[2] == 1 else CROP_CORRELATION
    for blurred, steps, threshold in (
        (True, (0.03, 0.015), min_correlation - 0.25),
        (False, (0.01, 0.005), min_correlation),
    ):
        template = _standardised(_sampled(crop_pixels, _WHOLE, blurred))
        score, box = _align(template, pixels, start, box, blurred, steps)
        if score < threshold:
            return False
    return _correlation(_standardised(_details(crop_pixels, _WHOLE)), _details(pixels, box)) >= min_details


def _align(
    template: _Pixels, image: _Pixels, start: _Box, box: _Box, blurred: bool, steps: Iterable[float]
) -> tuple[float, _Box]:
    """Hill climbing from `box`, not far from `start`: the best correlation with the template, and its box."""
    score = _correlation(template, _sampled(image, box, blurred))
    if score < 0.3:
        return score, box
    for step in steps:
        moved = True
        while moved:
            moved = False
            for axis in range(4):
                for change in (-step, step):
                    candidate = _moved(box, axis, change)
                    if abs(candidate[axis] - start[axis]) > 0.07 or not _inside(candidate):
                        continue
                    candidate_score = _correlation(template, _sampled(image, candidate, blurred))
                    if candidate_score > score + 1e-4:
                        box, score, moved = candidate, candidate_score, True
    return score, box


def _moved(box: _Box, axis: int, change: float) -> _Box:
    top, left, height, width = (value + change * (number == axis) for number, value in enumerate(box))
    return top, left, height, width


def _inside(box: _Box) -> bool:
    top, left, height, width = box
    return min(top, left) >= -0.01 and max(top + height, left + width) <= 1.01


def _is_textured(view: GreyImage) -> bool:
    """Whether enough of an image has details to be recognised by: a lone island in a lake matches many lakes."""
    details = _details(view.astype(np.float64), _WHOLE)
    return float((np.sqrt(gaussian_filter(details**2, 2)) >= MIN_DETAIL).mean()) >= MIN_TEXTURED_AREA


def _details(image: _Pixels, box: _Box) -> _Pixels:
    """The high frequencies of a box: the difference to the blurred box."""
    return _sampled(image, box) - _sampled(image, box, blurred=True)


def _sampled(image: _Pixels, box: _Box, blurred: bool = False) -> _Pixels:
    """A box of an image, averaged into 32×32 cells."""
    top, left, height, width = box
    return _sampling_matrix(top, height, blurred) @ image @ _sampling_matrix(left, width, blurred).T


@functools.lru_cache(2048)
def _sampling_matrix(offset: float, side: float, blurred: bool) -> NDArray[np.float64]:
    """[32, 64]: averages the rows of a thumbnail into the cells of a window, and blurs them if requested."""
    weights = _cell_weights(offset, side)
    return gaussian_filter1d(weights, 2.0, axis=0) if blurred else weights


def _correlation(template: _Pixels, cells: _Pixels) -> float:
    """Normalised cross-correlation of a template of mean 0 and standard deviation 1 with other cells."""
    variance = float(np.vdot(cells, cells)) / cells.size - float(cells.mean()) ** 2
    return float(np.vdot(template, cells)) / cells.size / max(variance**0.5 if variance > 0 else 0.0, 1e-6)


def _standardised(values: _Pixels) -> _Pixels:
    return (values - float(values.mean())) / max(float(values.std()), 1e-6)


# --- thumbnails ----------------------------------------------------------------------------------


def _has_contrast(view: GreyImage) -> bool:
    return float(view.astype(np.float32).std()) >= MIN_CONTRAST


def _thumbnail(image: Image) -> GreyImage:
    return np.asarray(image.convert("F").resize((_THUMBNAIL, _THUMBNAIL), Resampling.BOX), np.float16)


def _without_padding(image: Image) -> Image | None:
    """The image without borders of one colour; None without such borders, or if hardly anything is inside them."""
    grey = np.asarray(image)
    (top, bottom), (left, right) = _content_span(grey), _content_span(grey.T)
    height, width = grey.shape
    fractions = (bottom - top) / height, (right - left) / width
    if min(fractions) > 0.98 or min(fractions) < 0.1:
        return None
    return image.crop((left, top, right, bottom))


def _content_span(grey: NDArray[np.uint8]) -> tuple[int, int]:
    """[first, last) row that does not belong to a border of one colour."""
    uniform = np.ptp(grey, axis=1) <= 2  # JPEG keeps a uniform colour; calm water is not uniform
    borders = []
    for rows, flags in ((grey, uniform), (grey[::-1], uniform[::-1])):
        border = int(np.argmin(flags)) if not flags.all() else len(flags)
        while 0 < border < len(rows) and (np.abs(rows[border].astype(int) - int(rows[0, 0])) <= 16).mean() > 0.9:
            border += 1  # the innermost rows of the border, which JPEG changed
        borders.append(border)
    return borders[0], max(len(grey) - borders[1], borders[0])
