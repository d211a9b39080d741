"""`vhm sample`: the embedded dataset, the tiny base model and a projector for its warm start, in one directory."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vhm.data.encode import SYSTEM
from vhm.data.records import IMAGE_MARKER
from vhm.io import read_json, sha256_tree, whole_directory, write_bytes
from vhm.sample.dataset import build_dataset
from vhm.sample.tiny_model import PROJECTOR, SOURCE_LAYER, build_tiny_base, write_projector

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuiltSample:
    """Number of chips and of files, and one hash over all names and contents."""

    chips: int
    files: int
    sha256: str


def build_sample(out: Path) -> BuiltSample:
    """Write the sample into `out`. Raises InputError when `out` holds anything other than an earlier sample."""
    with whole_directory(out, "SAMPLE.md") as folder:
        build_dataset(folder)
        build_tiny_base(folder / "base", training_texts(folder))
        write_projector(folder / PROJECTOR)
    files = [path for path in out.rglob("*") if path.is_file()]
    chips = sum(path.suffix == ".jpg" and "images" in path.parts for path in files)
    return BuiltSample(chips, len(files), sha256_tree(out))


def build_tracked_sample(out: Path) -> BuiltSample:
    """Build the sample and, if OUT.dvc names its hash, add it to DVC's cache, so that `dvc status` finds it."""
    built = build_sample(out)
    pointer = out.with_name(f"{out.name}.dvc").absolute()
    if pointer.is_file():
        _commit_to_dvc(pointer)
    return built


def _commit_to_dvc(pointer: Path) -> None:
    before = pointer.read_bytes()
    command = [sys.executable, "-m", "dvc", "commit", "--quiet", "--force", pointer.name]
    done = subprocess.run(command, cwd=pointer.parent, capture_output=True, text=True)
    if done.returncode:
        log.warning("DVC cannot add %s to its cache: %s", pointer.stem, done.stderr.strip().splitlines()[-1:])
    if pointer.read_bytes() != before:
        write_bytes(pointer, before)  # the sample differs from the tracked one: `dvc status` must report it


def remake_projector(data: Path, work: Path) -> None:
    """Train the projector that the package ships: `align` on the tiny parts with one feature layer.

    `data` is a built sample. The result replaces the package's file, in LLaVA-1.5's layout.
    """
    import torch

    from vhm.data.validation.request import ValidationRequest
    from vhm.data.validation.validate import validate
    from vhm.model.projector import read_projector
    from vhm.recipe import load_recipe
    from vhm.train import train

    build_tiny_base(work / "base", training_texts(data), [SOURCE_LAYER])
    lists = [data / "pretrain" / "list_pretrain.json"]
    validate(ValidationRequest(lists, data / "images", "pretrain"), work / "manifest")
    train(
        "align",
        load_recipe("tiny"),
        work / "base",
        work / "manifest" / "manifest.parquet",
        data / "images",
        work / "aligned",
    )
    trained = read_projector(work / "aligned")
    layout = {"linear_1": "0", "linear_2": "2"}
    tensors = {f"model.mm_projector.{layout[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in trained.items()}
    torch.save(tensors, Path(__file__).parent / PROJECTOR)


def training_texts(data: Path) -> Iterator[str]:
    """Yield the texts that the tokenizer is trained on: those of the training lists of the sample in `data`."""
    yield f"{SYSTEM} USER: ASSISTANT:"
    for name in ("pretrain/list_pretrain.json", "sft/list_sft.json"):
        for record in read_json(data / name):
            for turn in record["conversations"]:
                yield turn["value"].replace(IMAGE_MARKER, "").strip()
