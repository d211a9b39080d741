"""`lineage.json`: content hashes of what went into an artifact and of what came out, and whose terms apply.

    kind code vhm recipe metrics     what made it
    inputs  {name: {path, sha256, lineage?}}
    files   {name: {size, sha256}}   what came out; README.md and pictures may be edited later and do not count
    output_sha256                    one hash over `files`
    licences [{of, licence, research_only}]   of everything that it derives from, through all its ancestors
    base_models [name]               for the model card
    sha256                           of this file itself without this line

It is written last: a directory whose files are not as it says is damaged, or not yet whole.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

import vhm
from vhm.errors import CheckpointError
from vhm.io import read_json, sha256_file, sha256_tree, write_json
from vhm.recipe import Licence, Recipe

LINEAGE = "lineage.json"
_UNLISTED = frozenset({LINEAGE, "README.md"})

# Names that tell terms where nobody wrote them down (arXiv 2403.20213, section 7; the Llama 2 licence).
_TERMS = (
    (re.compile(r"versad|vhm[_-]?sft|hnstd", re.I), Licence(of="VersaD", licence="other", research_only=True)),
    (re.compile(r"vicuna|llava[-_]?v?1\.5", re.I), Licence(of="Vicuna", licence="llama2", research_only=True)),
    (re.compile(r"llama-?2", re.I), Licence(of="Llama 2", licence="llama2")),
    (re.compile(r"smollm2", re.I), Licence(of="SmolLM2", licence="apache-2.0")),
    (re.compile(r"clip-vit", re.I), Licence(of="OpenAI CLIP", licence="mit")),
)


def write_lineage(
    directory: Path,
    kind: str,
    inputs: Mapping[str, Path],
    recipe: Recipe | None = None,
    metrics: dict[str, Any] | None = None,
    output: Path | None = None,
    names: Iterable[str] = (),
    hashes: Mapping[Path, str] | None = None,
) -> dict[str, Any]:
    """Write and return the lineage of `directory`, made from `inputs`; ancestors' lineages are kept inside.

    `output` is what came out, where it is not the whole directory. `names` are sources by name, such as
    datasets and base models, whose terms apply. `hashes` are known already, of inputs and of files.
    """
    known = hashes or {}
    taken = {name: _input(path, known) for name, path in inputs.items()}
    parents = [entry["lineage"] for entry in taken.values() if "lineage" in entry]
    lineage = {
        "kind": kind,
        "vhm": vhm.__version__,
        "code": code_version(),
        "recipe": {"name": recipe.name, "sha256": recipe.hash()} if recipe else None,
        "inputs": taken,
        "files": {} if output else _list_files(directory, known),
        "licences": _licences(parents, recipe, [*names, *(path.name for path in inputs.values())]),
        "base_models": _base_models(parents, names),
        "metrics": metrics or {},
    }
    lineage["output_sha256"] = sha256_tree(output) if output else _digest(lineage["files"])
    write_json(directory / LINEAGE, lineage | {"sha256": _digest(lineage)})
    return lineage


def verify(directory: Path) -> bool:
    """Check every file that the directory's lineage lists; False when it has none, as models of others do.

    Raises CheckpointError that names the first file that is missing, cut short or changed.
    """
    path = directory / LINEAGE
    if not path.is_file():
        return False
    try:
        lineage = read_json(path)
        told = lineage.pop("sha256")
        listed = lineage["files"].items()
    except Exception:
        raise CheckpointError(f"{path} is damaged: fetch the directory again") from None
    if told != _digest(lineage):
        raise CheckpointError(f"{path} is damaged: fetch the directory again")
    for name, entry in listed:
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory / name} is missing: fetch the directory again")
        if (directory / name).stat().st_size != entry["size"]:
            raise CheckpointError(f"{directory / name} is not as long as {path} says: fetch it again")
    with ThreadPoolExecutor() as threads:
        hashes = threads.map(lambda item: sha256_file(directory / item[0]), listed)
        for (name, entry), found in zip(listed, hashes, strict=True):
            if found != entry["sha256"]:
                raise CheckpointError(f"{directory / name} is damaged (its sha256 is not that of {path})")
    return True


def content_hash(path: Path) -> str:
    """One hash over what an artifact holds: its lineage's where it has one that lists files, else worked out."""
    if (path / LINEAGE).is_file():
        lineage = read_json(path / LINEAGE)
        if lineage.get("files"):
            return str(lineage["output_sha256"])
    return sha256_tree(path, skip=_UNLISTED)


def research_only(lineage: Mapping[str, Any]) -> list[str]:
    """Names of the sources for whose sake the artifact is for research only."""
    return [entry["of"] for entry in lineage["licences"] if entry["research_only"]]


def code_version() -> str:
    """The git commit of the checkout that runs, with `+` when files differ from it; else the version."""
    folder = Path(vhm.__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return f"vhm-{vhm.__version__}"


def code_hash(package: Path = Path(vhm.__file__).parent) -> str:
    """A content hash of the package's own files; what Python and numba compile of them on first use are none."""
    return sha256_tree(package, skip=frozenset({"__pycache__"}))


def environment_hash() -> str:
    """A hash of the interpreter and of every installed package's version."""
    installed = sorted({f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions()})
    return _digest([platform.python_version(), platform.machine(), *installed])


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def _input(path: Path, known: Mapping[Path, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"path": path.name, "sha256": known.get(path) or content_hash(path)}
    if (path / LINEAGE).is_file():
        entry["lineage"] = read_json(path / LINEAGE)
    return entry


def _list_files(directory: Path, known: Mapping[Path, str]) -> dict[str, dict[str, Any]]:
    files = [
        path
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in _UNLISTED and path.suffix != ".svg" and not path.name.startswith(".")
    ]
    with ThreadPoolExecutor() as threads:
        found = threads.map(lambda path: known.get(path) or sha256_file(path), files)
        return {
            path.relative_to(directory).as_posix(): {"size": path.stat().st_size, "sha256": digest}
            for path, digest in zip(files, found, strict=True)
        }


def _licences(parents: list[dict[str, Any]], recipe: Recipe | None, names: Iterable[str]) -> list[dict[str, Any]]:
    found = {entry["of"]: entry for parent in parents for entry in parent.get("licences", [])}
    terms = [*(recipe.licences if recipe else ()), *(t for n in names for pattern, t in _TERMS if pattern.search(n))]
    for term in terms:
        found.setdefault(term.of, term.model_dump())
    return [found[name] for name in sorted(found)]


def _base_models(parents: list[dict[str, Any]], names: Iterable[str]) -> list[str]:
    inherited = [name for parent in parents for name in parent.get("base_models", [])]
    return sorted({*inherited, *(name for name in names if re.fullmatch(r"[\w.-]+/[\w.-]+", name))})


def _digest(content: Any) -> str:
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
