"""Lines of Markdown pages are at most 120 characters long; ruff checks the other files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LIMIT = 120


def long_lines(text: str) -> list[int]:
    """The numbers of the lines above the limit, without code blocks, tables and URLs."""
    numbers = []
    in_code = False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif not in_code and not line.lstrip().startswith("|") and len(without_urls(line)) > LIMIT:
            numbers.append(number)
    return numbers


def without_urls(line: str) -> str:
    """The line without the targets of links and without bare URLs: they cannot be wrapped."""
    return re.sub(r"https?://[^\s)>\]]+", "", re.sub(r"\]\([^)]*\)", "]()", line))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_lines_of_pages_are_at_most_120_characters(page: Path) -> None:
    assert [f"{page.relative_to(ROOT)}:{number}" for number in long_lines(page.read_text())] == []


def test_long_lines_are_found_except_in_code_tables_and_urls() -> None:
    long = "word " * 25
    text = "\n".join([long, "```", long, "```", f"| {long} |", f"[text](https://example.org/{'x' * 120})", long])
    assert long_lines(text) == [1, 7]
    assert long_lines("x" * 120) == []
    assert long_lines("x" * 121) == [1]
