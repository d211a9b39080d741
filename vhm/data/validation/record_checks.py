"""Checks one record of a list: the result is a row of the manifest, or a rejection with its reason."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import orjson

from vhm.data.images import Limits, load_pixels
from vhm.data.images.options import DEFAULT_SOURCE_OPTIONS, ImageOptions, SourceOptions
from vhm.data.images.stores import ImageStore
from vhm.data.records import IMAGE_MARKER, check_turns, image_name, source_name, system_message
from vhm.data.validation.findings import Leak
from vhm.data.validation.similarity import LeakFinder, fingerprint
from vhm.data.validation.stream import parse_record
from vhm.data.validation.text_rules import check_turn, is_boilerplate, is_refusal, lacks_options
from vhm.errors import ImageError, RecordError, VhmError, first_line

Kind = Literal["pretrain", "sft", "eval"]
LEAK_DETAIL = "the image matches evaluation image "  # followed by its name

_MAX_SIDE = 10**6
_MAX_DETAIL = 500  # characters


@dataclass(frozen=True)
class AcceptedRow:
    """One accepted record: the manifest's columns, and two hashes for finding duplicates."""

    index: int
    id: str
    source: str
    image: str | None
    image_sha256: str | None
    width: int | None
    height: int | None
    turns: int
    text_length: int
    answer_length: int
    refusal: bool
    record: bytes
    id_hash: bytes | None
    content_hash: bytes


@dataclass(frozen=True)
class RejectedRow:
    """One rejected record; `reason` is a code of `vhm.data.records.REASONS`."""

    index: int
    id: str | None
    reason: str
    detail: str


@dataclass(frozen=True)
class _CheckedImage:
    """`size` is (width, height); `leak` names the evaluation image that the image shows, if any."""

    sha256: str
    size: tuple[int, int]
    leak: Leak | None


class RecordChecker:
    """Checks records and their images in an image store; without a store, images are not checked."""

    def __init__(
        self,
        store: ImageStore | None,
        kind: Kind,
        limits: Limits,
        max_text: int,
        leaks: LeakFinder | None,
        options: SourceOptions = DEFAULT_SOURCE_OPTIONS,
    ) -> None:
        self._store = store
        self._kind = kind
        self._limits = limits
        self._max_text = max_text
        self._leaks = leaks
        self._options = options
        self._images: dict[tuple[str, ImageOptions], _CheckedImage | ImageError] = {}

    def check(self, index: int, raw: bytes) -> AcceptedRow | RejectedRow:
        """The record in `raw` as an accepted or a rejected row.

        Raises StorageError or InputError when the image store fails: that says nothing about the record.
        """
        record_id = None
        try:
            record = parse_record(raw)
            record_id = record.get("id") if isinstance(record, dict) else None
            return self._check(index, record)
        except (RecordError, ImageError) as error:
            shown_id = None if record_id is None else _printable(str(record_id))
            return RejectedRow(index, shown_id, error.reason, _printable(error.detail))
        except (VhmError, OSError, MemoryError):
            raise
        except Exception as error:  # one record must not end the run, whatever it contains
            detail = f"the check ended with {type(error).__name__}: {first_line(error)}"
            return RejectedRow(index, None, "unreadable", _printable(detail))

    def _check(self, index: int, record: object) -> AcceptedRow:
        turns = check_turns(record)
        assert isinstance(record, dict)  # check_turns raises RecordError otherwise
        self._check_fields(record)
        system = system_message(record)
        self._check_text(turns, system, record)
        answers = [text for speaker, text in turns if speaker == "gpt"]
        refusal = any(map(is_refusal, answers))
        if self._kind == "pretrain" and refusal:
            raise RecordError("refusal", "the caption is a refusal")
        image = image_name(record)
        checked = self._check_image(image, record)
        sha256, size = (None, None) if checked is None else (checked.sha256, checked.size)
        record_id = record.get("id")
        content = orjson.dumps([sha256 or image, record["conversations"], *([system] if system else ())])
        return AcceptedRow(
            index=index,
            id=str(index if record_id is None else record_id),
            source=source_name(record),
            image=record.get("image"),
            image_sha256=sha256,
            width=size and size[0],
            height=size and size[1],
            turns=len(turns),
            text_length=sum(len(text) for _, text in turns),
            answer_length=sum(map(len, answers)),
            refusal=refusal,
            record=orjson.dumps(_without_leading_answer(record)),
            id_hash=None if record_id is None else _hash(str(record_id).encode()),
            content_hash=_hash(content),
        )

    def _check_fields(self, record: Mapping[str, object]) -> None:
        record_id = record.get("id", "")
        if not isinstance(record_id, (str, int, type(None))) or isinstance(record_id, bool):
            raise RecordError("wrong_type", "'id' is neither a string nor an integer")
        for key in ("image", "source_dataset", "image_path"):
            if record.get(key) is not None and not isinstance(record[key], str):
                raise RecordError("wrong_type", f"{key!r} is not a string")
        if self._kind in ("pretrain", "eval") and record.get("image") is None:
            raise RecordError("missing_field", "'image' is missing")

    def _check_text(self, turns: list[tuple[str, str]], system: str | None, record: Mapping[str, object]) -> None:
        if self._kind != "sft" and len(turns) != 2:
            raise RecordError("turn_count", f"expected one question and one answer, the record has {len(turns)} turns")
        if system is not None and self._kind != "sft":
            raise RecordError("system_message", f"a record of kind {self._kind} has no place for a system message")
        length = sum(len(text) for _, text in turns) + len(system or "")
        if length > self._max_text:
            raise RecordError("too_long", f"the text has {length} characters, the limit is {self._max_text}")
        pixels = _longest_side(record.get("size")) if self._kind == "eval" else None
        if system is not None:
            check_turn("system", system, "the system message")
        for number, (speaker, text) in enumerate(turns):
            check_turn(speaker, text, f"turn {number}", pixels)
            if speaker == "human" and lacks_options(text):
                raise RecordError("no_options", f"turn {number} asks for an option but lists none")
        markers = sum(text.count(IMAGE_MARKER) for _, text in turns)
        images = int(record.get("image") is not None)
        if markers != images and not (self._kind == "eval" and markers == 0):
            raise RecordError("image_count", f"the text has {markers} image markers, the record has {images} images")
        if self._kind == "pretrain" and is_boilerplate(turns[1][1]):
            raise RecordError("boilerplate", "the caption contains boilerplate text")

    def _check_image(self, name: str | None, record: Mapping[str, object]) -> _CheckedImage | None:
        """Check the image once, however many records show it; None when images are not checked."""
        size = record.get("size")
        _check_size(size)
        if name is None or self._store is None:
            return None
        options = self._options.of(source_name(record))
        if (name, options) not in self._images:
            self._images[name, options] = self._load(name, self._store, options)
        image = self._images[name, options]
        if isinstance(image, ImageError):
            raise image
        width, height = image.size
        if size is not None and size != [width, height]:
            raise RecordError("image_size", f"the image file is {width}×{height}, but the record's 'size' is {size}")
        if image.leak is not None:
            raise RecordError("leak", f"{LEAK_DETAIL}{image.leak.evaluation}")
        return image

    def _load(self, name: str, store: ImageStore, options: ImageOptions) -> _CheckedImage | ImageError:
        try:
            content = store.read(name)
        except ImageError as error:
            return error
        try:
            pixels = load_pixels(content, self._limits, options=options)
        except ImageError as error:
            return ImageError(error.reason, f"{name}: {error.detail}")
        leak = None if self._leaks is None else self._leaks.find(fingerprint(content, pixels))
        return _CheckedImage(hashlib.sha256(content).hexdigest(), (pixels.shape[1], pixels.shape[0]), leak)


def _check_size(size: object) -> None:
    if size is None:
        return
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)):
        raise RecordError("wrong_type", "'size' is not [width, height] in integer pixels")
    if not all(1 <= side <= _MAX_SIDE for side in size):
        raise RecordError("image_size", f"the record's 'size' is {size}: sides are from 1 to {_MAX_SIDE} pixels")


def _longest_side(size: object) -> float:
    """The longest side in pixels by the record's 'size'; infinite without one, so that coordinates have no limit."""
    if isinstance(size, list) and size and all(type(side) is int for side in size):
        return float(max(size))
    return math.inf


def _printable(text: str) -> str:
    """The text, shortened, with lone surrogates escaped: it can be written as UTF-8."""
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= _MAX_DETAIL else f"{text[:_MAX_DETAIL]}…"


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _without_leading_answer(record: dict[str, object]) -> dict[str, object]:
    """The record as training reads it: a leading gpt turn is dropped."""
    turns = record["conversations"]
    assert isinstance(turns, list)
    return record | {"conversations": turns[1:]} if turns[0]["from"] == "gpt" else record
