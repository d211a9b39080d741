"""Stages: how a component's process reports a failure, and which manifest a stage reads."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from vhm.errors import InputError, RecipeError
from vhm.recipe import load_recipe
from vhm.stages import StageError, find_manifest, gate, start_model


@pytest.fixture
def component(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process runs a component, whose stages set up logging."""
    monkeypatch.setenv("VHM_COMPONENT", "1")
    package = logging.getLogger("vhm")
    before = package.handlers, package.propagate, package.level
    yield
    package.handlers, package.propagate = before[:2]
    package.setLevel(before[2])


@pytest.mark.usefixtures("component")
def test_a_component_reports_why_it_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError):
        gate(load_recipe("tiny").text(), str(tmp_path), "verdict")
    reported = [StageError.from_line(line) for line in capsys.readouterr().err.splitlines()]
    assert reported == [StageError("InputError", f"{tmp_path / 'scores.json'} does not exist", expected=True)]


@pytest.mark.usefixtures("component")
def test_an_unexpected_error_is_reported_with_its_class(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TypeError):
        gate(load_recipe("tiny").text(), None, "verdict")  # type: ignore[arg-type]
    [error] = filter(None, map(StageError.from_line, capsys.readouterr().err.splitlines()))
    assert (error.error, error.expected) == ("TypeError", False)
    assert error.message.startswith("TypeError: ")


def test_outside_a_component_nothing_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("VHM_COMPONENT", raising=False)
    with pytest.raises(RecipeError):
        gate("[]", "evaluation", "verdict")
    assert capsys.readouterr().err == ""


def test_a_stage_finds_the_manifest_of_its_kind(tmp_path: Path) -> None:
    folders = []
    for kind in ("pretrain", "sft"):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "validation.json").write_text(json.dumps({"kind": kind}))
        folders.append(str(folder))
    assert find_manifest("sft", folders) == tmp_path / "sft" / "manifest.parquet"
    with pytest.raises(InputError, match="none of the 2 manifests was validated for 'align'"):
        find_manifest("align", folders)


def test_without_a_projector_align_trains_one_on_the_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr("vhm.train.train", lambda *arguments: calls.append(arguments))
    recipe = load_recipe("tiny", ["base.projector=null"])
    assert start_model(recipe, tmp_path, ["manifest"], tmp_path / "out") is None
    assert calls == [("align", recipe, tmp_path / "base", ["manifest"], tmp_path / "images", tmp_path / "out")]
    with pytest.raises(InputError, match=r"names no base.projector, so `align` trains one: give its manifest"):
        start_model(recipe, tmp_path, [], tmp_path / "out")


def test_arguments_override_the_base_and_the_projector_of_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr("vhm.model.warm_start.warm_start", lambda *arguments: calls.append(arguments))
    recipe = load_recipe("tiny", ["base.source_layer=4"])
    start_model(recipe, tmp_path, [], tmp_path / "out")
    start_model(recipe, tmp_path, [], tmp_path / "out", Path("b"), Path("p"), 2, [1, 2])
    assert calls == [
        (tmp_path / "base", tmp_path / "out", tmp_path / "mm_projector.bin", 4, None),
        (Path("b"), tmp_path / "out", Path("p"), 2, [1, 2]),
    ]
