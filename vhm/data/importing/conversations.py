"""Conversations: LLaVA, ShareGPT, `messages` of ms-swift, LLaMA-Factory and OpenAI, query and response, Alpaca.

    LLaVA       {"image", "conversations": [{"from": "human"|"gpt", "value"}, …]}
    ShareGPT    {"images": [path], "conversations": [{"from": "user"|"human"|…, "value"}, …], "system", "tools"}
    messages    {"images": [path], "messages": [{"role": "system"|"user"|"assistant", "content"}, …], "objects"}
    query       {"images": [path], "query", "response", "history": [[query, response], …], "system"}
    Alpaca      {"images": [path], "instruction", "input", "output", "history", "system"}

Contents may be lists of parts, {"type": "text"|"image", …}. In `messages` and `query`, each `<bbox>` stands for the
next box of `objects`, and each `<ref-object>` for the next phrase.
Source: the documentation of LLaVA, LLaMA-Factory (data/README.md) and ms-swift (custom datasets).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vhm.data.importing.rows import Convention, Format, Image, Sample, Shape, Speaker
from vhm.data.importing.values import as_image, id_of, image_of, parsed, size_of
from vhm.data.records import IMAGE_MARKER, is_masked
from vhm.errors import RecordError
from vhm.io import JsonObject

_SPEAKERS: dict[object, Speaker] = {
    **dict.fromkeys(("human", "user", "question", "prompter"), "human"),
    **dict.fromkeys(("gpt", "assistant", "model", "bot", "chatgpt", "answer"), "gpt"),
}
_TOOLS = ("tool", "tools", "tool_call", "tool_response", "function", "function_call", "observation")
# Other models' placeholders for an image; `<img>path</img>` is read before.
_MARKERS = re.compile(
    r"<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>|<\|image(?:_\d+)?\|>|<\|image_pad\|>|\[IMG\]"
    r"|(?i:<(?!image>)(?:image|img)(?:[ _-]?(?:here|placeholder|token|\d{1,3}))?>)|<(?!image>)(?i:image)>"
)
_IMAGE_PATH = re.compile(r"(?:Picture|Image)?[ -]?\d*:?\s*<img>([^<>]+)</img>\s*")
_ANSWER_KEYS = ("output", "response", "answer", "completion")


@dataclass
class _Turns:
    """Turns while they are read; `images` are those that the turns name themselves."""

    turns: list[tuple[Speaker, str]] = field(default_factory=list)
    system: str | None = None
    images: list[Image] = field(default_factory=list)

    def add(self, speaker: object, content: object) -> None:
        """Append a turn of any speaker. Raises RecordError for tools and unknown speakers."""
        text = self._text(content)
        if speaker == "system" or speaker == "developer":
            if self.turns or self.system is not None:
                raise RecordError("system_message", "a system message that is not the first turn")
            self.system = text
        elif speaker in _TOOLS:
            raise RecordError("tool_call", f"a turn is from {speaker!r}: tools are not supported")
        elif speaker in _SPEAKERS:
            self.turns.append((_SPEAKERS[speaker], self._with_marker(text)))
        else:
            raise RecordError("wrong_type", f"a turn is from {speaker!r}, which is neither a user nor a model")

    def _text(self, content: object) -> str:
        if isinstance(content, str):
            return content
        if not isinstance(content, list):
            raise RecordError("wrong_type", f"a turn's text is a {type(content).__name__}")
        return "".join(map(self._part, content))

    def _part(self, part: object) -> str:
        if isinstance(part, str):
            return part
        if not isinstance(part, Mapping):
            raise RecordError("wrong_type", "a part of a turn is neither text nor an object")
        kind = part.get("type") or next((key for key in ("text", "image", "video", "audio") if part.get(key)), None)
        if kind == "text":
            return str(part.get("text") or "")
        if kind in ("image", "image_url"):
            value = next((part[key] for key in ("image", "image_url", "url", "path") if part.get(key)), None)
            if value is not None:
                self.images.append(as_image(value))
            return f"{IMAGE_MARKER}\n"
        raise RecordError("unknown_media", f"a turn has a part of type {kind!r}: only text and one image can be shown")

    def _with_marker(self, text: str) -> str:
        """The text with IMAGE_MARKER for the placeholders of other models."""
        if "<" not in text and "[IMG]" not in text:
            return text
        if "<img>" in text:
            self.images += _IMAGE_PATH.findall(text)
            text = _IMAGE_PATH.sub(f"{IMAGE_MARKER}\n", text)
        return _MARKERS.sub(IMAGE_MARKER, text)


def _conversation(fields: JsonObject) -> Iterator[Sample]:
    _refuse_tools(fields)
    turns = _Turns()
    system = fields.get("system")
    if isinstance(system, str) and system.strip():
        turns.system = system
    for turn in _list(fields, "conversations" if "conversations" in fields else "messages"):
        if not isinstance(turn, Mapping):
            raise RecordError("wrong_type", "a turn is not an object")
        speaker, content = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        if turn.get("tool_calls") or turn.get("function_call"):
            raise RecordError("tool_call", "a turn calls a tool")
        if is_masked(turn):
            raise RecordError("masked_turn", f"a turn from {speaker!r} has 'loss' or 'weight' of zero")
        if speaker == "system" and turns.system is not None and content == turns.system:
            continue
        turns.add(speaker, content)
    yield _sample("conversation", fields, turns)


def _query(fields: JsonObject) -> Iterator[Sample]:
    yield _sample("query and response", fields, _rounds(fields, _text(fields, "query"), _answer(fields)))


def _alpaca(fields: JsonObject) -> Iterator[Sample]:
    given = fields.get("input")
    question = _text(fields, "instruction")
    if isinstance(given, str) and given.strip():
        question = f"{question}\n{given}"
    yield _sample("instruction and output", fields, _rounds(fields, question, _answer(fields)))


def _rounds(fields: JsonObject, question: str, answer: str) -> _Turns:
    """The history's rounds, then the question and its answer."""
    _refuse_tools(fields)
    turns = _Turns()
    system = fields.get("system")
    if isinstance(system, str) and system.strip():
        turns.system = system
    for pair in _list(fields, "history") if fields.get("history") else []:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise RecordError("wrong_type", "'history' is not a list of [question, answer]")
        turns.add("user", pair[0])
        turns.add("assistant", pair[1])
    turns.add("user", question)
    turns.add("assistant", answer)
    return turns


def _sample(kind: str, fields: JsonObject, turns: _Turns) -> Sample:
    image = _image(fields, turns.images)
    phrases, shapes, convention = _objects(fields.get("objects"))
    source = fields.get("source_dataset")
    return Sample(
        kind if image is not None else f"{kind} without image",
        [(speaker, _with_phrases(text, phrases)) for speaker, text in turns.turns],
        image,
        id_of(fields),
        source if isinstance(source, str) else None,
        turns.system,
        size=size_of(fields),
        shapes=shapes,
        convention=convention,
    )


def _image(fields: JsonObject, named: list[Image]) -> Image | None:
    if len(named) > 1:
        raise RecordError("unknown_media", f"the turns name {len(named)} images: one can be shown")
    image = image_of(fields, ("image", "images", "image_path", "img", "jpg", "png"))
    if image is not None and named and named[0] != image:
        raise RecordError("unknown_media", "the record and its turns name different images: one can be shown")
    return image if image is not None else next(iter(named), None)


def _objects(value: object) -> tuple[list[str], list[Shape], Convention]:
    """The phrases and boxes of ms-swift's `objects`: {"ref", "bbox", "bbox_type"}, or a list of {"caption", "bbox"}."""
    value = parsed(value)
    if isinstance(value, Mapping):
        entries, phrases = [value], list(map(str, value.get("ref") or []))
    elif isinstance(value, list) and all(isinstance(entry, Mapping) for entry in value):
        entries, phrases = value, [str(entry.get("caption", "")) for entry in value]
    else:
        return [], [], "pixels"
    kinds = {str(entry.get("bbox_type", "real")) for entry in entries}
    conventions: dict[str, Convention] = {"real": "pixels", "norm1": "0-1", "norm_1": "0-1", "norm_1000": "0-1000"}
    if len(kinds) > 1 or not kinds <= conventions.keys():
        raise RecordError("bad_number", f"'bbox_type' is {', '.join(sorted(kinds))}")
    boxes = [entry.get("bbox") or [] for entry in entries]
    convention: Convention = conventions[kinds.pop()] if kinds else "pixels"
    return phrases, [shape for box in boxes for shape in _shapes(box)], convention


def _shapes(boxes: object) -> Iterator[Shape]:
    if isinstance(boxes, list) and boxes and all(isinstance(value, (int, float)) for value in boxes):
        yield tuple(map(float, boxes))
    elif isinstance(boxes, list):
        for box in boxes:
            yield from _shapes(box)
    else:
        raise RecordError("wrong_type", "'bbox' is not a list of numbers")


def _with_phrases(text: str, phrases: list[str]) -> str:
    """The text with the next phrase for each `<ref-object>`; removes it from `phrases`."""
    while "<ref-object>" in text:
        if not phrases:
            raise RecordError("wrong_type", "the text has more <ref-object> than the record has phrases")
        text = text.replace("<ref-object>", phrases.pop(0), 1)
    return text


def _refuse_tools(fields: JsonObject) -> None:
    for key in ("tools", "functions"):
        if parsed(fields.get(key)):
            raise RecordError("tool_call", f"the record has {key!r}: tools are not supported")
    for key in ("chosen", "rejected", "rejected_response", "kto_tag"):
        if key in fields:
            raise RecordError("wrong_type", f"the record has {key!r}: preference data has no single answer to train on")


def _list(fields: JsonObject, key: str) -> list[object]:
    value = parsed(fields.get(key))
    if not isinstance(value, list) or not value:
        raise RecordError("wrong_type", f"{key!r} is not a list of turns")
    return value


def _text(fields: JsonObject, key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise RecordError("wrong_type", f"{key!r} is not text")
    return value


def _answer(fields: JsonObject) -> str:
    found = next((fields[key] for key in _ANSWER_KEYS if isinstance(fields.get(key), str)), None)
    if found is None:
        raise RecordError("empty_answer", "the record has no answer")
    return str(found)


def _turns_have(fields: JsonObject, list_key: str, *keys: str) -> bool:
    turns = parsed(fields.get(list_key))
    return (
        isinstance(turns, list) and bool(turns) and isinstance(turns[0], Mapping) and all(k in turns[0] for k in keys)
    )


def _is_llava(fields: JsonObject) -> bool:
    turns = parsed(fields.get("conversations"))
    if not _turns_have(fields, "conversations", "from", "value") or not isinstance(turns, list):
        return False
    return turns[0]["from"] in ("human", "gpt", "system") and not fields.keys() & {"images", "tools"}


def _is_sharegpt(fields: JsonObject) -> bool:
    return _turns_have(fields, "conversations", "from", "value")


def _is_messages(fields: JsonObject) -> bool:
    return any(_turns_have(fields, key, "role", "content") for key in ("messages", "conversations"))


LLAVA = Format("llava", "LLaVA conversations", _is_llava, _conversation)
SHAREGPT = Format("sharegpt", "ShareGPT conversations", _is_sharegpt, _conversation)
MESSAGES = Format(
    "messages",
    "messages with roles (ms-swift, LLaMA-Factory, OpenAI)",
    _is_messages,
    _conversation,
    aliases=("ms-swift", "swift", "llama-factory", "openai"),
)
QUERY = Format("query", "query and response (ms-swift)", lambda fields: {"query", "response"} <= fields.keys(), _query)
ALPACA = Format(
    "alpaca",
    "Alpaca instructions (LLaMA-Factory)",
    lambda fields: "instruction" in fields and not fields.keys().isdisjoint(_ANSWER_KEYS),
    _alpaca,
)
