"""Findings about images: what is reported, what rejects a record, and which reason comes first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from tests.support.lists import validate
from tests.support.terrain import terrain
from vhm.data.validation.findings import FindingCount
from vhm.data.validation.validate import Validation

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A river that bends."}]


def record(name: str, image: str | None, **changes: Any) -> dict[str, Any]:
    answer = {"from": "gpt", "value": f"A river, record {name}."}
    return {"id": name, "source_dataset": "src", "image": image, "conversations": [TURNS[0], answer], **changes}


RECORDS = [
    record("plain", "plain.png"),
    record("copy", "copy.jpg"),  # near-duplicate of plain.png
    record("grey", "grey.png"),  # one colour
    record("leak", "leak.png"),  # an evaluation image, byte for byte
    record("leak again", "leak.png"),
    record("wrong size", "leak.png", size=[1, 2]),
    record("too long", "leak.png", conversations=[TURNS[0], {"from": "gpt", "value": "x" * 30_000}]),
    record("text", None, conversations=[{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]),
    record("copy twice", "copy.jpg"),
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "images" / "src"
    folder.mkdir(parents=True)
    (tmp_path / "eval" / "tests").mkdir(parents=True)
    terrain(1, 96).save(folder / "plain.png")
    terrain(1, 96).save(folder / "copy.jpg", quality=70)
    Image.new("RGB", (96, 96), (90, 90, 90)).save(folder / "grey.png")
    terrain(2, 96).save(folder / "leak.png")
    terrain(2, 96).save(tmp_path / "eval" / "tests" / "secret.png")
    question = {"image": "secret.png", "image_path": "tests", "conversations": TURNS}
    (tmp_path / "eval" / "task.json").write_text(json.dumps([question]))
    (tmp_path / "list.json").write_text(json.dumps(RECORDS))
    return tmp_path


def run(data: Path, *reject: str) -> tuple[Validation, dict[str, list[dict[str, Any]]]]:
    """The result, and the lines of the three files of rejected records and findings."""
    out = data / "out"
    options = {"reject": reject, "max_rejected": 1}
    result = validate(data / "list.json", data / "images", out, "sft", [data / "eval"], **options)
    names = ("rejected", "leaks", "suspicious")
    return result, {
        name: [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()] for name in names
    }


def test_findings_are_reported_and_reject_nothing_unless_the_recipe_says_so(data: Path) -> None:
    result, files = run(data)
    assert result.reasons == {"image_size": 1, "too_long": 1}
    assert result.findings == {
        "identical": FindingCount(2, 0),
        "near-duplicate": FindingCount(2, 0),
        "blank": FindingCount(1, 0),
    }
    leak = {
        "image": "src/leak.png", "evaluation_image": "tests/secret.png", "kind": "identical", "score": 1.0,
        "matched_area": 1.0, "outline": [], "evaluation_outline": [], "rejected": False,
    }  # fmt: skip
    assert files["leaks"] == [{"index": 3} | leak, {"index": 4} | leak]
    assert [(row["index"], row["kind"], row["other_index"], row["other_image"]) for row in files["suspicious"]] == [
        (1, "near-duplicate", 0, "src/plain.png"),
        (2, "blank", None, None),
        (8, "near-duplicate", 0, "src/plain.png"),
    ]
    assert all(0.97 <= row["score"] <= 1 and not row["rejected"] for row in files["suspicious"])
    assert result.summary == (
        "7 of 9 accepted (1 image_size, 1 too_long); leaks of 1 evaluation images: 2 identical; "
        "suspicious: 2 near-duplicate, 1 blank"
    )


def test_findings_of_the_kinds_in_the_recipe_reject_their_records(data: Path) -> None:
    result, files = run(data, "identical", "near-duplicate", "blank")
    reasons = {row["index"]: (row["reason"], row["detail"]) for row in files["rejected"]}
    assert {index: reason for index, (reason, _) in reasons.items()} == {
        1: "near_duplicate", 2: "blank", 3: "leak", 4: "leak", 5: "image_size", 6: "too_long", 8: "near_duplicate",
    }  # fmt: skip
    assert reasons[3][1] == "the image shows evaluation image tests/secret.png (identical)"
    assert reasons[8][1].startswith("the image nearly equals src/plain.png of record 0 (score ")
    assert (result.accepted, result.rejected) == (2, 7)
    assert all(row["rejected"] for name in ("leaks", "suspicious") for row in files[name])
    assert result.findings["near-duplicate"] == FindingCount(2, 2)


def test_the_manifest_has_the_brightness_of_images(data: Path) -> None:
    run(data)
    rows = {row["id"]: row for row in parquet.read_table(data / "out" / "manifest.parquet").to_pylist()}
    assert rows["grey"]["brightness"] == pytest.approx(90, abs=0.01)
    weights = np.asarray([0.299, 0.587, 0.114])
    expected = float((np.asarray(Image.open(data / "images" / "src" / "plain.png")) @ weights).mean())
    assert rows["plain"]["brightness"] == pytest.approx(expected, abs=1.5)
    text = rows["text"]
    assert [text[name] for name in ("brightness", "width", "height", "image_sha256")] == [None] * 4
