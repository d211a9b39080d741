"""Reference checkpoints ↔ Hugging Face LLaVA directories, tensor by tensor.

The reference's layout (arXiv 2403.20213, published weights):

    config.json                    Llama's, with mm_vision_select_layer, mm_projector_type, …
    pytorch_model*.bin or *.safetensors
        model.{embed_tokens,layers.*,norm}.*  lm_head.weight  model.mm_projector.*
        model.vision_tower.vision_tower.*     in some copies
    vision_tower/                  CLIP: config.json, pytorch_model.bin or safetensors
    tokenizer.model                sentencepiece

What goes where is worked out and checked before a byte is written; then tensors pass through memory one
at a time. A converted directory keeps the reference's small files in `reference/`, for the way back.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from vhm.artifacts.lineage import LINEAGE, verify
from vhm.artifacts.model_card import finish_model
from vhm.errors import CheckpointError, InputError, first_line
from vhm.io import read_json, sha256_file, whole_directory, write_json
from vhm.model.build import build_processor, generation_config, image_tokens
from vhm.model.weights import ShardWriter, StoredTensor, list_tensors, read_tensors, weight_files
from vhm.progress import track

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

# Reference name → Hugging Face name; the first pattern that matches decides.
_TO_HF = (
    (r"^model\.vision_tower\.vision_tower\.(?:vision_model\.)?(.+)$", r"vision_tower.\1"),
    (r"^vision_model\.(.+)$", r"vision_tower.\1"),
    (r"^((?:embeddings|encoder|pre_layrnorm|post_layernorm)\..+)$", r"vision_tower.\1"),
    (r"^model\.mm_projector\.(?:0\.)?(weight|bias)$", r"multi_modal_projector.linear_1.\1"),
    (r"^model\.mm_projector\.2\.(weight|bias)$", r"multi_modal_projector.linear_2.\1"),
    (r"^model\.((?:embed_tokens|layers|norm)\..+)$", r"language_model.model.\1"),
    (r"^lm_head\.weight$", r"language_model.lm_head.weight"),
)
_TO_REFERENCE = (
    (r"^(?:model\.)?vision_tower\.(?:vision_model\.)?(.+)$", r"vision_model.\1"),
    (r"^(?:model\.)?multi_modal_projector\.linear_1\.(weight|bias)$", r"model.mm_projector.0.\1"),
    (r"^(?:model\.)?multi_modal_projector\.linear_2\.(weight|bias)$", r"model.mm_projector.2.\1"),
    (r"^language_model\.model\.(.+)$", r"model.\1"),
    (r"^model\.language_model\.(.+)$", r"model.\1"),
    (r"^(?:language_model\.)?lm_head\.weight$", r"lm_head.weight"),
)
_SKIPPED = (
    (r"rotary_emb\.inv_freq$", "computed from the configuration"),
    (r"position_ids$", "computed from the configuration"),
    (r"^(text_model\.|text_projection|visual_projection|logit_scale)", "CLIP's text side: not part of the model"),
)
_EMBEDDINGS = re.compile(r"(embed_tokens|lm_head)\.weight$")
# Read from a reference configuration; what is absent has Llama's default.
_LLAMA_KEYS = (
    "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim vocab_size "
    "rms_norm_eps max_position_embeddings rope_theta rope_scaling bos_token_id eos_token_id pad_token_id hidden_act "
    "attention_bias mlp_bias initializer_range tie_word_embeddings"
).split()
# Towers that a configuration may name without bringing their own config.json.
_KNOWN_TOWERS = {
    "clip-vit-large-patch14-336": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                                   "num_attention_heads": 16, "image_size": 336, "patch_size": 14},
    "clip-vit-large-patch14": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                               "num_attention_heads": 16, "image_size": 224, "patch_size": 14},
}  # fmt: skip
_KEPT_FILES = (
    "config.json generation_config.json tokenizer.model tokenizer_config.json special_tokens_map.json "
    "vision_tower/config.json vision_tower/preprocessor_config.json"
).split()
REFERENCE = "reference"
REPORT = "conversion.json"


@dataclass(frozen=True)
class Moved:
    """What becomes of one tensor. `target` is None when it is left out, `source` when it is new; `note` says why."""

    source: str | None
    target: str | None
    shape: list[int]
    dtype: str
    note: str = ""


def convert(
    source: Path, out: Path, to: str = "hf", vision_tower: Path | None = None, allow_nan: bool = False
) -> list[Moved]:
    """Convert `source` into `out`; every tensor is listed in conversion.json and in what is returned.

    `vision_tower` is the ViT's directory where it is not in `source`. Raises CheckpointError that names a
    missing, unexpected, damaged or misshapen tensor, and InputError for a configuration that has no
    counterpart. Nothing is left at `out` then.
    """
    if not source.is_dir():
        raise InputError(f"{source} is not a checkpoint directory")
    if out.resolve() == source.resolve():
        raise InputError(f"{out} is the checkpoint itself: choose another place for the result")
    if to == "hf":
        return _to_hf(source, out, vision_tower, allow_nan)
    if to == "reference":
        return _to_reference(source, out, allow_nan)
    raise InputError(f"--to {to!r} is unknown: use hf or reference")


# --- reference → Hugging Face --------------------------------------------------------------------


def _to_hf(source: Path, out: Path, given_tower: Path | None, allow_nan: bool) -> list[Moved]:
    reference = _read_reference_config(source)
    tower = given_tower or _tower_beside(source, reference)
    config = hf_config(reference, _tower_config(tower, reference))
    tokenizer = reference_tokenizer(source)
    config.image_token_id = _image_token(tokenizer, reference["vocab_size"], source)
    config.text_config.vocab_size = -(-(reference["vocab_size"] + 1) // 64) * 64
    listed = list_tensors(weight_files(source))
    unused: list[Moved] = []
    if given_tower is not None or not any(_is_vision(name) for name in listed):
        unused = [_skipped(s, "the separate vision tower is used") for s in listed.values() if _is_vision(s.name)]
        listed = {name: s for name, s in listed.items() if not _is_vision(name)}
        if tower is None:
            raise CheckpointError(f"{source} holds no vision weights and no vision_tower/: give --vision-tower DIR")
        listed |= {f"{tower.name}: {name}": s for name, s in list_tensors(weight_files(tower)).items()}
    steps, skipped = _plan_to_hf(list(listed.values()), config, reference, source)
    names = [str(reference.get(key, "")) for key in ("_name_or_path", "mm_vision_tower")]
    if reference["model_type"] == "vhm":
        names += ["Vicuna", "VersaD"]  # what the published weights were made from
    with whole_directory(out, REPORT) as folder:
        config.dtype = max(steps, key=lambda step: step.planned.bytes).planned.dtype
        config.architectures = ["LlavaForConditionalGeneration"]
        config.save_pretrained(folder)
        generation_config(tokenizer, config.text_config.vocab_size).save_pretrained(folder)
        build_processor(tokenizer, config, pad=reference.get("image_aspect_ratio") == "pad").save_pretrained(folder)
        for name in _KEPT_FILES:
            kept = (tower / Path(name).name) if tower and name.startswith("vision_tower/") else source / name
            if kept.is_file():
                (folder / REFERENCE / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(kept, folder / REFERENCE / name)
        inputs = {"source": source} | ({"vision_tower": given_tower} if given_tower else {})
        return _write([(folder, steps)], [*unused, *skipped], inputs, folder, allow_nan, names)


def hf_config(reference: dict[str, Any], tower: dict[str, Any]) -> Any:
    """The LlavaConfig of a reference config.json and its vision tower's. InputError for what has no counterpart."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    kind = tower.get("model_type", "")
    tower = tower.get("vision_config", tower)
    if "clip" not in kind or "eva" in f"{kind} {reference.get('mm_vision_tower', '')}".lower():
        shown = reference.get("mm_vision_tower") if "clip" in kind else kind
        raise InputError(f"vision tower of type {shown!r} is not supported: only CLIP is")
    if reference.get("model_type") not in ("vhm", "llava", "llava_llama", "llama"):
        raise InputError(f"language model of type {reference.get('model_type')!r} is not supported: only Llama is")
    if reference.get("mm_use_im_start_end"):
        raise InputError("mm_use_im_start_end is not supported: images have no start and end tokens here")
    aspect = reference.get("image_aspect_ratio") or "square"
    if aspect not in ("pad", "square"):
        raise InputError(f"image_aspect_ratio {aspect!r} is not supported: only pad and square are")
    strategy = {"patch": "default", "cls_patch": "full"}.get(reference.get("mm_vision_select_feature") or "patch")
    if strategy is None:
        raise InputError(f"mm_vision_select_feature {reference['mm_vision_select_feature']!r}: use patch or cls_patch")
    vision = CLIPVisionConfig.from_dict(tower)
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**{key: reference[key] for key in _LLAMA_KEYS if reference.get(key) is not None}),
        vision_feature_layer=_feature_layers(reference, vision.num_hidden_layers),
        vision_feature_select_strategy=strategy,
        projector_hidden_act="gelu" if _projector_layers(reference) == 2 else "linear",
        tie_word_embeddings=bool(reference.get("tie_word_embeddings", False)),
    )
    config.image_seq_length = image_tokens(config)
    return config


def reference_tokenizer(source: Path) -> Any:
    """The tokenizer of a reference checkpoint, with `<image>` added after its last id."""
    from transformers import PreTrainedTokenizerFast

    from vhm.model.tokenizer import llama_tokenizer

    if (source / "tokenizer.model").is_file():
        return llama_tokenizer(source)
    if not (source / "tokenizer.json").is_file():
        raise CheckpointError(f"{source} has neither tokenizer.model nor tokenizer.json")
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(source, local_files_only=True)
    except Exception as error:
        raise CheckpointError(f"{source}/tokenizer.json cannot be read: {first_line(error)}") from None
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.image_token = "<image>"
    return tokenizer


def _read_reference_config(source: Path) -> dict[str, Any]:
    path = source / "config.json"
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path} is not a JSON object")
    if "text_config" in config:
        raise InputError(f"{source} is in Hugging Face's layout already: --to reference converts it back")
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        if not isinstance(config.get(key), int) or config[key] <= 0:
            raise InputError(f"{path}: {key} is {config.get(key)!r}, a positive integer is needed")
    return config


def _feature_layers(reference: dict[str, Any], depth: int) -> int | list[int]:
    layers = reference.get("mm_vision_select_layer", -2)
    for layer in layers if isinstance(layers, list) else [layers]:
        if not isinstance(layer, int) or not -depth - 1 <= layer <= depth:
            raise InputError(f"mm_vision_select_layer {layers!r}: the vision tower has {depth} layers")
    if layers == []:
        raise InputError("mm_vision_select_layer is empty")
    return layers


def _projector_layers(reference: dict[str, Any]) -> int:
    """1 or 2. Hugging Face's LLaVA has two linear layers: one alone goes on through an identity."""
    kind = reference.get("mm_projector_type") or "linear"
    match = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    layers = 1 if kind == "linear" else int(match.group(1)) if match else 0
    if layers not in (1, 2):
        raise InputError(
            f"projector type {kind!r} has no counterpart in Hugging Face's LLaVA, which has two layers: "
            "linear, mlp1x_gelu and mlp2x_gelu have one"
        )
    return layers


def _tower_beside(source: Path, reference: dict[str, Any]) -> Path | None:
    for name in ("vision_tower", Path(str(reference.get("mm_vision_tower") or "vision_tower")).name):
        if (source / name / "config.json").is_file():
            return source / name
    return None


def _tower_config(tower: Path | None, reference: dict[str, Any]) -> dict[str, Any]:
    if tower is not None:
        config = read_json(tower / "config.json")
        if not isinstance(config, dict):
            raise InputError(f"{tower / 'config.json'} is not a JSON object")
        return config
    name = str(reference.get("mm_vision_tower"))
    if Path(name).name not in _KNOWN_TOWERS:
        raise InputError(f"the configuration of vision tower {name!r} is not known: give --vision-tower DIR")
    return {"model_type": "clip_vision_model"} | _KNOWN_TOWERS[Path(name).name]


def _is_vision(name: str) -> bool:
    return name.startswith("model.vision_tower.")


def _image_token(tokenizer: Any, rows: int, source: Path) -> int:
    found = int(tokenizer.convert_tokens_to_ids("<image>"))
    if found != rows:
        used = f"id {rows} is used already" if found > rows else "not an id after the embeddings' last row"
        raise CheckpointError(
            f"{source}: the tokenizer gives <image> the id {found}, the first free row is {rows} ({used}): "
            "its vocabulary and the checkpoint's do not belong together"
        )
    return found


# --- Hugging Face → reference --------------------------------------------------------------------


def _to_reference(source: Path, out: Path, allow_nan: bool) -> list[Moved]:
    from transformers import AutoProcessor, LlavaConfig

    verify(source)
    try:
        config = LlavaConfig.from_pretrained(source, local_files_only=True)
        processor = AutoProcessor.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise CheckpointError(f"{source} is not a LLaVA directory: {first_line(error)}") from None
    if config.model_type != "llava":
        raise CheckpointError(f"{source} holds a {config.model_type} model, not a LLaVA model")
    kept = source / REFERENCE
    known = kept / "config.json"
    reference = read_json(known) if known.is_file() else reference_config(config, processor.image_processor.do_pad)
    report = source / REPORT
    names = {m["target"]: m["source"] for m in read_json(report)["tensors"]} if report.is_file() else {}
    with whole_directory(out, REPORT) as folder:
        if kept.is_dir():
            shutil.copytree(kept, folder, dirs_exist_ok=True)
        else:
            processor.tokenizer.save_pretrained(folder)
        write_json(folder / "config.json", reference)
        tower = folder / "vision_tower"
        if not (tower / "config.json").is_file():
            write_json(tower / "config.json", json.loads(config.vision_config.to_json_string()))
        main, vision, skipped = _plan_to_reference(source, names, reference)
        return _write([(folder, main), (tower, vision)], skipped, {"source": source}, folder, allow_nan)


def reference_config(config: Any, pad: bool) -> dict[str, Any]:
    """The reference's config.json of a LlavaConfig."""
    text = config.text_config.to_dict() | (getattr(config.text_config, "rope_parameters", None) or {})
    layer = config.vision_feature_layer
    return {key: text[key] for key in _LLAMA_KEYS if text.get(key) is not None} | {
        "model_type": "vhm",
        "architectures": ["VHMForCausalLM"],
        "vocab_size": config.image_token_id,
        "tie_word_embeddings": bool(config.tie_word_embeddings),
        "mm_vision_tower": "vision_tower",
        "mm_vision_select_layer": layer,
        "mm_vision_select_feature": "patch" if config.vision_feature_select_strategy == "default" else "cls_patch",
        "mm_projector_type": "mlp2x_gelu" if config.projector_hidden_act == "gelu" else "mlp1x_gelu",
        "mm_hidden_size": config.vision_config.hidden_size * (1 if isinstance(layer, int) else len(layer)),
        "image_aspect_ratio": "pad" if pad else "square",
    }


# --- plans ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Step:
    """One tensor to write: read from `stored`, or an identity where there is none."""

    stored: StoredTensor | None
    planned: StoredTensor
    note: str = ""


def _plan_to_hf(
    listed: list[StoredTensor], config: Any, reference: dict[str, Any], source: Path
) -> tuple[list[_Step], list[Moved]]:
    """What to write, in the order of the files, and what to leave out. CheckpointError names what does not fit."""
    expected = _saved_shapes(config)
    rows, old_rows = config.text_config.vocab_size, reference["vocab_size"]
    steps: dict[str, _Step] = {}
    skipped = []
    for stored in listed:
        target, note = _rename(stored.name, _TO_HF)
        if target == "language_model.lm_head.weight" and config.tie_word_embeddings:
            target, note = None, "tied to the embeddings"
        if target is None:
            skipped.append(_skipped(stored, note))
            continue
        shape = stored.shape
        if _EMBEDDINGS.search(target) and shape and shape[0] == old_rows:
            shape, note = (rows, *shape[1:]), f"padded from {old_rows} rows with their mean"
        if target not in expected:
            raise CheckpointError(f"{stored.file}: tensor {stored.name} is unexpected")
        if shape != expected[target]:
            asked = (old_rows, *expected[target][1:]) if _EMBEDDINGS.search(target) else expected[target]
            raise CheckpointError(
                f"{stored.file}: tensor {stored.name} is {list(stored.shape)}, the configuration asks for {list(asked)}"
            )
        if target in steps:
            raise CheckpointError(f"{stored.file}: tensor {stored.name}: another tensor became {target} already")
        steps[target] = _Step(stored, _planned(target, shape, stored), note)
    if _projector_layers(reference) == 1 and "multi_modal_projector.linear_1.weight" in steps:
        first = steps["multi_modal_projector.linear_1.weight"].planned
        for name in ("multi_modal_projector.linear_2.weight", "multi_modal_projector.linear_2.bias"):
            if name in steps:
                raise CheckpointError(f"tensor {name}: a projector of one layer has no second one")
            note = "identity: the projector has one layer"
            steps[name] = _Step(None, _planned(name, expected[name], first), note)
    missing = sorted(set(expected) - set(steps))
    if missing:
        raise CheckpointError(
            f"{source} lacks {len(missing)} tensors, the first is {missing[0]} {list(expected[missing[0]])}"
        )
    return list(steps.values()), skipped


def _plan_to_reference(
    source: Path, names: dict[str, str], reference: dict[str, Any]
) -> tuple[list[_Step], list[_Step], list[Moved]]:
    """What to write for the LLM and projector, for the vision tower, and what to leave out."""
    main: list[_Step] = []
    vision: list[_Step] = []
    skipped = []
    for stored in list_tensors(weight_files(source)).values():
        target, note = _rename(stored.name, _TO_REFERENCE)
        target = names.get(stored.name) or target
        if target is None and stored.name not in names:
            raise CheckpointError(f"{stored.file}: tensor {stored.name} has no place in the reference layout")
        if "multi_modal_projector.linear_2" in stored.name and _projector_layers(reference) == 1:
            _require_identity(stored)
            skipped.append(_skipped(stored, "identity: the projector has one layer"))
            continue
        shape = stored.shape
        if _EMBEDDINGS.search(stored.name):
            shape, note = (reference["vocab_size"], *shape[1:]), f"cut to {reference['vocab_size']} rows"
        step = _Step(stored, _planned(str(target), shape, stored), note)
        (main if str(target).startswith(("model.", "lm_head")) else vision).append(step)
    return main, vision, skipped


def _rename(name: str, table: tuple[tuple[str, str], ...]) -> tuple[str | None, str]:
    for pattern, why in _SKIPPED:
        if re.search(pattern, name):
            return None, why
    for pattern, target in table:
        if re.match(pattern, name):
            return re.sub(pattern, target, name), ""
    return name if table is _TO_HF else None, ""


def _saved_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Names as Hugging Face saves them, and shapes, of the model with this configuration."""
    import torch
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    shapes = {}
    for name, tensor in model.state_dict().items():
        saved = re.sub(r"^model\.language_model\.", "language_model.model.", name)
        saved = re.sub(r"^model\.", "", saved)
        saved = re.sub(r"^lm_head\.", "language_model.lm_head.", saved)
        saved = saved.replace("vision_tower.vision_model.", "vision_tower.")
        if not saved.endswith("position_ids"):
            shapes[saved] = tuple(tensor.shape)
    if config.tie_word_embeddings:
        shapes.pop("language_model.lm_head.weight", None)
    return shapes


def _planned(name: str, shape: tuple[int, ...], like: StoredTensor) -> StoredTensor:
    elements = math.prod(like.shape)
    return StoredTensor(name, like.file, shape, like.dtype, like.bytes // max(1, elements) * math.prod(shape))


def _skipped(stored: StoredTensor, note: str) -> Moved:
    return Moved(stored.name, None, list(stored.shape), stored.dtype, note)


# --- tensors -------------------------------------------------------------------------------------


def _write(
    parts: list[tuple[Path, list[_Step]]],
    skipped: list[Moved],
    inputs: dict[str, Path],
    folder: Path,
    allow_nan: bool,
    names: Sequence[str] = (),
) -> list[Moved]:
    """Write the tensors of each directory, then the report, the card and the lineage."""
    total = sum(step.planned.bytes for _, steps in parts for step in steps)
    free = shutil.disk_usage(folder).free
    if total > free:
        raise InputError(f"the result has {total / 1e9:.1f} GB, {folder.parent} has {free / 1e9:.1f} GB free")
    moved: list[Moved] = []
    hashes: dict[Path, str] = {}
    for place, steps in parts:
        writer = ShardWriter(place, [step.planned for step in steps])
        for step, tensor in track(_tensors(steps), "converting", len(steps)):
            note = step.note
            same = step.stored if step.stored and step.stored.bytes == step.planned.bytes else None
            if not writer.write(step.planned.name, tensor, same):
                if not allow_nan:
                    where = f"{step.planned.file}: tensor {step.stored.name if step.stored else ''}"
                    raise CheckpointError(f"{where} holds NaN or infinite values: --allow-nan goes on all the same")
                note = f"{note}; holds NaN or infinite values".removeprefix("; ")
            source = step.stored.name if step.stored else None
            moved.append(Moved(source, step.planned.name, list(tensor.shape), step.planned.dtype, note))
        writer.close()
        hashes |= {place / name: digest for name, digest in writer.hashes.items()}
    moved += skipped
    report = {"source": inputs["source"].name, "tensors": [asdict(m) for m in moved]}
    write_json(folder / REPORT, report)
    if not (inputs["source"] / LINEAGE).is_file():
        hashes[inputs["source"]] = _hash_of_read(inputs["source"], report, list(hashes.values()))
    finish_model(folder, "model/convert", inputs, names=names, hashes=hashes)
    return moved


def _hash_of_read(source: Path, report: dict[str, Any], written: list[str]) -> str:
    """One hash over what was read: the small files by themselves, the tensors through what was written.

    A conversion loses nothing of a tensor, so the hashes of its result, with the list of what became what,
    stand for the source's bytes, which need not be hashed once more.
    """
    tensors = set(weight_files(source))
    small = [sha256_file(path) for path in sorted(source.rglob("*")) if path.is_file() and path not in tensors]
    content = orjson.dumps([small, report["tensors"], written], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()


def _tensors(steps: list[_Step]) -> Iterator[tuple[_Step, torch.Tensor]]:
    import torch

    by_name = {step.stored: step for step in steps if step.stored is not None}
    for stored, tensor in read_tensors(by_name):
        step = by_name[stored]
        rows = step.planned.shape[0] if step.planned.shape else 0
        if tuple(tensor.shape) != step.planned.shape:
            tensor = tensor[:rows] if rows < tensor.shape[0] else _padded(tensor, rows)
        yield step, tensor
    for step in steps:
        if step.stored is None:
            shape, dtype = step.planned.shape, getattr(torch, step.planned.dtype)
            yield step, torch.eye(shape[0], dtype=dtype) if len(shape) == 2 else torch.zeros(shape, dtype=dtype)


def _padded(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    import torch

    mean = tensor.mean(0, keepdim=True, dtype=torch.float32).to(tensor.dtype)
    return torch.cat([tensor, mean.expand(rows - tensor.shape[0], -1)])


def _require_identity(stored: StoredTensor) -> None:
    import torch

    [(_, tensor)] = read_tensors([stored])
    expected = torch.eye(len(tensor)) if tensor.ndim == 2 else torch.zeros(len(tensor))
    if not torch.equal(tensor.float(), expected):
        raise CheckpointError(
            f"{stored.file}: {stored.name} was trained: this projector has two layers now and cannot go back to one"
        )
