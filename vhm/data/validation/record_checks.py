"""Checks one record of a list without its image: the result is a row for the manifest, or a rejection with its reason.

Whether its image can be used is checked once for all records that show it (`image_checks`); what depends on both, or
on other records, is decided when all are checked (`verdicts`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import orjson

from vhm.data.records import IMAGE_MARKER, check_turns, image_name, source_name, system_message
from vhm.data.validation.stream import parse_record
from vhm.data.validation.text_rules import Coordinates, check_turn, is_boilerplate, is_refusal, lacks_options
from vhm.errors import RecordError, VhmError, first_line

Kind = Literal["pretrain", "sft", "eval"]

_MAX_SIDE = 10**6
_MAX_DETAIL = 500  # characters
_SEPARATOR = "\0"  # is in no name (`vhm.data.records.image_name`)


@dataclass(frozen=True)
class CheckedRecord:
    """One record that passed: the manifest's columns that do not depend on its image, and what the verdict needs.

    `boxes` counts the boxes and polygons in the text. `image_key` identifies the image to check, if it is checked.
    `stated_width` and `stated_height` are the record's 'size'. `content_hash` is of the conversation, and of the
    image's name if the image is not checked.
    """

    index: int
    id: str
    source: str
    image: str | None
    turns: int
    text_length: int
    answer_length: int
    refusal: bool
    boxes: int
    largest_coordinate: float | None
    record: bytes
    image_key: str | None
    stated_width: int | None
    stated_height: int | None
    id_hash: bytes | None
    content_hash: bytes


@dataclass(frozen=True)
class RejectedRow:
    """One rejected record; `reason` is a code of `vhm.data.records.REASONS`."""

    index: int
    id: str | None
    reason: str
    detail: str


class RecordChecker:
    """Checks records; `own_options` are the sources whose images are read in their own way (`image_options`)."""

    def __init__(
        self, kind: Kind, max_text: int, images_are_checked: bool = True, own_options: Collection[str] = ()
    ) -> None:
        self._kind = kind
        self._max_text = max_text
        self._images_are_checked = images_are_checked
        self._own_options = frozenset(own_options)

    def check(self, index: int, raw: bytes) -> CheckedRecord | RejectedRow:
        """The record in `raw` as a checked or a rejected row."""
        record_id = None
        try:
            record = parse_record(raw)
            record_id = record.get("id") if isinstance(record, dict) else None
            return self._check(index, record)
        except RecordError as error:
            shown_id = None if record_id is None else printable(str(record_id))
            return RejectedRow(index, shown_id, error.reason, printable(error.detail))
        except (VhmError, OSError, MemoryError):
            raise
        except Exception as error:  # one record must not end the run, whatever it contains
            return RejectedRow(index, None, "unreadable", unforeseen(error))

    def _check(self, index: int, record: object) -> CheckedRecord:
        turns = check_turns(record)
        assert isinstance(record, dict)  # check_turns raises RecordError otherwise
        self._check_fields(record)
        system = system_message(record)
        coordinates = self._check_text(turns, system, record)
        texts = [text for _, text in turns]
        answers = texts[1::2]  # turns alternate
        refusal = any(map(is_refusal, answers))
        if self._kind == "pretrain" and refusal:
            raise RecordError("refusal", "the caption is a refusal")
        name, source, size = image_name(record), source_name(record), _stated_size(record.get("size"))
        checks_image = self._images_are_checked and name is not None
        stored = _with_texts(record, turns, coordinates) if coordinates else record
        record_id = record.get("id")
        content = orjson.dumps([None if checks_image else name, record["conversations"], *([system] if system else ())])
        return CheckedRecord(
            index=index,
            id=str(index if record_id is None else record_id),
            source=source,
            image=record.get("image"),
            turns=len(turns),
            text_length=sum(map(len, texts)),
            answer_length=sum(map(len, answers)),
            refusal=refusal,
            boxes=sum(one.count for one in coordinates.values()) if coordinates else 0,
            largest_coordinate=max(one.largest for one in coordinates.values()) if coordinates else None,
            record=orjson.dumps(_without_leading_answer(stored)),
            image_key=image_key(name, source if source in self._own_options else "") if checks_image and name else None,
            stated_width=size and size[0],
            stated_height=size and size[1],
            id_hash=None if record_id is None else _hash(str(record_id).encode()),
            content_hash=_hash(content),
        )

    def _check_fields(self, record: Mapping[str, object]) -> None:
        record_id = record.get("id", "")
        if not isinstance(record_id, (str, int, type(None))) or isinstance(record_id, bool):
            raise RecordError("wrong_type", "'id' is neither a string nor an integer")
        for key in ("image", "source_dataset", "image_path"):
            if record.get(key) is not None and not isinstance(record[key], str):
                hint = "; `vhm data import` converts lists of one image" if isinstance(record[key], list) else ""
                raise RecordError("wrong_type", f"{key!r} is not a string{hint}")
        if self._kind in ("pretrain", "eval") and record.get("image") is None:
            raise RecordError("missing_field", "'image' is missing")

    def _check_text(
        self, turns: list[tuple[str, str]], system: str | None, record: Mapping[str, object]
    ) -> dict[int, Coordinates]:
        """The coordinates of each turn that has any."""
        if self._kind != "sft" and len(turns) != 2:
            raise RecordError("turn_count", f"expected one question and one answer, the record has {len(turns)} turns")
        if system is not None and self._kind != "sft":
            raise RecordError("system_message", f"a record of kind {self._kind} has no place for a system message")
        length = sum([len(text) for _, text in turns]) + len(system or "")
        if length > self._max_text:
            raise RecordError("too_long", f"the text has {length} characters, the limit is {self._max_text}")
        pixels = _longest_side(record.get("size")) if self._kind == "eval" else None
        if system is not None:
            check_turn("system", system, "the system message")
        coordinates: dict[int, Coordinates] = {}
        for number, (speaker, text) in enumerate(turns):
            if found := check_turn(speaker, text, f"turn {number}", pixels):
                coordinates[number] = found
            if speaker == "human" and lacks_options(text):
                raise RecordError("no_options", f"turn {number} asks for an option but lists none")
        markers = sum([text.count(IMAGE_MARKER) for _, text in turns])
        images = int(record.get("image") is not None)
        if markers != images and not (self._kind == "eval" and markers == 0):
            raise RecordError("image_count", f"the text has {markers} image markers, the record has {images} images")
        if self._kind == "pretrain" and is_boilerplate(turns[1][1]):
            raise RecordError("boilerplate", "the caption contains boilerplate text")
        return coordinates


def image_key(name: str, source: str) -> str:
    """What identifies an image to check: its name, and its source if that has its own image options (else "")."""
    return f"{source}{_SEPARATOR}{name}"


def split_key(key: str) -> tuple[str, str]:
    """The source and the name of `image_key`."""
    source, _, name = key.partition(_SEPARATOR)
    return source, name


def printable(text: str) -> str:
    """The text, shortened, with lone surrogates escaped: it can be written as UTF-8."""
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= _MAX_DETAIL else f"{text[:_MAX_DETAIL]}…"


def unforeseen(error: Exception) -> str:
    """The detail of the reason "unreadable"."""
    return printable(f"the check ended with {type(error).__name__}: {first_line(error)}")


def _stated_size(size: object) -> tuple[int, int] | None:
    if size is None:
        return None
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)):
        raise RecordError("wrong_type", "'size' is not [width, height] in integer pixels")
    if not all(1 <= side <= _MAX_SIDE for side in size):
        raise RecordError("image_size", f"the record's 'size' is {size}: sides are from 1 to {_MAX_SIDE} pixels")
    return size[0], size[1]


def _longest_side(size: object) -> float:
    """The longest side in pixels by the record's 'size'; infinite without one, so that coordinates have no limit."""
    if isinstance(size, list) and size and all(type(side) is int for side in size):
        return float(max(size))
    return math.inf


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _with_texts(
    record: dict[str, object], turns: list[tuple[str, str]], coordinates: Mapping[int, Coordinates]
) -> dict[str, object]:
    """The record with the texts of `coordinates`; the same record if no text changes."""
    if all(turns[number][1] == found.text for number, found in coordinates.items()):
        return record
    conversations = record["conversations"]
    assert isinstance(conversations, list)
    first = len(conversations) - len(turns)  # a system message and a leading answer come before the turns
    changed = [
        turn | {"value": coordinates[n].text} if (n := number - first) in coordinates else turn
        for number, turn in enumerate(conversations)
    ]
    return record | {"conversations": changed}


def _without_leading_answer(record: dict[str, object]) -> dict[str, object]:
    """The record as training reads it: a leading gpt turn is dropped."""
    turns = record["conversations"]
    assert isinstance(turns, list)
    return record | {"conversations": turns[1:]} if turns[0]["from"] == "gpt" else record
