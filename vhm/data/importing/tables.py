"""Rows with an image and a caption, a question and its answer, or a class: CSV, Parquet, image folders, WebDataset.

The columns are found by their names, in any case. A caption may be a list: each becomes a record. Options in columns
A, B, C, … are appended to the question, and the answer is the letter.
"""

from __future__ import annotations

from collections.abc import Iterator

from vhm.data.importing.rows import Format, Image, Sample, question_and_answer
from vhm.data.importing.values import IMAGE_KEYS, MEDIA_KEYS, id_of, image_of, parsed, size_of, text_of
from vhm.errors import RecordError
from vhm.io import JsonObject

CAPTION_QUESTION = "Describe the image."
CLASS_QUESTION = "What is the class of the scene in the image?"
_CAPTIONS = ("caption", "captions", "text", "description", "txt", "sentence", "sentences", "raw", "alt_text", "title")
_QUESTIONS = ("question", "prompt", "query", "problem")
_ANSWERS = ("answer", "answers", "response", "ground_truth", "solution", "gt_answer", "target")
_CLASSES = ("label", "class", "label_name", "class_name", "category", "cls", "scene")
_LETTERS = "ABCDEFGH"


def _convert(fields: JsonObject) -> Iterator[Sample]:
    fields = _lower(fields)
    image = image_of(fields)
    question = text_of(fields, *_QUESTIONS)
    if question is not None:
        answer = text_of(fields, *_ANSWERS)
        if answer is None:
            raise RecordError("empty_answer", "the question has no answer")
        options = _options(fields)
        yield _sample("question and answer", fields, image, f"{question}{options}", answer)
        return
    captions = _texts(fields, _CAPTIONS)
    if image is None:
        raise RecordError("missing_field", "the record has a text but no image")
    if captions:
        for number, caption in enumerate(captions):
            yield _sample("caption", fields, image, CAPTION_QUESTION, caption, number if len(captions) > 1 else None)
        return
    label = text_of(fields, *_CLASSES)
    if label is None:
        raise RecordError("empty_answer", "the record has no caption, no answer and no class")
    yield _sample("class", fields, image, CLASS_QUESTION, label)


def _sample(
    kind: str, fields: JsonObject, image: Image | None, question: str, answer: str, number: int | None = None
) -> Sample:
    row_id = id_of(fields)
    if number is not None and row_id is not None:
        row_id = f"{row_id}-{number}"
    turns = question_and_answer(question, answer)
    return Sample(kind, turns, image, row_id, size=size_of(fields))


def _texts(fields: JsonObject, keys: tuple[str, ...]) -> list[str]:
    """The text, or texts, of the first key that has any."""
    for key in keys:
        value = parsed(fields.get(key))
        values = value if isinstance(value, (list, tuple)) else [value]
        texts = [text for entry in values if (text := _text(entry)) is not None]
        if texts:
            return texts
    return []


def _text(entry: object) -> str | None:
    if isinstance(entry, dict):
        entry = next((entry[key] for key in ("raw", "caption", "text") if key in entry), None)
    return entry if isinstance(entry, str) and entry.strip() else None


def _options(fields: JsonObject) -> str:
    """The options of a multiple-choice question as lines; empty without any."""
    listed = parsed(fields.get("options") or fields.get("choices"))
    if isinstance(listed, (list, tuple)):
        options = [str(option) for option in listed]
        if any(option.lstrip("( ")[:1] == letter for option, letter in zip(options, _LETTERS, strict=False)):
            return "".join(f"\n{option}" for option in options)
        return "".join(f"\n{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=False))
    found = [(letter, text_of(fields, letter.lower())) for letter in _LETTERS]
    return "".join(f"\n{letter}. {text}" for letter, text in found if text is not None)


def _recognise(fields: JsonObject) -> bool:
    keys = _lower(fields).keys()
    if {"image_id", "annotations"} <= keys:
        return False
    text = not keys.isdisjoint(_CAPTIONS + _CLASSES) or (
        not keys.isdisjoint(_QUESTIONS) and not keys.isdisjoint(_ANSWERS)
    )
    return text and (not keys.isdisjoint(IMAGE_KEYS + MEDIA_KEYS) or not keys.isdisjoint(_QUESTIONS))


def _lower(fields: JsonObject) -> JsonObject:
    return {key.strip().lower(): value for key, value in fields.items()}


TABLE = Format(
    "table",
    "a table of images with captions, questions or classes",
    _recognise,
    _convert,
    aliases=("caption", "captions", "vqa", "imagefolder"),
)
