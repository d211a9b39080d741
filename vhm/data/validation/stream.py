"""Reads a list file of any size record by record: the byte offsets of the elements of its JSON array, and their values.

The array is split at its structural characters alone, vectorised over blocks of the memory-mapped file (the idea of
Langdale & Lemire 2019, with numpy), so a record that is not valid JSON does not affect the others. Each record is
then parsed strictly: no duplicate keys, no NaN, no lone surrogates (RFC 8259, sections 4 to 8).
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from vhm.errors import InputError, RecordError

_BLOCK = 8 * 2**20  # bytes; what is made of a block stays in the processor's cache
_QUOTE, _OPEN, _CLOSE, _COMMA = 1, 2, 3, 4
_CODES = bytes({34: _QUOTE, 91: _OPEN, 123: _OPEN, 93: _CLOSE, 125: _CLOSE, 44: _COMMA}.get(c, 0) for c in range(256))
_KEY_END = re.compile(rb'"\s*:')
_WHITESPACE = b" \t\r\n"
_SOLID = re.compile(rb"[^ \t\r\n]")
_TAIL = 4096  # bytes


@dataclass(frozen=True)
class RecordList:
    """The elements of a list file: element i is the bytes [starts[i], ends[i]) of `path`."""

    path: Path
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)


def open_list(path: Path) -> RecordList:
    """Find the elements of a JSON array. Raises InputError when the file is not a complete array: if its first or last
    characters show it, however long it is, without reading more of it.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise InputError(f"{path} {reason}") from None
    first = 3 if content[:3] == b"\xef\xbb\xbf" else 0
    opening = _SOLID.search(content, first)
    if opening is None or opening.group() != b"[":
        head = b"" if opening is None else opening.group()
        raise InputError(f"{path} is not a JSON array of records{_hint(bytes(content[:4]), head)}")
    begin = opening.end()
    tail = bytes(content[-_TAIL:]).rstrip(_WHITESPACE)
    if size > _BLOCK and tail and not tail.endswith(b"]"):
        raise InputError(f"{path} ends inside its JSON array, or has content after it: its last character is no `]`")

    def release(end: int) -> None:
        """Free the memory of pages that were read."""
        if isinstance(content, mmap.mmap) and end >= _BLOCK:
            content.madvise(mmap.MADV_DONTNEED, 0, end // _BLOCK * _BLOCK)

    commas, end = _separators(np.frombuffer(content, np.uint8), begin, release)
    if end is None:
        raise InputError(f"{path} ends inside its JSON array, after {len(commas)} complete records: it is truncated")
    if _SOLID.search(content, end + 1):
        raise InputError(f"{path} has content after its JSON array, at byte {end + 1}")
    if not len(commas) and not _SOLID.search(content, begin, end):
        return RecordList(path, np.empty(0, np.int64), np.empty(0, np.int64))
    return RecordList(path, np.concatenate([[begin], commas + 1]), np.concatenate([commas, [end]]))


def read_records(path: Path, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Iterator[bytes]:
    """The bytes of elements of a list file, by their offsets."""
    if not len(starts):
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            yield content[start:end]


def _hint(start: bytes, head: bytes) -> str:
    """What kind of file this is instead of a JSON array, and how to convert it."""
    if not head:
        return ": it is empty"
    if start[:2] == b"\x1f\x8b":
        return ": it is compressed with gzip; unpack it, or convert it with `vhm data import`"
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return ": it is UTF-16, save it as UTF-8"
    if head.startswith(b"{"):
        return ": it begins with an object; `vhm data import` converts JSON lines and other formats"
    return ""


def parse_record(raw: bytes) -> object:
    """The JSON value of a record's bytes. Raises RecordError with its reason when it is not strictly valid."""
    try:
        value: object = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise _parse_error(raw) from None
    # Each key is a match. There are more matches than parsed keys if a key is repeated, or if text contains `":`.
    if len(_KEY_END.findall(raw)) != _count_keys(value):
        _refuse_duplicate_keys(raw)
    return value


def _separators(
    content: NDArray[np.uint8], begin: int, release: Callable[[int], None]
) -> tuple[NDArray[np.int64], int | None]:
    """Offsets of the commas between the elements of the array whose content begins at `begin`, and of its end.

    The end is None when the array is not closed.
    """
    commas: list[NDArray[np.int64]] = []
    in_string, depth = 0, 1  # whether a string is open; how many brackets are open
    for start in range(begin, len(content), _BLOCK):
        # `translate` and the search among bools are three times as fast as looking the bytes up with numpy.
        codes = np.frombuffer(content[start : start + _BLOCK].tobytes().translate(_CODES), np.uint8)
        offsets = np.flatnonzero(codes != 0)
        codes = codes[offsets]
        offsets += start
        quotes = codes == _QUOTE
        escaped = _escaped(content, offsets[quotes], begin)
        if escaped.any():
            unescaped = np.ones(len(offsets), bool)
            unescaped[np.flatnonzero(quotes)[escaped]] = False
            offsets, codes, quotes = offsets[unescaped], codes[unescaped], quotes[unescaped]
        open_strings = (np.cumsum(quotes, dtype=np.int64) + in_string) & 1  # after each offset
        in_string = int(open_strings[-1]) if len(open_strings) else in_string
        structural = (open_strings == 0) & ~quotes
        offsets, codes = offsets[structural], codes[structural]
        depths = depth + np.cumsum((codes == _OPEN).astype(np.int8) - (codes == _CLOSE).astype(np.int8), dtype=np.int64)
        closing = np.flatnonzero(depths == 0)
        last = int(closing[0]) if len(closing) else len(offsets)
        commas.append(offsets[:last][(codes[:last] == _COMMA) & (depths[:last] == 1)])
        if len(closing):
            return np.concatenate(commas), int(offsets[last])
        depth = int(depths[-1]) if len(depths) else depth
        release(start)
    return (np.concatenate(commas) if commas else np.empty(0, np.int64)), None


def _escaped(content: NDArray[np.uint8], quotes: NDArray[np.int64], begin: int) -> NDArray[np.bool_]:
    """Which quotes follow an odd number of backslashes."""
    escaped = np.zeros(len(quotes), bool)
    candidates = np.flatnonzero(content[quotes - 1] == ord("\\"))
    distance = 1
    while len(candidates):
        escaped[candidates] ^= True
        distance += 1
        candidates = candidates[quotes[candidates] - distance >= begin]
        candidates = candidates[content[quotes[candidates] - distance] == ord("\\")]
    return escaped


def _count_keys(value: object) -> int:
    count, pending = 0, [value]
    for inner in pending:  # grows
        if isinstance(inner, dict):
            count += len(inner)
            pending.extend(inner.values())
        elif isinstance(inner, list):
            pending.extend(inner)
    return count


def _refuse_duplicate_keys(raw: bytes) -> None:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        keys = [key for key, _ in pairs]
        repeated = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if repeated is not None:
            raise RecordError("duplicate_key", f"the key {repeated!r} occurs twice")
        return dict(pairs)

    json.loads(raw, object_pairs_hook=unique)


def _parse_error(raw: bytes) -> RecordError:
    """The reject reason of a record that a strict parser refuses."""

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
        return RecordError("bad_unicode", "a text contains a lone surrogate")
    except RecursionError:
        return RecordError("bad_json", "the record is nested too deeply")
    except ValueError as error:
        return RecordError("bad_json", f"the record is not JSON: {str(error)[:200]}")
    return RecordError("bad_number", "the record contains a number that is too large, or is nested too deeply")
