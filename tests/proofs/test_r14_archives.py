"""R14: hostile archives are refused or harmless; nothing is written outside the output folder."""

from __future__ import annotations

import contextlib
import random
import resource
from pathlib import Path

from tests.support.archives import HOSTILE, good, tar
from vhm.data.shards.pack import unpack
from vhm.data.shards.table import index_shards, open_local_table
from vhm.errors import InputError


def all_paths(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_hostile_archives_are_refused_or_harmless(proof, tmp_path: Path) -> None:
    count = proof.size(60, 500)
    rng = random.Random(14)
    refused = 0
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        kind = list(HOSTILE)[number % len(HOSTILE)]
        source = tmp_path / "deep" / "er" / str(number)
        source.mkdir(parents=True)
        (source / "shard-000000.tar").write_bytes(HOSTILE[kind](rng))
        before = all_paths(tmp_path) | {f"deep/er/{number}/index.json", f"deep/er/{number}/index.arrow"}
        out = tmp_path / "deep" / "er" / f"{number}-out"
        outcomes = []
        for operation in (lambda: unpack(source, out), lambda: index_shards(source)):  # noqa: B023
            try:
                operation()
                outcomes.append("done")
            except InputError:
                outcomes.append("refused")
        assert "refused" in outcomes, kind
        assert not out.exists() or outcomes[0] == "done", "a refused archive leaves files behind"
        created = all_paths(tmp_path) - before
        assert all(name.startswith(f"deep/er/{number}-out") for name in created), (kind, created)
        assert not any(path.is_symlink() or not (path.is_file() or path.is_dir()) for path in out.rglob("*"))
        refused += outcomes.count("refused")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    assert grown < 200
    with contextlib.suppress(OSError):
        assert not Path("/tmp/evil.jpg").exists()
    proof.record("R14", f"{count} hostile archives of {len(HOSTILE)} classes: {refused} refusals, 0 files outside")


def test_good_archives_are_accepted(tmp_path: Path) -> None:
    rng = random.Random(1)
    members = good(rng)
    (tmp_path / "x.tar").write_bytes(tar(*members, (f"src/{'long' * 60}.jpg", b"long name", {})))
    assert index_shards(tmp_path) == len(members) + 1
    assert open_local_table(tmp_path).find(f"src/{'long' * 60}.jpg") is not None
    assert unpack(tmp_path, tmp_path / "out") == len(members) + 1
    for name, content, _ in members:
        assert (tmp_path / "out" / "images" / name).read_bytes() == content
