"""The golden questions: asked of a promoted model that is served on this machine, and one answer drawn."""

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
from vhm.io import read_json, write_bytes, write_json
from vhm.serve.client import ask, local_server

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Golden:
    """A golden question as the deployed model answered it."""

    family: str
    image: str
    question: str
    truth: str
    answer: str


def try_locally(model: Path, data: Path, golden: Path, recipe_file: Path, out: Path) -> list[Golden]:
    """Serve `model` on this machine, ask the golden questions over HTTP, and write what it answered.

    Writes deployment.json and answer.png, the grounding answer drawn on its picture (true box green, said
    box red). Raises ServeError when the server does not come up or refuses a question;
    whether the answers are good enough was the gate's to say.
    """
    root = open_store(data)
    answers = []
    with local_server(model, recipe_file) as url:
        for entry in read_json(golden):
            name = image_name(entry)
            if name is None:
                raise InputError(f"{golden}: a golden question names no image")
            answer = ask(url, root.read(name), entry["question"])
            truth = entry["conversations"][1]["value"]
            answers.append(Golden(entry["family"], name, entry["question"], truth, answer))
            log.info("asked %s: %s → %s (true: %s)", name, entry["question"], answer, truth)
    write_json(out / "deployment.json", {"url": "local", "golden": [asdict(a) for a in answers]})
    grounded = [a for a in answers if geometry.box(a.truth)]
    shown = next((a for a in grounded if geometry.box(a.answer)), (grounded or answers)[0])
    write_bytes(out / "answer.png", draw_answer(root.read(shown.image), shown))
    return answers


def draw_answer(picture: bytes, golden: Golden, side: int = 480) -> bytes:
    """A PNG of the picture with the true box (pixels) green, the said box (thousandths) red, and the words."""
    from PIL import Image, ImageDraw

    image = load_image(picture)
    scale = side / image.width
    sheet = Image.new("RGB", (side, round(image.height * scale) + 56), (24, 28, 34))
    sheet.paste(image.resize((side, round(image.height * scale))), (0, 0))
    draw = ImageDraw.Draw(sheet)
    true, said = geometry.box(golden.truth), geometry.box(golden.answer)
    if true:
        draw.rectangle([v * scale for v in true], outline=(40, 200, 90), width=3)
    if said:
        width, height = side / 1000, image.height * scale / 1000
        draw.rectangle(
            [said[0] * width, said[1] * height, said[2] * width, said[3] * height], outline=(255, 77, 61), width=3
        )
    draw.text((8, sheet.height - 50), golden.question[:76], fill=(220, 226, 232))
    draw.text((8, sheet.height - 28), f"said {golden.answer[:40]}   true {golden.truth[:30]}", fill=(255, 150, 140))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
