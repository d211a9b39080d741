"""R5: malformed records and images of more than 50 classes are rejected with their reason and never end the run."""

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
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    (folder / "src").mkdir()
    for number in range(20):
        Image.effect_noise((64, 64), 40 + number).convert("RGB").save(folder / "src" / f"good{number}.jpg")
    (folder.parent / "outside.jpg").write_bytes((folder / "src" / "good0.jpg").read_bytes())
    (folder / "src" / "link.jpg").symlink_to(folder.parent / "outside.jpg")
    (folder / "src" / "circle.jpg").symlink_to("circle.jpg")
    return folder


def test_every_malformed_record_is_rejected_with_its_reason(images: Path, tmp_path: Path, proof) -> None:
    rng = random.Random(5)
    classes = [*RECORDS, *(f"image: {name}" for name in IMAGES)]
    assert len(classes) >= 50
    cases = proof.size(4, 5000 // len(classes) + 1) * len(classes)
    rows, expected = [], {}
    for number in range(cases):
        name = classes[number % len(classes)]
        record = good(rng, number)
        if name in RECORDS:
            reasons, change = RECORDS[name]
            changed = change(rng, record)
            raw = changed if isinstance(changed, bytes) else json.dumps(changed, ensure_ascii=False).encode()
        else:
            reasons, make = IMAGES[name.removeprefix("image: ")]
            (images / "src" / f"bad{number}.jpg").write_bytes(make(rng))
            raw = json.dumps(record | {"image": f"bad{number}.jpg"}).encode()
        expected[2 * number] = (name, reasons.split())
        rows += [raw, json.dumps(good(rng, 10**6 + number)).encode()]
    (tmp_path / "list.json").write_bytes(b"[" + b",\n".join(rows) + b"]")
    result = validate(tmp_path / "list.json", images, tmp_path / "out", "sft", max_rejected=1)
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rejected] == list(expected), "exactly the malformed records are rejected"
    wrong = {
        expected[row["index"]][0]: (row["reason"], row["detail"])
        for row in rejected
        if row["reason"] not in expected[row["index"]][1]
    }
    assert wrong == {}
    assert {row["reason"] for row in rejected} <= set(REASONS)
    assert all(row["detail"] and len(row["detail"]) < 1000 for row in rejected)
    assert result.accepted == cases
    reasons = Counter(row["reason"] for row in rejected)
    proof.record(
        "R5", f"{cases} malformed of {len(classes)} classes: 0 crashes, 0 accepted, {cases} with {len(reasons)} reasons"
    )


def test_no_good_record_is_rejected(images: Path, tmp_path: Path, proof) -> None:
    rng = random.Random(6)
    cases = proof.size(2500, 50_000)
    (tmp_path / "list.json").write_text(json.dumps([good(rng, number) for number in range(cases)], ensure_ascii=False))
    result = validate(tmp_path / "list.json", images, tmp_path / "out", "sft")
    assert (result.accepted, result.reasons) == (cases, {})
    proof.record("R5", f"{cases} good records: 0 rejected")
