"""`Any` stays rare: mypy --strict is satisfied by it wherever it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIMIT = 8  # per thousand lines


@pytest.mark.parametrize("package", ["vhm", "components", "pipelines"])
def test_any_is_rare(package: str) -> None:
    texts = [path.read_text() for path in (ROOT / package).rglob("*.py")]
    lines = sum(text.count("\n") for text in texts)
    uses = sum(len(re.findall(r"\bAny\b", text)) for text in texts)
    assert 1000 * uses <= LIMIT * lines
