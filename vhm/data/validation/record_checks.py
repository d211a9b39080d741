"""One record of a list → a row of the manifest, or the reason why not."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from vhm.data.images import Limits, load_pixels
from vhm.data.images.stores import ImageStore
from vhm.data.records import IMAGE_MARKER, Record, check_turns, image_name
from vhm.data.validation.contamination import LeakFinder, fingerprint
from vhm.data.validation.stream import parse_record
from vhm.data.validation.text_rules import check_turn, is_boilerplate, is_refusal, lacks_options
from vhm.errors import ImageError, RecordError

Kind = Literal["pretrain", "sft", "eval"]
LEAK = "the image is evaluation image "

_MAX_SIDE = 10**6
_TOLD = 500  # characters of a reason's detail


@dataclass(frozen=True)
class Row:
    """One accepted record as the manifest's columns, and what duplicates are found by."""

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
class Rejected:
    index: int
    id: str | None
    reason: str
    detail: str


@dataclass(frozen=True)
class _Image:
    """What an image is: (width, height), and the evaluation image that it is, if any."""

    sha256: str
    size: tuple[int, int]
    leak: str | None


class Checker:
    """Checks records against an image root; `root` None leaves images alone."""

    def __init__(
        self,
        root: ImageStore | None,
        kind: Kind,
        limits: Limits,
        max_text: int,
        leaks: LeakFinder | None,
        bands: tuple[int, int, int] | None = None,
    ) -> None:
        self._root = root
        self._kind = kind
        self._limits = limits
        self._max_text = max_text
        self._leaks = leaks
        self._bands = bands
        self._looked: dict[str, _Image | ImageError] = {}

    def check(self, index: int, raw: bytes) -> Row | Rejected:
        """The record in `raw` as a row, or why not. Never raises."""
        name = None
        try:
            record = parse_record(raw)
            name = record.get("id") if isinstance(record, dict) else None
            return self._check(index, record)
        except (RecordError, ImageError) as error:
            return Rejected(index, None if name is None else _told(str(name)), error.reason, _told(error.detail))
        except Exception as error:  # a row must not end the run: what nobody foresaw is a reason, too
            return Rejected(index, None, "bad_json", f"the record cannot be read ({type(error).__name__})")

    def _check(self, index: int, record: Any) -> Row:
        turns = check_turns(record)
        if not isinstance(record.get("id", ""), (str, int, type(None))) or isinstance(record.get("id"), bool):
            raise RecordError("wrong_type", "'id' is neither text nor an integer")
        for key in ("image", "source_dataset", "image_path"):
            if record.get(key) is not None and not isinstance(record[key], str):
                raise RecordError("wrong_type", f"{key!r} is not a string")
        if self._kind in ("pretrain", "eval") and record.get("image") is None:
            raise RecordError("missing_field", "'image' is absent")
        self._check_text(turns, record)
        answers = [text for speaker, text in turns if speaker == "gpt"]
        refusal = any(map(is_refusal, answers))
        if self._kind == "pretrain" and refusal:
            raise RecordError("refusal", "the caption is a refusal")
        image = image_name(record)
        digest, size = self._check_image(image, record)
        named = record.get("id")
        content = orjson.dumps([digest or image, record["conversations"]])
        return Row(
            index,
            str(index if named is None else named),
            str(record.get("source_dataset") or record.get("image_path") or ""),
            record.get("image"),
            digest,
            size and size[0],
            size and size[1],
            len(turns),
            sum(len(text) for _, text in turns),
            sum(map(len, answers)),
            refusal,
            orjson.dumps(_clean(record)),
            None if named is None else hashlib.blake2b(str(named).encode(), digest_size=16).digest(),
            hashlib.blake2b(content, digest_size=16).digest(),
        )

    def _check_text(self, turns: list[tuple[str, str]], record: Record) -> None:
        if self._kind != "sft" and len(turns) != 2:
            raise RecordError("turn_count", f"{len(turns)} turns instead of a question and its answer")
        length = sum(len(text) for _, text in turns)
        if length > self._max_text:
            raise RecordError("too_long", f"{length} characters of text, the limit is {self._max_text}")
        pixels = _longest_side(record) if self._kind == "eval" else None
        for number, (speaker, text) in enumerate(turns):
            check_turn(speaker, text, f"turn {number}", pixels)
            if speaker == "human" and lacks_options(text):
                raise RecordError("no_options", f"turn {number} asks for a letter and lists no options")
        marked = sum(text.count(IMAGE_MARKER) for _, text in turns)
        images = int(record.get("image") is not None)
        if marked != images and not (self._kind == "eval" and marked == 0):
            raise RecordError("image_count", f"{marked} image markers, {images} images")
        if self._kind == "pretrain" and is_boilerplate(turns[1][1]):
            raise RecordError("boilerplate", "the caption holds what is said around captions")

    def _check_image(self, name: str | None, record: Record) -> tuple[str | None, tuple[int, int] | None]:
        if "size" in record:
            _check_size(record["size"])
        if name is None or self._root is None:
            return None, None
        if name not in self._looked:  # lists ask several questions about an image
            self._looked[name] = self._look(name, self._root)
        found = self._looked[name]
        if isinstance(found, ImageError):
            raise found
        width, height = found.size
        size = record.get("size")
        if size is not None and list(size) != [width, height]:
            raise RecordError("image_size", f"the file is {width}×{height}, the record says {size}")
        if found.leak is not None:
            raise RecordError("leak", f"{LEAK}{found.leak}")
        return found.sha256, found.size

    def _look(self, name: str, root: ImageStore) -> _Image | ImageError:
        try:
            content = root.read(name)
        except ImageError as error:
            return error
        try:
            pixels = load_pixels(content, self._limits, bands=self._bands)
        except ImageError as error:
            return ImageError(error.reason, f"{name}: {error.detail}")
        leak = None if self._leaks is None else self._leaks.find(fingerprint(content, pixels))
        return _Image(hashlib.sha256(content).hexdigest(), (pixels.shape[1], pixels.shape[0]), leak)


def _check_size(size: Any) -> None:
    whole = isinstance(size, list) and len(size) == 2 and all(type(v) is int for v in size)
    if size is not None and not whole:
        raise RecordError("wrong_type", "'size' is not [width, height] in whole pixels")
    if whole and not all(1 <= v <= _MAX_SIDE for v in size):
        raise RecordError("image_size", f"the record says {size}: not a size that an image has")


def _longest_side(record: Record) -> float:
    """Of the size that the record tells; without one, coordinates have no limit."""
    size = record.get("size")
    whole = isinstance(size, list) and all(type(v) is int for v in size)
    return max(size) if whole and size else math.inf


def _told(text: str) -> str:
    """Whatever a record holds as text that can be written, and read."""
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= _TOLD else f"{text[:_TOLD]}…"


def _clean(record: dict[str, Any]) -> dict[str, Any]:
    """The record as it will be trained on: a leading gpt turn dropped."""
    turns = record["conversations"]
    return record | {"conversations": turns[1:]} if turns[0]["from"] == "gpt" else record
