"""The README's commands exist, its links have targets, and it has no placeholders."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_relative_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_vhm_commands_take_the_options_that_are_shown(page: Path) -> None:
    """Every `vhm …` line of a shell block, its options checked against the command's own help."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    lines = [line.split("#")[0] for block in blocks for line in block.splitlines() if line.startswith("vhm ")]
    for line in lines:
        words = line.split()[1:]
        command = words[: 2 if words[0] in ("data", "pipeline") else 1]
        if command == ["--help"]:
            continue
        help_ = subprocess.run([sys.executable, "-m", "vhm.cli", *command, "--help"], capture_output=True, text=True)
        assert help_.returncode == 0, line
        missing = [word for word in words if word.startswith("--") and word not in help_.stdout]
        assert missing == [], line


def test_make_targets_that_pages_name_exist() -> None:
    named = {name for page in PAGES for name in re.findall(r"`make ([a-z-]+)", page.read_text())}
    named |= set(re.findall(r"^make ([a-z-]+)", TEXT, re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named <= targets


def test_no_placeholder_of_a_measured_number_is_left() -> None:
    assert "DEMO_" not in TEXT
