from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import DictLoader, Environment

from vhm.data.validation.templates import template_cache


def render(text: str) -> str:
    environment = Environment(loader=DictLoader({"page": text}), bytecode_cache=template_cache(), autoescape=True)
    return environment.get_template("page").render(name="a <b>")


def test_templates_are_compiled_once_and_again_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VHM_CACHE", str(tmp_path))
    assert render("Hello {{ name }}") == "Hello a &lt;b&gt;"
    [compiled] = (tmp_path / "templates").iterdir()
    first = compiled.stat().st_mtime_ns
    assert render("Hello {{ name }}") == "Hello a &lt;b&gt;"
    assert compiled.stat().st_mtime_ns == first
    assert render("Bye {{ name }}") == "Bye a &lt;b&gt;"


def test_a_cache_that_cannot_be_written_costs_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VHM_CACHE", str(tmp_path))
    cache = template_cache()
    assert cache is not None
    (tmp_path / "templates").rmdir()
    environment = Environment(loader=DictLoader({"page": "{{ 1 }}"}), bytecode_cache=cache, autoescape=True)
    assert environment.get_template("page").render() == "1"

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VHM_CACHE", str(tmp_path / "file"))
    assert template_cache() is None
