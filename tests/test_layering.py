"""Imports point down: a table of the imports between packages that are allowed, and of modules with heavy imports.

Every import counts: at module level, in a function, under TYPE_CHECKING, or as
`importlib.import_module("…")`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("vhm", "components", "pipelines")

_SMALL = "errors io processes progress"
_FILES = f"{_SMALL} recipe storage artifacts"
_MODEL = f"{_FILES} data model"
_RUNS = f"{_MODEL} inference train evaluate serve"

# package or module: what it may import. Names below `vhm` are written without it.
ALLOWED = {
    "errors": "",
    "io": "errors",
    "processes": "errors",
    "progress": "errors",
    "storage": _SMALL,
    "recipe": f"{_SMALL} storage",
    "artifacts": f"{_SMALL} recipe",
    "data": _FILES,
    "model": f"{_FILES} data",
    "inference": _MODEL,
    "train": f"{_MODEL} inference",
    "evaluate": f"{_MODEL} inference",
    "serve": f"{_MODEL} inference",
    "cluster": _RUNS,
    "sample": f"{_RUNS} cluster",
    "stages": f"{_RUNS} cluster sample",
    "commands": f"{_RUNS} cluster sample stages pipelines",
    "cli": f"{_SMALL} commands",
    "components": "stages",
    "pipelines": f"{_RUNS} cluster sample stages components",
}

# Imports that are allowed in functions only: kfp, which pipelines imports, is slow to import.
IN_FUNCTIONS = {("commands", "pipelines")}

# Libraries that take long to import, and the modules that may import them at module level.
HEAVY = {"torch", "transformers", "deepspeed", "great_expectations", "kserve", "kfp", "pandas"}
HEAVY_MODULES = {
    "vhm/train/engine.py": "torch",
    "vhm/train/loop.py": "torch",
    "vhm/train/prepare.py": "torch",
    "vhm/serve/openai.py": "kserve",
    "vhm/serve/predictor.py": "kserve",
    "components/*.py": "kfp",
    "pipelines/events.py": "kfp",
    "pipelines/vhm.py": "kfp",
}


# --- the checker ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Import:
    """One import: `module` as written, and whether it runs when its file is imported, in a function, or never."""

    path: Path
    line: int
    module: str
    when: str  # "import", "call" or "typing"

    @property
    def source(self) -> str:
        return unit(".".join(self.path.with_suffix("").parts))

    def __str__(self) -> str:
        return f"{self.path.as_posix()}:{self.line}"


def unit(module: str) -> str:
    """The row of the table for a module: vhm.data.index → data, pipelines.run → pipelines, vhm itself → vhm."""
    names = module.split(".")
    return names[1] if names[0] == "vhm" and len(names) > 1 else names[0]


def imports_in(root: Path) -> Iterator[Import]:
    for folder in SOURCES:
        for path in sorted((root / folder).rglob("*.py")):
            relative = path.relative_to(root)
            for node, when in nodes_in(ast.parse(path.read_text()), "import"):
                for module in modules_of(node, relative):
                    yield Import(relative, node.lineno, module, when)


def nodes_in(node: ast.AST, when: str) -> Iterator[tuple[ast.AST, str]]:
    """All nodes below `node`, each with the time at which it runs."""
    for child in ast.iter_child_nodes(node):
        yield child, when
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from nodes_in(child, "call")
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from nodes_in(child, "typing")
        else:
            yield from nodes_in(child, when)


def modules_of(node: ast.AST, path: Path) -> list[str]:
    """The modules that a node imports; names imported from `vhm` itself may be modules."""
    if isinstance(node, ast.Import):
        return [name.name for name in node.names]
    if isinstance(node, ast.ImportFrom):
        package = ".".join(path.parts[: len(path.parts) - node.level]) if node.level else ""
        module = ".".join(part for part in (package, node.module) if part)
        return [f"vhm.{name.name}" for name in node.names] if module == "vhm" else [module]
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
        name = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
        return [name.value.strip(".")] if isinstance(name, ast.Constant) else []
    return []


def illegal_edges(root: Path) -> list[str]:
    """One line for each import between packages that the table does not allow."""
    problems = []
    for imported in imports_in(root):
        source, target = imported.source, unit(imported.module)
        if imported.module.split(".")[0] not in SOURCES or target in (source, "vhm", "__version__"):
            continue
        if target not in ALLOWED.get(source, "").split():
            problems.append(f"{imported}: {source} must not import {target}")
        elif imported.when != "call" and (source, target) in IN_FUNCTIONS:
            problems.append(f"{imported}: {source} may import {target} in functions only")
    return problems


def heavy_imports(root: Path) -> list[Import]:
    """The imports of heavy libraries that run when their module is imported."""
    return [i for i in imports_in(root) if i.when == "import" and i.module.split(".")[0] in HEAVY]


def is_listed(imported: Import) -> bool:
    library = imported.module.split(".")[0]
    return any(imported.path.match(pattern) and library in HEAVY_MODULES[pattern].split() for pattern in HEAVY_MODULES)


# --- this repository -----------------------------------------------------------------------------


def test_packages_import_only_what_the_table_allows() -> None:
    assert illegal_edges(ROOT) == []


def test_heavy_libraries_are_imported_in_functions() -> None:
    unlisted = [found for found in heavy_imports(ROOT) if not is_listed(found)]
    assert [f"{found}: import {found.module} in the function that uses it" for found in unlisted] == []


def test_the_tables_have_no_stale_rows() -> None:
    entries = [path for path in (ROOT / "vhm").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    packages = {path.stem for path in entries} - {"__init__"}
    assert set(ALLOWED) == packages | {"components", "pipelines"}
    found = heavy_imports(ROOT)
    assert [row for row in HEAVY_MODULES if not any(i.path.match(row) for i in found)] == []


def test_the_table_has_no_cycle() -> None:
    order: list[str] = []
    while len(order) < len(ALLOWED):
        ready = [name for name, below in ALLOWED.items() if name not in order and set(below.split()) <= set(order)]
        assert ready, f"a cycle among {sorted(set(ALLOWED) - set(order))}"
        order += ready


# --- the checker on small bad trees --------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "code", "problem"),
    [
        ("vhm/data/x.py", "\nimport vhm.train.loop", "2: data must not import train"),
        ("vhm/data/x.py", "from vhm import model", "1: data must not import model"),
        ("vhm/data/x.py", "from ..model import y", "1: data must not import model"),
        ("vhm/serve/x.py", "def f():\n    from vhm.evaluate import y", "2: serve must not import evaluate"),
        ("vhm/evaluate/x.py", "if TYPE_CHECKING:\n    import vhm.serve", "2: evaluate must not import serve"),
        ("vhm/io.py", "class A:\n    import vhm.storage.s3", "2: io must not import storage"),
        ("vhm/new/x.py", "import vhm.io", "1: new must not import io"),
        ("vhm/stages.py", "import_module('vhm.cli')", "1: stages must not import cli"),
        ("vhm/commands/x.py", "import pipelines.run", "1: commands may import pipelines in functions only"),
        ("vhm/cli.py", "def f():\n    import pipelines", "2: cli must not import pipelines"),
        ("components/x.py", "import vhm.train", "1: components must not import train"),
    ],
)
def test_an_illegal_import_is_reported_by_file_and_line(tmp_path: Path, path: str, code: str, problem: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(code)
    assert illegal_edges(tmp_path) == [f"{path}:{problem}"]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("vhm/data/x.py", "import json\nfrom vhm import __version__\nfrom vhm.data import y\nfrom . import z"),
        ("vhm/commands/x.py", "def f():\n    import pipelines\n    importlib.import_module(f'pipelines.{name}')"),
        ("pipelines/x.py", "from components.train import train\nfrom vhm.storage.s3 import Bucket"),
    ],
)
def test_a_legal_import_is_not_reported(tmp_path: Path, path: str, code: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(code)
    assert illegal_edges(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("import torch", [1]),
        ("try:\n    from transformers import x\nexcept ImportError:\n    import pandas as pd", [2, 4]),
        ("class A:\n    import torch.nn", [2]),
        ("def f():\n    import torch", []),
        ("if TYPE_CHECKING:\n    import torch", []),
        ("import numpy", []),
    ],
)
def test_heavy_imports_at_module_level_are_found(tmp_path: Path, code: str, lines: list[int]) -> None:
    (tmp_path / "vhm").mkdir()
    (tmp_path / "vhm" / "x.py").write_text(code)
    assert [found.line for found in heavy_imports(tmp_path)] == lines
    assert not any(is_listed(found) for found in heavy_imports(tmp_path))
