"""Finds the evaluation image that a training image shows.

In the order of their cost: the bytes, the image as a whole (`copies`), its place on Earth (`footprints`), and local
features (`overlap`); `alignment` confirms what the second and the last propose.
"""

from __future__ import annotations

import functools
from pathlib import Path

from vhm.data.validation.findings import Leak, LeakKind
from vhm.data.validation.similarity.alignment import COMPLETE, Match, compare, view_size
from vhm.data.validation.similarity.copies import CopyFinder, content
from vhm.data.validation.similarity.evaluation import EvaluationIndex, load_evaluation
from vhm.data.validation.similarity.features import features
from vhm.data.validation.similarity.fingerprint import Fingerprint, View, view
from vhm.data.validation.similarity.footprints import Footprint, FootprintIndex, Shared
from vhm.data.validation.similarity.overlap import QUERY_FEATURES, candidates

MIN_GROUND = 0.5  # of the smaller of two footprints

_MAX_CANDIDATES = 4  # evaluation images with common features that an image is compared with
_SAME_GROUND = 0.99  # of both areas: the images have one footprint


@functools.lru_cache(1)
def load_finder(path: Path) -> LeakFinder:
    """The finder in a folder of `save_fingerprints`; built once per process."""
    return LeakFinder(load_evaluation(path))


class LeakFinder:
    """Searches for images among the evaluation images given at construction."""

    def __init__(self, evaluation: EvaluationIndex) -> None:
        numbers = range(len(evaluation.names))
        self._evaluation = evaluation
        self._by_sha256 = {evaluation.sha256[number]: number for number in reversed(numbers)}
        sizes = [view_size(evaluation.grey(number).shape) for number in numbers]
        self._copies = CopyFinder([evaluation.content(number) for number in numbers], sizes)
        self._footprints = FootprintIndex([evaluation.footprint(number) for number in numbers])

    def find(self, image: Fingerprint) -> Leak | None:
        """The evaluation image that `image` shows, or None."""
        number = self._by_sha256.get(image.sha256)
        if number is not None:
            return Leak(self._evaluation.names[number], "identical", 1.0)
        shown = view(image.grey)
        return self._find_copy(shown) or self._find_ground(image.footprint) or self._find_overlap(shown, image)

    def _find_copy(self, image: View) -> Leak | None:
        found = content(image)
        if found is None:
            return None
        for copy in self._copies.find(found):
            grey = self._evaluation.grey(copy.number)
            match = compare(image, grey, copy.matrix, copy.mirrored, copy.inverted)
            if match is not None:
                return self._leak(copy.number, match)
        return None

    def _find_ground(self, footprint: Footprint | None) -> Leak | None:
        """The image with a footprint that shares the most ground, at least half of the smaller."""
        if footprint is None or not self._footprints.numbers:
            return None
        best = max(self._footprints.find(footprint), key=lambda shared: shared.fraction, default=None)
        if best is None or best.fraction < MIN_GROUND:
            return None
        return Leak(
            self._evaluation.names[best.number],
            _ground_kind(best),
            1.0,
            round(best.fraction, 3),
            best.outline,
            best.indexed_outline,
        )

    def _find_overlap(self, image: View, fingerprint: Fingerprint) -> Leak | None:
        found = features(image.grey, image.valid, QUERY_FEATURES)
        best: tuple[float, int, Match] | None = None
        compared = 0
        for candidate in candidates(self._evaluation.features, found):
            if fingerprint.footprint is not None and candidate.number in self._footprints.numbers:
                continue  # their footprints say that they share no ground
            grey = self._evaluation.grey(candidate.number)
            match = compare(image, grey, candidate.matrix, candidate.mirrored, candidate.inverted)
            if match is not None and (best is None or match.matched_area > best[0]):
                best = match.matched_area, candidate.number, match
            compared += 1
            if compared == _MAX_CANDIDATES:
                break
        return None if best is None else self._leak(best[1], best[2])

    def _leak(self, number: int, match: Match) -> Leak:
        return Leak(self._evaluation.names[number], **vars(match))


def _ground_kind(shared: Shared) -> LeakKind:
    """Images with one footprint show the same ground, but maybe at another time: they overlap completely."""
    smaller, larger = sorted(shared.fractions)
    return "part" if larger >= COMPLETE and smaller < _SAME_GROUND else "overlap"
