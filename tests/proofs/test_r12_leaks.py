"""R12: what returns of evaluation images in a training set is found; other images are never reported.

Synthetic terrain gives many images, of which copies and crops are searched for; windows of the sample's scenes give
real imagery, with overlaps, and with masks and marks that unrelated images share. docs/leaks.md has the full table.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from tests.support.leak_cases import CHANGES, MASKS, jpeg, windows
from tests.support.terrain import terrain
from vhm.data.validation.similarity import Fingerprint, LeakFinder, fingerprint, load_finder, save_fingerprints
from vhm.data.validation.similarity.evaluation import prepare

COPIES = ["copy", "JPEG q50", "half size", *(f"orientation {n}" for n in range(8)), "brightness"]
CROPS = ["crop 95 %", "crop 90 %", "crop 80 %"]
EVALUATION_AREAS = {"yell541", "lasvegas", "landsat"}
TRAINING_AREAS = {"yell528", "atlanta", "rotterdam_pan1", "plains"}


# --- synthetic terrain ---------------------------------------------------------------------------


def changed(number: int, kind: str) -> Image.Image:
    image = terrain(number)
    if kind.startswith("orientation"):
        orientation = int(kind.split()[1])
        return image if orientation == 7 else image.transpose(orientation)
    if kind == "half size":
        return image.resize((128, 128))
    if kind == "brightness":
        return ImageEnhance.Brightness(image).enhance(0.8 + 0.4 * (number % 2))
    if kind.startswith("crop"):
        side = round(256 * (int(kind.split()[1]) / 100) ** 0.5)
        left, top = np.random.default_rng(number).integers(0, 256 - side + 1, 2).tolist()
        return image.crop((left, top, left + side, top + side))
    return image


def find(job: tuple[Path, int, str | None]) -> str | None:
    """The name found for evaluation image `number` changed as `kind`, or without a kind for an unrelated image."""
    fingerprints, number, kind = job
    image = terrain(number) if kind is None else changed(number, kind)
    content = jpeg(np.asarray(image), 50 if kind == "JPEG q50" else 85)
    leak = load_finder(fingerprints).find(fingerprint(content))
    return None if leak is None else leak.evaluation


def named_fingerprint(number: int) -> tuple[str, Fingerprint]:
    return str(number), fingerprint(jpeg(np.asarray(terrain(number)), 92))


def test_changed_copies_of_evaluation_images_are_found(proof, tmp_path: Path) -> None:
    planted, others = proof.size(20, 1000), proof.size(60, 49_000)
    fingerprints = tmp_path / "fingerprints"
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # there is already one process per core
    jobs: list[tuple[Path, int, str | None]] = [
        (fingerprints, n, kind) for kind in COPIES + CROPS for n in range(planted)
    ]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        save_fingerprints(fingerprints, processes.map(named_fingerprint, range(planted), chunksize=50))
        names = list(processes.map(find, jobs, chunksize=50))
        unrelated = processes.map(find, ((fingerprints, 10**6 + n, None) for n in range(others)), chunksize=100)
        false = sum(name is not None for name in unrelated)
    recall = {}
    for kind in COPIES + CROPS:
        found = [(number, name) for (_, number, of), name in zip(jobs, names, strict=True) if of == kind]
        false += sum(name not in (None, str(number)) for number, name in found)
        recall[kind] = sum(name == str(number) for number, name in found) / planted
    copies = sum(recall[kind] for kind in COPIES) / len(COPIES)
    assert copies >= 0.995
    assert all(recall[kind] >= minimum for kind, minimum in zip(CROPS, (0.99, 0.95, 0.9), strict=True)), recall
    assert false == 0
    pairs = planted * (others + len(jobs) - len(COPIES + CROPS))
    proof.record(
        "R12",
        f"{planted} evaluation images in {others + len(jobs)}: {copies:.2%} of changed copies found, "
        + "crops of 95/90/80 % "
        + "/".join(f"{100 * recall[kind]:.1f}" for kind in CROPS)
        + f" %, 0 false of {pairs:,} pairs",
    )


# --- real scenes ---------------------------------------------------------------------------------


def test_what_returns_of_real_scenes_is_found(proof) -> None:
    evaluation = list(islice(windows(5), proof.size(16, 400)))
    finder = LeakFinder(prepare((str(n), fingerprint(jpeg(w.pixels(), 95))) for n, w in enumerate(evaluation)))
    random = np.random.default_rng(6)
    recall: dict[str, float] = {}
    wrong = 0  # leaks that name an image of another area
    for name, (_, change) in CHANGES.items():
        changed = [(window, pixels) for window in evaluation if (pixels := change(window, random)) is not None]
        leaks = [(window, finder.find(fingerprint(jpeg(pixels, 80)))) for window, pixels in changed]
        named = [(window, evaluation[int(leak.evaluation)]) for window, leak in leaks if leak is not None]
        wrong += sum(window.area != other.area for window, other in named)
        recall[name] = sum(window.shares_ground(other) for window, other in named) / len(leaks)
        if proof.size(0, 1):
            proof.record("R12", f"{name:50} {recall[name]:7.1%} of {len(leaks)} found")
    lowest = min(recall, key=lambda name: recall[name])
    proof.record("R12", f"{len(recall)} changes of real scenes: fewest found {recall[lowest]:.1%} ({lowest})")
    slack = proof.size(2, 0) / len(evaluation)  # a few images say little about a share
    missed = {name: share for name, share in recall.items() if share < CHANGES[name][0] - slack}
    assert not missed
    assert wrong == 0


def test_what_unrelated_images_share_is_no_leak(proof) -> None:
    evaluation = list(islice(windows(1, EVALUATION_AREAS), proof.size(16, 100)))
    training = list(islice(windows(2, TRAINING_AREAS), proof.size(20, 1000)))
    false: dict[str, int] = {}
    for name, mask in MASKS.items():
        finder = LeakFinder(
            prepare((str(n), fingerprint(jpeg(mask(w.pixels()), 95))) for n, w in enumerate(evaluation))
        )
        leaks = [finder.find(fingerprint(jpeg(mask(window.pixels())))) for window in training]
        false[name] = sum(leak is not None for leak in leaks)
    pairs = f"{len(evaluation) * len(training):,}"
    proof.record("R12", f"{len(false)} masks on real scenes: {sum(false.values())} false, each of {pairs} pairs")
    assert not any(false.values()), false
