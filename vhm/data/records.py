"""Records of a list file, and the one table of reasons for which a record or its image is rejected.

A list file is a JSON array of records:

    {"id"?: str|int, "image"?: str, "source_dataset"?: str, "conversations": [turn, …]}
    turn: {"from": "human"|"gpt", "value": str}            image at ROOT/source_dataset/image

An evaluation file is a JSON array of

    {"image": str, "image_path": str, "conversations": [turn, turn], "size"?: [width, height]}
                                                           image at DIR/image_path/image
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Any, TypedDict

from vhm.errors import RecordError

IMAGE_MARKER = "<image>"
_NO_PATH = re.compile(r"[\\\0]|^(?:[a-z]:/|(?:data|file|https?|ftp|s3|gs|blob|javascript):)", re.IGNORECASE)

REASONS: dict[str, str] = {
    "bad_json": "the record is not JSON, or nested too deeply",
    "duplicate_key": "a key of the record is there twice",
    "not_object": "the record is not a JSON object",
    "missing_field": "a field that every record needs is absent",
    "wrong_type": "a field has the wrong type",
    "no_human_turn": "no turn comes from the human",
    "alternation": "human and gpt turns do not alternate",
    "empty_answer": "an answer is empty",
    "turn_count": "a caption or an evaluation record needs exactly a question and an answer",
    "image_count": "the number of image markers is not the number of images",
    "special_token": "text holds a special token or an image marker where none may be",
    "control_character": "text holds control characters",
    "bad_unicode": "text holds lone surrogates or is not UTF-8",
    "too_long": "the text is longer than the limit",
    "no_target": "nothing would be left to learn from",
    "bad_path": "the image path is absolute, has '..', a scheme, or leaves the root",
    "image_missing": "the image file does not exist",
    "image_empty": "the image file has no bytes",
    "image_unknown": "the file is not an image of an allowed format",
    "image_truncated": "the image ends early or is corrupt",
    "image_mode": "the image has an unsupported mode or too many frames",
    "image_bomb": "the image has more pixels or bytes than the limit",
    "image_thin": "the image is so thin that padding it to a square would exceed the limit",
    "image_size": "the image is too small, or not of the size that the record says",
    "duplicate_id": "an earlier record has the same id",
    "duplicate": "an earlier record has the same image and text",
    "bad_number": "a box, polygon or number is outside the convention",
    "no_options": "a multiple-choice question has no options",
    "refusal": "the caption is a refusal",
    "boilerplate": "the caption holds what assistants and pages say around one",
    "leak": "the image is in an evaluation list",
}


class Turn(TypedDict):
    value: str
    # "from" is a keyword of Python: `turn["from"]` is "human" or "gpt".


class Record(TypedDict, total=False):
    """A record as in the list file; extra keys are kept."""

    id: str | int
    image: str
    source_dataset: str
    image_path: str
    size: list[int]
    conversations: list[Any]


def image_name(record: Mapping[str, Any]) -> str | None:
    """Where the record's image lies below its image root; None for a text-only record.

    Raises RecordError("bad_path") when the record's words would lead out of the root.
    """
    name = record.get("image")
    if name is None:
        return None
    folder = record.get("source_dataset") or record.get("image_path") or ""
    for part in (folder, name):
        if not isinstance(part, str):
            raise RecordError("wrong_type", f"image path part {part!r} is not a string")
        if part.startswith("/") or ".." in part.split("/") or "://" in part or _NO_PATH.search(part):
            raise RecordError("bad_path", f"{part!r} is not a plain path below the image root")
    return posixpath.normpath(posixpath.join(folder, name))


def check_turns(record: object) -> list[tuple[str, str]]:
    """The record's turns as (speaker, text), a leading gpt turn dropped; RecordError where the form is wrong."""
    if not isinstance(record, Mapping):
        raise RecordError("not_object", f"a {type(record).__name__} where a record was expected")
    if "conversations" not in record:
        raise RecordError("missing_field", "'conversations' is absent")
    conversations = record["conversations"]
    if not isinstance(conversations, list) or not conversations:
        raise RecordError("wrong_type", "'conversations' is not a list of turns")
    turns = []
    for number, turn in enumerate(conversations):
        speaker, text = (turn.get("from"), turn.get("value")) if isinstance(turn, Mapping) else (None, None)
        if speaker not in ("human", "gpt") or not isinstance(text, str):
            raise RecordError("wrong_type", f"turn {number} is not {{from: human|gpt, value: text}}")
        turns.append((speaker, text))
    if turns[0][0] == "gpt":
        turns = turns[1:]  # as the reference does
    if not any(speaker == "human" for speaker, _ in turns):
        raise RecordError("no_human_turn", "no turn comes from the human")
    for number, (speaker, _) in enumerate(turns):
        if speaker != ("human", "gpt")[number % 2]:
            raise RecordError("alternation", f"turn {number} comes from {speaker} again")
    if len(turns) % 2:
        raise RecordError("alternation", "the last question has no answer")
    return turns
