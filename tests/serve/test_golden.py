"""Golden questions asked of a served model, and the drawn answer."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from vhm.errors import InputError
from vhm.serve.golden import GoldenAnswer, ask_golden_questions, draw_answer


def test_answers_to_golden_questions_are_written(cut: Path, cut_recipe: Path, tmp_path: Path) -> None:
    answers = ask_golden_questions(cut / "base", cut / "eval", cut / "golden.json", cut_recipe, tmp_path)
    written = json.loads((tmp_path / "deployment.json").read_text())
    assert written["url"] == "local"
    entries = json.loads((cut / "golden.json").read_text())
    assert [(row["family"], row["question"], row["target"]) for row in written["golden"]] == [
        (entry["family"], entry["question"], entry["conversations"][1]["value"]) for entry in entries
    ]
    assert [row["answer"] for row in written["golden"]] == [answer.answer for answer in answers]
    with Image.open(tmp_path / "answer.png") as image:
        assert image.width == 480


def test_a_golden_question_without_an_image_is_an_error(cut: Path, cut_recipe: Path, tmp_path: Path) -> None:
    entry = {"family": "scene", "question": "What is it?", "conversations": []}
    (tmp_path / "golden.json").write_text(json.dumps([entry]))
    with pytest.raises(InputError, match=r"golden\.json: a golden question names no image"):
        ask_golden_questions(cut / "base", cut / "eval", tmp_path / "golden.json", cut_recipe, tmp_path / "out")


def test_the_drawn_answer_shows_both_boxes() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (100, 50)).save(buffer, "PNG")
    drawn = draw_answer(
        buffer.getvalue(), GoldenAnswer("grounding", "a", "Give the box.", "[20, 10, 60, 40]", "[500, 200, 900, 800]")
    )
    image = Image.open(io.BytesIO(drawn)).convert("RGB")
    assert image.getpixel((96, 100)) == (40, 200, 90)  # 20 px of 100 at 480 px wide
    assert image.getpixel((432, 100)) == (255, 77, 61)  # 900 of 1000
