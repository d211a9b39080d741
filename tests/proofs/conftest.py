"""Reliability proofs in two sizes: short in every test run, full size with `make torture`. Both print a table."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest

FULL = bool(os.environ.get("VHM_TORTURE"))
_LINES = pytest.StashKey[list[str]]()


@dataclass(frozen=True)
class Proof:
    """The number of cases a proof runs, and the table that it adds its result to."""

    lines: list[str]

    def size(self, short: int, full: int) -> int:
        return full if FULL else short

    def record(self, name: str, result: str) -> None:
        self.lines.append(f"{name:5} {result}")


@pytest.fixture
def proof(request: pytest.FixtureRequest) -> Proof:
    return Proof(request.config.stash.setdefault(_LINES, []))


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    lines = config.stash.get(_LINES, [])
    if lines:
        terminalreporter.section("proofs" if FULL else "proofs, short (`make torture` runs them in full size)")
        for line in sorted(lines):
            terminalreporter.write_line(line)
