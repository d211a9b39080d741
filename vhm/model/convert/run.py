"""`convert`: read the configuration and the tokenizer, plan the tensors, write the directory with its report."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from vhm.artifacts.lineage import LINEAGE, verify
from vhm.artifacts.model_card import finish_model
from vhm.data.images.transform import ImageTransform
from vhm.errors import CheckpointError, InputError, first_line
from vhm.io import read_json_object, sha256_file, whole_directory, write_json
from vhm.model.build import build_processor, generation_config
from vhm.model.convert.configuration import (
    find_vision_tower,
    hf_config,
    pads_images,
    projector_layers,
    read_reference_config,
    read_tower_config,
    reference_config,
)
from vhm.model.convert.plan import Plan, TensorMapping, plan_to_hf, plan_to_reference
from vhm.model.convert.tensors import write_tensors
from vhm.model.convert.tokenizer import reference_tokenizer
from vhm.model.weights import weight_files

if TYPE_CHECKING:
    from transformers import LlavaConfig, LlavaProcessor

REPORT = "conversion.json"
REFERENCE = "reference"  # directory of the reference's small files in a converted model
_REFERENCE_FILES = (
    "config.json generation_config.json tokenizer.model tokenizer_config.json special_tokens_map.json "
    "vision_tower/config.json vision_tower/preprocessor_config.json"
).split()


def convert(
    source: Path, out: Path, to: str = "hf", vision_tower: Path | None = None, allow_nan: bool = False
) -> list[TensorMapping]:
    """Convert `source` into `out`; conversion.json and the result list what became of every tensor.

    `vision_tower` is a directory whose tower is used instead of the one in `source`. Raises CheckpointError that
    names a missing, unexpected, damaged or misshapen tensor, and InputError for a configuration that has no
    counterpart; `out` is then unchanged.
    """
    if not source.is_dir():
        raise InputError(f"{source} is not a checkpoint directory")
    if out.resolve() == source.resolve():
        raise InputError(f"{out} is the checkpoint itself: choose another directory for the result")
    if to == "hf":
        return _to_hf(source, out, vision_tower, allow_nan)
    if to == "reference":
        return _to_reference(source, out, allow_nan)
    raise InputError(f"--to {to!r} is unknown: use hf or reference")


# --- reference → Hugging Face --------------------------------------------------------------------


def _to_hf(source: Path, out: Path, given_tower: Path | None, allow_nan: bool) -> list[TensorMapping]:
    reference = read_reference_config(source)
    rows = reference["vocab_size"]
    tower = given_tower or find_vision_tower(source, reference)
    config = hf_config(reference, read_tower_config(tower, reference))
    tokenizer = reference_tokenizer(source, rows)
    config.image_token_id = rows
    config.text_config.vocab_size = -(-(rows + 1) // 64) * 64
    plan = plan_to_hf(source, tower, given_tower is not None, config, rows, projector_layers(reference))
    names = [str(reference.get(key, "")) for key in ("_name_or_path", "mm_vision_tower")]
    if reference["model_type"] == "vhm":
        names += ["Vicuna", "VersaD"]  # the published weights were made from these
    inputs = {"source": source} | ({"vision_tower": given_tower} if given_tower else {})
    with whole_directory(out, REPORT) as folder:
        config.dtype = max(plan.tensors, key=lambda planned: planned.target.bytes).target.dtype
        config.architectures = ["LlavaForConditionalGeneration"]
        config.save_pretrained(folder)
        generation_config(tokenizer, config.text_config.vocab_size).save_pretrained(folder)
        build_processor(tokenizer, config, pad=pads_images(reference)).save_pretrained(folder)
        _keep_reference_files(source, tower, folder / REFERENCE)
        return _write([(folder, plan)], inputs, folder, allow_nan, names)


def _keep_reference_files(source: Path, tower: Path | None, folder: Path) -> None:
    for name in _REFERENCE_FILES:
        path = (tower / Path(name).name) if tower and name.startswith("vision_tower/") else source / name
        if path.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)


# --- Hugging Face → reference --------------------------------------------------------------------


def _to_reference(source: Path, out: Path, allow_nan: bool) -> list[TensorMapping]:
    verify(source)
    config, processor = _load_hf(source)
    kept = source / REFERENCE
    if (kept / "config.json").is_file():
        reference = read_json_object(kept / "config.json")
    else:
        reference = reference_config(config, pad=ImageTransform.from_processor(processor).aspect == "pad")
    rows, layers = reference["vocab_size"], projector_layers(reference)
    main, vision = plan_to_reference(source, _reference_names(source), rows, layers)
    with whole_directory(out, REPORT) as folder:
        if kept.is_dir():
            shutil.copytree(kept, folder, dirs_exist_ok=True)
        else:
            processor.tokenizer.save_pretrained(folder)
        write_json(folder / "config.json", reference)
        tower = folder / "vision_tower"
        if not (tower / "config.json").is_file():
            write_json(tower / "config.json", json.loads(config.vision_config.to_json_string()))
        return _write([(folder, main), (tower, vision)], {"source": source}, folder, allow_nan)


def _load_hf(source: Path) -> tuple[LlavaConfig, LlavaProcessor]:
    from transformers import AutoProcessor, LlavaConfig

    try:
        config = LlavaConfig.from_pretrained(source, local_files_only=True)
        processor = AutoProcessor.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise CheckpointError(f"{source} is not a LLaVA directory: {first_line(error)}") from None
    if config.model_type != "llava":
        raise CheckpointError(f"{source} holds a {config.model_type} model, not a LLaVA model")
    return config, processor


def _reference_names(source: Path) -> dict[str, str]:
    """Return the reference names of the tensors of a converted model; nothing if it was not converted."""
    path = source / REPORT
    tensors = read_json_object(path)["tensors"] if path.is_file() else []
    return {entry["target"]: entry["source"] for entry in tensors if entry["target"] and entry["source"]}


# --- both ----------------------------------------------------------------------------------------


def _write(
    outputs: Sequence[tuple[Path, Plan]],
    inputs: Mapping[str, Path],
    folder: Path,
    allow_nan: bool,
    names: Sequence[str] = (),
) -> list[TensorMapping]:
    """Write the tensors of each directory, then the report, the card and the lineage of `folder`."""
    size = sum(planned.target.bytes for _, plan in outputs for planned in plan.tensors)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(f"the result has {size / 1e9:.1f} GB, {folder.parent} has {free / 1e9:.1f} GB free")
    mappings, hashes = write_tensors(outputs, allow_nan)
    mappings += [mapping for _, plan in outputs for mapping in plan.skipped]
    source, tensors = inputs["source"], [asdict(mapping) for mapping in mappings]
    write_json(folder / REPORT, {"source": source.name, "tensors": tensors})
    if not (source / LINEAGE).is_file():
        hashes[source] = _hash_of_source(source, tensors, list(hashes.values()))
    finish_model(folder, "model/convert", inputs, names=names, hashes=hashes)
    return mappings


def _hash_of_source(source: Path, tensors: list[dict[str, object]], written: list[str]) -> str:
    """Return one hash over the source: its small files directly, its tensors through the files written from them.

    A conversion loses nothing of a tensor. Therefore the hashes of the written files, with the list of what became
    of each tensor, identify the source's bytes, which need not be read and hashed a second time.
    """
    weights = set(weight_files(source))
    small = [sha256_file(path) for path in sorted(source.rglob("*")) if path.is_file() and path not in weights]
    content = orjson.dumps([small, tensors, written], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()
