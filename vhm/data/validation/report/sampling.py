"""A bounded, evenly spread selection of what a validation wrote: lines of its files, and records of its lists.

Nothing here depends on the time, on chance or on how the work was split, so the same inputs give the same report.
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Generic, TypeVar

import orjson

from vhm.data.validation.stream import RecordList, parse_record
from vhm.errors import RecordError
from vhm.io import JsonObject

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Sample(Generic[Key]):
    """How many lines of a file have each key, and the chosen lines of each key in the file's order."""

    counts: dict[Key, int]
    rows: dict[Key, list[JsonObject]]


def sample_lines(path: Path, key: Callable[[JsonObject], Key], limit: int) -> Sample[Key]:
    """At most `limit` lines for each key of a JSON-lines file, evenly spread; no lines if the file is absent."""
    counts = Counter(key(row) for row in _lines(path))
    chosen = {name: set(evenly(count, limit)) for name, count in counts.items()}
    rows: dict[Key, list[JsonObject]] = defaultdict(list)
    seen: Counter[Key] = Counter()
    for row in _lines(path):
        name = key(row)
        if seen[name] in chosen[name]:
            rows[name].append(row)
        seen[name] += 1
    return Sample(dict(counts), dict(rows))


def evenly(count: int, limit: int) -> list[int]:
    """At most `limit` of the positions [0, count), evenly spread, the first among them."""
    return list(range(count)) if count <= limit else [position * count // limit for position in range(limit)]


def spread(items: Sequence[Item], group: Callable[[Item], Hashable], limit: int) -> list[Item]:
    """At most `limit` items in their order, of as many groups as possible, evenly spread within each group."""
    positions: dict[Hashable, list[int]] = defaultdict(list)
    for position, item in enumerate(items):
        positions[group(item)].append(position)
    groups = sorted(positions.values(), key=lambda members: (-len(members), members))
    quotas = [0] * len(groups)
    left = min(limit, len(items))
    while left:
        open_groups = [number for number, members in enumerate(groups) if quotas[number] < len(members)][:left]
        for number in open_groups:
            quotas[number] += 1
        left -= len(open_groups)
    chosen = [
        members[offset]
        for members, quota in zip(groups, quotas, strict=True)
        for offset in evenly(len(members), quota)
        if quota
    ]
    return [items[position] for position in sorted(chosen)]


class RecordReader:
    """Reads single records of list files by their index into all of them; a context manager."""

    def __init__(self, lists: Sequence[RecordList]) -> None:
        self._lists = lists
        self._firsts = [0, *accumulate(map(len, lists))]
        self._mapped: dict[int, mmap.mmap] = {}

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(self, *_: object) -> None:
        for content in self._mapped.values():
            content.close()

    def raw(self, index: int) -> bytes:
        """The bytes of a record."""
        number = bisect_right(self._firsts, index) - 1
        records = self._lists[number]
        if number not in self._mapped:
            with records.path.open("rb") as file:
                self._mapped[number] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        offset = index - self._firsts[number]
        return self._mapped[number][int(records.starts[offset]) : int(records.ends[offset])]

    def record(self, index: int) -> JsonObject | None:
        """The record; None if it is not a JSON object."""
        try:
            value = parse_record(self.raw(index))
        except RecordError:
            return None
        return value if isinstance(value, dict) else None


def _lines(path: Path) -> Iterator[JsonObject]:
    if path.is_file():
        with path.open("rb") as file:
            yield from map(orjson.loads, file)
