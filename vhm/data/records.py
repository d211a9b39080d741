"""Records of list files and evaluation files, and the table of reject reasons.

A list file is a JSON array of records:

    {"id"?: str|int, "image"?: str, "source_dataset"?: str, "system"?: str, "conversations": [turn, …]}
    turn: {"from": "human"|"gpt", "value": str}            image at ROOT/source_dataset/image

The system message may also be the first turn, {"from": "system", "value": str}.

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
# Placeholders for media in text: of other models for images, and of all for video, audio and point clouds.
_MEDIA_MARKER = re.compile(
    r"<(?!image>)(?i:images?|imgs?|videos?|vid|audios?|speech|sounds?|music|voice|point_?clouds?|pcd)"
    r"(?i:[ _-]?(?:here|placeholder|token|patch|pad|start|end|features?|\d{1,4}))?>|\[IMG\]"
)
_NOT_A_PATH = re.compile(r"[\\\0]|^(?:[a-z]:/|(?:data|file|https?|ftp|s3|gs|blob|javascript):)", re.IGNORECASE)
_NOT_NORMAL = re.compile(r"(?:^|/)\.?(?:/|$)")  # an empty part of a path, or a "."

REASONS: dict[str, str] = {
    "bad_json": "the record is not JSON, or nested too deeply",
    "unreadable": "checking the record or its image ended with an unforeseen error, which the detail names",
    "duplicate_key": "the record has a key twice",
    "not_object": "the record is not a JSON object",
    "missing_field": "a field that every record needs is absent",
    "wrong_type": "a field has the wrong type",
    "no_human_turn": "no turn comes from the human",
    "alternation": "human and gpt turns do not alternate",
    "masked_turn": "a turn is to be excluded from training, which is not possible",
    "unknown_media": "the record has a video, audio or further images, or text contains a marker for them",
    "tool_call": "the record has tools, or turns that call them",
    "system_message": "a system message where none can be used, or two of them",
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


_KNOWN_KEYS = frozenset(("id", "image", "source_dataset", "image_path", "size", "conversations", "system"))
_TURN_KEYS = frozenset(("from", "value"))
_SPEAKERS = ("human", "gpt")
_TOOL_KEYS = frozenset(("tools", "tool_calls", "functions", "function_call"))
_TOOL_SPEAKERS = ("tool", "tools", "tool_call", "tool_response", "function", "function_call", "observation")
_SYSTEM_KEYS = frozenset(("system_prompt", "system_message"))
# Words in the names of keys: media, other names of the image itself, and what a key says about media.
_MEDIA_WORDS = frozenset(
    "image images img imgs picture pictures photo photos video videos frames audio audios speech sound sounds voice "
    "music wav waveform pointcloud pcd".split()
)
_IMAGE_KEYS = re.compile(r"(?:image|img|picture|photo)_?(?:path|file|filename|name|url|uri|b64|base64|bytes|data)?")
_ABOUT_MEDIA = frozenset(
    "id ids idx index size sizes width height shape format type mode count num number quality resolution bounds source "
    "dataset caption captions title text description summary question answer prompt label labels category class tags "
    "license licence copyright author credit hash phash sha256 md5 date time timestamp origin split lat lon location "
    "sensor gsd bands crs score scores similarity embedding embeddings metadata info attributes tokens".split()
)


class Record(TypedDict, total=False):
    """A record as in the list file; extra keys are kept."""

    id: str | int
    image: str
    source_dataset: str
    image_path: str
    size: list[int]
    system: str
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
    path = f"{folder}/{name}" if folder else str(name)
    return posixpath.normpath(path) if _NOT_NORMAL.search(path) else path


def source_name(record: Mapping[str, object]) -> str:
    """The source of a record, by which options and statistics are kept; "" for a record without one."""
    return str(record.get("source_dataset") or record.get("image_path") or "")


def check_turns(record: object) -> list[tuple[str, str]]:
    """The record's turns as (speaker, text) without the system message and a leading gpt turn.

    Raises RecordError if the form is wrong, or if the record has media or tools that a model would not be shown.
    """
    if not isinstance(record, (dict, Mapping)):  # dict first: Mapping alone takes ten times as long
        raise RecordError("not_object", f"expected a record, not a {type(record).__name__}")
    if "conversations" not in record:
        raise RecordError("missing_field", f"'conversations' is absent{_import_hint(record)}")
    conversations = record["conversations"]
    if not isinstance(conversations, list) or not conversations:
        raise RecordError("wrong_type", "'conversations' is not a list of turns")
    if not record.keys() <= _KNOWN_KEYS:
        _check_keys(record, "the record")
    turns = []
    for number, turn in enumerate(conversations):
        speaker, text = (turn.get("from"), turn.get("value")) if isinstance(turn, (dict, Mapping)) else (None, None)
        if speaker not in _SPEAKERS or not isinstance(text, str):
            if _is_system(number, turn):
                continue
            raise _turn_error(turn, number)
        if len(turn) > 2 and not turn.keys() <= _TURN_KEYS:
            if is_masked(turn):
                raise RecordError(
                    "masked_turn", f"turn {number} has 'loss' or 'weight' of zero: it would be trained on"
                )
            _check_keys(turn, f"turn {number}")
        turns.append((speaker, text))
    if turns and turns[0][0] == "gpt":
        turns = turns[1:]  # as in the reference
    if not any(speaker == "human" for speaker, _ in turns):
        raise RecordError("no_human_turn", "no turn comes from the human")
    for number, (speaker, _) in enumerate(turns):
        if speaker != _SPEAKERS[number % 2]:
            raise RecordError("alternation", f"turn {number} is the second in a row from {speaker}")
    if len(turns) % 2:
        raise RecordError("alternation", "the last question has no answer")
    return turns


def is_masked(turn: Mapping[str, object]) -> bool:
    """Whether a turn is to be excluded from the loss, as ms-swift ('loss') and axolotl ('weight') write it."""
    return any(key in turn and turn[key] in (0, "0", "false") for key in ("loss", "weight", "loss_weight"))


def system_message(record: Mapping[str, object]) -> str | None:
    """The text of the record's system message, its key or its first turn; None if there is none, or it is blank.

    Raises RecordError if it is not text, or if there are two different ones.
    """
    conversations = record.get("conversations")
    first = conversations[0] if isinstance(conversations, list) and conversations else None
    leading = isinstance(first, (dict, Mapping)) and first.get("from") == "system"
    if not leading and "system" not in record:
        return None
    messages = [record.get("system"), first["value"] if leading and first else None]
    if not all(message is None or isinstance(message, str) for message in messages):
        raise RecordError("wrong_type", "'system' is not text")
    texts = {str(message) for message in messages if message is not None and str(message).strip()}
    if len(texts) > 1:
        raise RecordError("system_message", "'system' and the first turn are different system messages")
    return texts.pop() if texts else None


def media_marker(text: str) -> str | None:
    """The first placeholder in a text for media that a model would not be shown, such as `<video>`; None without one.

    IMAGE_MARKER is no such placeholder.
    """
    found = _MEDIA_MARKER.search(text) if "<" in text or "[IMG]" in text else None
    return found and found.group()


def _is_system(number: int, turn: object) -> bool:
    """Whether a turn is the system message: the first one, from "system"."""
    if number or not isinstance(turn, Mapping):
        return False
    return turn.get("from") == "system" and isinstance(turn.get("value"), str)


def _turn_error(turn: object, number: int) -> RecordError:
    speaker = turn.get("from", turn.get("role")) if isinstance(turn, Mapping) else None
    if speaker in _TOOL_SPEAKERS:
        return RecordError("tool_call", f"turn {number} is from {speaker!r}: tools are not supported")
    if speaker == "system":
        return RecordError("wrong_type", f"turn {number} is from 'system': only the first turn may be, and with text")
    hint = f"; `vhm data import` converts turns from {speaker!r}" if speaker in ("user", "assistant") else ""
    return RecordError("wrong_type", f"turn {number} is not {{from: human|gpt, value: text}}{hint}")


def _import_hint(record: Mapping[str, object]) -> str:
    found = next((key for key in ("messages", "instruction", "query") if key in record), None)
    return f", but {found!r} is there: convert the list with `vhm data import`" if found else ""


def _check_keys(content: Mapping[object, object], where: str) -> None:
    """Raise RecordError if a key of a record or a turn holds media, tools or a system message that nothing reads."""
    known, image = (_TURN_KEYS, None) if "from" in content else (_KNOWN_KEYS, content.get("image"))
    for key, value in content.items():
        if key in known or not value or value in ("[]", "{}"):
            continue
        name = str(key)
        if name in _TOOL_KEYS:
            raise RecordError("tool_call", f"{where} has {name!r}: tools are not supported")
        if name in _SYSTEM_KEYS:
            raise RecordError("system_message", f"{where} has {name!r}: the key of a system message is 'system'")
        if _is_media(name) and not isinstance(value, (int, float)) and not _names_image(name, value, image):
            raise RecordError("unknown_media", f"{where} has {name!r}: a record shows one image, named by 'image'")


def _names_image(key: str, value: object, image: object) -> bool:
    """Whether a key of a record with the image `image` is another name of it: images: [image], image_url."""
    if key == "images":
        return value == [image]
    return image is not None and _IMAGE_KEYS.fullmatch(key) is not None


def _is_media(key: str) -> bool:
    """Whether a key's name says that it holds media: video, images, image2, imageB; not video_id, image_width."""
    snake = re.sub(r"([a-z])([A-Z0-9])", r"\1_\2", key).lower().replace("point_cloud", "pointcloud")
    words = re.split(r"[_\W]+", snake)
    return not _MEDIA_WORDS.isdisjoint(words) and _ABOUT_MEDIA.isdisjoint(words)
