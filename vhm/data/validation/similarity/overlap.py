"""Finds the evaluation images that share local features with an image, and how the two lie to each other.

Each evaluation image is described at 9 scales, also mirrored or as its negative. A feature of another image looks up
those whose descriptor equals its own in one of 8 groups of bits (locality-sensitive hashing, Indyk and Motwani 1998)
and differs in at most `MAX_DISTANCE` bits in all. One pair of features gives a position, a rotation and a scale; the
images are candidates when several pairs agree. Features that many evaluation images have, as those of a logo, are not
used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vhm.data.images.resize import compiled
from vhm.data.validation.similarity.features import Features, features
from vhm.data.validation.similarity.fingerprint import Grey, view
from vhm.data.validation.similarity.hashes import hamming

Matrix = NDArray[np.float64]

SCALES = tuple(2.0 ** (step / 4) for step in range(4, -5, -1))  # a part may be a quarter of an image, and the reverse
QUERY_FEATURES = 3  # in each 16×16 pixels of a training image
INDEX_FEATURES = 6  # the same of an evaluation image: more, so that they include those of other images
MAX_DISTANCE = 56  # bits of 256
MIN_PAIRS = 4  # of features that agree on how two images lie
MAX_IMAGES_WITH_FEATURE = 32  # evaluation images: windows of one scene share a place, but not so many

_GROUPS = 8  # of 32 bits in a descriptor
_MAX_PAIRS = 20_000  # of features, of one image
_MAX_BUCKET = 64
_MAX_PAIRS_PER_IMAGE = 400


@dataclass(frozen=True)
class FeatureArrays:
    """Features of evaluation images: `owners` [n] are numbers of `owner`, `points` [n, 4] are x and y in
    the image's view, orientation, and scale; `descriptors` [n, 4]; `order` [8, n] sorts them by each group of bits, and
    `starts` [8, 2^bits + 1] are offsets into it."""

    owners: NDArray[np.int32]
    points: NDArray[np.float32]
    descriptors: NDArray[np.uint64]
    order: NDArray[np.int32]
    starts: NDArray[np.int32]


@dataclass(frozen=True)
class Candidate:
    """`matrix` [2, 3] maps a position in the view of evaluation image `number`, `mirrored` first, to the other view;
    `inverted` says that the features are those of its negative.

    Positions are continuous: the centre of the first pixel is (0.5, 0.5).
    """

    number: int
    mirrored: bool
    inverted: bool
    matrix: Matrix
    pairs: int


def owner(number: int, mirrored: bool, inverted: bool) -> int:
    """The number that stands for one form of an evaluation image."""
    return number << 2 | inverted << 1 | mirrored


def describe(grey: Grey, mirrored: bool, inverted: bool = False, per_cell: int = INDEX_FEATURES) -> Features:
    """The features of an image at all scales; `points` [n, 4] are in its view, the fourth is the scale."""
    points, descriptors = [], []
    grey = grey[:, ::-1] if mirrored else grey
    for scale in SCALES:
        scaled = view(~grey if inverted else grey, scale)
        found = features(np.ascontiguousarray(scaled.grey), scaled.valid, per_cell)
        column = np.full((len(found.points), 1), scale, np.float32)
        centres = found.points + np.array([0.5, 0.5, 0], np.float32)
        points.append(np.hstack([centres / np.array([scale, scale, 1], np.float32), column]))
        descriptors.append(found.descriptors)
    return Features(np.concatenate(points), np.concatenate(descriptors))


def index_features(described: list[tuple[int, Features]]) -> FeatureArrays:
    """The arrays over (owner, features) pairs."""
    owners = np.repeat(
        np.array([form for form, _ in described], np.int32), [len(found.points) for _, found in described]
    )
    points = np.concatenate([np.zeros((0, 4), np.float32), *(found.points for _, found in described)])
    descriptors = np.concatenate([np.zeros((0, 4), np.uint64), *(found.descriptors for _, found in described)])
    bits = int(np.clip(np.ceil(np.log2(max(len(owners), 2))) - 1, 10, 22))
    order = np.empty((_GROUPS, len(owners)), np.int32)
    starts = np.zeros((_GROUPS, (1 << bits) + 1), np.int32)
    for group in range(_GROUPS):
        keys = descriptors.view(np.uint32).reshape(-1, _GROUPS)[:, group] & np.uint32((1 << bits) - 1)
        order[group] = np.argsort(keys, kind="stable")
        starts[group, 1:] = np.cumsum(np.bincount(keys, minlength=1 << bits))
    return FeatureArrays(owners, points, descriptors, order, starts)


def candidates(arrays: FeatureArrays, found: Features) -> Iterator[Candidate]:
    """The evaluation images that share features with an image, those with the most first."""
    owners, counts, matrices = _candidates(
        found.points + np.array([0.5, 0.5, 0], np.float32),
        found.descriptors,
        arrays.owners,
        arrays.points,
        arrays.descriptors,
        arrays.order,
        arrays.starts,
    )
    for position in np.argsort(-counts, kind="stable").tolist():
        form = int(owners[position])
        yield Candidate(form >> 2, bool(form & 1), bool(form & 2), matrices[position], int(counts[position]))


@compiled
def _candidates(
    points: NDArray[np.float32],
    descriptors: NDArray[np.uint64],
    owners: NDArray[np.int32],
    index_points: NDArray[np.float32],
    index_descriptors: NDArray[np.uint64],
    order: NDArray[np.int32],
    starts: NDArray[np.int32],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """(owner, pairs that agree, matrix [2, 3]) of each owner with at least `MIN_PAIRS` of them."""
    pairs = _pairs(descriptors, owners, index_descriptors, order, starts)
    found_owners = np.empty(len(pairs), np.int64)
    for row in range(len(pairs)):
        found_owners[row] = owners[pairs[row, 1]]
    by_owner = np.argsort(found_owners, kind="mergesort")
    count, first = 0, 0
    counts, matrices = np.zeros(len(pairs), np.int64), np.zeros((len(pairs), 2, 3), np.float64)
    while first < len(pairs):
        owner, last = found_owners[by_owner[first]], first
        while last < len(pairs) and found_owners[by_owner[last]] == owner:
            last += 1
        if last - first >= MIN_PAIRS:
            own = pairs[by_owner[first : min(last, first + _MAX_PAIRS_PER_IMAGE)]]
            agreeing = _agree(own, points, index_points, matrices[count])
            if agreeing >= MIN_PAIRS:
                counts[count], found_owners[count] = agreeing, owner
                count += 1
        first = last
    return found_owners[:count], counts[:count], matrices[:count]


@compiled
def _pairs(
    descriptors: NDArray[np.uint64],
    owners: NDArray[np.int32],
    index_descriptors: NDArray[np.uint64],
    order: NDArray[np.int32],
    starts: NDArray[np.int32],
) -> NDArray[np.int32]:
    """[n, 2]: (feature, indexed feature) with similar descriptors."""
    pairs = np.empty((_MAX_PAIRS, 2), np.int32)
    count = 0
    for feature in range(len(descriptors)):
        first = count
        for group in range(_GROUPS):
            key = (descriptors[feature, group // 2] >> np.uint64(32 * (group % 2))) & np.uint64(starts.shape[1] - 2)
            start, stop = starts[group, key], starts[group, key + np.uint64(1)]
            for position in range(start, min(stop, start + _MAX_BUCKET)):
                other = order[group, position]
                if count == _MAX_PAIRS or _distance(descriptors[feature], index_descriptors[other]) > MAX_DISTANCE:
                    continue
                known = False
                for earlier in range(first, count):
                    known |= pairs[earlier, 1] == other
                if not known:
                    pairs[count, 0], pairs[count, 1] = feature, other
                    count += 1
        if _images(pairs[first:count], owners) > MAX_IMAGES_WITH_FEATURE:
            count = first
    return pairs[:count]


@compiled
def _distance(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> int:
    """The number of bits in which two descriptors differ."""
    total = 0
    for word in range(4):
        total += hamming(one[word], other[word])
    return total


@compiled
def _images(pairs: NDArray[np.int32], owners: NDArray[np.int32]) -> int:
    """The number of different evaluation images among some pairs."""
    if len(pairs) <= MAX_IMAGES_WITH_FEATURE:
        return len(pairs)
    images = set()
    for other in pairs[:, 1]:
        images.add(owners[other] >> 2)
    return len(images)


@compiled
def _agree(
    pairs: NDArray[np.int32], points: NDArray[np.float32], index_points: NDArray[np.float32], matrix: Matrix
) -> int:
    """Set `matrix` to the similarity that most pairs agree on; return how many features do."""
    best = 0
    inliers = np.zeros(len(pairs), np.bool_)
    for one in range(len(pairs)):
        hypothesis = _similarity_of_pair(points[pairs[one, 0]], index_points[pairs[one, 1]])
        agree = _inliers(hypothesis, pairs, points, index_points, 3.0, 0.15, one)
        count = _features_among(pairs, agree)
        if count > best:
            best, inliers = count, agree
    if best < MIN_PAIRS:
        return best
    for tolerance in (4.0, 3.0):
        fitted = _fitted(pairs, inliers, points, index_points)
        inliers = _inliers(fitted, pairs, points, index_points, tolerance, 0.0, -1)
        best = _features_among(pairs, inliers)
        if best < MIN_PAIRS:
            return best
    matrix[:] = _fitted(pairs, inliers, points, index_points)
    return best


@compiled
def _similarity_of_pair(point: NDArray[np.float32], indexed: NDArray[np.float32]) -> Matrix:
    """[2, 3]: the similarity that maps an indexed feature's position, orientation and scale to another's."""
    turn, scale = float(point[2] - indexed[2]), float(indexed[3])
    cosine, sine = scale * np.cos(turn), scale * np.sin(turn)
    matrix = np.empty((2, 3))
    matrix[0] = cosine, -sine, point[0] - cosine * indexed[0] + sine * indexed[1]
    matrix[1] = sine, cosine, point[1] - sine * indexed[0] - cosine * indexed[1]
    return matrix


@compiled
def _inliers(
    matrix: Matrix,
    pairs: NDArray[np.int32],
    points: NDArray[np.float32],
    index_points: NDArray[np.float32],
    tolerance: float,
    growth: float,
    origin: int,
) -> NDArray[np.bool_]:
    """Which pairs agree with a similarity: in position within `tolerance` pixels, which grows with the distance from
    the pair `origin`, in scale within a factor of 1.5 and in orientation within 0.5 radians."""
    agree = np.zeros(len(pairs), np.bool_)
    scale = np.hypot(matrix[0, 0], matrix[1, 0])
    turn = np.arctan2(matrix[1, 0], matrix[0, 0])
    for row in range(len(pairs)):
        point, indexed = points[pairs[row, 0]], index_points[pairs[row, 1]]
        x = matrix[0, 0] * indexed[0] + matrix[0, 1] * indexed[1] + matrix[0, 2] - point[0]
        y = matrix[1, 0] * indexed[0] + matrix[1, 1] * indexed[1] + matrix[1, 2] - point[1]
        allowed = tolerance
        if origin >= 0:
            centre = points[pairs[origin, 0]]
            allowed += growth * np.hypot(point[0] - centre[0], point[1] - centre[1])
        difference = abs((point[2] - indexed[2] - turn + np.pi) % (2 * np.pi) - np.pi)
        ratio = indexed[3] / scale
        agree[row] = x * x + y * y <= allowed * allowed and difference < 0.5 and 1 / 1.5 < ratio < 1.5
    return agree


@compiled
def _features_among(pairs: NDArray[np.int32], agree: NDArray[np.bool_]) -> int:
    """The number of different features among the pairs that agree; a feature's pairs are neighbours."""
    count, last = 0, -1
    for row in range(len(pairs)):
        if agree[row] and pairs[row, 0] != last:
            count, last = count + 1, pairs[row, 0]
    return count


@compiled
def _fitted(
    pairs: NDArray[np.int32],
    inliers: NDArray[np.bool_],
    points: NDArray[np.float32],
    index_points: NDArray[np.float32],
) -> Matrix:
    """[2, 3]: the similarity with the smallest squared error over the inliers (Umeyama 1991)."""
    count = 0
    means = np.zeros(4)
    for row in range(len(pairs)):
        if inliers[row]:
            point, indexed = points[pairs[row, 0]], index_points[pairs[row, 1]]
            means += np.array([indexed[0], indexed[1], point[0], point[1]], np.float64)
            count += 1
    means /= count
    same, crossed, spread = 0.0, 0.0, 1e-9
    for row in range(len(pairs)):
        if inliers[row]:
            point, indexed = points[pairs[row, 0]], index_points[pairs[row, 1]]
            x, y, u, v = indexed[0] - means[0], indexed[1] - means[1], point[0] - means[2], point[1] - means[3]
            same += x * u + y * v
            crossed += x * v - y * u
            spread += x * x + y * y
    cosine, sine = same / spread, crossed / spread
    matrix = np.empty((2, 3))
    matrix[0] = cosine, -sine, means[2] - cosine * means[0] + sine * means[1]
    matrix[1] = sine, cosine, means[3] - sine * means[0] - cosine * means[1]
    return matrix
