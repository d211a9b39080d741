"""The disk cache: entries are intact, the limit holds, the least recently used entries are removed."""

from __future__ import annotations

import os
from pathlib import Path

from vhm.data.images.cache import DiskCache


def used_bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def test_the_least_recently_used_entries_are_removed(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 1_000_000)
    for number in range(300):
        cache.put(str(number), bytes([number % 256]) * 10_000)
        os.utime(cache._path(str(number)), ns=(number * 10**9, number * 10**9))
        cache.get("0")  # the most recently used entry
    assert used_bytes(tmp_path) <= 1_000_000 * 1.05
    assert cache.get("0") == bytes(10_000)
    assert cache.get("1") is None
    assert cache.get("299") == bytes([299 % 256]) * 10_000


def test_damaged_entries_count_as_absent(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 1_000_000)
    cache.put("a", b"content")
    path = cache._path("a")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert cache.get("a") is None
    cache.put("a", b"content")
    path.write_bytes(path.read_bytes()[:20])
    assert cache.get("a") is None
    assert cache.get("b") is None


def test_entries_of_an_earlier_run_count_towards_the_limit(tmp_path: Path) -> None:
    DiskCache(tmp_path, 10_000_000).put("old", bytes(900_000))
    cache = DiskCache(tmp_path, 1_000_000)
    cache.put("new", bytes(400_000))
    assert used_bytes(tmp_path) <= 1_000_000
    assert cache.get("new") is not None


def test_entries_above_half_the_limit_are_not_stored(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 1000)
    cache.put("a", bytes(600))
    assert cache.get("a") is None
