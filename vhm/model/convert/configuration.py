"""A reference config.json and its vision tower's → LlavaConfig, and back. JSON in, JSON out; nothing else is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from vhm.errors import InputError
from vhm.io import JsonObject, read_json_object
from vhm.model.build import image_tokens

if TYPE_CHECKING:
    from transformers import LlavaConfig

# Read from a reference configuration; a key that is absent has Llama's default.
_LLAMA_KEYS = (
    "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim vocab_size "
    "rms_norm_eps max_position_embeddings rope_theta rope_scaling bos_token_id eos_token_id pad_token_id hidden_act "
    "attention_bias mlp_bias initializer_range tie_word_embeddings"
).split()
_REQUIRED_KEYS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
# Towers that a configuration may name without a config.json of the tower.
_KNOWN_TOWERS: dict[str, JsonObject] = {
    "clip-vit-large-patch14-336": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                                   "num_attention_heads": 16, "image_size": 336, "patch_size": 14},
    "clip-vit-large-patch14": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                               "num_attention_heads": 16, "image_size": 224, "patch_size": 14},
}  # fmt: skip
_FEATURE_STRATEGIES = {"patch": "default", "cls_patch": "full"}
_LANGUAGE_MODELS = ("vhm", "llava", "llava_llama", "llama")


def read_reference_config(source: Path) -> JsonObject:
    """Read config.json of a reference checkpoint. Raises InputError unless Llama's sizes are positive integers."""
    path = source / "config.json"
    config = read_json_object(path)
    if "text_config" in config:
        raise InputError(f"{source} is in Hugging Face's layout already: --to reference converts it back")
    for key in _REQUIRED_KEYS:
        if not isinstance(config.get(key), int) or config[key] <= 0:
            raise InputError(f"{path}: {key} is {config.get(key)!r}, a positive integer is needed")
    return config


def find_vision_tower(source: Path, reference: JsonObject) -> Path | None:
    """Return the vision tower's directory inside `source`; None if there is none."""
    for name in ("vision_tower", Path(str(reference.get("mm_vision_tower") or "vision_tower")).name):
        if (source / name / "config.json").is_file():
            return source / name
    return None


def read_tower_config(tower: Path | None, reference: JsonObject) -> JsonObject:
    """Return the vision tower's configuration: its config.json or, without a directory, that of a known tower."""
    if tower is not None:
        return read_json_object(tower / "config.json")
    name = str(reference.get("mm_vision_tower"))
    if Path(name).name not in _KNOWN_TOWERS:
        raise InputError(f"the configuration of vision tower {name!r} is not known: give --vision-tower DIR")
    return {"model_type": "clip_vision_model"} | _KNOWN_TOWERS[Path(name).name]


def hf_config(reference: JsonObject, tower: JsonObject) -> LlavaConfig:
    """Return the LlavaConfig of a reference config.json and of its vision tower's.

    Raises InputError for a setting that has no counterpart in Hugging Face's LLaVA.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    _check_supported(reference, tower)
    vision = CLIPVisionConfig.from_dict(tower.get("vision_config", tower))
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**{key: reference[key] for key in _LLAMA_KEYS if reference.get(key) is not None}),
        vision_feature_layer=_feature_layers(reference, vision.num_hidden_layers),
        vision_feature_select_strategy=_FEATURE_STRATEGIES[reference.get("mm_vision_select_feature") or "patch"],
        projector_hidden_act="gelu" if projector_layers(reference) == 2 else "linear",
        tie_word_embeddings=bool(reference.get("tie_word_embeddings", False)),
    )
    config.image_seq_length = image_tokens(config)
    return config


def _check_supported(reference: JsonObject, tower: JsonObject) -> None:
    kind = tower.get("model_type", "")
    if "clip" not in kind or "eva" in f"{kind} {reference.get('mm_vision_tower', '')}".lower():
        shown = reference.get("mm_vision_tower") if "clip" in kind else kind
        raise InputError(f"vision tower of type {shown!r} is not supported: only CLIP is")
    if reference.get("model_type") not in _LANGUAGE_MODELS:
        raise InputError(f"language model of type {reference.get('model_type')!r} is not supported: only Llama is")
    if reference.get("mm_use_im_start_end"):
        raise InputError("mm_use_im_start_end is not supported: images have no start and end tokens here")
    aspect = reference.get("image_aspect_ratio") or "square"
    if aspect not in ("pad", "square"):
        raise InputError(f"image_aspect_ratio {aspect!r} is not supported: only pad and square are")
    feature = reference.get("mm_vision_select_feature") or "patch"
    if feature not in _FEATURE_STRATEGIES:
        raise InputError(f"mm_vision_select_feature {feature!r}: use patch or cls_patch")


def _feature_layers(reference: JsonObject, depth: int) -> int | list[int]:
    layers: int | list[int] = reference.get("mm_vision_select_layer", -2)
    for layer in layers if isinstance(layers, list) else [layers]:
        if not isinstance(layer, int) or not -depth - 1 <= layer <= depth:
            raise InputError(f"mm_vision_select_layer {layers!r}: the vision tower has {depth} layers")
    if layers == []:
        raise InputError("mm_vision_select_layer is empty")
    return layers


def projector_layers(reference: JsonObject) -> int:
    """Return 1 or 2, the number of linear layers of the reference's projector.

    Hugging Face's LLaVA always has two: the second layer of a one-layer projector is an identity.
    """
    kind = reference.get("mm_projector_type") or "linear"
    match = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    layers = 1 if kind == "linear" else int(match.group(1)) if match else 0
    if layers not in (1, 2):
        raise InputError(
            f"projector type {kind!r} has no counterpart in Hugging Face's LLaVA, which has two layers: "
            "linear, mlp1x_gelu and mlp2x_gelu have one"
        )
    return layers


def pads_images(reference: JsonObject) -> bool:
    """Return whether images are padded to a square before they are resized."""
    return reference.get("image_aspect_ratio") == "pad"


def reference_config(config: LlavaConfig, pad: bool) -> JsonObject:
    """Return the reference's config.json of a LlavaConfig; `pad` as in `pads_images`."""
    text = config.text_config.to_dict() | (getattr(config.text_config, "rope_parameters", None) or {})
    layers = config.vision_feature_layer
    return {key: text[key] for key in _LLAMA_KEYS if text.get(key) is not None} | {
        "model_type": "vhm",
        "architectures": ["VHMForCausalLM"],
        "vocab_size": config.image_token_id,
        "tie_word_embeddings": bool(config.tie_word_embeddings),
        "mm_vision_tower": "vision_tower",
        "mm_vision_select_layer": layers,
        "mm_vision_select_feature": "patch" if config.vision_feature_select_strategy == "default" else "cls_patch",
        "mm_projector_type": "mlp2x_gelu" if config.projector_hidden_act == "gelu" else "mlp1x_gelu",
        "mm_hidden_size": config.vision_config.hidden_size * (1 if isinstance(layers, int) else len(layers)),
        "image_aspect_ratio": "pad" if pad else "square",
    }
