"""GeoChat: instructions, which are LLaVA's format with boxes {<x0><y0><x1><y1>|<degrees>}, and the benchmark's files.

    referring   {"image_id", "question", "ground_truth": [[[x, y], …], …], "type": "ref", "question_id"}, in pixels
    others      {"image", "text", "category"|"ground_truth", "question_id"}

Coordinates of the instructions are from 0 to 100; the angle turns the box about its centre, in degrees. A turned box
becomes a polygon in lists, and the axis-aligned box around it in evaluation files.
Source: the code and data card of GeoChat (arXiv 2311.15826).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping

from vhm.data.importing.boxes import has_foreign_boxes
from vhm.data.importing.conversations import LLAVA
from vhm.data.importing.rows import Format, Sample, Shape, question_and_answer
from vhm.data.importing.values import id_of, image_of, parsed, size_of, text_of
from vhm.errors import RecordError
from vhm.io import JsonObject

_REFERRING_QUESTION = "Where is the object that this sentence describes? {} Answer with its bounding box."


def _is_instruction(fields: JsonObject) -> bool:
    turns = parsed(fields.get("conversations"))
    if not isinstance(turns, list) or not LLAVA.recognise(fields):
        return False
    return any(isinstance(turn, Mapping) and has_foreign_boxes(str(turn.get("value", ""))) for turn in turns)


def _is_benchmark(fields: JsonObject) -> bool:
    if isinstance(fields.get("ground_truth"), list):
        return {"image_id", "question"} <= fields.keys()
    return {"question_id", "image", "text"} <= fields.keys() and not fields.keys().isdisjoint(
        {"category", "ground_truth"}
    )


def _convert_benchmark(fields: JsonObject) -> Iterator[Sample]:
    question = text_of(fields, "question", "text")
    truth = fields.get("ground_truth")
    if question is None:
        raise RecordError("missing_field", "the record has no question")
    if not isinstance(truth, list):
        answer = text_of(fields, "ground_truth", "category")
        if answer is None:
            raise RecordError("empty_answer", "the record has no ground truth")
        yield _sample("vqa", fields, question, answer, [])
        return
    shapes = [_polygon(points) for points in ([truth] if _is_polygon(truth) else truth)]
    if len(shapes) != 1:
        raise RecordError("turn_count", f"the ground truth has {len(shapes)} boxes: the answer type is one box")
    question = _REFERRING_QUESTION.format(f"{question.removeprefix('[refer]').strip(' .')}.")
    yield _sample("referring", fields, question, "<bbox>", shapes)


def _sample(task: str, fields: JsonObject, question: str, answer: str, shapes: list[Shape]) -> Sample:
    image = image_of(fields, ("image", "image_id"))
    if isinstance(image, str) and not posixpath.splitext(image)[1]:
        image = f"{image}.png"  # the benchmark's images
    return Sample(
        f"evaluation: {task}",
        question_and_answer(question, answer),
        image,
        id_of(fields),
        size=size_of(fields),
        task=f"geochat_{task}",
        shapes=shapes,
    )


def _is_polygon(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], list) and not isinstance(value[0][0], list)


def _polygon(points: object) -> Shape:
    if isinstance(points, list) and points and all(isinstance(p, list) and len(p) == 2 for p in points):
        return tuple(float(value) for point in points for value in point)
    raise RecordError("bad_number", "the ground truth is not a list of polygons")


INSTRUCTIONS = Format(
    "geochat", "GeoChat or VRSBench instructions with boxes {<x0><y0><x1><y1>}", _is_instruction, LLAVA.convert
)
BENCHMARK = Format("geochat-bench", "a file of GeoChat's benchmark", _is_benchmark, _convert_benchmark)
