"""Proofs in two sizes: short in every test run, whole with `make torture`, which prints the table."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest

FULL = bool(os.environ.get("VHM_TORTURE"))
_LINES = pytest.StashKey[list[str]]()


@dataclass(frozen=True)
class Proof:
    """How many cases a proof runs, and where it writes its figure."""

    lines: list[str]

    def size(self, short: int, full: int) -> int:
        return full if FULL else short

    def record(self, figure: str, text: str) -> None:
        self.lines.append(f"{figure:5} {text}")


@pytest.fixture
def proof(request: pytest.FixtureRequest) -> Proof:
    return Proof(request.config.stash.setdefault(_LINES, []))


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    lines = config.stash.get(_LINES, [])
    if lines:
        terminalreporter.section("proofs" if FULL else "proofs, short forms (`make torture` runs them whole)")
        for line in sorted(lines):
            terminalreporter.write_line(line)
