"""How the pixels of an image become RGB: which bands are shown and how deep samples are stretched, per source.

The recipe says it in `data.bands`, `data.stretch` and `data.sources`; a model's processor carries it on to evaluation
and serving. A record's source is its `source_dataset`, or the `image_path` of an evaluation record.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vhm.recipe import DataRecipe, StretchRecipe

Bands = tuple[int, int, int]


@dataclass(frozen=True)
class Stretch:
    """The values that become 0 and 255: percentiles of each band, or (`fixed`) the sample values themselves.

    A fixed range shows the same colour for the same value in every image, percentiles use each image's full contrast.
    Samples of 8 bits are never stretched.
    """

    low: float = 2
    high: float = 98
    fixed: bool = False

    @classmethod
    def from_recipe(cls, stretch: StretchRecipe) -> Stretch:
        if stretch.range is not None:
            return cls(*stretch.range, fixed=True)
        assert stretch.percentiles is not None  # the recipe has one of the two
        return cls(*stretch.percentiles)


@dataclass(frozen=True)
class ImageOptions:
    """`bands` of a TIFF or JPEG 2000 shown as red, green and blue, counted from 1; None: its first three."""

    bands: Bands | None = None
    stretch: Stretch = Stretch()


@dataclass(frozen=True)
class SourceOptions:
    """The options of the sources that have their own, and the `default` of all others."""

    default: ImageOptions = ImageOptions()
    sources: Mapping[str, ImageOptions] = field(default_factory=dict, hash=False)

    @classmethod
    def from_recipe(cls, data: DataRecipe) -> SourceOptions:
        default = ImageOptions(data.bands, Stretch.from_recipe(data.stretch))
        own = {
            name: ImageOptions(
                source.bands or default.bands,
                Stretch.from_recipe(source.stretch) if source.stretch else default.stretch,
            )
            for name, source in sorted(data.sources.items())
            if source.bands or source.stretch
        }
        return cls(default, own)

    def of(self, source: str) -> ImageOptions:
        """The options of a record's source; "" is a record without one."""
        return self.sources.get(source, self.default)


DEFAULT_OPTIONS = ImageOptions()
DEFAULT_SOURCE_OPTIONS = SourceOptions()


def unknown_sources(named: Collection[str], known: Collection[str]) -> list[str]:
    """One line for each source that a recipe names and no record has, with the nearest name that one has."""
    present = sorted(name for name in known if name)
    lines = []
    for name in sorted(set(named) - set(present)):
        close = difflib.get_close_matches(name, present, 1, cutoff=0.5)
        hint = f"the records' sources are {', '.join(present[:5])}" if present else "no record has a source"
        hint = f"did you mean {close[0]!r}?" if close else hint
        lines.append(f"data.sources names {name!r}, but no record has this source; {hint}")
    return lines
