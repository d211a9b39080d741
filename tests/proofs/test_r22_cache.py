"""R22: a cached result is used only for the same data and code bytes, image, environment and recipe."""

from __future__ import annotations

import importlib.metadata
import random
import shutil
from pathlib import Path

import pytest
from kfp.local.cache import LocalCache

import vhm.artifacts.lineage
from components.validate_data import validate_data
from pipelines.run import arguments_of
from vhm.artifacts.lineage import code_hash
from vhm.io import sha256_tree
from vhm.recipe import load_recipe

ROOT = Path(__file__).parents[2]


def key(
    cache: Path, data: Path, recipe: str = "tiny", image: str = "sha256:1", overrides: list[str] | None = None
) -> str:
    """The key under which KFP caches the validation of `data`."""
    arguments = arguments_of(load_recipe(recipe, overrides), str(data), sha256_tree(data), image)
    arguments["kind"] = "sft"
    container = validate_data.component_spec.implementation.container
    return LocalCache(str(cache)).compute_key("validate-data", container.image, container.command, arguments)


def test_any_change_misses_the_cache(proof, cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = proof.size(40, 200)
    rng = random.Random(22)
    data, package = tmp_path / "data", tmp_path / "vhm"
    shutil.copytree(cut, data)
    shutil.copytree(ROOT / "vhm", package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("pipelines.run.code_hash", lambda: code_hash(package))
    before = code_hash(package)
    for compiled in ("__pycache__/io.cpython-311.pyc", "data/__pycache__/resize._filter_rows-87.py311.nbi"):
        (package / compiled).parent.mkdir(exist_ok=True)
        (package / compiled).write_bytes(b"compiled on first use")
    assert code_hash(package) == before
    files = {
        "data": sorted(p for p in data.rglob("*") if p.is_file() and p.stat().st_size),
        "code": sorted(p for p in package.rglob("*.py") if p.stat().st_size),
    }
    first = key(tmp_path, data)
    assert key(tmp_path, data) == first, "the cache must hit when nothing changed"
    keys = {first}
    for number in range(changes):
        kind = ("data", "code", "image", "environment", "recipe")[number % 5]
        with pytest.MonkeyPatch.context() as patch:
            if kind in files:
                path = rng.choice(files[kind])
                content = bytearray(path.read_bytes())
                original, offset = bytes(content), rng.randrange(len(content))
                content[offset] ^= 1 << rng.randrange(8)
                size = path.stat().st_size
                path.write_bytes(content)
                changed = key(tmp_path, data)
                path.write_bytes(original)
                assert size == path.stat().st_size
            elif kind == "image":
                changed = key(tmp_path, data, image=f"sha256:{rng.getrandbits(256):x}")
            elif kind == "environment":
                removed = rng.choice(list(importlib.metadata.distributions()))
                others = [
                    d for d in importlib.metadata.distributions() if d.metadata["Name"] != removed.metadata["Name"]
                ]
                patch.setattr(vhm.artifacts.lineage.importlib.metadata, "distributions", lambda: others)  # noqa: B023
                changed = key(tmp_path, data)
            else:
                lr = rng.uniform(1e-6, 1e-3)
                changed = key(tmp_path, data, overrides=[f"stages.sft.learning_rate={lr}"])
        assert changed not in keys, f"a change of the {kind} did not change the key"
        if kind != "environment":  # the same package may be chosen twice
            keys.add(changed)
    assert key(tmp_path, data) == first, "the cache must hit again after all changes are undone"
    proof.record(
        "R22", f"{changes} changes of data, code, image, environment and recipe: {changes} misses; unchanged: a hit"
    )
