"""Rules for the text of turns: no special tokens or control characters, coordinates within their range, options where
a question asks for a letter, captions that describe.

Coordinates are lists of numbers in brackets, normalised by the image's sides to [0, 1000):
a box is [x0, y0, x1, y1], a polygon [[x, y], …] or [x, y, x, y, …] of three points or more. 1000 itself becomes 999.
Evaluation files have target boxes in pixels: there the image's sides are the limit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vhm.data.coordinates import BRACKETS, NUMBER, has_points, is_shape, numbers_in
from vhm.data.records import IMAGE_MARKER, media_marker
from vhm.errors import RecordError

# Special tokens of Llama, LLaVA, ChatML and others. A tokenizer reads them as control tokens, not as text.
_SPECIAL = re.compile(r"</?s>|<(?:unk|pad|bos|eos|mask|im_start|im_end|im_patch|image_placeholder)>|<\|\w{1,40}\|>")
# C0 and C1 control characters except tab and line ends, and characters that change the direction of text.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_VISIBLE = re.compile("[^\\s\u200b\u200c\u200d\u2060\ufeff]")
_APOSTROPHE = "['\u2019]?"
_REFUSAL = re.compile(
    r"\b(?:as an? (?:ai|(?:large )?language model)\b"
    rf"|i{_APOSTROPHE}(?: a)?m (?:(?:very |so |really )?sorry|unable to|not able to)\b"
    rf"|i (?:cannot|can not|can{_APOSTROPHE}t)\b"
    r"|(?:unable|not able) to (?:see|view|process|assist|analy[sz]e this|describe (?:this|the))\b)",
    re.IGNORECASE,
)
_REFUSAL_HINTS = ("as a", "sorry", "cannot", "can not", "can't", "can\u2019t", "cant", "able to")
_BOILERPLATE = re.compile(
    r"^\W*(?:sure|certainly|of course|absolutely)[,!.:]"
    rf"|^\W*here(?:{_APOSTROPHE}s| is| are) (?:a|an|the|your) (?:\w+ ){{0,3}}(?:description|caption|summary)\b"
    rf"|\b(?:i hope (?:this|that) helps|let me know if|feel free to ask|if you have any (?:other |more )?questions)\b"
    r"|\blorem ipsum\b|\ball rights reserved\b|\bclick here\b"
    r"|\bno (?:caption|description) (?:is )?(?:available|provided)\b|\bimage not (?:found|available)\b",
    re.IGNORECASE,
)
_BOILERPLATE_HINTS = (
    *("sure", "certainly", "of course", "absolutely", "here", "hope", "let me", "feel free", "if you"),
    *("lorem", "rights", "click", "no caption", "no description", "image not"),
)
_LETTER = re.compile(
    r"\banswer with (?:\w+ )?(?:\w+'s )?letter|\b(?:option|choice)'?s? letter|\bletter of (?:the|your)\b", re.IGNORECASE
)
_CHOICE = re.compile(r"\b(?:choose|select|pick) (?:\w+ ){0,3}(?:options?|choices)\b", re.IGNORECASE)
_LISTED = re.compile(r"[:,;\n]|\bor\b")
_LETTER_HINTS = ("letter", "option", "choice")
_OPTION = re.compile(r"(?:^|[\s(\[])([A-Ha-h])[.):\]]")
_NOT_A_NUMBER = re.compile(r"\[[^\[\]]{0,80}\b(?:nan|inf(?:inity)?)\b[^\[\]]{0,80}\]", re.IGNORECASE)


@dataclass(frozen=True)
class Coordinates:
    """The boxes and polygons of a text: how many, and their largest coordinate.

    `text` is the text with all coordinates in [0, 1000): some conventions include 1000, which becomes 999.
    """

    count: int
    largest: float
    text: str


def check_turn(speaker: str, text: str, where: str, pixels: float | None = None) -> Coordinates | None:
    """The coordinates in a turn of the "human", "gpt" or "system"; None if there are none.

    `pixels` is the image's longest side if coordinates may be in pixels; otherwise they are normalised to [0, 1000).
    Raises RecordError with the reason why the turn cannot be used for training.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RecordError("bad_unicode", f"{where} contains a lone surrogate") from None
    if speaker == "gpt" and _VISIBLE.search(text) is None:
        raise RecordError("empty_answer", f"{where} is empty")
    if not text.isprintable() and _CONTROL.search(text):
        raise RecordError("control_character", f"{where} contains a control character")
    if "<" in text:
        _check_markers(speaker, text, where)
    if "[" in text:
        _check_media(text, where)
        return _check_coordinates(text, where, pixels)
    return None


def is_refusal(text: str) -> bool:
    """Whether an answer refuses to answer."""
    return _any_in(_REFUSAL_HINTS, text) and _REFUSAL.search(text) is not None


def is_boilerplate(caption: str) -> bool:
    """Whether a caption contains boilerplate of assistants or web pages."""
    return _any_in(_BOILERPLATE_HINTS, caption) and _BOILERPLATE.search(caption) is not None


def lacks_options(question: str) -> bool:
    """Whether a question asks for an option's letter but lists fewer than two, or for an option but lists none."""
    if not _any_in(_LETTER_HINTS, question) or len(set(_OPTION.findall(question))) >= 2:
        return False
    words = question.replace(IMAGE_MARKER, "").strip()
    return bool(_LETTER.search(words) or (_CHOICE.search(words) and not _LISTED.search(words)))


def _check_markers(speaker: str, text: str, where: str) -> None:
    markers = text.count(IMAGE_MARKER)
    if markers and speaker != "human":
        raise RecordError("special_token", f"{where} contains {IMAGE_MARKER!r}")
    if text.count("<") == markers:
        return  # nearly all text: special tokens, other markers and nested ones need another <
    if special := _SPECIAL.search(text):
        raise RecordError("special_token", f"{where} contains {special.group()!r}")
    if markers and IMAGE_MARKER in text.replace(IMAGE_MARKER, ""):
        raise RecordError("special_token", f"{where} contains nested image markers")
    _check_media(text, where)


def _check_media(text: str, where: str) -> None:
    if marker := media_marker(text):
        raise RecordError(
            "unknown_media", f"{where} contains {marker!r}: a record shows one image, by {IMAGE_MARKER!r}"
        )


def _any_in(hints: tuple[str, ...], text: str) -> bool:
    lower = text.lower()  # searching for words first is ten times as fast as the regular expressions
    for hint in hints:  # noqa: SIM110  this loop is twice as fast as any()
        if hint in lower:
            return True
    return False


def _check_coordinates(text: str, where: str, pixels: float | None) -> Coordinates | None:
    if _NOT_A_NUMBER.search(text):
        raise RecordError("bad_number", f"{where} contains coordinates that are not numbers")
    count, largest, inclusive = 0, 0.0, False
    for match in BRACKETS.findall(text):
        numbers = numbers_in(match)
        if not is_shape(match, numbers):
            continue
        error = _shape_error(match, numbers) or _range_error(numbers, pixels)
        if error:
            raise RecordError("bad_number", f"{where} contains {match[:60]}: {error}")
        count, largest = count + 1, max(largest, *numbers)
        inclusive = inclusive or (pixels is None and 1000 in numbers)
    return Coordinates(count, largest, BRACKETS.sub(_clamped, text) if inclusive else text) if count else None


def _shape_error(match: str, numbers: Sequence[float]) -> str | None:
    points = has_points(match)
    if not points and len(numbers) == 4 and (numbers[0] > numbers[2] or numbers[1] > numbers[3]):
        return "the corners of a box must be in order"
    return "a polygon must have at least three points" if points and len(numbers) < 6 else None


def _clamped(found: re.Match[str]) -> str:
    """A box or polygon whose coordinates are in [0, 1000] with those in [0, 1000)."""
    match = found.group()
    if not is_shape(match, numbers_in(match)):
        return match
    return re.sub(NUMBER, lambda number: "999" if float(number.group()) == 1000 else number.group(), match)


def _range_error(numbers: Sequence[float], pixels: float | None) -> str | None:
    if pixels is not None:
        limit = max(pixels, 1000)
        return None if all(0 <= v <= limit for v in numbers) else f"expected coordinates from 0 to {limit:.0f}"
    if not all(0 <= v <= 1000 for v in numbers):
        return "expected coordinates normalised to [0, 1000)"
    if max(numbers) <= 1 and any(v != int(v) for v in numbers):
        return "these are fractions of 1, expected coordinates normalised to [0, 1000)"
    return None
