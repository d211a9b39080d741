"""R12: changed copies of evaluation images in a training set are found; other images are never reported."""

from __future__ import annotations

import io
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from tests.support.terrain import terrain
from vhm.data.validation.similarity import Fingerprint, fingerprint, load_finder, save_fingerprints

COPIES = ["copy", "JPEG q50", "half size", *(f"orientation {n}" for n in range(8)), "brightness"]
CROPS = ["crop 95 %", "crop 90 %", "crop 80 %"]


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


def jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def find(job: tuple[Path, int, str | None]) -> str | None:
    """The name found for evaluation image `number` changed as `kind`, or without a kind for an unrelated image."""
    fingerprints, number, kind = job
    image = terrain(number) if kind is None else changed(number, kind)
    content = jpeg(image, 50 if kind == "JPEG q50" else 85)
    leak = load_finder(fingerprints).find(fingerprint(content))
    return None if leak is None else leak.evaluation


def named_fingerprint(number: int) -> tuple[str, Fingerprint]:
    return str(number), fingerprint(jpeg(terrain(number), 92))


def test_changed_copies_of_evaluation_images_are_found(proof, tmp_path: Path) -> None:
    planted, others = proof.size(60, 1000), proof.size(400, 49_000)
    fingerprints = tmp_path / "fingerprints.npz"
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
