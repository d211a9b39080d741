"""`data`: the lists and images of a run, and what validation accepts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vhm.recipe.section import Name, PositiveInt, Section, Share

Bands = tuple[PositiveInt, PositiveInt, PositiveInt]
Percentile = Annotated[float, Field(ge=0, le=100)]


# vhm.data.validation.findings says what each means.
Finding = Literal["identical", "re-encoded", "transformed", "part", "overlap", "near-duplicate", "blank"]


class Expectations(Section):
    """Thresholds for an accepted list.

    `vhm/data/validation/expectations/*.json` say which table each threshold applies to.
    """

    min_side: PositiveInt = Field(8, description="pixels of an image's longer side, at least")
    max_side: PositiveInt = Field(30_000, description="pixels of an image's longer side, at most")
    max_aspect_ratio: float = Field(20, ge=1, description="longer side divided by shorter side, at most")
    max_turns: PositiveInt = Field(200, description="turns of a conversation, at most")
    min_caption: float = Field(20, ge=0, description="characters of a source's mean caption, at least")
    max_caption: float = Field(4000, gt=0, description="characters of a source's mean caption, at most")
    min_source_records: PositiveInt = Field(1, description="records of each source, at least")
    max_source_share: Share = Field(1.0, description="share of all records from one source, at most")
    max_duplicates: Share = Field(0.2, description="share of duplicates among a source's records, at most")
    max_refusals: Share = Field(
        0.5, description="share of refusals among a source's answers in sft, at most; an honest answer may be a refusal"
    )

    @model_validator(mode="after")
    def _check_ranges(self) -> Expectations:
        for least, most in (("min_side", "max_side"), ("min_caption", "max_caption")):
            if getattr(self, least) > getattr(self, most):
                raise ValueError(f"{least}={getattr(self, least)} is above {most}={getattr(self, most)}")
        return self


class StretchRecipe(Section):
    """The samples of more than 8 bits that become 0 and 255; `[2, 98]` is short for `{percentiles: [2, 98]}`."""

    percentiles: tuple[Percentile, Percentile] | None = Field(None, description="percentiles of each band of an image")
    range: tuple[float, float] | None = Field(None, description="sample values, the same for every image")

    @model_validator(mode="before")
    @classmethod
    def _read_short_form(cls, value: object) -> object:
        return {"percentiles": value} if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _check(self) -> StretchRecipe:
        given = [limits for limits in (self.percentiles, self.range) if limits is not None]
        if len(given) != 1:
            raise ValueError("give either percentiles or a range, as [low, high]")
        if given[0][0] >= given[0][1]:
            raise ValueError(f"the low end {given[0][0]:g} is not below the high end {given[0][1]:g}")
        return self


class SourceRecipe(Section):
    """Options of one source, the `source_dataset` (or `image_path`) of its records."""

    bands: Bands | None = Field(None, description="as data.bands; null: those of data.bands")
    stretch: StretchRecipe | None = Field(None, description="as data.stretch; null: that of data.stretch")
    licence: Name | None = Field(None, description="SPDX identifier in lower case, or other; null: not stated")
    research_only: bool = Field(False, description="the terms exclude any other use")


class DataRecipe(Section):
    """Lists and images, relative to the data root, and the limits that validation applies."""

    root: Name = Field("data", description="directory that the other paths are relative to")
    sample: bool = Field(False, description="build the embedded sample when `root` is absent")
    images: Name = Field("images", description="image root of the training lists: a folder, packed shards, or s3://…")
    pretrain: Name | Annotated[list[Name], Field(min_length=1)] = Field(
        "pretrain/list_pretrain.json", description="list of captions, or several"
    )
    sft: Name | Annotated[list[Name], Field(min_length=1)] = Field(
        "sft/list_sft.json", description="list of instructions, or several"
    )
    evaluation: Name = Field("eval", description="directory of the evaluation files")
    golden: Name = Field("golden.json", description="golden questions for a deployed model")
    max_rejected: Share = Field(0.01, description="share of a list's records that may be rejected")
    reject: list[Finding] = Field(
        ["identical", "re-encoded", "transformed", "part", "overlap"],
        description="findings that reject a record: how its image leaks an evaluation image, near-duplicate, blank; "
        "others are reported",
    )
    max_unreadable: Share = Field(
        0.0, description="share of the evaluation images that may be unreadable: their leaks are not found"
    )
    splits: PositiveInt = Field(1, description="number of splits that a list is checked in, in parallel")
    max_pixels: PositiveInt = Field(100_000_000, description="pixels of an image, at most")
    max_text: PositiveInt = Field(20_000, description="characters of a turn, at most")
    expect: Expectations = Expectations()
    bands: Bands | None = Field(
        None, description="bands of a TIFF or JPEG 2000 to show as red, green, blue, from 1; null: its first three"
    )
    stretch: StretchRecipe = Field(
        StretchRecipe(percentiles=(2, 98)),
        description="what samples of more than 8 bits become black and white: percentiles [low, high], or {range: …}",
    )
    sources: dict[Name, SourceRecipe] = Field(
        default_factory=dict, description="bands, stretch and licence of single sources"
    )
    scaled_decode: bool = Field(False, description="decode huge JPEG tiles at the smallest scale that training needs")
    pixel_cache_gb: float = Field(0, ge=0, description="GB of resized pixels to cache on disk; 0: no cache")

    def lists(self, kind: Literal["pretrain", "sft"]) -> list[str]:
        """The lists of a kind, one or several."""
        names = self.pretrain if kind == "pretrain" else self.sft
        return [names] if isinstance(names, str) else names
