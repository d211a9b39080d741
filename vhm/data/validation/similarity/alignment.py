"""Decides whether two images show the same content once it is known how one lies in the other.

The images are aligned to a fraction of a pixel (ECC, Evangelidis and Psarakis 2008). Then their details, the
differences to a blurred image, are correlated in each block of 16×16 pixels that both images show. Details, not grey
levels, because similar shores and fields have similar grey levels; blocks, because a frame, a logo or the edge of
clouds that two images share must not outweigh the ground around it. Blocks that are masked or without texture do not
count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vhm.data.images.resize import compiled
from vhm.data.validation.findings import LeakKind, Outline
from vhm.data.validation.similarity.fingerprint import Grey, View, content_box, view

Matrix = NDArray[np.float64]
Details = NDArray[np.float32]
Polygon = NDArray[np.floating]  # [n, 2]: x and y

MIN_BLOCK_CORRELATION = 0.5  # of the details of a block that shows the same content
MIN_MATCHED_BLOCKS = 0.6  # fraction of the blocks with texture; a bar or watermark may cover the others
MIN_CORRELATION = 0.62  # mean of the blocks
MIN_BLOCKS = 6  # with texture: an island in a lake matches many lakes
MAX_DETAIL = 2.0  # times the median detail of a block: more is limited to it
MIN_DETAIL = 1.5  # root mean square in grey levels of a block with texture
MIN_TO_REFINE = 0.03  # fraction of the blocks that match before the alignment
ALIGNED = 0.9  # the same, of images that need none
MIN_AREA = 0.47  # of the smaller image: half, less the error of the alignment
MIN_PLAIN_CORRELATION = 0.95  # of blurred images of which one is only another encoding of the other
COMPLETE = 0.97  # fraction of an image's area from which it counts as all of it
MOSTLY = 0.65  # the same for a rotated image, which loses its corners

_BLOCK = 16  # pixels
_MIN_SHARED = 128  # pixels of a block that both images show
_BLUR = 3.0  # standard deviation in pixels
_STEPS = 25  # of the alignment
_PLAIN_ROTATION = 3.0  # degrees: less is an error of the alignment


@dataclass(frozen=True)
class Match:
    """Two images show the same content; the fields are those of `findings.Leak`."""

    kind: LeakKind
    score: float
    matched_area: float
    outline: Outline
    evaluation_outline: Outline


def compare(image: View, grey: Grey, matrix: Matrix, mirrored: bool = False, inverted: bool = False) -> Match | None:
    """The match of an image with an evaluation image, of which `matrix` says how it lies in the other; else None.

    `matrix` [2, 3] maps positions in pixels of the evaluation image's view, mirrored first, to positions in `image`;
    the centre of the first pixel is (0.5, 0.5).
    `grey` are the grey levels of its fingerprint. `inverted` says that one image is the negative of the other.
    """
    scale = float(np.clip(abs(np.linalg.det(matrix[:, :2])) ** 0.5, 0.5, 2.0))
    other = view(np.ascontiguousarray(grey[:, ::-1]) if mirrored else grey, scale)
    base = view_size(grey.shape)
    to_image = matrix @ np.diag([base[0] / other.grey.shape[1], base[1] / other.grey.shape[0], 1.0])
    details, other_details = _details(image), _details(other) * (-1 if inverted else 1)
    score = _blocks_score(details, image.valid, *_warped(other_details, other.valid, to_image, image))
    if MIN_TO_REFINE <= score.fraction < ALIGNED:
        to_image = _refined(details, other_details, to_image)
        score = _blocks_score(details, image.valid, *_warped(other_details, other.valid, to_image, image))
    if not score.matches:
        return None
    return _match(image, other, to_image, score, mirrored, inverted)


def view_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """(width, height) of the view of an image with grey levels of that shape."""
    height, width = shape
    factor = 128 / (height * width) ** 0.5
    return max(round(width * factor), 1), max(round(height * factor), 1)


def _details(image: View) -> Details:
    """The image less the blurred image; 0 where it is masked."""
    import cv2

    valid = image.valid.astype(np.float32)
    grey = cv2.GaussianBlur(image.grey.astype(np.float32), (0, 0), 0.7)
    # The blurred image is the mean of valid pixels, so that no-data does not darken what is next to it.
    weights = cv2.GaussianBlur(valid, (0, 0), _BLUR)
    blurred = cv2.GaussianBlur(grey * valid, (0, 0), _BLUR) / np.maximum(weights, 1e-3)
    return np.asarray((grey - blurred) * valid, np.float32)


def _warped(details: Details, valid: Grey, matrix: Matrix, onto: View) -> tuple[Details, Grey]:
    """Details and mask of the other image, moved by `matrix` into the frame of `onto`."""
    import cv2

    matrix = _shifted(matrix, 0.5)
    size = onto.grey.shape[1], onto.grey.shape[0]
    moved = cv2.warpAffine(details, matrix, size, flags=cv2.INTER_LINEAR)
    mask = cv2.warpAffine(valid, matrix, size, flags=cv2.INTER_NEAREST)
    return np.asarray(moved, np.float32), np.asarray(mask, np.uint8)


def _refined(details: Details, other: Details, matrix: Matrix) -> Matrix:
    """The matrix moved to the highest correlation; unchanged where that does not converge."""
    import cv2

    inverse = np.asarray(cv2.invertAffineTransform(_shifted(matrix, 0.5)), np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _STEPS, 1e-4)
    try:
        _, refined = cv2.findTransformECC(details, other, inverse, cv2.MOTION_AFFINE, criteria)
    except cv2.error:
        return matrix
    return _shifted(np.asarray(cv2.invertAffineTransform(refined), np.float64), -0.5)


def _shifted(matrix: Matrix, origin: float) -> Matrix:
    """The same map for positions that are counted from (`origin`, `origin`): OpenCV's are from a pixel's centre."""
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ (origin, origin) - origin
    return shifted


# --- correlation of blocks -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Blocks:
    """`count` blocks have texture in both images, a `fraction` of them correlates; `correlation` is the mean."""

    count: int
    fraction: float
    correlation: float

    @property
    def matches(self) -> bool:
        return self.count >= MIN_BLOCKS and self.fraction >= MIN_MATCHED_BLOCKS and self.correlation >= MIN_CORRELATION


def _blocks_score(details: Details, valid: Grey, other: Details, other_valid: Grey) -> _Blocks:
    correlations = _correlations(details, other, valid & other_valid)
    if not correlations.size:
        return _Blocks(0, 0.0, 0.0)
    matched = float((correlations >= MIN_BLOCK_CORRELATION).mean())
    return _Blocks(correlations.size, matched, float(correlations.mean()))


@compiled
def _correlations(details: Details, other: Details, shared: Grey) -> NDArray[np.float64]:
    """The correlation of each block that both images show and one shows with texture."""
    height, width = details.shape
    found = np.empty((height // _BLOCK + 1) * (width // _BLOCK + 1))
    one, two = np.empty(_BLOCK * _BLOCK, np.float32), np.empty(_BLOCK * _BLOCK, np.float32)
    count = 0
    for top in range(0, height, _BLOCK):
        for left in range(0, width, _BLOCK):
            n = 0
            for y in range(top, min(top + _BLOCK, height)):
                for x in range(left, min(left + _BLOCK, width)):
                    if shared[y, x]:
                        one[n], two[n] = details[y, x], other[y, x]
                        n += 1
            if n < _MIN_SHARED:
                continue
            if max(one[:n].std(), two[:n].std()) >= MIN_DETAIL:
                _clip(one[:n])
                _clip(two[:n])
                product = max(one[:n].std(), 0.03) * max(two[:n].std(), 0.03)
                found[count] = ((one[:n] * two[:n]).mean() - one[:n].mean() * two[:n].mean()) / product
                count += 1
    return found[:count]


@compiled
def _clip(values: NDArray[np.float32]) -> None:
    """Limit values to a few times their median: a stripe or an edge of clouds counts no more than the ground."""
    limit = np.float32(MAX_DETAIL) * np.median(np.abs(values))
    for index in range(values.size):
        values[index] = min(max(values[index], -limit), limit)


# --- what was found ------------------------------------------------------------------------------


def _match(image: View, other: View, matrix: Matrix, score: _Blocks, mirrored: bool, inverted: bool) -> Match | None:
    rotation = abs(float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))))
    turned = mirrored or inverted or rotation > _PLAIN_ROTATION
    frames = _shares(_frame(image.grey), _frame(other.grey), matrix)
    boxes = _shares(_content_frame(image), _content_frame(other), matrix)
    content = _content_shares(image, other, matrix)
    complete = min(frames) >= COMPLETE
    kind: LeakKind
    if complete or min(boxes) >= COMPLETE or min(content) >= (MOSTLY if turned else COMPLETE):
        plain = complete and not turned and _correlation(image.grey, other.grey, matrix) >= MIN_PLAIN_CORRELATION
        kind = "re-encoded" if plain else "transformed"
    elif max(boxes) >= COMPLETE:
        kind = "part"
    elif max(*boxes, *content) >= MIN_AREA:
        kind = "overlap"
    else:
        return None
    area = max(*frames, *boxes) if kind in ("part", "overlap") else max(*frames, *boxes, *content)
    outlines = ((), ()) if complete else _outlines(image.grey, other.grey, matrix, mirrored)
    return Match(kind, round(score.correlation, 3), round(min(area, 1.0), 3), *outlines)


def _shares(frame: Polygon, other: Polygon, matrix: Matrix) -> tuple[float, float]:
    """The fractions of two frames' areas that they share, when `matrix` moves the other frame."""
    import cv2

    moved = _moved(other, matrix).astype(np.float32)
    shared = float(cv2.intersectConvexConvex(frame.astype(np.float32), moved)[0])
    area, other_area = float(cv2.contourArea(frame.astype(np.float32))), float(cv2.contourArea(moved))
    return min(shared / max(area, 1.0), 1.0), min(shared / max(other_area, 1.0), 1.0)


def _content_shares(image: View, other: View, matrix: Matrix) -> tuple[float, float]:
    """The fractions of two images' valid pixels that they share."""
    shared = float(np.count_nonzero(image.valid & _warped(_blank(other), other.valid, matrix, image)[1]))
    area = float(np.count_nonzero(image.valid))
    other_area = float(np.count_nonzero(other.valid)) * abs(float(np.linalg.det(matrix[:, :2])))
    return min(shared / max(area, 1.0), 1.0), min(shared / max(other_area, 1.0), 1.0)


def _blank(image: View) -> Details:
    return np.zeros(image.grey.shape, np.float32)


def _correlation(grey: Grey, other: Grey, matrix: Matrix) -> float:
    """The correlation of two blurred images where their frames overlap."""
    import cv2

    whole = View(grey, np.ones_like(grey))
    moved, shared = _warped(other.astype(np.float32), np.ones_like(other), matrix, whole)
    one = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), _BLUR)[shared != 0]
    two = cv2.GaussianBlur(moved, (0, 0), _BLUR)[shared != 0]
    return float(np.corrcoef(one, two)[0, 1]) if one.size else 0.0


def _outlines(grey: Grey, other: Grey, matrix: Matrix, mirrored: bool) -> tuple[Outline, Outline]:
    """The area that the frames of both images share, as fractions of the image and of the other image."""
    import cv2

    moved = _moved(_frame(other), matrix).astype(np.float32)
    _, polygon = cv2.intersectConvexConvex(_frame(grey).astype(np.float32), moved)
    points = np.asarray(polygon, np.float64).reshape(-1, 2)
    in_other = _moved(points, np.asarray(cv2.invertAffineTransform(matrix), np.float64))
    if mirrored:
        in_other[:, 0] = other.shape[1] - in_other[:, 0]
    return _fractions(points, grey), _fractions(in_other, other)


def _moved(points: Polygon, matrix: Matrix) -> Polygon:
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2], np.float64)


def _frame(grey: Grey) -> Polygon:
    height, width = grey.shape
    return np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)


def _content_frame(image: View) -> Polygon:
    """The corners of the smallest box around what is valid."""
    left, top, right, bottom = content_box(image.valid) or (0, 0, image.grey.shape[1], image.grey.shape[0])
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)


def _fractions(points: Polygon, grey: Grey) -> Outline:
    scaled = np.clip(points / (grey.shape[1], grey.shape[0]), 0, 1).round(4)
    return tuple((float(x), float(y)) for x, y in scaled)
