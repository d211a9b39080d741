"""Choices are bounded, evenly spread, and the same each time."""

from __future__ import annotations

import json
from pathlib import Path

from vhm.data.validation.report.sampling import RecordReader, evenly, sample_lines, spread
from vhm.data.validation.stream import open_list


def test_positions_are_evenly_spread() -> None:
    assert evenly(3, 5) == [0, 1, 2]
    assert evenly(10, 5) == [0, 2, 4, 6, 8]
    assert evenly(1_400_000, 2) == [0, 700_000]
    assert evenly(5, 0) == []


def test_lines_are_counted_and_some_of_each_key_are_kept(tmp_path: Path) -> None:
    rows = [{"index": number, "reason": "rare" if number == 77 else "common"} for number in range(100)]
    (tmp_path / "rejected.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sample = sample_lines(tmp_path / "rejected.jsonl", lambda row: row["reason"], 3)
    assert sample.counts == {"common": 99, "rare": 1}
    assert [row["index"] for row in sample.rows["common"]] == [0, 33, 66]
    assert [row["index"] for row in sample.rows["rare"]] == [77]
    assert sample_lines(tmp_path / "absent.jsonl", str, 3).counts == {}


def test_every_group_is_represented_before_one_is_twice() -> None:
    items = ["a"] * 50 + ["b", "c"]
    assert spread(items, str, 4) == ["a", "a", "b", "c"]
    assert spread(items, str, 2) == ["a", "b"]
    assert spread(items, str, 100) == items
    assert spread([], str, 3) == []


def test_records_are_read_by_their_index_into_all_lists(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('[{"id": 0}, [1], {"id": 2}]')
    (tmp_path / "two.json").write_text('[{"id": 3}, {"id": NaN}]')
    with RecordReader([open_list(tmp_path / name) for name in ("one.json", "two.json")]) as reader:
        assert [reader.record(index) for index in range(5)] == [{"id": 0}, None, {"id": 2}, {"id": 3}, None]
        assert reader.raw(4).strip() == b'{"id": NaN}'
