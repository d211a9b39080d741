"""Evaluation images that cannot be read end a validation, unless a share of them is allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.lists import validate
from tests.support.terrain import terrain
from vhm.data.validation.evaluation_images import fingerprint_evaluation
from vhm.data.validation.request import ValidationRequest
from vhm.errors import InputError

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A river that bends."}]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """list.json with an image, and eval.json with four, of which the root other/ has three."""
    for folder in ("images/src", "other/tests"):
        (tmp_path / folder).mkdir(parents=True)
    terrain(1, 64).save(tmp_path / "images" / "src" / "1.jpg")
    (tmp_path / "list.json").write_text(
        json.dumps([{"source_dataset": "src", "image": "1.jpg", "conversations": TURNS}])
    )
    for number in range(3):
        terrain(10 + number, 64).save(tmp_path / "other" / "tests" / f"{number}.png")
    rows = [{"image": f"{number}.png", "image_path": "tests", "conversations": TURNS} for number in range(4)]
    (tmp_path / "eval.json").write_text(json.dumps(rows))
    return tmp_path


def test_evaluation_images_at_a_wrong_root_end_the_validation(data: Path) -> None:
    with pytest.raises(InputError) as error:
        validate(data / "list.json", data / "images", data / "out", against=[data / "eval.json"])
    message = str(error.value)
    assert f"4 of 4 evaluation images cannot be read from {data / 'images'}" in message
    assert "tests/0.png (image_missing), tests/1.png (image_missing), tests/2.png (image_missing), …" in message
    assert "--against-images" in message
    assert not (data / "out" / "manifest.parquet").exists()


def test_a_share_of_unreadable_evaluation_images_can_be_allowed(data: Path) -> None:
    options = {"against": [data / "eval.json"], "against_images": data / "other"}
    with pytest.raises(InputError, match=r"1 of 4 evaluation images .* allow a share of 0.25 with data.max_unreadable"):
        validate(data / "list.json", data / "images", data / "out", max_unreadable=0.24, **options)
    validate(data / "list.json", data / "images", data / "out", max_unreadable=0.25, **options)
    assert json.loads((data / "out" / "validation.json").read_text())["compared"] == {
        "lists": [str(data / "eval.json")],
        "stores": [str(data / "other")],
        "evaluation_images": 4,
        "unreadable": 1,
        "examples": ["tests/3.png (image_missing)"],
        "training_images": 1,
    }


def test_a_store_of_evaluation_images_that_does_not_exist_is_an_error(data: Path) -> None:
    options = {"against": [data / "eval.json"], "against_images": data / "nowhere"}
    for skip in (False, True):
        with pytest.raises(InputError, match="nowhere does not exist"):
            validate(data / "list.json", data / "images", data / "out", skip_images=skip, **options)


def test_evaluation_lists_without_images_are_an_error(data: Path) -> None:
    (data / "eval.json").write_text(json.dumps([{"conversations": TURNS}]))
    with pytest.raises(InputError, match="names no image"):
        validate(data / "list.json", data / "images", data / "out", against=[data / "eval.json"])


def test_without_images_nothing_is_compared(data: Path) -> None:
    result = validate(data / "list.json", data / "none", data / "out", against=[data / "eval.json"], skip_images=True)
    assert result.compared is None
    assert (data / "out" / "leaks.jsonl").read_text() == ""
    assert result.warnings == ("leaks were not searched for, because images were not checked (--skip-images)",)


def test_a_directory_of_evaluation_files_has_its_images_unless_a_root_is_given(data: Path) -> None:
    (data / "eval").mkdir()
    (data / "eval.json").rename(data / "eval" / "task.json")
    options = {"against": [data / "eval"], "max_unreadable": 0.25}
    request = ValidationRequest([data / "list.json"], data / "images", **options)
    with pytest.raises(InputError, match=rf"4 of 4 evaluation images cannot be read from {data / 'eval'}"):
        fingerprint_evaluation(request, data)
    request = ValidationRequest([data / "list.json"], data / "images", against_images=data / "other", **options)
    assert fingerprint_evaluation(request, data).unreadable == ("tests/3.png (image_missing)",)
