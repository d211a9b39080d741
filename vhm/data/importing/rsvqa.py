"""RSVQA, low and high resolution: a file of questions next to the files of their answers and images.

    *_questions.json  {"questions": [{"id", "img_id", "type", "question", "answers_ids", "active"}]}
    *_answers.json    {"answers": [{"id", "question_id", "answer", "active"}]}
    *_images.json     {"images": […]}     not needed: the image files are named by their id

Entries that are not active belong to another split and have no text: they are dropped as such.
Source: https://rsvqa.sylvainlobry.com (Zenodo 6344334, 6344367)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vhm.data.importing.rows import Format, Row, Sample, question_and_answer
from vhm.data.importing.values import image_of, text_of
from vhm.errors import InputError, RecordError
from vhm.io import JsonObject, read_json_object

_EXTENSIONS = (".tif", ".png", ".jpg", ".jpeg", ".tiff")
_IMAGE_FOLDERS = ("", "Images_LR", "Images_HR", "Images", "images", "data", "Data")


def _is_document(heads: dict[str, object]) -> bool:
    question, answer, image = (heads.get(key) for key in ("questions", "answers", "images"))
    if isinstance(question, dict):
        return "img_id" in question or "answers_ids" in question or question.keys() == {"id", "active"}
    if isinstance(answer, dict):
        return "question_id" in answer or answer.keys() == {"id", "active"}
    return isinstance(image, dict) and "questions_ids" in image


def _read(path: Path, images: Path | None) -> Iterator[Row]:
    """One row per question, with its answer; `images` is where the image files are."""
    questions, answers = _entries(_sibling(path, "questions"), "questions"), _answers(_sibling(path, "answers"))
    extension = _extension(images or path.parent)
    for question in questions:
        given = [answers[i] for i in question.get("answers_ids") or [] if i in answers]
        given += [] if given or question.get("id") not in answers.by_question else [answers.by_question[question["id"]]]
        yield Row(
            f"{path.name}: question {question.get('id')}",
            question | {"answer": given[0] if given else None, "image": f"{question.get('img_id')}{extension}"},
        )


class _Answers(dict[object, str]):
    """Answers by their own id, and by that of their question."""

    def __init__(self, entries: list[JsonObject]) -> None:
        active = [entry for entry in entries if entry.get("active", True) and "answer" in entry]
        super().__init__({entry.get("id"): str(entry["answer"]) for entry in active})
        self.by_question = {entry.get("question_id"): str(entry["answer"]) for entry in active}


def _answers(path: Path) -> _Answers:
    return _Answers(_entries(path, "answers"))


def _entries(path: Path, key: str) -> list[JsonObject]:
    entries = read_json_object(path).get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path}: {key!r} is not a list of objects")
    return entries


def _sibling(path: Path, kind: str) -> Path:
    """The file of the same split with the questions or the answers. Raises InputError if there is none."""
    for own in ("questions", "answers", "images"):
        for spelled, wanted in ((own, kind), (own.capitalize(), kind.capitalize())):
            sibling = path.with_name(path.name.replace(spelled, wanted))
            if spelled in path.name and sibling.is_file():
                return sibling
    raise InputError(f"{path} has no file of {kind} next to it: RSVQA has *_questions.json and *_answers.json")


def _extension(images: Path) -> str:
    """The extension of the image files, which the questions do not have; .tif, as published, if none is found."""
    for folder in _IMAGE_FOLDERS:
        for extension in _EXTENSIONS:
            if next((images / folder).glob(f"[0-9]*{extension}"), None) is not None:
                return extension
    return ".tif"


def _convert(fields: JsonObject) -> Iterator[Sample]:
    if not fields.get("active", True):
        raise RecordError("other_split", "the question is not active: it belongs to another split")
    question, answer = text_of(fields, "question"), text_of(fields, "answer")
    if question is None:
        raise RecordError("missing_field", "the question has no text")
    if answer is None:
        raise RecordError("empty_answer", "the question has no active answer")
    turns = question_and_answer(question, answer)
    yield Sample("question and answer", turns, image_of(fields, ("image",)), fields.get("id"))


RSVQA = Format("rsvqa", "RSVQA questions and answers", lambda fields: False, _convert, _is_document, _read)
