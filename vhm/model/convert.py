"""Reference checkpoints ↔ Hugging Face LLaVA directories, tensor by tensor.

The reference's layout (arXiv 2403.20213, published weights):

    config.json                    Llama's, with mm_vision_select_layer, mm_projector_type, …
    pytorch_model*.bin or *.safetensors
        model.{embed_tokens,layers.*,norm}.*  lm_head.weight  model.mm_projector.{0,2}.*
        model.vision_tower.vision_tower.*     in some copies
    vision_tower/                  CLIP: config.json, pytorch_model.bin or safetensors
    tokenizer.model                sentencepiece

Shards are read one at a time and written as they come; the result appears under its name when complete.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhm.errors import CheckpointError, InputError
from vhm.io import read_json, whole_directory, write_json
from vhm.model.build import build_processor, generation_config, image_tokens
from vhm.model.projector import read_tensors
from vhm.progress import track

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

# Reference name → Hugging Face name; the first pattern that matches decides.
_TO_HF = (
    (r"^model\.vision_tower\.vision_tower\.(?:vision_model\.)?(.+)$", r"vision_tower.\1"),
    (r"^vision_model\.(.+)$", r"vision_tower.\1"),
    (r"^model\.mm_projector\.0\.(weight|bias)$", r"multi_modal_projector.linear_1.\1"),
    (r"^model\.mm_projector\.2\.(weight|bias)$", r"multi_modal_projector.linear_2.\1"),
    (r"^model\.((?:embed_tokens|layers|norm)\..+)$", r"language_model.model.\1"),
    (r"^lm_head\.weight$", r"language_model.lm_head.weight"),
)
_TO_REFERENCE = (
    (r"^vision_tower\.(?:vision_model\.)?(.+)$", r"vision_model.\1"),
    (r"^multi_modal_projector\.linear_1\.(weight|bias)$", r"model.mm_projector.0.\1"),
    (r"^multi_modal_projector\.linear_2\.(weight|bias)$", r"model.mm_projector.2.\1"),
    (r"^language_model\.model\.(.+)$", r"model.\1"),
    (r"^language_model\.lm_head\.weight$", r"lm_head.weight"),
)
_LEFT_OUT = (
    (r"rotary_emb\.inv_freq$", "computed from the configuration"),
    (r"position_ids$", "computed from the configuration"),
)
_EMBEDDINGS = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
_SHARD_BYTES = 2 * 2**30
_LLAMA_KEYS = (
    "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads vocab_size rms_norm_eps "
    "max_position_embeddings rope_theta bos_token_id eos_token_id pad_token_id hidden_act tie_word_embeddings"
).split()


@dataclass(frozen=True)
class Moved:
    """What became of one tensor: `target` is None when it was left out, and `note` says why."""

    source: str
    target: str | None
    shape: list[int]
    dtype: str
    note: str = ""


def convert(
    source: Path, out: Path, to: str = "hf", vision_tower: Path | None = None, allow_nan: bool = False
) -> list[Moved]:
    """Convert `source` into `out`; every tensor is listed in conversion.json and in what is returned.

    Raises CheckpointError that names a missing, unexpected, damaged or misshapen tensor, and InputError
    for a configuration that has no counterpart. Nothing is left at `out` then.
    """
    if to == "hf":
        return _to_hf(source, out, vision_tower or source / "vision_tower", allow_nan)
    if to == "reference":
        return _to_reference(source, out, allow_nan)
    raise InputError(f"--to {to!r} is unknown: use hf or reference")


# --- reference → Hugging Face --------------------------------------------------------------------


def _to_hf(source: Path, out: Path, tower: Path, allow_nan: bool) -> list[Moved]:
    import torch
    from transformers import LlavaForConditionalGeneration
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    reference = read_json(source / "config.json")
    config = hf_config(reference, read_json(tower / "config.json"))
    tokenizer = reference_tokenizer(source)
    old_rows = reference["vocab_size"]
    config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    if config.image_token_id != old_rows:
        raise CheckpointError(
            f"{source}: the tokenizer gives <image> the id {config.image_token_id}, the first free row is {old_rows}: "
            "its vocabulary and the checkpoint's do not belong together"
        )
    rows = -(-(old_rows + 1) // 64) * 64
    config.text_config.vocab_size = rows
    with torch.device("meta"):
        expected = _saved_shapes(LlavaForConditionalGeneration(config))
    with whole_directory(out, "conversion.json") as folder:
        files = [*weight_files(source), *(weight_files(tower) if _separate_tower(source) else [])]
        writer = _ShardWriter(folder, "model")
        moved = []
        for name, tensor in _tensors(files, allow_nan):
            target, note = _rename(name, _TO_HF)
            if target in _EMBEDDINGS:
                tensor = _padded(tensor, rows)
                note = f"padded from {old_rows} rows with their mean"
            if target is not None:
                _check(name, target, tensor, expected, writer.written)
                writer.add(target, tensor)
            moved.append(_note(name, target, tensor, note))
        _check_complete(expected, writer.written, source)
        writer.close()
        config.dtype = writer.dtype
        config.save_pretrained(folder)
        generation_config(tokenizer, rows).save_pretrained(folder)
        build_processor(tokenizer, config.vision_config.image_size, config.vision_config.patch_size).save_pretrained(
            folder
        )
        _write_report(folder, source, moved, {"reference_config": reference, "old_rows": old_rows})
    return moved


def hf_config(reference: dict[str, Any], tower: dict[str, Any]) -> Any:
    """The LlavaConfig of a reference config.json and its vision tower's. InputError for what has no counterpart."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    tower = tower.get("vision_config", tower)
    if "clip" not in tower.get("model_type", "") or "eva" in str(reference.get("mm_vision_tower", "")).lower():
        raise InputError(f"vision tower of type {tower.get('model_type')!r} is not supported: only CLIP is")
    if reference.get("model_type") not in ("vhm", "llava", "llava_llama", "llama"):
        raise InputError(f"language model of type {reference.get('model_type')!r} is not supported: only Llama is")
    projector = reference.get("mm_projector_type", "mlp2x_gelu")
    if projector != "mlp2x_gelu":
        raise InputError(
            f"projector type {projector!r} has no counterpart in Hugging Face's LLaVA: only mlp2x_gelu has"
        )
    feature = reference.get("mm_vision_select_feature", "patch")
    return LlavaConfig(
        vision_config=CLIPVisionConfig.from_dict(tower),
        text_config=LlamaConfig(**{key: reference[key] for key in _LLAMA_KEYS if key in reference}),
        vision_feature_layer=reference.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="default" if feature == "patch" else "full",
        image_seq_length=image_tokens(CLIPVisionConfig.from_dict(tower)) + (feature == "cls_patch"),
        tie_word_embeddings=bool(reference.get("tie_word_embeddings", False)),
    )


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
        raise CheckpointError(f"{source}/tokenizer.json cannot be read: {str(error).splitlines()[0]}") from None
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.image_token = "<image>"
    return tokenizer


# --- Hugging Face → reference --------------------------------------------------------------------


def _to_reference(source: Path, out: Path, allow_nan: bool) -> list[Moved]:
    from transformers import AutoTokenizer, LlavaConfig

    report = source / "conversion.json"
    known = read_json(report)["configuration"] if report.is_file() else {}
    config = LlavaConfig.from_pretrained(source, local_files_only=True)
    old_rows = known.get("old_rows", config.image_token_id)
    with whole_directory(out, "conversion.json") as folder:
        main, vision = _ShardWriter(folder, "model"), _ShardWriter(folder / "vision_tower", "model")
        moved = []
        for name, tensor in _tensors(weight_files(source), allow_nan):
            target, note = _rename(name, _TO_REFERENCE)
            if target is None:
                raise CheckpointError(f"{source}: tensor {name} has no place in the reference layout")
            if name in _EMBEDDINGS:
                tensor, note = tensor[:old_rows].clone(), f"cut to {old_rows} rows"
            (vision if target.startswith("vision_model.") else main).add(target, tensor)
            moved.append(_note(name, target, tensor, note))
        main.close()
        vision.close()
        write_json(folder / "config.json", known.get("reference_config") or _reference_config(config, old_rows))
        write_json(folder / "vision_tower" / "config.json", json.loads(config.vision_config.to_json_string()))
        AutoTokenizer.from_pretrained(source, local_files_only=True).save_pretrained(folder)
        _write_report(folder, source, moved, {})
    return moved


def _reference_config(config: Any, rows: int) -> dict[str, Any]:
    text = config.text_config.to_dict()
    layer = config.vision_feature_layer
    layers = [layer] if isinstance(layer, int) else layer
    return {key: text[key] for key in _LLAMA_KEYS if text.get(key) is not None} | {
        "model_type": "vhm",
        "architectures": ["VHMForCausalLM"],
        "vocab_size": rows,
        "mm_vision_tower": "vision_tower",
        "mm_vision_select_layer": layer,
        "mm_vision_select_feature": "patch" if config.vision_feature_select_strategy == "default" else "cls_patch",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": config.vision_config.hidden_size * len(layers),
        "image_aspect_ratio": "pad",
    }


# --- tensors -------------------------------------------------------------------------------------


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a directory, those that its index names where it has one. CheckpointError when one is absent."""
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).is_file():
            names = sorted(set(read_json(folder / index)["weight_map"].values()))
            lost = [name for name in names if not (folder / name).is_file()]
            if lost:
                raise CheckpointError(f"{folder / index} names {lost[0]}, which does not exist")
            return [folder / name for name in names]
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise CheckpointError(f"{folder} holds no weights (*.safetensors or pytorch_model*.bin)")
    return files


def _separate_tower(source: Path) -> bool:
    """Whether the vision weights are not in the main files."""
    return not any("vision_tower" in name for path in weight_files(source) for name in _names(path))


def _names(path: Path) -> list[str]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                return list(file.keys())
        except SafetensorError as error:
            raise CheckpointError(f"{path} is damaged: {error}") from None
    return list(read_tensors(path))


def _tensors(files: list[Path], allow_nan: bool) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    seen: set[str] = set()
    for path in track(files, "converting", len(files)):
        for name, tensor in read_tensors(path).items():
            if name in seen:
                raise CheckpointError(f"{path}: tensor {name} is there twice")
            seen.add(name)
            # A finite sum means finite values; fp16 sums can overflow, so a bad sum is looked at again.
            suspect = tensor.is_floating_point() and not allow_nan and not bool(torch.isfinite(tensor.sum()))
            if suspect and not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(f"{path}: tensor {name} holds NaN or infinity: --allow-nan to go on")
            yield name, tensor


def _rename(name: str, table: tuple[tuple[str, str], ...]) -> tuple[str | None, str]:
    for pattern, why in _LEFT_OUT:
        if re.search(pattern, name):
            return None, why
    for pattern, replacement in table:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name), ""
    raise CheckpointError(f"tensor {name} is unexpected: it has no place in the other layout")


def _check(name: str, target: str, tensor: torch.Tensor, expected: dict[str, list[int]], written: set[str]) -> None:
    if target not in expected:
        raise CheckpointError(f"tensor {name} is unexpected: the model of this configuration has no {target}")
    if list(tensor.shape) != expected[target]:
        raise CheckpointError(f"tensor {name} is {list(tensor.shape)}, the configuration asks for {expected[target]}")
    if target in written:
        raise CheckpointError(f"tensor {name}: another tensor became {target} already")


def _check_complete(expected: dict[str, list[int]], written: set[str], source: Path) -> None:
    missing = sorted(set(expected) - written)
    if missing:
        raise CheckpointError(
            f"{source} lacks {len(missing)} tensors, the first is {missing[0]} {expected[missing[0]]}"
        )


def _saved_shapes(model: Any) -> dict[str, list[int]]:
    """Names as Hugging Face saves them, and shapes."""
    shapes = {}
    for name, tensor in model.state_dict().items():
        saved = re.sub(r"^model\.language_model\.", "language_model.model.", name)
        saved = re.sub(r"^model\.", "", saved)
        saved = re.sub(r"^lm_head\.", "language_model.lm_head.", saved)
        saved = saved.replace("vision_tower.vision_model.", "vision_tower.")
        if not saved.endswith("position_ids"):
            shapes[saved] = list(tensor.shape)
    if model.config.tie_word_embeddings:
        shapes.pop("language_model.lm_head.weight", None)
    return shapes


def _padded(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    import torch

    mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
    return torch.cat([tensor, mean.expand(rows - tensor.shape[0], -1)])


def _note(name: str, target: str | None, tensor: torch.Tensor, note: str) -> Moved:
    return Moved(name, target, list(tensor.shape), str(tensor.dtype).removeprefix("torch."), note)


def _write_report(folder: Path, source: Path, moved: list[Moved], configuration: dict[str, Any]) -> None:
    tensors = [asdict(m) for m in moved]
    write_json(folder / "conversion.json", {"source": source.name, "configuration": configuration, "tensors": tensors})


class _ShardWriter:
    """Collects tensors and writes a safetensors shard whenever enough have come."""

    def __init__(self, folder: Path, stem: str) -> None:
        self._folder, self._stem = folder, stem
        self._held: dict[str, torch.Tensor] = {}
        self._bytes = self._total = 0
        self._shards: list[list[str]] = []
        self.written: set[str] = set()
        self.dtype: Any = None

    def add(self, name: str, tensor: torch.Tensor) -> None:
        self._held[name] = tensor.contiguous()
        self._bytes += tensor.numel() * tensor.element_size()
        self.written.add(name)
        self.dtype = tensor.dtype
        if self._bytes >= _SHARD_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what is left, give the shards their final names, and the index when there are several."""
        self._flush()
        count = len(self._shards)
        names = [f"{self._stem}-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
        if count == 1:
            names = [f"{self._stem}.safetensors"]
        weight_map: dict[str, str] = {}
        for number, (name, tensors) in enumerate(zip(names, self._shards, strict=True)):
            (self._folder / f"{self._stem}.{number}.tmp").rename(self._folder / name)
            weight_map |= dict.fromkeys(tensors, name)
        if count > 1:
            index = {"metadata": {"total_size": self._total}, "weight_map": weight_map}
            write_json(self._folder / f"{self._stem}.safetensors.index.json", index)

    def _flush(self) -> None:
        from safetensors.torch import save_file

        if not self._held:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        save_file(self._held, self._folder / f"{self._stem}.{len(self._shards)}.tmp", metadata={"format": "pt"})
        self._shards.append(list(self._held))
        self._total += self._bytes
        self._held, self._bytes = {}, 0
