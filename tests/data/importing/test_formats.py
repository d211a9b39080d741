"""What a file is, by its head; what `vhm validate` says to a file in a foreign format."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.foreign import MAKERS, llava, messages, turns
from vhm.data.importing import recognise
from vhm.data.importing.formats import open_source
from vhm.data.importing.run import import_data
from vhm.data.validation.request import open_lists
from vhm.errors import InputError

FORMATS = {
    "llava": "llava",
    "sharegpt": "sharegpt",
    "llama-factory": "messages",
    "ms-swift": "messages",
    "query": "query",
    "alpaca": "alpaca",
    "csv": "table",
    "tsv": "table",
    "parquet": "table",
    "parquet messages": "messages",
    "image folder": "table",
    "class folders": "table",
    "webdataset": "table",
    "coco detection": "coco",
    "coco captions": "coco",
    "rsicd": "coco",
    "rsvqa": "rsvqa",
    "geochat": "geochat",
    "vrsbench": "vrsbench",
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_format_is_recognised_by_content_whatever_the_name(name: str, tmp_path: Path) -> None:
    path = MAKERS[name][0](tmp_path / "source")
    assert open_source(path).format.name == FORMATS[name]
    if path.is_file() and name != "rsvqa":  # its files are found by each other's names
        renamed = path.rename(path.with_name("something.bin"))
        assert open_source(renamed).format.name == FORMATS[name]


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "llava"])
def test_validate_names_the_format_and_the_command(name: str, tmp_path: Path) -> None:
    path = MAKERS[name][0](tmp_path / "source")
    with pytest.raises(InputError) as raised:
        open_lists(path, "sft")
    assert f"vhm data import {path} --out DIR" in str(raised.value)
    assert str(open_source(path).format.title) in str(raised.value)


def test_our_own_lists_are_not_foreign(tmp_path: Path) -> None:
    assert recognise(llava(tmp_path / "source")) is None
    for name, content in {
        "list.json": json.dumps([{"id": 1, "image": "a.png", "conversations": turns("<image>Q", "A")}]),
        "evaluation.json": json.dumps(
            [{"image": "a", "image_path": "b", "conversations": turns("Q", "A"), "size": [1, 1]}]
        ),
        "system.json": json.dumps([{"system": "Be brief.", "conversations": turns("Q", "A")}]),
        "bad first.json": json.dumps([7, {}, {"id": 1, "conversations": turns("Q", "A")}]),
        "empty.json": "",
        "nothing.json": "[]",
        "object.json": "{}",
        "text.txt": "some words, and more\nhere",
        "torn.json": '[{"id": 1, "conv',
    }.items():
        (tmp_path / name).write_text(content)
        assert recognise(tmp_path / name) is None, name
    assert recognise(tmp_path / "absent.json") is None


def _jsonl(records: list[object]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


@pytest.mark.parametrize(
    "write",
    [
        lambda records: _jsonl(records),
        lambda records: gzip.compress(_jsonl(records)),
        lambda records: gzip.compress(json.dumps(records).encode()),
        lambda records: b"\xef\xbb\xbf" + _jsonl(records),
    ],
    ids=["lines", "lines, gzip", "array, gzip", "lines with a byte order mark"],
)
def test_our_records_in_another_container_are_foreign(write: Callable[[list[object]], bytes], tmp_path: Path) -> None:
    records: list[object] = [{"id": n, "image": "a.png", "conversations": turns("<image>Q", f"A{n}")} for n in range(3)]
    (tmp_path / "list").write_bytes(write(records))
    with pytest.raises(InputError, match=r"LLaVA conversations, JSON.*vhm data import"):
        open_lists(tmp_path / "list", "sft")


def test_only_the_head_of_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    row = json.dumps({"messages": messages("Q", "A")}).encode() + b"\n"
    with path.open("wb") as file:
        file.write(row * 100)
        file.seek(2**40)  # a sparse terabyte
        file.write(b"\n")
    assert recognise(path) == "messages with roles (ms-swift, LLaMA-Factory, OpenAI), JSON lines"


def test_an_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    path = llava(tmp_path / "source")
    with pytest.raises(InputError, match=r"--format 'lava' is unknown: use one of .*llava.*ms-swift.*webdataset"):
        open_source(path, "lava")
    (tmp_path / "words.txt").write_text("no data here")
    with pytest.raises(InputError, match="in no format that is known: give --format, one of"):
        open_source(tmp_path / "words.txt")
    with pytest.raises(InputError, match="does not exist"):
        open_source(tmp_path / "absent")


def test_splits_of_a_folder_are_not_mixed(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}-00000-of-00001.jsonl").write_bytes(_jsonl([{"messages": messages("Q", split)}]))
    with pytest.raises(InputError, match="the splits test, train: choose one with --split"):
        open_source(tmp_path)
    [row] = open_source(tmp_path, split="test").rows()
    assert "test-00000" in str(row)


def test_lines_longer_than_the_head_are_recognised(tmp_path: Path) -> None:
    (tmp_path / "long.jsonl").write_bytes(_jsonl([{"messages": messages("Q" * 2**21, "A")}] * 2))
    assert open_source(tmp_path / "long.jsonl").container == "JSON lines"


@pytest.mark.parametrize(
    "content",
    [
        b"PAR1 and nothing else",
        b"ARROW1\0\0",
        b"\x1f\x8b torn",
        b'{"images": [{"file_name": "a.png"}, ',
        b'{"images": 7, "annotations": [{"image_id": {}}], "categories": [{}]}',
        b'[{"conversations": [[]]}, {"messages": {}}, {"ground_truth": [[]], "image_id": [], "question": 3}]',
        b"image,caption\n" + b'"' + b"x" * 300 + b"\0\n",
        b"[" * 100_000,
        b'{"a": ' * 100_000,
        bytes(range(256)) * 20,
        b"\xff\xff\xff\xff\x10\0\0\0",
    ],
    ids=range(11),
)
def test_damaged_files_end_in_one_clear_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    recognise(tmp_path / "file")
    with pytest.raises(InputError):
        import_data(tmp_path / "file", tmp_path / "out")
    assert not (tmp_path / "out").exists()
