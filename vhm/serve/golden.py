"""Golden questions: asked of a promoted model that is served on this machine, and one answer as an image.

Writes deployment.json ({"url", "golden": [{"family", "image", "question", "target", "answer"}, …]}) and answer.png.
"""

from __future__ import annotations

import io
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from vhm.data.images import load_image
from vhm.data.images.stores import open_store
from vhm.data.records import image_name
from vhm.errors import InputError
from vhm.inference import geometry
from vhm.io import JsonObject, read_json, write_bytes, write_json
from vhm.serve.client import ask, local_server

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GoldenAnswer:
    """A golden question, its target, and the deployed model's answer."""

    family: str
    image: str
    question: str
    target: str
    answer: str


def ask_golden_questions(model: Path, data: Path, golden: Path, recipe_file: Path, out: Path) -> list[GoldenAnswer]:
    """Serve `model` on this machine, ask the golden questions over HTTP, and write the answers.

    Writes deployment.json and answer.png, one grounding answer drawn on its image. Raises ServeError when the
    server does not start or refuses a question. The quality of the answers is not checked: that is the gate's task.
    """
    store = open_store(data)
    answers = []
    with local_server(model, recipe_file) as url:
        for entry in read_json(golden):
            name = _image_of(entry, golden)
            text = ask(url, store.read(name), entry["question"])
            target = entry["conversations"][1]["value"]
            answers.append(GoldenAnswer(entry["family"], name, entry["question"], target, text))
            log.info("asked %s: %s → %s (target: %s)", name, entry["question"], text, target)
    write_json(out / "deployment.json", {"url": "local", "golden": [asdict(answer) for answer in answers]})
    shown = _select_example(answers)
    write_bytes(out / "answer.png", draw_answer(store.read(shown.image), shown))
    return answers


def _image_of(entry: JsonObject, golden: Path) -> str:
    name = image_name(entry)
    if name is None:
        raise InputError(f"{golden}: a golden question names no image")
    return name


def _select_example(answers: list[GoldenAnswer]) -> GoldenAnswer:
    """The first grounding answer with a box, else the first grounding answer, else the first answer."""
    grounding = [answer for answer in answers if geometry.box(answer.target)]
    return next((answer for answer in grounding if geometry.box(answer.answer)), (grounding or answers)[0])


def draw_answer(image: bytes, golden: GoldenAnswer, side: int = 480) -> bytes:
    """A PNG of the image, the question and the answer.

    The target box, in pixels, is green; the predicted box, normalised to [0, 1000), is red.
    """
    from PIL import Image, ImageDraw

    pixels = load_image(image)
    scale = side / pixels.width
    sheet = Image.new("RGB", (side, round(pixels.height * scale) + 56), (24, 28, 34))
    sheet.paste(pixels.resize((side, round(pixels.height * scale))), (0, 0))
    draw = ImageDraw.Draw(sheet)
    target, predicted = geometry.box(golden.target), geometry.box(golden.answer)
    if target:
        draw.rectangle([value * scale for value in target], outline=(40, 200, 90), width=3)
    if predicted:
        x, y = side / 1000, pixels.height * scale / 1000
        box = [predicted[0] * x, predicted[1] * y, predicted[2] * x, predicted[3] * y]
        draw.rectangle(box, outline=(255, 77, 61), width=3)
    draw.text((8, sheet.height - 50), golden.question[:76], fill=(220, 226, 232))
    words = f"predicted {golden.answer[:36]}   target {golden.target[:26]}"
    draw.text((8, sheet.height - 28), words, fill=(255, 150, 140))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
