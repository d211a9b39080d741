"""`vhm sample`: the embedded dataset and, made for it, the tiny base model and a projector to start from."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vhm.data.encode import SYSTEM
from vhm.data.records import IMAGE_MARKER
from vhm.io import read_json, sha256_tree, whole_directory, write_bytes
from vhm.sample.dataset import build_dataset
from vhm.sample.tiny_model import PROJECTOR, SOURCE_LAYER, build_tiny_base, write_projector

log = logging.getLogger(__name__)


def build_sample(out: Path) -> dict[str, Any]:
    """Write the sample as `out`; returns how many chips and files it has and its content hash.

    Raises InputError when `out` holds something else already.
    """
    with whole_directory(out, "SAMPLE.md") as folder:
        build_dataset(folder)
        build_tiny_base(folder / "base", _texts(folder))
        write_projector(folder / PROJECTOR)
    files = [path for path in out.rglob("*") if path.is_file()]
    chips = sum(path.suffix == ".jpg" and "images" in path.parts for path in files)
    return {"chips": chips, "files": len(files), "sha256": sha256_tree(out)}


def build_tracked_sample(out: Path) -> dict[str, Any]:
    """As `build_sample`; where OUT.dvc names these bytes, they go into DVC's cache, so that `dvc status` knows them."""
    built = build_sample(out)
    pointer = out.with_name(f"{out.name}.dvc").absolute()
    if pointer.is_file():
        named = pointer.read_bytes()
        command = [sys.executable, "-m", "dvc", "commit", "--quiet", "--force", pointer.name]
        done = subprocess.run(command, cwd=pointer.parent, capture_output=True, text=True)
        if done.returncode:
            log.warning("DVC did not take %s into its cache: %s", out, done.stderr.strip().splitlines()[-1:])
        if pointer.read_bytes() != named:
            write_bytes(pointer, named)  # other bytes than it names: `dvc status` shall say so
    return built


def remake_projector(data: Path, work: Path) -> None:
    """Train the projector that the package ships: `align` on the tiny parts with one feature layer.

    `data` is a built sample. The result replaces the package's file, in LLaVA-1.5's layout.
    """
    import torch

    from vhm.data.validation.chunks import ValidationRequest
    from vhm.data.validation.validate import validate
    from vhm.model.projector import read_projector
    from vhm.recipe import load_recipe
    from vhm.train import train

    build_tiny_base(work / "base", _texts(data), [SOURCE_LAYER])
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


def _texts(out: Path) -> Iterator[str]:
    """What the tokenizer learns from: training text alone."""
    yield f"{SYSTEM} USER: ASSISTANT:"
    for name in ("pretrain/list_pretrain.json", "sft/list_sft.json"):
        for record in read_json(out / name):
            for turn in record["conversations"]:
                yield turn["value"].replace(IMAGE_MARKER, "").strip()
