"""R14: hostile archives: refused or harmless, nothing outside of the place that was named."""

from __future__ import annotations

import contextlib
import random
import resource
from pathlib import Path

from tests.support.archives import HOSTILE, good, tar
from vhm.data.shards.pack import unpack
from vhm.data.shards.table import index_shards, open_local_table
from vhm.errors import InputError


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_hostile_archives(proof, tmp_path: Path) -> None:
    count = proof.size(60, 500)
    draw = random.Random(14)
    refused = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        kind = list(HOSTILE)[number % len(HOSTILE)]
        place = tmp_path / "deep" / "er" / str(number)
        place.mkdir(parents=True)
        (place / "shard-000000.tar").write_bytes(HOSTILE[kind](draw))
        outside = everything(tmp_path) | {f"deep/er/{number}/index.json", f"deep/er/{number}/index.arrow"}
        out = tmp_path / "deep" / "er" / f"{number}-out"
        ends = []
        for work in (lambda: unpack(place, out), lambda: index_shards(place)):  # noqa: B023
            try:
                work()
                ends.append("done")
            except InputError:
                ends.append("refused")
        assert "refused" in ends, kind
        assert not out.exists() or ends[0] == "done", "a refused archive leaves nothing"
        made = everything(tmp_path) - outside
        assert all(name.startswith(f"deep/er/{number}-out") for name in made), (kind, made)
        assert not any(path.is_symlink() or not (path.is_file() or path.is_dir()) for path in out.rglob("*"))
        refused += ends.count("refused")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 200
    with contextlib.suppress(OSError):
        assert not Path("/tmp/evil.jpg").exists()
    proof.record("R14", f"{count} hostile archives of {len(HOSTILE)} classes: {refused} refusals, 0 files outside")


def test_good_archives_are_taken(tmp_path: Path) -> None:
    draw = random.Random(1)
    members = good(draw)
    (tmp_path / "x.tar").write_bytes(tar(*members, (f"src/{'long' * 60}.jpg", b"long name", {})))
    assert index_shards(tmp_path) == len(members) + 1
    assert open_local_table(tmp_path).find(f"src/{'long' * 60}.jpg") is not None
    assert unpack(tmp_path, tmp_path / "out") == len(members) + 1
    for name, content, _ in members:
        assert (tmp_path / "out" / "images" / name).read_bytes() == content
