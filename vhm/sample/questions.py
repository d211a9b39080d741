"""Chips → captions, and questions with answers.

A family is a function from a chip to zero or more questions; `FAMILIES` has the task tag of its prompts and its
evaluation file. The same function gives training instructions for training chips and evaluation questions for
evaluation chips.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vhm.evaluate.tasks import find_task
from vhm.sample import claims
from vhm.sample.chips import Chip
from vhm.sample.scenes import CLASSES, Label


@dataclass(frozen=True)
class LabelledQuestion:
    """A question with the answer that the model is trained to give.

    `target` is the target in an evaluation file if it differs from the answer: the coordinates of an answer's box
    are normalised to [0, 1000), those of a target's box are pixels.
    """

    text: str
    answer: str
    target: str | None = None


AskQuestions = Callable[[Chip, random.Random], Iterator[LabelledQuestion]]


@dataclass(frozen=True)
class Family:
    """A kind of question.

    `task` is the published task key, which decides the prompt's tag; `file` is the evaluation file, empty for a
    family that is used in training only. `rule` says in SAMPLE.md what proves the answers.
    """

    name: str
    task: str
    file: str
    ask: AskQuestions
    rule: str

    def prompt(self, question: LabelledQuestion) -> str:
        """Return the text of the question behind the task's tag."""
        return find_task(self.task).prompt(question.text)


# --- captions ------------------------------------------------------------------------------------

_CLASS_WORDS = {
    "forest": "a forest",
    "meadow": "a meadow without standing trees",
    "farmland": "farmland with many fields",
    "water": "open water of a reservoir",
    "city": "a dense city",
    "residential": "a residential area with houses and streets",
    "barren land": "barren land without vegetation",
}


def captions(chip: Chip, rng: random.Random, number: int = 3) -> list[str]:
    """Return `number` captions, each stating only what labels, spectra or metadata prove."""
    subject = f"{chip.modality} image" if chip.modality else "image"
    openings = [
        f"This is a {subject} of {chip.location}, taken by {chip.sensor}.",
        f"A {subject} from {chip.sensor} with a resolution of {chip.gsd:g} m.",
        f"{chip.location[0].upper()}{chip.location[1:]} seen by {chip.sensor}, {chip.gsd:g} m per pixel.",
    ]
    facts = list(_facts(chip))
    texts = []
    for index in range(number):
        chosen = rng.sample(facts[1:], min(2, len(facts) - 1)) if len(facts) > 1 else []
        texts.append(" ".join([*facts[:1], openings[index % len(openings)], *chosen]))
    return texts


def _facts(chip: Chip) -> Iterator[str]:
    if chip.scene_class:
        yield f"It shows {_CLASS_WORDS[chip.scene_class]}."
    trees = claims.count(chip, "tree")
    if trees:
        yield f"There {'is one whole standing tree' if trees == 1 else f'are {trees} whole standing trees'}."
    elif claims.present(chip, "tree"):
        yield "There are standing trees."
    elif claims.present(chip, "tree") is False:
        yield "There is no standing tree."
    for cover in sorted(chip.cover):
        present = claims.present(chip, cover)
        if present is not None:
            yield f"There is {'' if present else 'no '}{cover}."
    if claims.present(chip, "building"):
        yield "There are buildings."
    if claims.present(chip, "dead tree"):
        yield "Some trees are dead."
    if chip.road:
        yield "A road crosses the image."
    if colour := claims.dominant_colour(chip):
        yield f"The dominant colour is {colour}."
    if chip.setting:
        yield f"The area is {chip.setting}."


# --- families ------------------------------------------------------------------------------------


def _scene(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    if chip.scene_class:
        yield LabelledQuestion(
            f"What is the scene category of this image? Choose one of: {', '.join(CLASSES)}.", chip.scene_class
        )


def _presence(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    for name, words in (("tree", "a standing tree"), ("water", "water"), ("vegetation", "green vegetation")):
        present = claims.present(chip, name)
        if present is not None:
            yield LabelledQuestion(f"Is there {words} in this image? Answer yes or no.", "yes" if present else "no")


def _counting(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    number = claims.count(chip, "tree")
    if number is not None and number <= 20:
        yield LabelledQuestion(
            "How many standing trees lie wholly inside this image? Answer with a number.", str(number)
        )


def _absolute_position(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    for name in ("tree", "building"):
        label = claims.clearly_largest(chip, name)
        cell = label and claims.grid_cell(chip, label.box)
        if label and cell:
            yield _choice(f"Where in the image is the {_named(chip, label)}?", cell, _CELLS, rng)
    if quadrant := claims.densest_quadrant(chip, "tree"):
        quarters = ("top left", "top right", "bottom left", "bottom right")
        yield _choice("Which quarter of the image has the most standing trees?", quadrant, quarters, rng)


def _relative_position(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    labels = [label for label in chip.labels if label.name in ("tree", "building")]
    for first, second in _pairs(labels, rng, 2):
        direction = claims.direction(chip, first.box, second.box)
        if direction:
            yield _choice(
                f"Where is the {first.name} in {claims.normalised(chip, first.box)} seen from the "
                f"{second.name} in {claims.normalised(chip, second.box)}?",
                direction,
                ("left", "right", "above", "below"),
                rng,
            )


def _image_type(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    if chip.modality:
        kinds = ("natural-colour", "panchromatic", "radar", "thermal infrared")
        yield _choice("Which type of image is this?", chip.modality, kinds, rng)


def _colour(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    if colour := claims.dominant_colour(chip):
        yield LabelledQuestion("What is the dominant colour of this image?", colour)


def _resolution(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    yield LabelledQuestion("What is the ground sampling distance of this image in metres per pixel?", f"{chip.gsd:g}")


def _false_colour(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    for name, word in (("tree", "standing tree"), ("water", "water"), ("vegetation", "vegetation")):
        if claims.present(chip, name) is False:
            yield LabelledQuestion(
                f"What is the colour of the {word} in this image?", f"There is no {word} in this image."
            )


def _true_colour(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    """The counterpart of the deceptive question: the same words about an object that is present."""
    if chip.modality == "natural-colour" and claims.present(chip, "tree") and chip.scene.startswith("yell"):
        yield LabelledQuestion("What is the colour of the standing tree in this image?", "green")


def _false_position(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    for name, word in (("tree", "standing tree"), ("water", "water")):
        if claims.present(chip, name) is False:
            nothing = f"there is no {word} in this image"
            options = tuple(rng.sample(_CELLS, 3))
            yield _choice(f"Where in the image is the {word}?", nothing, (nothing, *options), rng)


def _false_relative_position(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    if claims.present(chip, "tree") is False:
        nothing = "there is no standing tree in this image"
        options = (nothing, *rng.sample(("left", "right", "above", "below"), 3))
        yield _choice("Where is the largest standing tree seen from the smallest standing tree?", nothing, options, rng)


def _compare_trees(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    more = claims.more_trees_left(chip)
    if more is not None:
        yield _yes_no("Are there more trees in the left half than in the right half of the image?", more)


def _compare_cover(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    more = claims.larger_cover(chip, "vegetation", "water")
    if more is not None:
        yield _yes_no("Does vegetation cover a larger area than water?", more)


def _mostly_water(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    wet = claims.mostly_water(chip)
    if wet is not None:
        yield _yes_no("Is most of this area covered by water?", wet)


def _is_there_tree(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    present = claims.present(chip, "tree")
    if present is not None:
        yield _yes_no("Is at least one standing tree visible?", present)


def _rural_urban(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    if chip.setting:
        yield LabelledQuestion("Is this a rural or an urban area?", chip.setting)


def _grounding(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    for name in ("tree", "building"):
        label = claims.clearly_largest(chip, name)
        if label:
            yield _box_question(f"Give the box of the {_named(chip, label)}.", chip, label)
    label = claims.nearest_centre(chip, "tree")
    if label:
        yield _box_question("Give the box of the tree nearest to the centre of the image.", chip, label)
    trees = [label for label in chip.labels if label.name == "tree"]
    for label in rng.sample(trees, min(8, len(trees))):
        point = claims.distinct_point(chip, label)
        if point:
            yield _box_question(f"Give the box of the tree at {point}.", chip, label)


def _footprint(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    label = claims.clearly_largest(chip, "building")
    if label:
        ring = [claims.normalised(chip, (x, y, x, y))[:2] for x, y in label.polygon]
        yield LabelledQuestion(f"Give the outline of the {_named(chip, label)} as a polygon.", str([ring]))


def _measurement(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    labels = [label for label in chip.labels if label.name in ("tree", "building")]
    for label in rng.sample(labels, min(2, len(labels))):
        width, height = claims.metres(chip, label.box)
        yield LabelledQuestion(
            f"One pixel is {chip.gsd:g} m and the image is {chip.size} pixels wide. What are the width and the height "
            f"in metres of the {label.name} in {claims.normalised(chip, label.box)}?",
            f"{width:.1f} and {height:.1f}",
        )


def _multi_label(chip: Chip, rng: random.Random) -> Iterator[LabelledQuestion]:
    classes = ("vegetation", "water")
    known = {name: claims.present(chip, name) for name in classes}
    if None not in known.values() and any(known.values()):
        covers = ", ".join(name for name in classes if known[name])
        yield LabelledQuestion(f"Which of these land covers are in the image: {', '.join(classes)}.", covers)


FAMILIES = (
    Family("classification", "cls_aid", "cls_AID.json", _scene, "region named by a person; trees counted by label"),
    Family("presence", "rs_presence_mo_judge", "presence_mo_dota.json", _presence, "labels that are complete; spectra"),
    Family(
        "counting",
        "rs_counting_mo_open",
        "counting_dota-test_open.json",
        _counting,
        "complete labels, whole crowns, ≤ 20",
    ),
    Family(
        "absolute position", "rs_position_mo_mc", "abspos_dota-test_mc.json", _absolute_position, "unique or largest"
    ),
    Family(
        "relative position",
        "rs_relative_position_mo_mc",
        "relpos_dota-test_mc.json",
        _relative_position,
        "two boxes, far apart along one axis",
    ),
    Family("modality", "rs_imagetype_mc", "imgType_mcq.json", _image_type, "metadata"),
    Family("colour", "rs_color_open", "color_dota-test_fair1m-val_open.json", _colour, "≥ 60 % of the pixels"),
    Family("colour of what is there", "rs_color_open", "", _true_colour, "labelled trees (training only)"),
    Family("resolution", "rs_gsd_open", "gsd_dota_fbp.json", _resolution, "metadata"),
    Family(
        "deceptive colour",
        "rs_color_false_random_open",
        "color_false_dota-test_random_open.json",
        _false_colour,
        "proven absence",
    ),
    Family(
        "deceptive position",
        "rs_position_false_random_mc",
        "abspos_false_dota-test_random_mc.json",
        _false_position,
        "proven absence",
    ),
    Family(
        "deceptive relation",
        "rs_relative_position_false_random_mc",
        "relpos_false_dota-test_random_mc.json",
        _false_relative_position,
        "proven absence",
    ),
    Family("comparison of counts", "vqa_HR-comp", "RSVQA_HR-comp_RSVQA.json", _compare_trees, "labels, with a margin"),
    Family("VQA presence", "vqa_HR-pre", "RSVQA_HR-presence_RSVQA.json", _is_there_tree, "labels that are complete"),
    Family("comparison of areas", "vqa_LR-comp", "RSVQA_LR-comp_RSVQA.json", _compare_cover, "spectral bounds"),
    Family("mostly water", "vqa_LR-pre", "RSVQA_LR-presence_RSVQA.json", _mostly_water, "spectral bounds"),
    Family("rural or urban", "vqa_LR-rural", "RSVQA_LR-rural_urban_RSVQA.json", _rural_urban, "named by a person"),
    Family(
        "grounding",
        "rs_vg",
        "VG_DOIR_RSVG_test.json",
        _grounding,
        "unique, largest, nearest to the centre or at a point in no other box; not truncated",
    ),
    Family("building footprint", "rs_building_polygon", "bfv_crowdai_val.json", _footprint, "unoccluded outline"),
    Family("measurement", "rs_meas", "obj_meas_dota_test.json", _measurement, "label box × ground sampling distance"),
    Family("multi-label", "rs_ml_gid", "mlc_gid_test.json", _multi_label, "spectral bounds for every class"),
)

_CELLS = (
    "top left",
    "top",
    "top right",
    "left",
    "centre",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)


def _named(chip: Chip, label: Label) -> str:
    unique = sum(other.name == label.name for other in (*chip.labels, *chip.truncated)) == 1
    return label.name if unique and label.name in chip.complete else f"largest {label.name}"


def _box_question(text: str, chip: Chip, label: Label) -> LabelledQuestion:
    return LabelledQuestion(text, str(claims.normalised(chip, label.box)), str([round(v) for v in label.box]))


def _yes_no(text: str, yes: bool) -> LabelledQuestion:
    return LabelledQuestion(f"{text} Answer yes or no.", "yes" if yes else "no")


def _choice(text: str, answer: str, options: tuple[str, ...], rng: random.Random) -> LabelledQuestion:
    """Return a multiple-choice question with four lettered options, the answer at a random letter."""
    others = rng.sample([option for option in options if option != answer], 3)
    shown = rng.sample([answer, *others], 4)
    lines = " ".join(f"{letter}. {option}" for letter, option in zip("ABCD", shown, strict=True))
    return LabelledQuestion(f"{text} {lines} Answer with the letter.", "ABCD"[shown.index(answer)])


def _pairs(labels: list[Label], rng: random.Random, number: int) -> Iterator[tuple[Label, Label]]:
    for _ in range(number):
        if len(labels) >= 2:
            first, second = rng.sample(labels, 2)
            yield first, second
