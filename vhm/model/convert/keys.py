"""Tensor names of the reference layout and of Hugging Face LLaVA, and the tensors that are not converted."""

from __future__ import annotations

import re

# Reference name → Hugging Face name; the first pattern that matches decides.
_REFERENCE_TO_HF = (
    (r"^model\.vision_tower\.vision_tower\.(?:vision_model\.)?(.+)$", r"vision_tower.\1"),
    (r"^vision_model\.(.+)$", r"vision_tower.\1"),
    (r"^((?:embeddings|encoder|pre_layrnorm|post_layernorm)\..+)$", r"vision_tower.\1"),
    (r"^model\.mm_projector\.(?:0\.)?(weight|bias)$", r"multi_modal_projector.linear_1.\1"),
    (r"^model\.mm_projector\.2\.(weight|bias)$", r"multi_modal_projector.linear_2.\1"),
    (r"^model\.((?:embed_tokens|layers|norm)\..+)$", r"language_model.model.\1"),
    (r"^lm_head\.weight$", r"language_model.lm_head.weight"),
)
_HF_TO_REFERENCE = (
    (r"^(?:model\.)?vision_tower\.(?:vision_model\.)?(.+)$", r"vision_model.\1"),
    (r"^(?:model\.)?multi_modal_projector\.linear_1\.(weight|bias)$", r"model.mm_projector.0.\1"),
    (r"^(?:model\.)?multi_modal_projector\.linear_2\.(weight|bias)$", r"model.mm_projector.2.\1"),
    (r"^language_model\.model\.(.+)$", r"model.\1"),
    (r"^model\.language_model\.(.+)$", r"model.\1"),
    (r"^(?:language_model\.)?lm_head\.weight$", r"lm_head.weight"),
)
# Pattern → the reason why such a tensor is not converted.
_SKIPPED = (
    (r"rotary_emb\.inv_freq$", "computed from the configuration"),
    (r"position_ids$", "computed from the configuration"),
    (r"^(text_model\.|text_projection|visual_projection|logit_scale)", "CLIP's text side: not part of the model"),
)
_EMBEDDINGS = r"(embed_tokens|lm_head)\.weight$"


def hf_name(name: str) -> str:
    """Return the Hugging Face name of a reference tensor; an unknown name is returned unchanged."""
    return _rename(name, _REFERENCE_TO_HF) or name


def reference_name(name: str) -> str | None:
    """Return the reference name of a Hugging Face tensor; None for an unknown name."""
    return _rename(name, _HF_TO_REFERENCE)


def skip_reason(name: str) -> str | None:
    """Return why a tensor of this name is not converted; None if it is converted."""
    return next((reason for pattern, reason in _SKIPPED if re.search(pattern, name)), None)


def is_vision(name: str) -> bool:
    """Return whether a tensor of a reference checkpoint belongs to the vision tower inside it."""
    return name.startswith("model.vision_tower.")


def is_embedding(name: str) -> bool:
    """Return whether a tensor has one row per token: the input embeddings or the output layer."""
    return re.search(_EMBEDDINGS, name) is not None


def hf_saved_name(name: str) -> str:
    """Return the name under which Hugging Face saves a tensor of `LlavaForConditionalGeneration`'s state dict."""
    saved = re.sub(r"^model\.language_model\.", "language_model.model.", name)
    saved = re.sub(r"^model\.", "", saved)
    saved = re.sub(r"^lm_head\.", "language_model.lm_head.", saved)
    return saved.replace("vision_tower.vision_model.", "vision_tower.")


def _rename(name: str, table: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, replacement in table:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name)
    return None
