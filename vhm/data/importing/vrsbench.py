"""VRSBench: annotation files, one per image, and the three evaluation files; its training file is LLaVA's format.

    annotation  {"image", "caption", "objects": [{"referring_sentence", "obj_coord": 0–1, "obj_corner"}, …],
                 "qa_pairs": [{"question", "answer", "type"}, …]}
    evaluation  {"image_id", "question", "ground_truth", "question_id", "type"?, "obj_corner"?}

Evaluation records become evaluation files: vrsbench_vqa, vrsbench_caption, and vrsbench_referring with boxes in pixels.
Source: the data card of VRSBench (arXiv 2406.12384).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from vhm.data.importing.boxes import has_foreign_boxes
from vhm.data.importing.rows import Format, Sample, Shape, question_and_answer
from vhm.data.importing.tables import CAPTION_QUESTION
from vhm.data.importing.values import id_of, image_of, parsed, size_of, text_of
from vhm.errors import RecordError
from vhm.io import JsonObject

_CAPTION = re.compile(r"^\W*(?:\[caption\]|describe the image|(?:write|provide|give) .*caption)", re.IGNORECASE)
_REFERRING_QUESTION = "Where is the object that this sentence describes? {} Answer with its bounding box."


def _is_evaluation(fields: JsonObject) -> bool:
    return {"image_id", "question", "ground_truth", "question_id"} <= fields.keys() and isinstance(
        fields["ground_truth"], (str, int, float)
    )


def _convert_evaluation(fields: JsonObject) -> Iterator[Sample]:
    question, answer = text_of(fields, "question"), text_of(fields, "ground_truth")
    if question is None or answer is None:
        raise RecordError("empty_answer", "the record has no question or no ground truth")
    task = "vqa"
    if has_foreign_boxes(answer):
        task, question = "referring", _referring(question)
    elif _CAPTION.search(question):
        task = "caption"
    yield Sample(
        f"evaluation: {task}",
        question_and_answer(question, answer),
        image_of(fields, ("image_id",)),
        id_of(fields),
        size=size_of(fields),
        task=f"vrsbench_{task}",
    )


def _referring(sentence: str) -> str:
    return _REFERRING_QUESTION.format(f"{sentence.removeprefix('[refer]').strip(' .')}.")


def _is_annotation(fields: JsonObject) -> bool:
    return "image" in fields and not fields.keys().isdisjoint({"qa_pairs", "objects"}) and "caption" in fields


def _convert_annotation(fields: JsonObject) -> Iterator[Sample | RecordError]:
    image, size = image_of(fields, ("image",)), size_of(fields)
    caption = text_of(fields, "caption")
    if caption is not None:
        yield Sample("caption", question_and_answer(CAPTION_QUESTION, caption), image, size=size)
    for entry in _entries(fields, "objects"):
        sentence, shape = text_of(entry, "referring_sentence"), _shape(entry)
        if sentence is not None and shape is None:
            yield RecordError("bad_number", "an object has neither 'obj_coord' nor 'obj_corner'")
        elif sentence is not None and shape is not None:
            turns = question_and_answer(_referring(sentence), "<bbox>")
            yield Sample("referring expression", turns, image, size=size, shapes=[shape], convention="0-1")
    for entry in _entries(fields, "qa_pairs"):
        asked, answer = text_of(entry, "question"), text_of(entry, "answer")
        if asked is None or answer is None:
            yield RecordError("empty_answer", "a question has no answer")
            continue
        yield Sample("question and answer", question_and_answer(asked, answer), image, size=size)


def _entries(fields: JsonObject, key: str) -> list[JsonObject]:
    value = parsed(fields.get(key)) or []
    if not isinstance(value, list):
        raise RecordError("wrong_type", f"{key!r} is not a list")
    return [entry for entry in value if isinstance(entry, dict)]


def _shape(entry: Mapping[str, object]) -> Shape | None:
    """The object's box, or the polygon of its corners where it has none."""
    for key in ("obj_coord", "obj_corner"):
        numbers = parsed(entry.get(key))
        if isinstance(numbers, list) and len(numbers) in (4, 8):
            return tuple(float(number) for number in numbers)
    return None


EVALUATION = Format(
    "vrsbench-eval", "an evaluation file of VRSBench", _is_evaluation, _convert_evaluation, aliases=("vrsbench_eval",)
)
ANNOTATION = Format("vrsbench", "annotations of VRSBench", _is_annotation, _convert_annotation)
