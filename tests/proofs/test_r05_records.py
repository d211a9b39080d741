"""R5: malformed records and images of more than 50 classes: none is accepted, each has its reason, none kills the run."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from tests.support.hostile import IMAGES, RECORDS, good
from tests.support.lists import validate
from vhm.data.records import REASONS


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    (folder / "src").mkdir()
    for number in range(20):
        Image.effect_noise((64, 64), 40 + number).convert("RGB").save(folder / "src" / f"good{number}.jpg")
    (folder.parent / "outside.jpg").write_bytes((folder / "src" / "good0.jpg").read_bytes())
    (folder / "src" / "link.jpg").symlink_to(folder.parent / "outside.jpg")
    (folder / "src" / "circle.jpg").symlink_to("circle.jpg")
    return folder


def test_every_malformed_record_is_rejected_with_its_reason(root: Path, tmp_path: Path, proof) -> None:
    draw = random.Random(5)
    classes = [*RECORDS, *(f"image: {name}" for name in IMAGES)]
    assert len(classes) >= 50
    cases = proof.size(4, 5000 // len(classes) + 1) * len(classes)
    rows, expected = [], {}
    for number in range(cases):
        name = classes[number % len(classes)]
        record = good(draw, number)
        if name in RECORDS:
            reasons, change = RECORDS[name]
            made = change(draw, record)
            raw = made if isinstance(made, bytes) else json.dumps(made, ensure_ascii=False).encode()
        else:
            reasons, make = IMAGES[name.removeprefix("image: ")]
            (root / "src" / f"bad{number}.jpg").write_bytes(make(draw))
            raw = json.dumps(record | {"image": f"bad{number}.jpg"}).encode()
        expected[2 * number] = (name, reasons.split())
        rows += [raw, json.dumps(good(draw, 10**6 + number)).encode()]
    (tmp_path / "list.json").write_bytes(b"[" + b",\n".join(rows) + b"]")
    result = validate(tmp_path / "list.json", root, tmp_path / "out", "sft", max_rejected=1)
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rejected] == list(expected), "every malformed record, and no other"
    wrong = {
        expected[row["index"]][0]: (row["reason"], row["detail"])
        for row in rejected
        if row["reason"] not in expected[row["index"]][1]
    }
    assert wrong == {}
    assert {row["reason"] for row in rejected} <= set(REASONS)
    assert all(row["detail"] and len(row["detail"]) < 1000 for row in rejected)
    assert result.accepted == cases
    counted = Counter(row["reason"] for row in rejected)
    proof.record(
        "R5", f"{cases} malformed of {len(classes)} classes: 0 crashes, 0 accepted, {cases} with {len(counted)} reasons"
    )


def test_no_good_record_is_refused(root: Path, tmp_path: Path, proof) -> None:
    draw = random.Random(6)
    cases = proof.size(2500, 50_000)
    (tmp_path / "list.json").write_text(json.dumps([good(draw, number) for number in range(cases)], ensure_ascii=False))
    result = validate(tmp_path / "list.json", root, tmp_path / "out", "sft")
    assert (result.accepted, result.reasons) == (cases, {})
    proof.record("R5", f"{cases} good records: 0 refused")
