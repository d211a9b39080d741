"""A list file of any size, record by record: where each element of its JSON array lies, and what it holds.

The array is cut by its structural characters alone, vectorised over blocks of the mapped file (the idea of
Langdale & Lemire 2019, with numpy): a record that is no valid JSON harms nobody else. A record is then
parsed strictly: no duplicate keys, no NaN, no lone surrogates (RFC 8259, sections 4 to 8).
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from vhm.errors import InputError, RecordError

_BLOCK = 32 * 2**20
_QUOTE, _OPEN, _CLOSE, _COMMA = 1, 2, 3, 4
_CODES = np.zeros(256, np.uint8)
for _characters, _code in ((b'"', _QUOTE), (b"[{", _OPEN), (b"]}", _CLOSE), (b",", _COMMA)):
    _CODES[list(_characters)] = _code
_KEYS = re.compile(rb'"\s*:')
_SPACE = b" \t\r\n"


@dataclass(frozen=True)
class RecordList:
    """A list file's elements: element i is `path`'s bytes [starts[i], ends[i])."""

    path: Path
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)


def open_list(path: Path) -> RecordList:
    """Find the elements of a JSON array. InputError when the file is no array, or ends inside one."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise InputError(f"{path} {reason}") from None
    first = 3 if content[:3] == b"\xef\xbb\xbf" else 0
    head = content[first : first + 4096].lstrip(_SPACE)
    if not head.startswith(b"["):
        raise InputError(f"{path} is not a JSON array of records{_what_it_is(bytes(content[:4]), head)}")
    begin = content.find(b"[", first) + 1

    def forget(end: int) -> None:
        """Pages that were read need no memory any more."""
        if isinstance(content, mmap.mmap) and end >= _BLOCK:
            content.madvise(mmap.MADV_DONTNEED, 0, end // _BLOCK * _BLOCK)

    commas, end = _separators(np.frombuffer(content, np.uint8), begin, forget)
    if end is None:
        raise InputError(f"{path} ends inside its JSON array, after {len(commas)} whole records: it is cut short")
    if content[end + 1 :].strip(_SPACE):
        raise InputError(f"{path} goes on after its JSON array, at byte {end + 1}")
    if not len(commas) and not content[begin:end].strip(_SPACE):
        return RecordList(path, np.empty(0, np.int64), np.empty(0, np.int64))
    return RecordList(path, np.concatenate([[begin], commas + 1]), np.concatenate([commas, [end]]))


def _what_it_is(start: bytes, head: bytes) -> str:
    if not head:
        return ": it is empty"
    if start[:2] == b"\x1f\x8b":
        return ": it is compressed by gzip, unpack it first"
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return ": it is UTF-16, save it as UTF-8"
    if head.startswith(b"{"):
        return ": it begins with an object; one record a line becomes an array by `jq -s . FILE`"
    return ""


def parse_record(raw: bytes) -> Any:
    """The JSON value of a record's bytes. Raises RecordError with its reason when it is not strictly valid."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise _why_invalid(raw) from None
    # Each key is a match; only text that holds `":` makes more matches than there are keys.
    if len(_KEYS.findall(raw)) != _count_keys(value):
        _refuse_duplicate_keys(raw)
    return value


def _separators(
    content: NDArray[np.uint8], begin: int, forget: Callable[[int], None]
) -> tuple[NDArray[np.int64], int | None]:
    """Places of the commas between elements of the array whose content begins at `begin`, and of its end."""
    found: list[NDArray[np.int64]] = []
    inside, depth = 0, 1  # within a string; brackets that are open
    for start in range(begin, len(content), _BLOCK):
        codes = _CODES[content[start : start + _BLOCK]]
        places = np.flatnonzero(codes)
        codes = codes[places]
        places += start
        quotes = codes == _QUOTE
        escaped = _escaped(content, places[quotes], begin)
        if escaped.any():
            kept = np.ones(len(places), bool)
            kept[np.flatnonzero(quotes)[escaped]] = False
            places, codes, quotes = places[kept], codes[kept], quotes[kept]
        strings = (np.cumsum(quotes, dtype=np.int64) + inside) & 1  # after each place: is a string open
        inside = int(strings[-1]) if len(strings) else inside
        outside = (strings == 0) & ~quotes
        places, codes = places[outside], codes[outside]
        depths = depth + np.cumsum((codes == _OPEN).astype(np.int8) - (codes == _CLOSE).astype(np.int8), dtype=np.int64)
        closing = np.flatnonzero(depths == 0)
        last = int(closing[0]) if len(closing) else len(places)
        found.append(places[:last][(codes[:last] == _COMMA) & (depths[:last] == 1)])
        if len(closing):
            return np.concatenate(found), int(places[last])
        depth = int(depths[-1]) if len(depths) else depth
        forget(start)
    return (np.concatenate(found) if found else np.empty(0, np.int64)), None


def _escaped(content: NDArray[np.uint8], quotes: NDArray[np.int64], begin: int) -> NDArray[np.bool_]:
    """Which quotes follow an odd number of backslashes."""
    escaped = np.zeros(len(quotes), bool)
    left = np.flatnonzero(content[quotes - 1] == ord("\\"))
    back = 1
    while len(left):
        escaped[left] ^= True
        back += 1
        left = left[quotes[left] - back >= begin]
        left = left[content[quotes[left] - back] == ord("\\")]
    return escaped


def _count_keys(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(_count_keys(v) for v in value.values() if isinstance(v, (dict, list)))
    if isinstance(value, list):
        return sum(_count_keys(v) for v in value if isinstance(v, (dict, list)))
    return 0


def _refuse_duplicate_keys(raw: bytes) -> None:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in items]
        twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if twice is not None:
            raise RecordError("duplicate_key", f"the key {twice!r} is there twice")
        return dict(items)

    json.loads(raw, object_pairs_hook=pairs)


def _why_invalid(raw: bytes) -> RecordError:
    """What a strict parser stumbled over, in the words of the reasons' table."""

    def refuse(constant: str) -> None:
        raise RecordError("bad_number", f"{constant} is not a JSON number")

    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return RecordError("bad_unicode", f"byte {error.start} of the record is not UTF-8")
    try:
        value = json.loads(text, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()
    except RecordError as error:
        return error
    except UnicodeEncodeError:
        return RecordError("bad_unicode", "text holds a lone surrogate")
    except RecursionError:
        return RecordError("bad_json", "the record is nested too deeply")
    except ValueError as error:
        return RecordError("bad_json", f"the record is not JSON: {str(error)[:200]}")
    return RecordError("bad_number", "the record holds a number that is too large, or nests too deeply")
