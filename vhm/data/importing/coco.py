"""COCO: detection files and caption files; captions in the layout of RSICD, UCM and Sydney.

    detection  {"images": [{"id", "file_name", "width", "height"}], "annotations": [{"image_id", "category_id",
                "bbox": [x, y, width, height], "iscrowd"?}], "categories": [{"id", "name"}]}
    captions   {"images": […], "annotations": [{"image_id", "caption"}]}
    RSICD      {"images": [{"filename", "sentences": [{"raw"}]}]}

A detection file becomes one record per image and category: where all objects of the category are. A `bbox` of five
numbers, [cx, cy, width, height, angle in degrees], is a rotated box.
Source: https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from vhm.data.importing.rows import Format, Row, Sample, Shape, question_and_answer
from vhm.data.importing.tables import CAPTION_QUESTION
from vhm.data.importing.values import image_of, size_of, text_of
from vhm.errors import InputError, RecordError
from vhm.io import JsonObject, read_json_object

MAX_BOXES = 40  # boxes of one answer: about 20 tokens each, and a training sample has 2048
_QUESTION = "Where are all objects of the class {} in the image? Answer with their bounding boxes."


def _is_document(heads: dict[str, object]) -> bool:
    """By the first element of each list: annotations of images, or images with sentences."""
    annotation, image = heads.get("annotations"), heads.get("images")
    if isinstance(image, dict) and "sentences" in image:
        return True
    if isinstance(annotation, dict):
        return "image_id" in annotation
    names = isinstance(image, dict) and "file_name" in image
    return names or ("categories" in heads and "images" in heads)


def _read(path: Path, _images: Path | None) -> Iterator[Row]:
    """One row per image: its own fields, and its annotations with their categories' names."""
    content = read_json_object(path)
    names = {str(entry.get("id")): entry.get("name") for entry in _objects(path, content, "categories")}
    annotations: dict[str, list[JsonObject]] = defaultdict(list)
    for annotation in _objects(path, content, "annotations"):
        category = names.get(str(annotation.get("category_id")))
        annotations[str(annotation.get("image_id"))].append(annotation | {"category": category})
    for image in _objects(path, content, "images"):
        found = annotations.pop(str(image.get("id")), [])
        yield Row(f"{path.name}: image {image.get('id', image.get('filename'))}", image | {"annotations": found})
    for image_id, orphans in annotations.items():
        yield Row(f"{path.name}: image {image_id}", {"annotations": orphans})


def _objects(path: Path, content: JsonObject, key: str) -> list[JsonObject]:
    entries = content.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path}: {key!r} is not a list of objects")
    return entries


def _convert(fields: JsonObject) -> Iterator[Sample | RecordError]:
    image = image_of(fields, ("file_name", "filename", "path"))
    if image is None:
        raise RecordError("image_missing", "annotations of an image that 'images' does not have")
    number = fields.get("id", fields.get("imgid"))
    captions = [caption for entry in fields["annotations"] if (caption := text_of(entry, "caption"))]
    captions += [raw for entry in fields.get("sentences") or [] if (raw := text_of(entry, "raw"))]
    for index, caption in enumerate(captions):
        turns = question_and_answer(CAPTION_QUESTION, caption)
        yield Sample("caption", turns, image, f"{number}-{index}", size=size_of(fields))
    boxes: dict[str, list[Shape]] = defaultdict(list)
    for entry in fields["annotations"]:
        if "bbox" in entry and not entry.get("iscrowd"):
            try:
                boxes[str(entry.get("category") or entry.get("category_id"))].append(_shape(entry["bbox"]))
            except RecordError as error:
                yield error
    if not captions and not boxes:
        raise RecordError("empty_answer", "the image has no annotations")
    for category, shapes in boxes.items():
        if len(shapes) > MAX_BOXES:
            few = f"at most {MAX_BOXES} fit an answer"
            yield RecordError("too_long", f"{len(shapes)} objects of the class {category}, {few}")
        else:
            yield _detection(fields, f"{number}-{category}", category, shapes)


def _detection(fields: JsonObject, sample_id: str, category: str, shapes: list[Shape]) -> Sample:
    return Sample(
        "detection",
        question_and_answer(_QUESTION.format(category), ", ".join(["<bbox>"] * len(shapes))),
        image_of(fields, ("file_name", "filename", "path")),
        sample_id,
        size=size_of(fields),
        shapes=shapes,
    )


def _shape(bbox: object) -> Shape:
    if not isinstance(bbox, list) or not all(isinstance(value, (int, float)) for value in bbox):
        raise RecordError("bad_number", "a 'bbox' is not a list of numbers")
    if len(bbox) == 5:
        return tuple(map(float, bbox))
    if len(bbox) != 4 or bbox[2] <= 0 or bbox[3] <= 0:
        raise RecordError("bad_number", f"'bbox' {bbox} is not [x, y, width, height] with an area")
    x, y, width, height = map(float, bbox)
    return (x, y, x + width, y + height)


COCO = Format(
    "coco",
    "a COCO file (detection or captions)",
    lambda fields: False,
    _convert,
    _is_document,
    _read,
    aliases=("coco-detection", "coco-captions", "rsicd"),
)
