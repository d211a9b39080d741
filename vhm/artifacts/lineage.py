"""`lineage.json`: content hashes of an artifact's inputs and files, and the licences that apply to it.

    kind code vhm recipe metrics     how it was made
    inputs  {name: {path, sha256, lineage?}}   `lineage` is a copy of the input's own lineage.json
    files   {name: {size, sha256}}   the artifact's files; README.md and SVG images may be edited later: not listed
    output_sha256                    one hash over `files`
    licences [{of, licence, research_only}]   of everything that it derives from, through all ancestors
    base_models [name]               for the model card
    sha256                           of this file without this line

It is written last. A directory whose files differ from it is damaged or incomplete.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

import vhm
from vhm.errors import CheckpointError
from vhm.io import JsonObject, read_json_object, sha256_file, sha256_tree, write_json
from vhm.recipe import Licence, Recipe

LINEAGE = "lineage.json"
NOT_STATED = "not stated"  # the licence of data for which the recipe gives none
_UNLISTED = frozenset({LINEAGE, "README.md"})

# Licences recognised by the name of a source (arXiv 2403.20213, section 7; the Llama 2 licence).
_TERMS = (
    (re.compile(r"versad|vhm[_-]?sft|hnstd", re.I), Licence(of="VersaD", licence="other", research_only=True)),
    (re.compile(r"vicuna|llava[-_]?v?1\.5", re.I), Licence(of="Vicuna", licence="llama2", research_only=True)),
    (re.compile(r"llama-?2", re.I), Licence(of="Llama 2", licence="llama2")),
    (re.compile(r"smollm2", re.I), Licence(of="SmolLM2", licence="apache-2.0")),
    (re.compile(r"clip-vit", re.I), Licence(of="OpenAI CLIP", licence="mit")),
)


@dataclass(frozen=True)
class LineageFile:
    """One file of an artifact."""

    size: int
    sha256: str


@dataclass(frozen=True)
class LineageRecipe:
    """The recipe that an artifact was made with."""

    name: str
    sha256: str


@dataclass(frozen=True)
class LineageInput:
    """One input of an artifact: its name on disk, its content hash, and the content of its own lineage.json."""

    path: str
    sha256: str
    document: JsonObject | None = None

    @property
    def lineage(self) -> Lineage | None:
        return None if self.document is None else Lineage.from_json(self.document)

    def to_json(self) -> JsonObject:
        lineage = {} if self.document is None else {"lineage": self.document}
        return {"path": self.path, "sha256": self.sha256, **lineage}


@dataclass(frozen=True)
class Lineage:
    """The content of lineage.json."""

    kind: str
    vhm: str
    code: str
    recipe: LineageRecipe | None
    inputs: Mapping[str, LineageInput]
    files: Mapping[str, LineageFile]
    licences: Sequence[Licence]
    base_models: Sequence[str]
    metrics: Mapping[str, object]
    output_sha256: str

    @property
    def research_only(self) -> list[str]:
        """Names of the sources whose licences restrict the artifact to research."""
        return [licence.of for licence in self.licences if licence.research_only]

    def to_json(self) -> JsonObject:
        return {
            "kind": self.kind,
            "vhm": self.vhm,
            "code": self.code,
            "recipe": asdict(self.recipe) if self.recipe else None,
            "inputs": {name: entry.to_json() for name, entry in self.inputs.items()},
            "files": {name: asdict(entry) for name, entry in self.files.items()},
            "licences": [licence.model_dump() for licence in self.licences],
            "base_models": list(self.base_models),
            "metrics": dict(self.metrics),
            "output_sha256": self.output_sha256,
        }

    @classmethod
    def from_json(cls, content: JsonObject) -> Lineage:
        """Parse lineage.json. Raises CheckpointError if a key is missing or has the wrong form."""
        try:
            return cls(
                kind=content["kind"],
                vhm=content["vhm"],
                code=content["code"],
                recipe=LineageRecipe(**content["recipe"]) if content["recipe"] else None,
                inputs={
                    name: LineageInput(entry["path"], entry["sha256"], entry.get("lineage"))
                    for name, entry in content["inputs"].items()
                },
                files={name: LineageFile(**entry) for name, entry in content["files"].items()},
                licences=[Licence(**entry) for entry in content.get("licences", [])],
                base_models=content.get("base_models", []),
                metrics=content.get("metrics", {}),
                output_sha256=content["output_sha256"],
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"a {LINEAGE} is damaged ({error}): fetch its directory again") from None


def write_lineage(
    directory: Path,
    kind: str,
    inputs: Mapping[str, Path],
    recipe: Recipe | None = None,
    metrics: Mapping[str, object] | None = None,
    output: Path | None = None,
    names: Iterable[str] = (),
    hashes: Mapping[Path, str] | None = None,
    sources: Iterable[str] = (),
) -> Lineage:
    """Write and return the lineage of `directory`, which was made from `inputs`.

    `output` is the result if it is not the complete directory. `names` are those of base models and other parts whose
    licences apply, `sources` those of the training data ("" for records without one), whose licences the recipe states.
    `hashes` are the hashes of inputs and files that are known already.
    """
    known = hashes or {}
    names = list(names)
    entries = {name: _input(path, known) for name, path in inputs.items()}
    parents = [entry.lineage for entry in entries.values() if entry.lineage is not None]
    files = {} if output else _list_files(directory, known)
    lineage = Lineage(
        kind=kind,
        vhm=vhm.__version__,
        code=code_version(),
        recipe=LineageRecipe(recipe.name, recipe.hash()) if recipe else None,
        inputs=entries,
        files=files,
        licences=_licences(parents, recipe, [*names, *(path.name for path in inputs.values())], sources),
        base_models=_base_models(parents, names),
        metrics=metrics or {},
        output_sha256=sha256_tree(output) if output else _digest({name: asdict(file) for name, file in files.items()}),
    )
    content = lineage.to_json()
    write_json(directory / LINEAGE, content | {"sha256": _digest(content)})
    return lineage


def verify(directory: Path) -> bool:
    """Check every file that the lineage of a directory lists. Returns False if the directory has no lineage.

    Raises CheckpointError, which names the first file that is missing, truncated or changed.
    """
    path = directory / LINEAGE
    if not path.is_file():
        return False
    files = _read_verified(path)
    for name, entry in files.items():
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory / name} is missing: fetch the directory again")
        if (directory / name).stat().st_size != entry.size:
            raise CheckpointError(f"{directory / name} does not have the size listed in {path}: fetch it again")
    with ThreadPoolExecutor() as threads:
        hashes = threads.map(lambda name: sha256_file(directory / name), files)
        for (name, entry), digest in zip(files.items(), hashes, strict=True):
            if digest != entry.sha256:
                raise CheckpointError(f"{directory / name} is damaged (its sha256 is not the one in {path})")
    return True


def _read_verified(path: Path) -> Mapping[str, LineageFile]:
    """The files that a lineage.json lists. Raises CheckpointError if its own hash is wrong."""
    try:
        content = read_json_object(path)
        expected = content.pop("sha256")
        files = {str(name): LineageFile(entry["size"], entry["sha256"]) for name, entry in content["files"].items()}
    except Exception:
        raise CheckpointError(f"{path} is damaged: fetch the directory again") from None
    if expected != _digest(content):
        raise CheckpointError(f"{path} is damaged: fetch the directory again")
    return files


def content_hash(path: Path) -> str:
    """One hash over the content of an artifact, from its lineage if that lists files, otherwise computed."""
    if (path / LINEAGE).is_file():
        lineage = read_json_object(path / LINEAGE)
        if lineage.get("files"):
            return str(lineage["output_sha256"])
    return sha256_tree(path, skip=_UNLISTED)


def code_version() -> str:
    """The git commit of the running checkout, with `+` if files are modified; otherwise the package's version."""
    folder = Path(vhm.__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return f"vhm-{vhm.__version__}"


def code_hash(package: Path = Path(vhm.__file__).parent) -> str:
    """A content hash of the package's files, without what Python and numba compile on first use."""
    return sha256_tree(package, skip=frozenset({"__pycache__"}))


def environment_hash() -> str:
    """A hash of the interpreter and of the version of every installed package."""
    installed = sorted({f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions()})
    return _digest([platform.python_version(), platform.machine(), *installed])


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def _input(path: Path, known: Mapping[Path, str]) -> LineageInput:
    document = read_json_object(path / LINEAGE) if (path / LINEAGE).is_file() else None
    return LineageInput(path.name, known.get(path) or content_hash(path), document)


def _list_files(directory: Path, known: Mapping[Path, str]) -> dict[str, LineageFile]:
    files = [
        path
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in _UNLISTED and path.suffix != ".svg" and not path.name.startswith(".")
    ]
    with ThreadPoolExecutor() as threads:
        digests = threads.map(lambda path: known.get(path) or sha256_file(path), files)
        return {
            path.relative_to(directory).as_posix(): LineageFile(path.stat().st_size, digest)
            for path, digest in zip(files, digests, strict=True)
        }


def _licences(
    parents: Iterable[Lineage], recipe: Recipe | None, names: Iterable[str], sources: Iterable[str]
) -> list[Licence]:
    """Licences of the parents, the recipe, the named parts and the data, sorted; of each, the first stated one counts.

    A licence that the recipe gives to a source of data applies only where that source is among `sources`.
    """
    own = [] if recipe is None else [*recipe.licences]
    licences = [licence for parent in parents for licence in parent.licences]
    licences += [*own, *(licence for name in names if (licence := _recognised(name)))]
    licences += [licence for name in sources for licence in _of_source(name, recipe, own)]
    # Sorting is stable: a licence that is not stated comes after those that are.
    licences.sort(key=lambda licence: (licence.of, licence.licence == NOT_STATED))
    return list({licence.of: licence for licence in reversed(licences)}.values())[::-1]


def _recognised(name: str) -> Licence | None:
    return next((licence for pattern, licence in _TERMS if pattern.search(name)), None)


def _of_source(name: str, recipe: Recipe | None, own: Sequence[Licence]) -> list[Licence]:
    """The licence of a source of data: the recipe's, a known one, or one that says that none is stated."""
    entry = recipe.data.sources.get(name) if recipe else None
    if entry is not None and entry.licence is not None:
        return [Licence(of=name, licence=entry.licence, research_only=entry.research_only)]
    if (known := _recognised(name)) is not None:
        return [known]
    if not name:  # of records without a source, the recipe's licences may speak
        return [] if own else [Licence(of="training data", licence=NOT_STATED)]
    return [Licence(of=name, licence=NOT_STATED)]


def _base_models(parents: Iterable[Lineage], names: Iterable[str]) -> list[str]:
    inherited = [name for parent in parents for name in parent.base_models]
    return sorted({*inherited, *(name for name in names if re.fullmatch(r"[\w.-]+/[\w.-]+", name))})


def _digest(content: object) -> str:
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
