"""Unfinished work and splits: known by content wherever it is, checked once, merged to the bytes of a single run."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.lists import validate
from tests.support.terrain import terrain
from vhm.data.validation import chunks, image_checks
from vhm.data.validation.request import ValidationRequest
from vhm.data.validation.splits import CHUNKS, check_split, read_splits
from vhm.errors import InputError

IMAGES = 12


def record(number: int, image: str | None = None) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": f"A river, view {number}."}]
    image = image or f"{number % IMAGES}.jpg"
    return {"id": f"r{number}", "source_dataset": "src", "image": image, "conversations": turns}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A shuffled list of 40 records over 12 images, one of them blank, one a near-duplicate, one of an evaluation list.

    Three more records have no image file, and one is the duplicate of another.
    """
    data = tmp_path / "data"
    folder = data / "images" / "src"
    folder.mkdir(parents=True)
    (data / "eval" / "images").mkdir(parents=True)
    for number in range(IMAGES):
        terrain(number, 96).save(folder / f"{number}.jpg", quality=95)
    Image.new("RGB", (96, 96), (30, 60, 90)).save(folder / "7.jpg")
    Image.open(folder / "2.jpg").save(folder / "9.jpg", quality=70)
    Image.open(folder / "4.jpg").rotate(90).save(data / "eval" / "images" / "secret.png")
    question = {"image": "secret.png", "image_path": "images", "conversations": record(0)["conversations"]}
    (data / "eval" / "task.json").write_text(json.dumps([question]))
    records = [record(number) for number in range(40)] + [record(50 + n, f"absent{n}.jpg") for n in range(3)]
    random.Random(5).shuffle(records)
    (data / "list.json").write_text(json.dumps([*records, {**records[3], "id": "again"}]))
    return data


def request(data: Path, **changes: Any) -> ValidationRequest:
    fields = {"against": [data / "eval"], **changes}
    return ValidationRequest([data / "list.json"], fields.pop("images", data / "images"), **fields)


def output_files(folder: Path) -> dict[str, bytes]:
    """Every file of an output, apart from unfinished work and from Data Docs, which show the time of day."""
    files = (path for path in folder.rglob("*") if path.is_file() and CHUNKS not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_splits_made_under_different_mounts_merge_to_the_bytes_of_a_single_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every file: findings, report and memory-mapped index, too."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(data, elsewhere)
    monkeypatch.chdir(data)
    options = {"max_rejected": 1, "reject": ["transformed", "blank"]}
    result = validate(Path("list.json"), "images", tmp_path / "single", "sft", [Path("eval")], **options)
    assert set(result.reasons) == {"leak", "image_missing", "blank", "duplicate"}
    monkeypatch.setattr(chunks, "_RECORDS", 7)
    monkeypatch.setattr(chunks, "_IMAGES", 3)
    for number, root in enumerate((data, elsewhere)):
        with monkeypatch.context() as patched:
            patched.chdir(root)
            validate(
                root / "list.json", f"{root}/images", tmp_path / f"{number}", "sft", [root / "eval"],
                split=(number, 2), **options,
            )  # fmt: skip
    merge = [tmp_path / "1", tmp_path / "0"]
    validate(Path("list.json"), "images", tmp_path / "merged", "sft", [Path("eval")], merge=merge, **options)
    single, merged = output_files(tmp_path / "single"), output_files(tmp_path / "merged")
    assert {"manifest.arrow", "leaks.jsonl", "suspicious.jsonl", "report.html"} < set(single)
    assert merged == single
    assert (tmp_path / "0" / CHUNKS).is_dir(), "merging keeps the splits"


def test_a_shuffled_list_decodes_no_image_twice(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = image_checks.load_pixels

    def counting(content: bytes, *args: Any, **options: Any) -> Any:
        decoded.append(hash(content))
        return original(content, *args, **options)

    monkeypatch.setattr(image_checks, "load_pixels", counting)
    monkeypatch.setattr(chunks, "_RECORDS", 3)
    monkeypatch.setattr(chunks, "_IMAGES", 2)
    check_split(request(data), tmp_path / "out")
    assert len(decoded) == len(set(decoded)) == IMAGES


def test_inputs_are_known_by_content_not_by_how_their_path_is_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_split(request(data), tmp_path / "out")
    monkeypatch.chdir(data)
    monkeypatch.setattr(chunks, "_check", lambda check, work, *_: [work_is_done(check, chunk) for chunk in work])
    for images in ("images", "./images", "../data/images/", data / "images"):
        again = ValidationRequest([Path("./list.json")], images, against=[Path("eval")])
        assert again.key == request(data).key
        check_split(again, tmp_path / "out")


def work_is_done(check: Any, chunk: Any) -> None:
    assert not check(chunk), "a complete chunk is not checked again"


@pytest.mark.parametrize("what", ["list", "evaluation list", "settings", "code", "split"])
def test_unfinished_work_on_other_inputs_is_refused_with_what_differs_and_kept(
    what: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    check_split(request(data), out)
    (out / CHUNKS / "finished.json").unlink()  # as if it had been interrupted
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other, split, expected = request(data), (0, 1), what
    if what == "list":
        (data / "list.json").write_text(json.dumps([record(0)]))
        expected = r"list \(list.json had sha256 \w{12}, has \w{12}\)"
    elif what == "evaluation list":
        (data / "eval" / "task.json").write_text("[]")
        expected = r"evaluation list \(task.json had sha256 \w{12}, has \w{12}\)"
    elif what == "settings":
        other, expected = request(data, max_text=99), r"settings \(max_text was 20000, is 99\)"
    elif what == "code":
        monkeypatch.setattr("vhm.data.validation.request.code_hash", lambda: "0" * 64)
        expected = r"code \(\w{12} then, 0{12} now\)"
    else:
        split, expected = (0, 2), r"split \(0/1 then, 0/2 now\)"
    with pytest.raises(InputError, match=rf"unfinished work of another .* differs in {expected}: .*--restart"):
        check_split(other, out, split)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    if what != "evaluation list":
        check_split(other, out, split, restart=True)
        assert (out / CHUNKS / "finished.json").is_file()


def test_a_finished_validation_is_replaced(data: Path, tmp_path: Path) -> None:
    """As in a pipeline whose list changed. What the other lists alone had is gone."""
    out = tmp_path / "out"
    validate(data / "list.json", data / "images", out, "sft", [data / "eval"], max_rejected=1)
    assert (out / "leaks.jsonl").read_text()
    (data / "list.json").write_text(json.dumps([record(0), record(1)]))
    assert validate(data / "list.json", data / "images", out).accepted == 2
    assert (out / "leaks.jsonl").read_text() == ""
    assert not (out / CHUNKS).exists()


def test_a_folder_of_others_is_refused_and_kept(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "data_docs").mkdir(parents=True)
    (out / "data_docs" / "mine.html").write_text("mine")
    (out / CHUNKS).mkdir()
    (out / CHUNKS / "mine").write_text("mine")
    for merge in ((), [tmp_path / "x"]):
        with pytest.raises(InputError, match=r"is not empty and has no validation\.json"):
            validate(data / "list.json", data / "images", out, merge=merge)
    assert [str(path.relative_to(out)) for path in sorted(out.rglob("*")) if path.is_file()] == [
        f"{CHUNKS}/mine",
        "data_docs/mine.html",
    ]


def test_splits_are_merged_only_if_they_are_one_complete_run(data: Path, tmp_path: Path) -> None:
    outs = [tmp_path / f"{number}" for number in range(2)]
    for number, out in enumerate(outs):
        check_split(request(data), out, (number, 2))
    assert len(read_splits(outs, request(data)).records) == 2
    with pytest.raises(InputError, match=r"records 22 to 44 are missing from the splits: merge split 1/2, too"):
        read_splits(outs[:1], request(data))
    with pytest.raises(InputError, match="is split 0/2, as another one is"):
        read_splits([outs[0], outs[0]], request(data))
    with pytest.raises(InputError, match=r"which differs in settings \(kind was sft, is pretrain\)"):
        read_splits(outs, request(data, kind="pretrain"))
    check_split(request(data), tmp_path / "third", (2, 3))
    with pytest.raises(InputError, match="split 2/3 is none of the 2 others"):
        read_splits([*outs, tmp_path / "third"], request(data))
    (outs[1] / CHUNKS / "finished.json").unlink()
    with pytest.raises(InputError, match=r"is not finished: run `vhm validate --shard 1/2`"):
        read_splits(outs, request(data))


def test_an_image_that_changes_between_two_splits_is_refused(data: Path, tmp_path: Path) -> None:
    outs = [tmp_path / f"{number}" for number in range(2)]
    check_split(request(data), outs[0], (0, 2))
    for path in (data / "images" / "src").iterdir():
        pixels = np.asarray(Image.open(path))
        Image.fromarray(255 - pixels).save(path)
    check_split(request(data), outs[1], (1, 2))
    with pytest.raises(InputError, match=r"the image src/\d+\.jpg changed after one split was checked"):
        validate(data / "list.json", data / "images", tmp_path / "merged", "sft", [data / "eval"], merge=outs)
    rotated = Image.open(data / "eval" / "images" / "secret.png").rotate(180)
    rotated.save(data / "eval" / "images" / "secret.png")
    check_split(request(data), outs[1], (1, 2))
    with pytest.raises(InputError, match="compared with different evaluation images"):
        read_splits(outs, request(data))
