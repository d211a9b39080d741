"""What image options mean for each source as a whole: bands that its images lack, sources that no record has.

An image that lacks a requested band rejects its records one by one. Where most images of a source do, the options are
wrong rather than the images: one line says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vhm.data.images.options import SourceOptions, unknown_sources
from vhm.data.validation.chunks import read_table

_MOST = 0.5  # share of a source's images from which on the options are wrong


def check_bands(
    images_of: Mapping[str, NDArray[np.int32]], bands: NDArray[np.int32], options: SourceOptions
) -> tuple[list[str], list[str]]:
    """One line for each source with images that lack a band: failures where most of its images do, else warnings.

    `images_of` has the numbers of each source's images. `bands` [images] is the number of bands of those that lack a
    requested one, 0 of all others.
    """
    failures: list[str] = []
    warnings: list[str] = []
    for source, images in sorted(images_of.items()):
        counts = bands[images][bands[images] > 0]
        if len(counts):
            line = _lacking(source, counts, len(images), options)
            (failures if len(counts) > _MOST * len(images) else warnings).append(line)
    return failures, warnings


def _lacking(source: str, counts: NDArray[np.int32], total: int, options: SourceOptions) -> str:
    requested = list(options.of(source).bands or ())
    numbers = np.unique(counts).tolist()
    has = f"{' or '.join(map(str, numbers))} {'band' if numbers == [1] else 'bands'}"
    who = f"source {source}" if source else "records without a source"
    key = f"data.sources.{source}.bands" if source else "data.bands"
    return f"{who}: {len(counts):,} of {total:,} images have {has}, bands {requested} were requested: set {key}"


def images_by_source(records: list[Path], images: NDArray[np.int32]) -> dict[str, NDArray[np.int32]]:
    """The numbers of the images of each source; `images` [N] is the number of each record's image, -1 without one."""
    found: dict[str, list[NDArray[np.int32]]] = {}
    first = 0
    for sources in _sources(records):
        own = images[first : first + len(sources)]
        first += len(sources)
        for source in np.unique(sources[own >= 0]):
            found.setdefault(str(source), []).append(np.unique(own[(sources == source) & (own >= 0)]))
    return {source: np.unique(np.concatenate(numbers)) for source, numbers in found.items()}


def check_source_names(records: list[Path], options: SourceOptions) -> list[str]:
    """One line for each source that has options of its own, and no record."""
    if not options.sources:
        return []
    return unknown_sources(options.sources, {str(name) for sources in _sources(records) for name in np.unique(sources)})


def _sources(records: list[Path]) -> Iterator[NDArray[np.object_]]:
    """The source of each record, chunk by chunk."""
    for chunk in records:
        yield np.array(read_table(chunk, ["source"])["source"].to_pylist(), dtype=np.object_)
