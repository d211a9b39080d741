"""What flows through an import: rows of a foreign file, and the samples that they become."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vhm.data import records
from vhm.errors import RecordError
from vhm.io import JsonObject

REASONS = records.REASONS | {"other_split": "the record belongs to another split"}

Speaker = Literal["human", "gpt"]
Convention = Literal["0-1", "0-100", "0-1000", "pixels"]
CONVENTIONS: tuple[Convention, ...] = ("0-1", "0-100", "0-1000", "pixels")
Shape = tuple[float, ...]  # 4 numbers: a box's corners; 5: a rotated box (cx, cy, w, h, degrees); 6, 8, …: a polygon


@dataclass(frozen=True)
class EmbeddedImage:
    """An image whose bytes are in the foreign file; `name` is its path there, if it has one."""

    content: bytes
    name: str | None = None


Image = str | EmbeddedImage  # a string is a path relative to the image root, or an absolute one


@dataclass(frozen=True)
class Row:
    """One record of a foreign file; `where` names it: its file and number. Images may be `EmbeddedImage`."""

    where: str
    fields: JsonObject


@dataclass(frozen=True)
class Sample:
    """What a row becomes: one record of a list, or with `task` one record of the evaluation file of that name.

    `kind` says what it is in the report. Each `<bbox>` in the text stands for the next of `shapes`, which are in
    `convention`; `size` is the image's (width, height), where the row has it.
    """

    kind: str
    turns: Sequence[tuple[Speaker, str]]
    image: Image | None = None
    id: str | int | None = None
    source: str | None = None
    system: str | None = None
    task: str | None = None
    size: tuple[int, int] | None = None
    shapes: Sequence[Shape] = ()
    convention: Convention = "pixels"


def question_and_answer(question: str, answer: str) -> list[tuple[Speaker, str]]:
    return [("human", question), ("gpt", answer)]


@dataclass(frozen=True)
class Format:
    """A form of records: how it is recognised, by a row's keys and values, and what a row becomes.

    `convert` raises RecordError for a row that cannot be converted, and yields one for a part that cannot. A format
    whose file is one JSON object instead of rows has `document`, which says by the object's keys whether it is one, and
    `read`, which makes its rows; the second argument of `read` is the image root, if the user gave one.
    """

    name: str
    title: str
    recognise: Callable[[JsonObject], bool]
    convert: Callable[[JsonObject], Iterator[Sample | RecordError]]
    document: Callable[[dict[str, object]], bool] | None = None
    read: Callable[[Path, Path | None], Iterator[Row]] | None = None
    aliases: tuple[str, ...] = ()
