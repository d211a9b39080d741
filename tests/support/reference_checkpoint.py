"""A small checkpoint in the reference's layout, and the reference's forward pass over it.

The forward pass combines plain CLIP and Llama: hidden states of the chosen layers without CLS, concatenated; the MLP;
image features inserted at the position of the marker.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from tests.support.slow_llama import Pieces, write_tokenizer

HIDDEN, VISION, LAYERS, DEPTH = 64, 32, 2, 3
VISION_CONFIG = {
    "hidden_size": VISION, "intermediate_size": 48, "num_hidden_layers": DEPTH, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "model_type": "vhm", "hidden_size": HIDDEN, "intermediate_size": 96, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4, "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "hidden_act": "silu",
    "_name_or_path": "lmsys/vicuna-7b-v1.5",
    "mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_vision_select_layer": [1, 2, 3],
    "mm_vision_select_feature": "patch", "mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 3 * VISION,
    "image_aspect_ratio": "pad", "mm_use_im_start_end": False,
}  # fmt: skip


def write_reference(
    root: Path, pieces: Pieces, dtype: torch.dtype = torch.float16, legacy: bool = False, **changes: Any
) -> Path:
    """Write two `.bin` shards, the vision tower and tokenizer.model; `changes` override keys of config.json."""
    (root / "vision_tower").mkdir(parents=True)
    config = CONFIG | {"vocab_size": len(pieces)} | changes
    (root / "config.json").write_text(json.dumps(config))
    first, second = llm_tensors(config, dtype)
    torch.save(first, root / "pytorch_model-00001-of-00002.bin")
    torch.save(second, root / "pytorch_model-00002-of-00002.bin")
    weight_map = dict.fromkeys(first, "pytorch_model-00001-of-00002.bin")
    weight_map |= dict.fromkeys(second, "pytorch_model-00002-of-00002.bin")
    (root / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (root / "vision_tower" / "config.json").write_text(json.dumps({"model_type": "clip_vision_model"} | VISION_CONFIG))
    torch.save(vision_tensors(dtype), root / "vision_tower" / "pytorch_model.bin")
    write_tokenizer(root, pieces, legacy)
    return root


def llm_tensors(config: dict[str, Any], dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    draw = _Draw(0, dtype)
    rows, inner = config["vocab_size"], config["intermediate_size"]
    llm = {"model.embed_tokens.weight": draw(rows, HIDDEN), "lm_head.weight": draw(rows, HIDDEN, scale=0.3)}
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        llm |= {f"{stem}.self_attn.{k}_proj.weight": draw(HIDDEN, HIDDEN) for k in "qkvo"}
        llm |= {f"{stem}.mlp.{k}_proj.weight": draw(inner, HIDDEN) for k in ("gate", "up")}
        llm[f"{stem}.mlp.down_proj.weight"] = draw(HIDDEN, inner)
        llm |= {f"{stem}.{k}_layernorm.weight": draw(HIDDEN) + 1 for k in ("input", "post_attention")}
        llm[f"{stem}.self_attn.rotary_emb.inv_freq"] = draw(8)
    width = VISION * (
        len(config["mm_vision_select_layer"]) if isinstance(config["mm_vision_select_layer"], list) else 1
    )
    rest = {"model.norm.weight": draw(HIDDEN) + 1}
    kind = config["mm_projector_type"]
    stem = "model.mm_projector" if kind == "linear" else "model.mm_projector.0"
    rest |= {f"{stem}.weight": draw(HIDDEN, width), f"{stem}.bias": draw(HIDDEN)}
    if kind == "mlp2x_gelu":
        rest |= {"model.mm_projector.2.weight": draw(HIDDEN, HIDDEN), "model.mm_projector.2.bias": draw(HIDDEN)}
    return llm, rest


def vision_tensors(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """CLIP's tensors under their published names (`vision_model.…`)."""
    draw, wide = _Draw(1, dtype), VISION_CONFIG["intermediate_size"]
    tower = {
        "embeddings.class_embedding": draw(VISION),
        "embeddings.patch_embedding.weight": draw(VISION, 3, 14, 14, scale=0.05),
        "embeddings.position_embedding.weight": draw(5, VISION),
        "embeddings.position_ids": torch.arange(5).unsqueeze(0),
    }
    norms = ["pre_layrnorm", "post_layernorm"]
    for layer in range(DEPTH):
        stem = f"encoder.layers.{layer}"
        norms += [f"{stem}.layer_norm1", f"{stem}.layer_norm2"]
        for name, shape in (
            *((f"self_attn.{k}_proj", (VISION, VISION)) for k in "qkv"),
            ("self_attn.out_proj", (VISION, VISION)),
            ("mlp.fc1", (wide, VISION)),
            ("mlp.fc2", (VISION, wide)),
        ):
            tower |= {f"{stem}.{name}.weight": draw(*shape), f"{stem}.{name}.bias": draw(shape[0])}
    for name in norms:
        tower |= {f"{name}.weight": draw(VISION) + 1, f"{name}.bias": draw(VISION)}
    return {f"vision_model.{name}": tensor for name, tensor in tower.items()}


class _Draw:
    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self.generator, self.dtype = torch.Generator().manual_seed(seed), dtype

    def __call__(self, *shape: int, scale: float = 0.2) -> torch.Tensor:
        return (torch.randn(shape, generator=self.generator) * scale).to(self.dtype)


class ReferenceModel:
    """The reference's computation in float32, from the tensors of a checkpoint directory."""

    def __init__(self, root: Path) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

        self.config = json.loads((root / "config.json").read_text())
        tensors = all_tensors(root)
        text = {
            key: value for key, value in self.config.items() if not key.startswith(("mm_", "image_", "_", "model_"))
        }
        self.llm = LlamaForCausalLM(LlamaConfig(**text)).float().eval()
        kept = {
            k: v.float()
            for k, v in tensors.items()
            if k.startswith(("model.layers", "model.embed", "model.norm", "lm_"))
        }
        kept = {k: v for k, v in kept.items() if "inv_freq" not in k}
        missing, unexpected = self.llm.load_state_dict(kept, strict=False)
        assert (missing, unexpected) == ([], [])
        self.tower = CLIPVisionModel(CLIPVisionConfig(**VISION_CONFIG)).float().eval()
        vision = {
            k.removeprefix("model.vision_tower.vision_tower."): v for k, v in tensors.items() if "vision_model." in k
        }
        prefix = "vision_model." if any(k.startswith("vision_model.") for k in self.tower.state_dict()) else ""
        named = {
            prefix + k.removeprefix("vision_model."): v.float() for k, v in vision.items() if "position_ids" not in k
        }
        missing, unexpected = self.tower.load_state_dict(named, strict=False)
        assert ([name for name in missing if "position_ids" not in name], unexpected) == ([], [])
        self.projector = {
            k.removeprefix("model.mm_projector."): v.float() for k, v in tensors.items() if "mm_projector" in k
        }

    @torch.no_grad()
    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return image features, [B, patches, hidden]."""
        states = self.tower(pixels, output_hidden_states=True).hidden_states
        layers = self.config["mm_vision_select_layer"]
        joined = torch.cat([states[i] for i in (layers if isinstance(layers, list) else [layers])], -1)
        if self.config["mm_vision_select_feature"] == "patch":
            joined = joined[:, 1:]
        weights = self.projector
        if "weight" in weights:
            return functional.linear(joined, weights["weight"], weights["bias"])
        hidden = functional.linear(joined, weights["0.weight"], weights["0.bias"])
        if "2.weight" not in weights:
            return hidden
        return functional.linear(functional.gelu(hidden), weights["2.weight"], weights["2.bias"])

    @torch.no_grad()
    def logits(self, ids: list[int], pixels: torch.Tensor) -> torch.Tensor:
        """Return [positions, vocabulary] logits of ids in which the id after the vocabulary is the image."""
        image = self.config["vocab_size"]
        embed = self.llm.get_input_embeddings()
        at = ids.index(image)
        segments = [embed(torch.tensor(ids[:at])), self.features(pixels)[0], embed(torch.tensor(ids[at + 1 :]))]
        return self.llm(inputs_embeds=torch.cat(segments).unsqueeze(0)).logits[0]

    def greedy(self, ids: list[int], pixels: torch.Tensor, tokens: int) -> list[int]:
        output: list[int] = []
        for _ in range(tokens):
            output.append(int(self.logits([*ids, *output], pixels)[-1].argmax()))
            if output[-1] == 2:
                break
        return output


def all_tensors(root: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix == ".safetensors":
            tensors |= load_file(path)
        elif path.suffix == ".bin":
            tensors |= torch.load(path, weights_only=True)
    return tensors
