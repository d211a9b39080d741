"""Splitting a list by its structure, compared with json; strict parsing of one record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vhm.data.validation import stream
from vhm.data.validation.stream import open_list, parse_record
from vhm.errors import InputError, RecordError

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.text(st.sampled_from('a"\\[]{},:\n é'), max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('k"\\{', max_size=3), inner, max_size=3),
    max_leaves=8,
)


def elements(path: Path) -> list[bytes]:
    content, records = path.read_bytes(), open_list(path)
    return [content[start:end] for start, end in zip(records.starts, records.ends, strict=True)]


@settings(max_examples=150, deadline=None)
@given(values=st.lists(_JSON, max_size=6), indent=st.sampled_from([None, 1]), block=st.integers(1, 40))
def test_elements_are_those_that_json_loads(
    tmp_path_factory: pytest.TempPathFactory, values, indent, block: int
) -> None:
    """With blocks of any size: a quote, a backslash or a bracket may be the last byte of a block."""
    path = tmp_path_factory.mktemp("list") / "list.json"
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=False))
    default, stream._BLOCK = stream._BLOCK, block
    try:
        assert [json.loads(raw) for raw in elements(path)] == values
    finally:
        stream._BLOCK = default


def test_a_byte_order_mark_and_surrounding_whitespace_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(b"\xef\xbb\xbf \n [ {} , 1 ] \n")
    assert [json.loads(raw) for raw in elements(path)] == [{}, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b'{"id": 1}\n{"id": 2}', "vhm data import"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip"),
        (b"nothing", "is not a JSON array"),
        ("[1]".encode("utf-16"), "save it as UTF-8"),
        (b'[{"a": 1}, {"b', "ends inside its JSON array, after 1 complete records"),
        (b'["never closed]', "ends inside its JSON array"),
        (b"[1] [2]", "has content after its JSON array, at byte 3"),
        (b" \n" * 5000, "it is empty"),
    ],
)
def test_a_file_that_is_not_an_array_is_an_input_error(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_list(tmp_path / "list.json")
    with pytest.raises(InputError, match="does not exist"):
        open_list(tmp_path / "absent.json")


@pytest.mark.parametrize("content", [b'[{"a": 1}, {"b', b'["never closed', b"[1] 2", b"[1]\n{}  \n"])
def test_a_long_file_with_a_wrong_end_is_refused_without_reading_it(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list.json").write_bytes(content)
    monkeypatch.setattr(stream, "_BLOCK", 4)
    monkeypatch.setattr(stream, "_separators", None)  # reads the complete file
    with pytest.raises(InputError, match="ends inside its JSON array, or has content after it"):
        open_list(tmp_path / "list.json")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"a": 1, "a": 2}', "duplicate_key"),
        (b'{"a": {"b" : 1, "b": "\\":"}}', "duplicate_key"),
        (b'{"a": NaN}', "bad_number"),
        (b'{"a": -Infinity}', "bad_number"),
        (b'{"a": "\\ud800"}', "bad_unicode"),
        (b'{"a": "\xff"}', "bad_unicode"),
        (b'{"a": "\xed\xa0\x80"}', "bad_unicode"),
        (b'{"a" 1}', "bad_json"),
        (b"{'a': 1}", "bad_json"),
        (b'{"a": 1,}', "bad_json"),
        (b'{"a": "tab\there"}', "bad_json"),
        (b"", "bad_json"),
        (b"[" * 100_000 + b"]" * 100_000, "bad_json"),
    ],
)
def test_a_record_that_is_not_strict_json_gets_its_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        parse_record(raw)
    assert caught.value.reason == reason


def test_text_that_looks_like_keys_is_not_a_duplicate_key() -> None:
    assert parse_record(b'{"a": "\\"a\\": \\"a\\":", "b": {"a": 1}}') == {"a": '"a": "a":', "b": {"a": 1}}
