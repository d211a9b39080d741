"""Validation: every bad record gets its reason, good ones are accepted, leaks are found, results are written."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.support.lists import validate
from vhm.data.index import open_index
from vhm.data.records import REASONS
from vhm.data.validation import chunks
from vhm.data.validation.validate import require_passed
from vhm.errors import CheckFailed, InputError, Interrupted


def noise_image(seed: int, size: int = 64) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(noise).filter(ImageFilter.GaussianBlur(4)).point(lambda v: max(0, min(255, 4 * v - 380)))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "src").mkdir(parents=True)
    for number in range(4):
        noise_image(number).save(folder / "src" / f"{number}.jpg", quality=95)
    (folder / "src" / "broken.jpg").write_bytes((folder / "src" / "0.jpg").read_bytes()[:300])
    (folder / "src" / "empty.jpg").touch()
    (tmp_path / "outside.jpg").write_bytes((folder / "src" / "0.jpg").read_bytes())
    (folder / "src" / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    return folder


def good(number: int = 0, **changes: Any) -> dict[str, Any]:
    turns = [
        {"from": "human", "value": "<image>\nDescribe."},
        {"from": "gpt", "value": f"A river bends, view {number}."},
    ]
    return {"id": f"r{number}", "source_dataset": "src", "image": f"{number}.jpg", "conversations": turns} | changes


def with_answer(text: str) -> dict[str, Any]:
    record = good(3)
    record["conversations"][1]["value"] = text
    return record


def with_question(text: str) -> dict[str, Any]:
    record = good(3)
    record["conversations"][0]["value"] = text
    return record


BAD = [
    (["not", "a", "record"], "not_object"),
    ({"id": "x"}, "missing_field"),
    (good(3, conversations="text"), "wrong_type"),
    (good(3, image=7), "wrong_type"),
    (good(3, conversations=[{"from": "gpt", "value": "A"}]), "no_human_turn"),
    (good(3, conversations=[{"from": "human", "value": "<image>"}] * 2), "alternation"),
    (with_answer("  "), "empty_answer"),
    (with_answer("ends</s>here"), "special_token"),
    (with_answer("an <image> here"), "special_token"),
    (with_answer("bell\x07"), "control_character"),
    (with_answer("x" * 30_000), "too_long"),
    (with_answer("a box [0, 0, 1001, 20]"), "bad_number"),
    (with_answer("a box [20, 0, 10, 20]"), "bad_number"),
    (with_answer("I'm sorry, but I cannot see it, as an AI."), "refusal"),
    (with_question("no marker"), "image_count"),
    (with_question("<image> Which? Answer with the letter."), "no_options"),
    (good(3, image="/etc/passwd"), "bad_path"),
    (good(3, image="../outside.jpg"), "bad_path"),
    (good(3, image="link.jpg"), "bad_path"),
    (good(3, image="https://example.org/a.jpg"), "bad_path"),
    (good(3, image="absent.jpg"), "image_missing"),
    (good(3, image="empty.jpg"), "image_empty"),
    (good(3, image="broken.jpg"), "image_truncated"),
    (good(3, size=[1, 2]), "image_size"),
    (good(3, size=[0, 64]), "image_size"),
    (good(3, size=[64, 10**9]), "image_size"),
    (good(3, size="64x64"), "wrong_type"),
    (good(3, size=[64.0, 64]), "wrong_type"),
    (good(3, id=[1]), "wrong_type"),
    (with_answer("a polygon [[0, 0], [10, 20]]"), "bad_number"),
    (with_answer("a polygon [[0, 0], [10, 20], [1001, 5]]"), "bad_number"),
    (with_question("<ima<image>ge> What?"), "special_token"),
    (good(3, video="a.mp4"), "unknown_media"),
    (with_question("<image> and <video>: what changed?"), "unknown_media"),
    (good(3, tools="[{}]"), "tool_call"),
    (good(3, system="Be brief."), "system_message"),
    (good(0, image="3.jpg"), "duplicate_id"),
    (good(0, id="another"), "duplicate"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD, ids=[f"{i}-{reason}" for i, (_, reason) in enumerate(BAD)])
def test_each_bad_record_gets_its_reason_and_good_ones_are_accepted(
    bad: Any, reason: str, images: Path, tmp_path: Path
) -> None:
    source = tmp_path / "list.json"
    source.write_text(json.dumps([good(0), bad, good(1)]))
    result = validate(source, images, tmp_path / "out", "pretrain", max_rejected=0.5)
    assert (result.accepted, result.reasons) == (2, {reason: 1})
    assert reason in REASONS
    rejected = json.loads((tmp_path / "out" / "rejected.jsonl").read_text())
    assert (rejected["index"], rejected["reason"]) == (1, reason)
    assert [r["id"] for r in open_index(tmp_path / "out")] == ["r0", "r1"]


def test_too_many_rejected_records_fail_with_their_share_and_reasons(images: Path, tmp_path: Path) -> None:
    source = tmp_path / "list.json"
    source.write_text(json.dumps([good(0), good(1, image="absent.jpg")]))
    result = validate(source, images, tmp_path / "out", "pretrain", max_rejected=0.2)
    with pytest.raises(CheckFailed, match=r"1 of 2 records rejected \(50.0%, at most 20.0% allowed\): 1 image_missing"):
        require_passed(result, tmp_path / "out")


def test_expectations_are_evaluated_and_documented(images: Path, tmp_path: Path) -> None:
    source = tmp_path / "list.json"
    source.write_text(json.dumps([with_answer("Short.") | {"id": "a"}]))
    result = validate(source, images, tmp_path / "out", "pretrain")
    assert not result.passed
    assert "captions are descriptive" in result.failures[0]
    assert json.loads((tmp_path / "out" / "validation.json").read_text())["expectations"]["evaluated"] >= 7
    assert "<html" in (tmp_path / "out" / "data_docs" / "index.html").read_text().lower()


def test_boxes_of_evaluation_records_are_in_pixels(tmp_path: Path) -> None:
    (tmp_path / "eval" / "images").mkdir(parents=True)
    noise_image(1, 1500).save(tmp_path / "eval" / "images" / "large.jpg")

    def question(answer: str, **changes: Any) -> dict[str, Any]:
        turns = [{"from": "human", "value": "Where is it?"}, {"from": "gpt", "value": answer}]
        return {"image": "large.jpg", "image_path": "images", "size": [1500, 1500], "conversations": turns} | changes

    rows = [question("[1200, 10, 1500, 90]"), question("[1200, 10, 1600, 90]"), question("[1, 1, 2, 1700]", size=None)]
    (tmp_path / "eval" / "VG_DOIR_RSVG_test.json").write_text(json.dumps(rows))
    result = validate(tmp_path / "eval", tmp_path / "eval", tmp_path / "out", "eval", max_rejected=1)
    assert (result.accepted, result.reasons) == (2, {"bad_number": 1})


def test_leaks_are_found_despite_reencoding_resizing_and_rotating(images: Path, tmp_path: Path) -> None:
    evaluation = tmp_path / "eval"
    (evaluation / "images").mkdir(parents=True)
    source = noise_image(9, 128)
    source.save(evaluation / "images" / "secret.png")
    record = {"image": "secret.png", "image_path": "images", "size": [128, 128]}
    record["conversations"] = good()["conversations"]  # type: ignore[assignment]
    (evaluation / "task.json").write_text(json.dumps([record]))
    copies = {
        "bytes": (evaluation / "images" / "secret.png").read_bytes(),
        "jpeg": _jpeg(source, 50),
        "half": _jpeg(source.resize((64, 64)), 90),
        "rotated": _jpeg(source.transpose(Image.Transpose.ROTATE_90), 90),
        "mirrored": _jpeg(source.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 90),
    }
    for name, content in copies.items():
        (images / "src" / f"{name}.jpg").write_bytes(content)
    records = [good(0), *(good(1, id=name, image=f"{name}.jpg") for name in copies)]
    (tmp_path / "list.json").write_text(json.dumps(records))
    result = validate(tmp_path / "list.json", images, tmp_path / "out", "pretrain", [evaluation], max_rejected=1)
    assert (result.accepted, result.reasons) == (1, {"leak": len(copies)})
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert all("images/secret.png" in row["detail"] for row in rejected)


def many(count: int) -> list[dict[str, Any]]:
    """Records without images, among them two duplicates and a bad one, far apart from each other."""
    turns = lambda n: [{"from": "human", "value": f"Question {n}?"}, {"from": "gpt", "value": f"Answer {n}."}]  # noqa: E731
    records = [{"id": f"r{n}", "conversations": turns(n)} for n in range(count)]
    records[count - 2] = records[3]
    records[count // 2] = records[5] | {"id": "again"}
    records[count // 3] = {"id": "bad", "conversations": []}
    return records


def output_files(folder: Path) -> dict[str, bytes]:
    """Every file of an output, apart from unfinished work and from Data Docs, which show the time of day."""
    files = (path for path in folder.rglob("*") if path.is_file() and "chunks" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_merged_splits_equal_the_single_run_byte_for_byte(tmp_path: Path) -> None:
    source = tmp_path / "list.json"
    source.write_text(json.dumps(many(5000)))
    result = validate(source, tmp_path, tmp_path / "single", skip_images=True)
    assert result.reasons == {"duplicate": 1, "duplicate_id": 1, "wrong_type": 1}
    splits = [tmp_path / f"split{i}" for i in range(3)]
    for number, folder in enumerate(splits):
        validate(source, tmp_path, folder, skip_images=True, split=(number, 3))
    validate(source, tmp_path, tmp_path / "merged", skip_images=True, merge=splits)
    assert output_files(tmp_path / "merged") == output_files(tmp_path / "single")
    with pytest.raises(InputError, match="records 1666 to 3333 are missing from the splits"):
        validate(source, tmp_path, tmp_path / "merged", skip_images=True, merge=[splits[0], splits[2]])
    with pytest.raises(InputError, match=r"differs in settings \(max_text was 20000, is 99\)"):
        validate(source, tmp_path, tmp_path / "merged", max_text=99, skip_images=True, merge=splits)


def test_an_interrupted_validation_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_RECORDS", 100)
    source = tmp_path / "list.json"
    source.write_text(json.dumps(many(1000)))
    validate(source, tmp_path, tmp_path / "uninterrupted", skip_images=True)
    with interrupted_after(5, "_check_records", monkeypatch) as checked:
        validate(source, tmp_path, tmp_path / "out", skip_images=True)
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    validate(source, tmp_path, tmp_path / "out", skip_images=True)
    assert sorted(checked) == list(range(0, 1000, 100)), "complete chunks are not checked again"
    assert output_files(tmp_path / "out") == output_files(tmp_path / "uninterrupted")
    assert not (tmp_path / "out" / "chunks").exists()


def test_a_resumed_validation_checks_changed_images_again(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "_IMAGES", 1)
    source = tmp_path / "list.json"
    source.write_text(json.dumps([good(0), good(1), good(2), good(3), good(4, image="late.jpg")]))
    with interrupted_after(5, "_check_images", monkeypatch) as checked:
        validate(source, images, tmp_path / "out", "pretrain")
    (images / "src" / "1.jpg").write_bytes(b"")
    noise_image(7).save(images / "src" / "late.jpg")
    result = validate(source, images, tmp_path / "out", "pretrain", max_rejected=1)
    assert (result.accepted, result.reasons) == (4, {"image_empty": 1})
    assert checked == [0, 1, 2, 3, 4, 1, 4]


def test_a_resumed_validation_checks_again_after_evaluation_images_changed(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, evaluation = tmp_path / "list.json", tmp_path / "eval"
    (evaluation / "images").mkdir(parents=True)
    noise_image(8).save(evaluation / "images" / "secret.png")
    record = {"image": "secret.png", "image_path": "images", "conversations": good()["conversations"]}
    (evaluation / "task.json").write_text(json.dumps([record]))
    source.write_text(json.dumps([good(0)]))
    with interrupted_after(1, "_check_images", monkeypatch) as checked:
        validate(source, images, tmp_path / "out", "pretrain", [evaluation])
    (evaluation / "images" / "secret.png").write_bytes((images / "src" / "0.jpg").read_bytes())
    result = validate(source, images, tmp_path / "out", "pretrain", [evaluation], max_rejected=1)
    assert result.reasons == {"leak": 1}
    assert checked == [0, 0]


@contextlib.contextmanager
def interrupted_after(count: int, what: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Interrupts the block after `count` chunks; yields the first rows of the chunks checked in and after it."""
    check_chunk, checked = getattr(chunks, what), []

    def interrupting(chunk, **options) -> bool:
        was_checked = check_chunk(chunk, **options)
        if was_checked:
            checked.append(chunk.first)
            if len(checked) == count:
                raise KeyboardInterrupt
        return was_checked

    monkeypatch.setattr(chunks, what, interrupting)
    with pytest.raises(Interrupted):
        yield checked


def test_a_bad_record_does_not_affect_others(images: Path, tmp_path: Path) -> None:
    """The list is split by its structure, so not even a record that is not JSON affects the others."""
    broken = [b'{"id": NaN}', b"{'single': 1}", b'{"a": "\xff"}', b'{"id": 1, "id": 2}', b"[[[1]]]", b"nothing"]
    content = b",".join([json.dumps(good(0)).encode(), *broken, json.dumps(good(1)).encode()])
    (tmp_path / "list.json").write_bytes(b"[" + content + b"]")
    result = validate(tmp_path / "list.json", images, tmp_path / "out", "pretrain", max_rejected=1)
    assert (result.accepted, result.rejected) == (2, len(broken))
    rows = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    reasons = ["bad_number", "bad_json", "bad_unicode", "duplicate_key", "not_object", "bad_json"]
    assert [(row["index"], row["reason"]) for row in rows] == list(enumerate(reasons, start=1))


def test_the_sample_passes_without_leaks(sample: Path, tmp_path: Path) -> None:
    result = validate(sample / "sft/list_sft.json", sample / "images", tmp_path, "sft", [sample / "eval"])
    assert result.passed
    assert result.rejected == 0


def test_a_file_that_is_not_a_list_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("{}")
    with pytest.raises(InputError, match="not a JSON array"):
        validate(tmp_path / "list.json", tmp_path, tmp_path / "out")


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def test_a_system_message_is_kept_for_training_and_tells_records_apart(images: Path, tmp_path: Path) -> None:
    source = tmp_path / "list.json"
    systems = [None, "Be brief.", "Be long.", "Ends</s>", "x" * 30_000]
    source.write_text(json.dumps([good(0, id=f"{i}", system=system) for i, system in enumerate(systems)]))
    result = validate(source, images, tmp_path / "out", "sft", max_rejected=0.5)
    assert (result.accepted, result.reasons) == (3, {"special_token": 1, "too_long": 1})
    assert [row["system"] for row in open_index(tmp_path / "out")] == systems[:3]


def test_the_manifest_has_coordinates_below_1000(images: Path, tmp_path: Path) -> None:
    source = tmp_path / "list.json"
    system = {"from": "system", "value": "Find [0, 0, 1000, 1000]."}
    record = good(0)
    answer = {"from": "gpt", "value": "A ship at [0, 500, 1000, 1000]."}
    record["conversations"] = [system, {"from": "gpt", "value": "Hello."}, record["conversations"][0], answer]
    source.write_text(json.dumps([record]))
    result = validate(source, images, tmp_path / "out", "sft")
    assert result.accepted == 1
    stored = open_index(tmp_path / "out")[0]["conversations"]
    assert [turn["value"] for turn in stored[-2:]] == [
        record["conversations"][2]["value"],
        "A ship at [0, 500, 999, 999].",
    ]


@pytest.mark.parametrize(("largest", "warned"), [(100, True), (101, False)])
def test_boxes_that_look_like_0_to_100_are_a_warning(largest: int, warned: bool, images: Path, tmp_path: Path) -> None:
    source = tmp_path / "list.json"
    boxes = [f"[{n}, 0, {n + 3}, 50]" for n in range(19)] + [f"[0, 0, {largest}, 60]"]
    records = [with_answer(f"Ship {n} at {box}.") | {"id": n} for n, box in enumerate(boxes)]
    source.write_text(json.dumps(records))
    result = validate(source, images, tmp_path / "out", "sft")
    assert result.accepted == 20
    assert bool(result.warnings) is warned
    assert json.loads((tmp_path / "out" / "validation.json").read_text())["warnings"] == list(result.warnings)
    if warned:
        assert "the largest coordinate of 20 boxes is 100" in result.warnings[0]
