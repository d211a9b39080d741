"""Each foreign format, end to end: imported from a small file, and accepted by `vhm validate` with its images."""

from __future__ import annotations

import base64
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tests.support.foreign import MAKERS, image_bytes, messages, turns, webdataset, write_images
from tests.support.lists import validate
from vhm.data.importing.run import import_data
from vhm.errors import InputError


@pytest.mark.parametrize("name", MAKERS)
def test_each_format_becomes_a_list_that_validates(name: str, tmp_path: Path) -> None:
    make, expected = MAKERS[name]
    report = import_data(make(tmp_path / "source"), tmp_path / "out")
    records = json.loads((tmp_path / "out" / "list.json").read_text())
    assert (len(records), report.written, report.images_missing) == (expected, expected, 0)
    assert report.image_root is not None
    result = validate(tmp_path / "out" / "list.json", report.image_root, tmp_path / "checked")
    assert (result.accepted, dict(result.reasons)) == (expected, {})


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


GOOD = {"messages": messages("<image>What?", "A river."), "images": ["a.png"]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images": ["a.png", "b.png"], "messages": messages("<image><image>Compare.", "Same.")}, "unknown_media"),
        ({"videos": ["a.mp4"]}, "unknown_media"),
        ({"messages": messages("<image>What is in <video>?", "A river.")}, "unknown_media"),
        ({"tools": '[{"name": "zoom"}]'}, "tool_call"),
        ({"messages": [*messages("<image>What?"), {"role": "tool", "content": "{}"}]}, "tool_call"),
        ({"messages": messages("<image>What?")}, "alternation"),
        ({"messages": messages("<image>What?", " ")}, "empty_answer"),
        ({"messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}]}, "unknown_media"),
        ({"messages": [*messages("<image>Q"), {"role": "assistant", "content": "A", "loss": False}]}, "masked_turn"),
        ({"messages": "text"}, "wrong_type"),
        ({"rejected_response": "No."}, "wrong_type"),
        ({"images": ["https://example.org/a.png"]}, "bad_path"),
        ({"images": ["../a.png"]}, "bad_path"),
        ({"images": []}, "image_count"),
        ({"messages": messages("<image>Find <bbox>.", "It."), "objects": {"bbox": []}}, "bad_number"),
        ({"messages": messages("<image>Where?", "</s>")}, "special_token"),
    ],
)
def test_what_cannot_be_converted_is_dropped_with_its_reason(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    write_images(tmp_path, "a.png", "b.png")
    source = write(tmp_path / "swift.jsonl", GOOD, GOOD | changes, GOOD)
    report = import_data(source, tmp_path / "out")
    assert (report.read, report.written, report.dropped) == (3, 2, 1)
    assert {name: entry.count for name, entry in report.reasons.items()} == {reason: 1}
    [dropped] = lines(tmp_path / "out" / "dropped.jsonl")
    assert (dropped["where"], dropped["reason"]) == ("swift.jsonl: line 2", reason)
    stored = json.loads((tmp_path / "out" / "import.json").read_text())
    assert stored["reasons"][reason]["examples"] == [{"where": dropped["where"], "detail": dropped["detail"]}]


def test_lines_that_are_no_record_are_dropped(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    source = write(tmp_path / "list.jsonl", GOOD)
    source.write_text(source.read_text() + "\n[1]\n{torn\n" + '{"a": 1, "a": 2}\n')
    report = import_data(source, tmp_path / "out")
    assert {name: entry.count for name, entry in report.reasons.items()} == {
        "not_object": 1,
        "bad_json": 1,
        "duplicate_key": 1,
    }


def test_nothing_is_written_when_nothing_can_be_converted(tmp_path: Path) -> None:
    source = write(tmp_path / "swift.jsonl", GOOD | {"videos": ["a.mp4"]})
    with pytest.raises(InputError, match=r"none of its 1 records can be used: 1 unknown_media, first .*'videos'"):
        import_data(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_an_earlier_import_is_replaced(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    source = write(tmp_path / "swift.jsonl", GOOD)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"is not empty and has no import\.json"):
        import_data(source, tmp_path / "other")
    assert (tmp_path / "other" / "thesis.tex").read_text() == "precious"
    import_data(source, tmp_path / "out")
    write(source, GOOD, GOOD)
    assert import_data(source, tmp_path / "out").written == 2


def test_images_are_found_below_the_given_root(tmp_path: Path) -> None:
    source = write(tmp_path / "swift.jsonl", GOOD, GOOD | {"images": ["b.png"]})
    write_images(tmp_path / "elsewhere", "a.png")
    report = import_data(source, tmp_path / "out")
    assert report.images_missing == 2
    assert "give the folder with --images" in report.notes[0]
    report = import_data(source, tmp_path / "out", images=tmp_path / "elsewhere")
    assert (report.images_missing, report.image_root) == (1, str(tmp_path / "elsewhere"))


def test_images_in_the_file_are_written_as_they_were(tmp_path: Path) -> None:
    import_data(webdataset(tmp_path / "source"), tmp_path / "out")
    assert (tmp_path / "out/images/000/one.jpg").read_bytes() == image_bytes(0, "JPEG")
    assert (tmp_path / "out/images/000/two.png").read_bytes() == image_bytes(1)


def test_a_name_in_the_file_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    encoded = base64.b64encode(image_bytes(0)).decode()
    names = ["../../../evil.png", "/etc/evil.png", "a\\..\\evil.png"]
    rows = [{"image": f"data:image/png;base64,{encoded}", "caption": "A river."}] + [
        {"image": {"bytes": None, "path": name}, "caption": "A river."} for name in names
    ]
    report = import_data(write(tmp_path / "rows.jsonl", *rows), tmp_path / "out")
    written = [path for path in (tmp_path / "out/images").rglob("*") if path.is_file()]
    assert (report.images_written, len(written)) == (1, 1)
    assert not list(tmp_path.parent.rglob("evil*"))


def test_classes_of_a_dataset_become_their_names(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = {"label": {"names": ["Annual Crop", "Forest"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    rows = [{"image": {"bytes": image_bytes(n), "path": None}, "label": n} for n in range(2)]
    table = pa.Table.from_pylist(rows)
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "b.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    for name in ("a.parquet", "b.arrow"):
        import_data(tmp_path / name, tmp_path / name[:1])
        records = json.loads((tmp_path / name[:1] / "list.json").read_text())
        assert [record["conversations"][1]["value"] for record in records] == ["Annual Crop", "Forest"]


def test_text_that_is_not_utf8_is_dropped_and_not_changed(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    (tmp_path / "a.csv").write_bytes("image,caption\na.png,Fluß\na.png,See\n".encode("latin-1"))
    report = import_data(tmp_path / "a.csv", tmp_path / "out")
    assert (report.written, dict(report.reasons)["bad_unicode"].count) == (1, 1)
    assert "See" in (tmp_path / "out" / "list.json").read_text()


def test_images_of_coco_are_found_beside_their_annotations(tmp_path: Path) -> None:
    write_images(tmp_path, "val2017/1.png")
    document = {"images": [{"id": 1, "file_name": "1.png"}], "annotations": [{"image_id": 1, "caption": "A river."}]}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(document))
    report = import_data(tmp_path / "annotations" / "captions_val2017.json", tmp_path / "out")
    assert (report.image_root, report.images_missing) == (str(tmp_path / "val2017"), 0)


def test_the_boxes_of_a_source_are_converted_by_their_convention(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    box = {"messages": messages("<image>Where?", "[20, 10, 50, 100]"), "images": ["a.png"]}
    source = write(tmp_path / "swift.jsonl", *[box] * 10)
    report = import_data(source, tmp_path / "out")
    assert "0-100 (10 boxes [x0, y0, x1, y1] were examined, their largest coordinate is 100)" in report.box_convention
    assert answers(tmp_path / "out/list.json") == ["[200, 100, 500, 999]"] * 10
    import_data(source, tmp_path / "out", boxes="pixels")
    assert answers(tmp_path / "out/list.json") == ["[100, 100, 250, 999]"] * 10
    import_data(source, tmp_path / "out", boxes="0-1000")
    assert answers(tmp_path / "out/list.json") == ["[20, 10, 50, 100]"] * 10


def answers(path: Path) -> list[str]:
    return [record["conversations"][1]["value"] for record in json.loads(path.read_text())]


def test_benchmarks_become_evaluation_files_that_validate(tmp_path: Path) -> None:
    write_images(tmp_path, "Images_val/P1.png")
    rows = [
        {"image_id": "P1.png", "question": "The ship", "ground_truth": "{<10><20><50><100>}", "question_id": 0},
        {
            "image_id": "P1.png",
            "question": "How many ships?",
            "ground_truth": "1",
            "question_id": 1,
            "type": "quantity",
        },
        {
            "image_id": "P2.png",
            "question": "How many ships?",
            "ground_truth": "2",
            "question_id": 2,
            "type": "quantity",
        },
    ]
    rows.append({"image_id": "P1.png", "question": "Describe the image.", "ground_truth": "A ship.", "question_id": 3})
    source = tmp_path / "VRSBench_EVAL.json"
    source.write_text(json.dumps(rows))
    report = import_data(source, tmp_path / "out")
    assert report.files == {f"eval/vrsbench_{task}.json": 1 for task in ("referring", "vqa", "caption")}
    assert {name: entry.count for name, entry in report.reasons.items()} == {"image_missing": 1}
    [record] = json.loads((tmp_path / "out/eval/vrsbench_referring.json").read_text())
    assert (record["image"], record["image_path"], record["size"]) == ("P1.png", "images", [200, 100])
    assert record["conversations"][1]["value"] == "[20, 20, 100, 100]"
    result = validate(tmp_path / "out/eval", tmp_path / "out/eval", tmp_path / "checked", "eval")
    assert (result.accepted, dict(result.reasons)) == (3, {})


def test_records_of_several_forms_are_each_read_by_their_own(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    others = [
        {"image": "a.png", "conversations": turns("<image>\nWhat?", "A river.")},
        {"image": "a.png", "caption": "A lake."},
        {"video": "a.mp4", "caption": "A lake."},
        {"no": "form"},
    ]
    report = import_data(write(tmp_path / "mixed.jsonl", GOOD, *others), tmp_path / "out")
    assert answers(tmp_path / "out/list.json") == ["A river.", "A river.", "A lake."]
    assert [entry["reason"] for entry in lines(tmp_path / "out" / "dropped.jsonl")] == ["unknown_media", "wrong_type"]
    assert report.became == {"conversation": 2, "caption": 1}


def test_polygons_of_geochats_benchmark_become_boxes_in_pixels(tmp_path: Path) -> None:
    write_images(tmp_path, "P1.png")
    polygon = [[[100, 30], [120, 50], [100, 70], [80, 50]]]
    row = {"image_id": "P1", "question": "[refer] the ship", "ground_truth": polygon, "question_id": 0, "type": "ref"}
    report = import_data(write(tmp_path / "referring.jsonl", row), tmp_path / "out")
    assert answers(tmp_path / "out/eval/geochat_referring.json") == ["[80, 30, 120, 70]"]
    assert report.boxes == {"boxes of the annotation, pixels: polygon → box": 1}


def test_splits_in_the_records_are_not_mixed(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    rows = [
        {"image": f"{name}.png", "caption": "A river.", "split": split}
        for name, split in zip("ab", ("train", "val"), strict=True)
    ]
    source = write(tmp_path / "captions.jsonl", *rows)
    with pytest.raises(InputError, match="has the splits train, validation: choose one with --split"):
        import_data(source, tmp_path / "out")
    report = import_data(source, tmp_path / "out", split="validation")
    assert [record["image"] for record in json.loads((tmp_path / "out/list.json").read_text())] == ["b.png"]
    assert report.reasons["other_split"].count == 1


def test_a_class_with_too_many_objects_is_dropped_and_the_others_are_kept(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    annotations = [{"image_id": 1, "category_id": int(n == 41), "bbox": [n, 0, 5, 5]} for n in range(42)]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 200, "height": 100}],
        "annotations": annotations,
        "categories": [{"id": 0, "name": "car"}, {"id": 1, "name": "ship"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    report = import_data(tmp_path / "coco.json", tmp_path / "out")
    assert answers(tmp_path / "out/list.json") == ["[205, 0, 230, 50]"]
    assert report.reasons["too_long"].examples[0]["detail"].startswith("41 objects of the class car")


def test_the_command_prints_the_report_and_the_next_command(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from vhm.cli import app

    source, out = webdataset(tmp_path / "source"), tmp_path / "out"
    result = CliRunner().invoke(app, ["data", "import", str(source), "--out", str(out), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json.loads((out / "import.json").read_text())
    result = CliRunner().invoke(app, ["data", "import", str(source), "--out", str(out)])
    assert "2 records from 2 of a table of images" in result.stdout
    assert f"next: vhm validate {out}/list.json --images {out}/images --out DIR" in result.stdout


def test_memory_does_not_grow_with_the_source(tmp_path: Path) -> None:
    source = tmp_path / "big.jsonl"
    row = json.dumps({"messages": messages("What is shown?", "A river. " * 1000)}) + "\n"
    with source.open("w") as file:
        file.writelines([row] * 3_000)  # 27 MB
    tracemalloc.start()
    try:
        report = import_data(source, tmp_path / "out")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.written == 3_000
    assert peak < 12e6
