"""All that the finder needs of the evaluation images, prepared once and shared by processes through files."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vhm.data.validation.similarity.arrays import Array, read_arrays, write_arrays
from vhm.data.validation.similarity.copies import Content, content
from vhm.data.validation.similarity.features import Features
from vhm.data.validation.similarity.fingerprint import Fingerprint, Grey, view
from vhm.data.validation.similarity.footprints import Footprint
from vhm.data.validation.similarity.overlap import FeatureArrays, describe, index_features, owner

log = logging.getLogger(__name__)

MAX_FEATURES = 12_000_000  # of all evaluation images, 84 bytes each: 1 GB; beyond that each image has fewer

_ENOUGH_FEATURES = 5_000  # of an image and its mirror image: what most have
_FEATURES = "feature_"  # prefix of the files of FeatureArrays


@dataclass(frozen=True)
class EvaluationIndex:
    """n evaluation images by number; the arrays may be mapped from files.

    sizes         int32 [n, 2]: height and width of the grey levels of each
    starts        int64 [n + 1]: where they begin in `levels`
    levels        uint8: the grey levels of all
    coefficients  float32 [n, 8, 8]: those of `copies.Content`; nan without content
    boxes         int32 [n, 4]: the same
    outlines      float64 [n, points, 2]: footprints; nan without one
    """

    names: Sequence[str]
    sha256: Sequence[str]
    sizes: NDArray[np.int32]
    starts: NDArray[np.int64]
    levels: Grey
    coefficients: NDArray[np.float32]
    boxes: NDArray[np.int32]
    outlines: NDArray[np.float64]
    features: FeatureArrays

    def grey(self, number: int) -> Grey:
        """The grey levels of an image's fingerprint."""
        height, width = self.sizes[number].tolist()
        return self.levels[self.starts[number] : self.starts[number + 1]].reshape(height, width)

    def content(self, number: int) -> Content | None:
        """The content of an image, for finding copies of it."""
        coefficients = self.coefficients[number]
        if np.isnan(coefficients[0, 0]):
            return None
        left, top, right, bottom = self.boxes[number].tolist()
        return Content(coefficients, (left, top, right, bottom))

    def footprint(self, number: int) -> Footprint | None:
        """The footprint of an image, if it is georeferenced."""
        outline = self.outlines[number]
        if not outline.size or np.isnan(outline[0, 0]):
            return None
        return Footprint(tuple((x, y) for x, y in outline.tolist()))


def prepare(named: Iterable[tuple[str, Fingerprint]]) -> EvaluationIndex:
    """Describe evaluation images, given as (name, fingerprint) pairs."""
    pairs = list(named)
    prints = [print_ for _, print_ in pairs]
    sizes = np.array([print_.grey.shape for print_ in prints], np.int32).reshape(-1, 2)
    contents = [content(view(print_.grey)) for print_ in prints]
    outlines = [() if print_.footprint is None else print_.footprint.outline for print_ in prints]
    points = max(map(len, outlines), default=0)
    return EvaluationIndex(
        names=[name for name, _ in pairs],
        sha256=[print_.sha256 for print_ in prints],
        sizes=sizes,
        starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes.prod(1, dtype=np.int64))]),
        levels=np.concatenate([np.zeros(0, np.uint8), *(print_.grey.ravel() for print_ in prints)]),
        coefficients=np.array(
            [np.full((8, 8), np.nan) if found is None else found.coefficients for found in contents], np.float32
        ).reshape(-1, 8, 8),
        boxes=np.array([(0, 0, 0, 0) if found is None else found.box for found in contents], np.int32).reshape(-1, 4),
        outlines=np.array([outline or np.full((points, 2), np.nan) for outline in outlines]).reshape(
            len(prints), points, 2
        ),
        features=index_features(list(_described(prints))),
    )


def save_fingerprints(path: Path, named: Iterable[tuple[str, Fingerprint]]) -> None:
    """Describe evaluation images, given as (name, fingerprint) pairs, in a folder for `load_finder`."""
    images = prepare(named)
    arrays: dict[str, Array] = {
        "names": _joined(images.names),
        "sha256": _joined(images.sha256),
        "sizes": images.sizes,
        "starts": images.starts,
        "levels": images.levels,
        "coefficients": images.coefficients,
        "boxes": images.boxes,
        "outlines": images.outlines,
    }
    write_arrays(path, arrays | {f"{_FEATURES}{name}": array for name, array in vars(images.features).items()})


def load_evaluation(path: Path) -> EvaluationIndex:
    """The evaluation images in a folder of `save_fingerprints`."""
    arrays = read_arrays(path)
    names, sha256 = _split(arrays.pop("names")), _split(arrays.pop("sha256"))
    features = {name: arrays.pop(name) for name in list(arrays) if name.startswith(_FEATURES)}
    found = FeatureArrays(**{name.removeprefix(_FEATURES): array for name, array in features.items()})
    return EvaluationIndex(names, sha256, features=found, **arrays)


def _joined(texts: Sequence[str]) -> Array:
    return np.frombuffer("\0".join(texts).encode(errors="surrogateescape"), np.uint8)


def _split(joined: Array) -> list[str]:
    return joined.tobytes().decode(errors="surrogateescape").split("\0") if joined.size else []


def _described(prints: list[Fingerprint]) -> Iterator[tuple[int, Features]]:
    """(owner, features) of each image and of its mirror image, limited so that all fit into memory."""
    per_image = MAX_FEATURES // max(len(prints), 1)
    if per_image < _ENOUGH_FEATURES:
        log.warning(
            "%d evaluation images are many: each is searched for by %d local features instead of about %d, "
            "and some that share only half of their area may be missed",
            len(prints),
            per_image,
            _ENOUGH_FEATURES,
        )
    forms = [(False, False), (True, False)]
    if per_image >= 1.5 * _ENOUGH_FEATURES:  # for many images, more features of themselves are worth more
        forms.append((False, True))

    def describe_forms(print_: Fingerprint) -> list[Features]:
        return [describe(print_.grey, mirrored, inverted) for mirrored, inverted in forms]

    with ThreadPoolExecutor() as threads:
        for number, described in enumerate(threads.map(describe_forms, prints)):
            for (mirrored, inverted), found in zip(forms, described, strict=True):
                yield owner(number, mirrored, inverted), _fewer(found, per_image // len(forms))


def _fewer(found: Features, limit: int) -> Features:
    if len(found.points) <= limit:
        return found
    keep = np.linspace(0, len(found.points) - 1, limit).astype(np.int64)
    return Features(found.points[keep], found.descriptors[keep])
