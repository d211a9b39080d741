"""A small data set with accepted, rejected and suspicious records, validated, with its report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.terrain import terrain
from vhm.data.validation.report import write_report
from vhm.data.validation.request import ValidationRequest
from vhm.data.validation.validate import Validation, validate

HOSTILE = 'evil</script><img src=x onerror="alert(1)"> \u202egnp.exe {{ 7 * 7 }}'


@dataclass(frozen=True)
class Dataset:
    request: ValidationRequest
    result: Validation
    out: Path

    @property
    def page(self) -> str:
        return (self.out / "report.html").read_text()

    def add_overlap(self) -> None:
        """Add an overlap to the findings, and write the report again."""
        overlap = {"index": 0, "image": "alpha/0.jpg", "evaluation_image": "images/test.jpg", "kind": "overlap"}
        overlap |= {"score": 0.83, "matched_area": 0.6, "rejected": False}
        overlap |= {"outline": [[0.5, 0], [1, 0], [1, 1], [0.5, 1]]}
        overlap |= {"evaluation_outline": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}
        with (self.out / "leaks.jsonl").open("a") as file:
            file.write(json.dumps(overlap) + "\n")
        write_report(self.result, self.request, self.out)


def record(source: str, number: int, answer: str, **changes: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nWhat is there?"}, {"from": "gpt", "value": answer}]
    content = {"id": f"{source}-{number}", "source_dataset": source, "image": f"{number}.jpg", "conversations": turns}
    return content | changes


def make_dataset(folder: Path, **options: Any) -> Dataset:
    """Six accepted records, one with a box, one blank, one nearly equal to another; one rejected for each of five
    reasons.
    """
    images = folder / "images"
    for number, source in enumerate(["alpha", "alpha", "beta", "beta"]):
        (images / source).mkdir(parents=True, exist_ok=True)
        terrain(number, 64).save(images / source / f"{number}.jpg", quality=90)
    (images / "beta" / "cut.jpg").write_bytes((images / "beta" / "2.jpg").read_bytes()[:300])
    (folder / "eval" / "images").mkdir(parents=True)
    terrain(9, 64).save(folder / "eval" / "images" / "test.jpg", quality=90)
    terrain(9, 64).save(images / "alpha" / "leak.jpg", quality=60)
    terrain(3, 64).save(images / "beta" / "again.jpg", quality=70)
    Image.new("RGB", (64, 64), "black").save(images / "beta" / "blank.png")
    question = record("", 0, "Yes.") | {"image": "test.jpg", "image_path": "images"}
    question = {key: question[key] for key in ("image", "image_path", "conversations")}
    (folder / "eval" / "task.json").write_text(json.dumps([question]))
    records = [
        record("alpha", 0, "A road."),
        record("alpha", 1, "A house at [250, 500, 750, 900]."),
        record("beta", 2, "A field."),
        record("beta", 3, "Trees. " * 200),
        record("beta", 5, "A lake.", image="absent.jpg"),
        record("beta", 6, "A river.", image="cut.jpg"),
        record("alpha", 7, HOSTILE, id=HOSTILE, image="1.jpg"),
        ["no record", HOSTILE],
        record("alpha", 8, "A street.", image="leak.jpg"),
        record("beta", 9, "A wood.", image="again.jpg"),
        record("beta", 10, "Nothing.", image="blank.png"),
    ]
    (folder / "list.json").write_text(json.dumps(records))
    fields = {"kind": "sft", "against": [folder / "eval"]} | options
    request = ValidationRequest([folder / "list.json"], images, **fields)
    result = validate(request, folder / "out", max_rejected=0.1)
    return Dataset(request, result, folder / "out")
