"""Records of list files and evaluation files, and the table of reject reasons.

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
from typing import TypedDict

from vhm.errors import RecordError

IMAGE_MARKER = "<image>"
_NOT_A_PATH = re.compile(r"[\\\0]|^(?:[a-z]:/|(?:data|file|https?|ftp|s3|gs|blob|javascript):)", re.IGNORECASE)

REASONS: dict[str, str] = {
    "bad_json": "the record is not JSON, or nested too deeply",
    "unreadable": "checking the record or its image ended with an unforeseen error, which the detail names",
    "duplicate_key": "the record has a key twice",
    "not_object": "the record is not a JSON object",
    "missing_field": "a field that every record needs is absent",
    "wrong_type": "a field has the wrong type",
    "no_human_turn": "no turn comes from the human",
    "alternation": "human and gpt turns do not alternate",
    "empty_answer": "an answer is empty",
    "turn_count": "a caption or an evaluation record needs exactly a question and an answer",
    "image_count": "the number of image markers is not the number of images",
    "special_token": "text contains a special token, or an image marker where none is allowed",
    "control_character": "text contains control characters",
    "bad_unicode": "text contains lone surrogates or is not UTF-8",
    "too_long": "the text is longer than the limit",
    "no_target": "no token would be trained on",
    "bad_path": "the image path is absolute, has '..' or a scheme, or leads out of the image store",
    "image_missing": "the image file does not exist",
    "image_changed": "the image's bytes are not those in the table of its shards",
    "image_empty": "the image file has no bytes",
    "image_unknown": "the file is not an image of an allowed format",
    "image_truncated": "the image ends early or is corrupt",
    "image_mode": "the image has an unsupported mode or too many frames",
    "image_bomb": "the image has more pixels or bytes than the limit",
    "image_thin": "the image is so thin that padding it to a square would exceed the limit",
    "image_size": "the image is too small, or differs from the size in the record",
    "duplicate_id": "an earlier record has the same id",
    "duplicate": "an earlier record has the same image and text",
    "bad_number": "a box, polygon or number is outside the convention",
    "no_options": "a multiple-choice question has no options",
    "refusal": "the caption is a refusal",
    "boilerplate": "the caption contains phrases of an assistant or a web page",
    "leak": "the image shows what an evaluation image shows",
    "blank": "the image has one colour, or no data",
    "near_duplicate": "the image shows what an earlier image of the lists shows",
}


class Record(TypedDict, total=False):
    """A record as in the list file; extra keys are kept."""

    id: str | int
    image: str
    source_dataset: str
    image_path: str
    size: list[int]
    conversations: list[dict[str, str]]


def image_name(record: Mapping[str, object]) -> str | None:
    """The path of the record's image relative to its image store; None for a text-only record.

    Raises RecordError("bad_path") if the path would lead out of the store.
    """
    name = record.get("image")
    if name is None:
        return None
    folder = record.get("source_dataset") or record.get("image_path") or ""
    for part in (folder, name):
        if not isinstance(part, str):
            raise RecordError("wrong_type", f"image path part {part!r} is not a string")
        if part.startswith("/") or ".." in part.split("/") or "://" in part or _NOT_A_PATH.search(part):
            raise RecordError("bad_path", f"{part!r} is not a plain path below the image store")
    return posixpath.normpath(posixpath.join(str(folder), str(name)))


def source_name(record: Mapping[str, object]) -> str:
    """The source of a record, by which options and statistics are kept; "" for a record without one."""
    return str(record.get("source_dataset") or record.get("image_path") or "")


def check_turns(record: object) -> list[tuple[str, str]]:
    """The record's turns as (speaker, text) without a leading gpt turn. Raises RecordError if the form is wrong."""
    if not isinstance(record, Mapping):
        raise RecordError("not_object", f"expected a record, not a {type(record).__name__}")
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
        turns = turns[1:]  # as in the reference
    if not any(speaker == "human" for speaker, _ in turns):
        raise RecordError("no_human_turn", "no turn comes from the human")
    for number, (speaker, _) in enumerate(turns):
        if speaker != ("human", "gpt")[number % 2]:
            raise RecordError("alternation", f"turn {number} is the second in a row from {speaker}")
    if len(turns) % 2:
        raise RecordError("alternation", "the last question has no answer")
    return turns
