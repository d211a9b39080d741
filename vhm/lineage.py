"""`lineage.json`: content hashes of what went into an artifact and of what came out."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import vhm
from vhm.io import read_json, sha256_tree, write_json
from vhm.recipe import Recipe

_OWN = frozenset({"lineage.json", "README.md"})


def write_lineage(
    directory: Path,
    kind: str,
    inputs: dict[str, Path],
    recipe: Recipe | None = None,
    figures: dict[str, Any] | None = None,
    output: Path | None = None,
) -> dict[str, Any]:
    """Write and return the lineage of `directory`, made from `inputs`; ancestors' lineages are kept inside.

    `output` is what came out, where it is not the whole directory.
    """
    lineage = {
        "kind": kind,
        "vhm": vhm.__version__,
        "code": code_version(),
        "recipe": {"name": recipe.name, "sha256": recipe.hash()} if recipe else None,
        "inputs": {name: _input(path) for name, path in inputs.items()},
        "output_sha256": sha256_tree(output or directory, skip=_OWN),
        "figures": figures or {},
    }
    write_json(directory / "lineage.json", lineage)
    return lineage


def code_version() -> str:
    """The git commit of the checkout that runs, with `+` when files differ from it; else the version."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return f"vhm-{vhm.__version__}"


def code_hash() -> str:
    """A content hash of the package's own source files: what a cached result depends on."""
    return sha256_tree(Path(__file__).parent, skip=frozenset(_compiled()))


def _compiled() -> list[str]:
    return [p.name for p in Path(__file__).parent.rglob("*.pyc")]


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def _input(path: Path) -> dict[str, Any]:
    entry: dict[str, Any] = {"path": path.name, "sha256": sha256_tree(path, skip=_OWN)}
    if (path / "lineage.json").is_file():
        entry["lineage"] = read_json(path / "lineage.json")
    return entry
