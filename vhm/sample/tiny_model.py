"""The tiny base parts: a CLIP-class ViT, a Llama-class LLM and a tokenizer, the same bytes on every machine.

Their weights are drawn at random, not trained, except those of the projector: `mm_projector.bin` was trained by
`vhm train align` on these parts with one feature layer (`make projector` trains it again).
To make a tiny ViT useful, its patch embedding is the two-dimensional cosine basis, lowest frequencies first, and its
position embeddings are sines and cosines: it starts as a transform that preserves the image.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vhm.io import whole_directory, write_bytes
from vhm.model.build import assemble, save_model
from vhm.model.llama_tokenizer import SPECIALS, as_llama

if TYPE_CHECKING:
    from torch import nn
    from transformers import CLIPVisionModel, LlamaForCausalLM, PreTrainedTokenizerFast

VISION_FEATURE_LAYER = [2, 4, 6]
SOURCE_LAYER = 6
PROJECTOR = "mm_projector.bin"
_VISION = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "image_size": 168,
    "patch_size": 14,
}
_TEXT = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 2048,
}
_VOCABULARY = 1024


def build_tiny_base(out: Path, texts: Iterable[str], vision_feature_layer: list[int] | None = None) -> None:
    """Write the base model as a Hugging Face LLaVA directory, its projector drawn at random."""
    tokenizer = train_tokenizer(texts)
    layers = vision_feature_layer or VISION_FEATURE_LAYER
    model, processor = assemble(_vision_tower(), _language_model(tokenizer), tokenizer, layers)
    _draw(model.model.multi_modal_projector, seed=3)
    with whole_directory(out, "config.json") as directory:
        save_model(directory, model, processor)


def write_projector(path: Path) -> None:
    """Write the trained single-layer projector, a file in LLaVA-1.5's layout."""
    write_bytes(path, resources.files("vhm.sample").joinpath(PROJECTOR).read_bytes())


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a Llama-style BPE tokenizer with byte fallback on `texts`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = split
    size = _VOCABULARY - len(SPECIALS) - 256 - 1  # without special tokens, bytes and `<image>`
    trained.train_from_iterator(sorted(set(texts)), trainers.BpeTrainer(vocab_size=size, show_progress=False))
    bpe = json.loads(trained.to_str())["model"]
    tokens = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(bpe["vocab"], key=bpe["vocab"].get)]
    merges = [tuple(pair) for pair in bpe["merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = split
    return as_llama(tokenizer)


def _vision_tower() -> CLIPVisionModel:
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    model = CLIPVisionModel(CLIPVisionConfig(**_VISION))
    _draw(model, seed=1)
    side = _VISION["image_size"] // _VISION["patch_size"]
    state = model.state_dict()
    positions = np.zeros((side * side + 1, _VISION["hidden_size"]))
    positions[1:] = _sine_positions(side, _VISION["hidden_size"])
    with torch.no_grad():
        for name, value in (
            ("patch_embedding.weight", _cosine_basis(_VISION["hidden_size"], _VISION["patch_size"])),
            ("position_embedding.weight", 0.5 * positions),
        ):
            key = next(k for k in state if k.endswith(name))
            state[key].copy_(torch.from_numpy(value.astype(np.float32)))
    return model


def _language_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **_TEXT,
        vocab_size=_VOCABULARY,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    _draw(model, seed=2)
    return model


def _draw(module: nn.Module, seed: int) -> None:
    """Draw every parameter from one seeded stream: matrices with deviation 1/√fan_in, embeddings with 0.05.

    Biases are zero and norms one. numpy's generator and float64 arithmetic give the same numbers on every machine;
    torch's do not.
    """
    import torch

    generator = np.random.Generator(np.random.PCG64(seed))
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            if parameter.ndim == 1:
                value = np.zeros(parameter.shape) if name.endswith("bias") else np.ones(parameter.shape)
                if name.endswith("class_embedding"):
                    value = np.zeros(parameter.shape)
            else:
                scale = 0.05 if "embed" in name else parameter[0].numel() ** -0.5
                value = scale * generator.standard_normal(tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(value.astype(np.float32)))


def _cosine_basis(channels: int, patch: int) -> NDArray[np.float64]:
    """Return cosines of brightness and two colour differences, low frequencies first: [channels, 3, patch, patch]."""
    colours = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / np.sqrt([[3], [2], [6]])
    line = (np.arange(patch) + 0.5) / patch
    waves = [np.cos(np.pi * k * line) * np.sqrt((2 - (k == 0)) / patch) for k in range(patch)]
    order = sorted(
        ((colour, v, u) for colour in range(3) for v in range(patch) for u in range(patch)),
        key=lambda c: ((c[1] + c[2]) + (2.5 if c[0] else 0), c),
    )
    basis = [np.einsum("c,y,x->cyx", colours[c], waves[v], waves[u]) for c, v, u in order[:channels]]
    # High frequencies are weak in images: amplify them so that the first layer norm does not suppress them.
    weight = [0.5 * (1 + v + u) for _, v, u in order[:channels]]
    return np.stack([w * b for w, b in zip(weight, basis, strict=True)])


def _sine_positions(side: int, width: int) -> NDArray[np.float64]:
    """Return sines and cosines of the row (first half of the channels) and the column (second half): [side², width]."""
    frequency = 1.0 / 100.0 ** (np.arange(width // 4) / (width // 4))
    angle = np.arange(side)[:, None] * frequency
    wave = np.concatenate([np.sin(angle), np.cos(angle)], 1)
    rows = np.repeat(wave, side, axis=0)
    columns = np.tile(wave, (side, 1))
    return np.concatenate([rows, columns], 1)
