"""The model card: written from the lineage, the training summary and the scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from vhm.artifacts.lineage import verify
from vhm.artifacts.model_card import finish_model
from vhm.recipe import parse_recipe


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "weights").write_text("base")
    finish_model(tmp_path / "base", "model/assemble", {}, names=["openai/clip-vit-large-patch14-336", "vicuna"])
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "processor_config.json").write_text("{}")
    training = {"stage": "sft", "samples": 8, "epochs": 1.5, "skipped": {"no_target": 1}, "truncated": 2, "steps": 2}
    (directory / "training.json").write_text(json.dumps(training | {"first_loss": 4.0, "last_loss": 3.5}))
    (directory / "train_log.jsonl").write_text('{"loss": 4.0}\n{"loss": 3.5}\n')
    presence = {"type": "presence", "n": 4, "primary_metric": "accuracy", "accuracy": 0.75}
    scores = {"mode": "strict", "tasks": {"presence": presence, "empty": {"n": 0}}, "summary": {"mean": 0.75}}
    (directory / "scores.json").write_text(json.dumps(scores))
    finish_model(directory, "model/promoted", {"model": tmp_path / "base"})
    return directory


def test_the_metadata_has_licence_and_base_models(model: Path) -> None:
    metadata = yaml.safe_load((model / "README.md").read_text().split("---")[1])
    assert metadata == {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "license": "other",
        "license_name": "research-only",
        "base_model": ["openai/clip-vit-large-patch14-336"],
        "tags": ["remote-sensing", "llava", "vhm", "research-only"],
    }


def test_the_text_reports_training_evaluation_and_provenance(model: Path) -> None:
    card = (model / "README.md").read_text()
    assert "# VHM, evaluated and promoted" in card
    assert "**For research only**: it derives from Vicuna." in card
    assert "Stage `sft`: 8 samples (1 skipped, 2 truncated at the length limit), 1.5 epochs, 2 steps, " in card
    assert "loss 4.000 → 3.500." in card
    assert "| task | n | primary metric | value |\n|---|---|---|---|\n| presence | 4 | accuracy | 75.0 % |\n\n" in card
    assert "Mean of the primary metrics: 75.0 %, scored `strict`." in card
    assert card.index("| model/promoted |") < card.index("| model/assemble |")
    assert "- OpenAI CLIP: mit\n- Vicuna: llama2, research only" in card
    assert "<polyline" in (model / "training_curve.svg").read_text()
    assert verify(model)


def test_data_without_a_licence_are_listed_as_not_stated(tmp_path: Path) -> None:
    recipe = parse_recipe({"data": {"sources": {"naip": {"licence": "cc0-1.0"}}}})
    finish_model(tmp_path, "model/sft", {}, recipe, sources=["naip", "drone"])
    card = (tmp_path / "README.md").read_text()
    assert "- drone: not stated\n- naip: cc0-1.0\n\nA licence that is not stated may forbid any use" in card
    metadata = yaml.safe_load(card.split("---")[1])
    assert (metadata["license"], metadata["license_name"]) == ("other", "cc0-1.0-and-unknown")


def test_the_code_in_the_card_is_valid_python(model: Path) -> None:
    code = (model / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert "AutoModelForImageTextToText" in compile(code, "README.md", "exec").co_names
