"""R12: evaluation images hidden in a training set, changed as people change pictures; and none seen where none is."""

from __future__ import annotations

import io
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from tests.support.terrain import terrain
from vhm.data.validation.contamination import fingerprint, load_finder, save_fingerprints

WHOLE = ["copy", "JPEG q50", "half size", *(f"turned {n}" for n in range(8)), "brightness"]
PARTS = ["crop 95 %", "crop 90 %", "crop 80 %"]


def changed(number: int, kind: str) -> Image.Image:
    picture = terrain(number)
    if kind.startswith("turned"):
        turn = int(kind.split()[1])
        return picture if turn == 7 else picture.transpose(turn)
    if kind == "half size":
        return picture.resize((128, 128))
    if kind == "brightness":
        return ImageEnhance.Brightness(picture).enhance(0.8 + 0.4 * (number % 2))
    if kind.startswith("crop"):
        side = round(256 * (int(kind.split()[1]) / 100) ** 0.5)
        left, top = np.random.default_rng(number).integers(0, 256 - side + 1, 2).tolist()
        return picture.crop((left, top, left + side, top + side))
    return picture


def jpeg(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def look(job: tuple[Path, int, str | None]) -> tuple[str | None, str | None]:
    """What is found for evaluation image `number` changed as `kind` says, or for a picture of its own."""
    prints, number, kind = job
    picture = terrain(number) if kind is None else changed(number, kind)
    content = jpeg(picture, 50 if kind == "JPEG q50" else 85)
    return kind, load_finder(prints).find(fingerprint(content))


def print_of(number: int):
    return str(number), fingerprint(jpeg(terrain(number), 92))


def test_hidden_evaluation_images(proof, tmp_path: Path) -> None:
    planted, others = proof.size(60, 1000), proof.size(400, 49_000)
    prints = tmp_path / "prints.npz"
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # there is a process for each core
    jobs: list[tuple[Path, int, str | None]] = [(prints, n, kind) for kind in WHOLE + PARTS for n in range(planted)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        save_fingerprints(prints, processes.map(print_of, range(planted), chunksize=50))
        results = list(processes.map(look, jobs, chunksize=50))
        strangers = processes.map(look, ((prints, 10**6 + n, None) for n in range(others)), chunksize=100)
        false = sum(found is not None for _, found in strangers)
    share = {}
    for kind in WHOLE + PARTS:
        names = [found for (_, _, of), (_, found) in zip(jobs, results, strict=True) if of == kind]
        right = sum(name == str(number) for number, name in enumerate(names))
        false += sum(name not in (None, str(number)) for number, name in enumerate(names))
        share[kind] = right / planted
    whole = sum(share[kind] for kind in WHOLE) / len(WHOLE)
    assert whole >= 0.995
    assert all(share[kind] >= least for kind, least in zip(PARTS, (0.99, 0.95, 0.9), strict=True)), share
    assert false == 0
    pairs = planted * (others + len(jobs) - len(WHOLE + PARTS))
    proof.record(
        "R12",
        f"{planted} evaluation images in {others + len(jobs)}: {whole:.2%} of changed copies found, crops of 95/90/80 % "
        + "/".join(f"{100 * share[kind]:.1f}" for kind in PARTS)
        + f" %, 0 false of {pairs:,} pairs",
    )
