"""Image options of sources, as the recipe gives them."""

from __future__ import annotations

import pytest

from vhm.data.images.options import ImageOptions, SourceOptions, Stretch, unknown_sources
from vhm.recipe import Recipe, parse_recipe


def options(**data: object) -> SourceOptions:
    return SourceOptions.from_recipe(parse_recipe({"data": data}).data)


def test_the_default_options_are_the_first_bands_between_the_2nd_and_98th_percentile() -> None:
    assert SourceOptions.from_recipe(Recipe().data) == SourceOptions()
    assert SourceOptions().of("any") == ImageOptions(None, Stretch(2, 98))


def test_a_source_inherits_what_it_does_not_set() -> None:
    sources = {"s2": {"stretch": {"range": [0, 10_000]}}, "pan": {"bands": [1, 1, 1]}, "licensed": {"licence": "mit"}}
    chosen = options(bands=[4, 3, 2], stretch=[1, 99], sources=sources)
    assert chosen.of("s2") == ImageOptions((4, 3, 2), Stretch(0, 10_000, fixed=True))
    assert chosen.of("pan") == ImageOptions((1, 1, 1), Stretch(1, 99))
    assert "licensed" not in chosen.sources
    assert chosen.of("licensed") == chosen.of("") == chosen.default == ImageOptions((4, 3, 2), Stretch(1, 99))


def test_options_do_not_depend_on_the_order_of_the_sources() -> None:
    first, second = {"a": {"bands": [1, 2, 3]}}, {"b": {"bands": [3, 2, 1]}}
    assert repr(options(sources=first | second)) == repr(options(sources=second | first))


@pytest.mark.parametrize(
    ("known", "hint"),
    [
        (["sentinel2", "naip"], "did you mean 'sentinel2'?"),
        (["naip", "dota"], "the records' sources are dota, naip"),
        ([""], "no record has a source"),
    ],
)
def test_a_source_that_no_record_has_is_named_with_the_nearest(known: list[str], hint: str) -> None:
    [line] = unknown_sources(["sentinel-2", *filter(None, known)], known)
    assert line == f"data.sources names 'sentinel-2', but no record has this source; {hint}"
