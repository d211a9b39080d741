"""Conversion of a reference-layout checkpoint that the test writes itself, there and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vhm.errors import CheckpointError, InputError
from vhm.model import load_model
from vhm.model.convert import convert
from vhm.model.tokenizer import from_pieces

HIDDEN, VISION, LAYERS, VOCABULARY = 32, 16, 2, 56


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """A small checkpoint in the reference's layout: sharded .bin, the vision tower beside it."""
    root = tmp_path / "reference"
    (root / "vision_tower").mkdir(parents=True)
    config = {
        "model_type": "vhm", "hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "hidden_act": "silu",
        "mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_vision_select_layer": [1, 2],
        "mm_vision_select_feature": "patch", "mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 2 * VISION,
        "image_aspect_ratio": "pad",
    }  # fmt: skip
    (root / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) / 5).half()

    llm = {"model.embed_tokens.weight": draw(VOCABULARY, HIDDEN), "lm_head.weight": draw(VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        llm |= {f"{stem}.self_attn.{k}_proj.weight": draw(HIDDEN, HIDDEN) for k in "qkvo"}
        llm |= {f"{stem}.mlp.{k}_proj.weight": draw(48, HIDDEN) for k in ("gate", "up")}
        llm[f"{stem}.mlp.down_proj.weight"] = draw(HIDDEN, 48)
        llm |= {f"{stem}.{k}_layernorm.weight": draw(HIDDEN) for k in ("input", "post_attention")}
        llm[f"{stem}.self_attn.rotary_emb.inv_freq"] = draw(4)
    rest = {"model.norm.weight": draw(HIDDEN), "model.mm_projector.0.weight": draw(HIDDEN, 2 * VISION)}
    rest |= {"model.mm_projector.0.bias": draw(HIDDEN), "model.mm_projector.2.weight": draw(HIDDEN, HIDDEN)}
    rest |= {"model.mm_projector.2.bias": draw(HIDDEN)}
    torch.save(llm, root / "pytorch_model-00001-of-00002.bin")
    torch.save(rest, root / "pytorch_model-00002-of-00002.bin")
    from transformers import CLIPVisionConfig, CLIPVisionModel

    vision = CLIPVisionConfig(
        hidden_size=VISION,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    (root / "vision_tower" / "config.json").write_text(json.dumps(vision.to_dict()))
    names = CLIPVisionModel(vision).state_dict()
    tower = {
        f"vision_model.{k.removeprefix('vision_model.')}": draw(*v.shape)
        for k, v in names.items()
        if "position_ids" not in k
    }
    torch.save(
        tower | {"vision_model.embeddings.position_ids": torch.arange(5)}, root / "vision_tower" / "pytorch_model.bin"
    )
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((chr(97 + i), -float(i)) for i in range(26)), ("▁", -30.0)]
    pieces += [(f"▁{chr(97 + i)}", -31.0 - i) for i in range(26)]
    from_pieces(pieces, legacy=True).save_pretrained(root)
    return root


def tensors(root: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix == ".safetensors":
            found |= load_file(path)
        elif path.suffix == ".bin":
            found |= torch.load(path, weights_only=True)
    return found


def test_there_and_back_is_bit_identical(reference: Path, tmp_path: Path) -> None:
    convert(reference, tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "back", to="reference")
    before, after = tensors(reference), tensors(tmp_path / "back")
    kept = {name for name in before if not name.endswith(("inv_freq", "position_ids"))}
    assert set(after) == kept
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == json.loads(
        (reference / "config.json").read_text()
    )


def test_the_converted_directory_is_a_llava_model(reference: Path, tmp_path: Path) -> None:
    moved = convert(reference, tmp_path / "hf")
    model, processor = load_model(tmp_path / "hf", dtype="float32")
    assert model.config.vision_feature_layer == [1, 2]
    assert model.config.image_token_id == VOCABULARY == processor.tokenizer.convert_tokens_to_ids("<image>")
    rows = model.get_input_embeddings().weight
    old = tensors(reference)["model.embed_tokens.weight"].float()
    assert rows.shape[0] == 64
    assert torch.allclose(rows[VOCABULARY:], old.mean(0).expand(8, -1), atol=2e-4)
    assert model.generation_config.suppress_tokens == list(range(VOCABULARY, 64))
    left_out = {m.source: m.note for m in moved if m.target is None}
    assert len(left_out) == LAYERS + 1
    assert set(left_out.values()) == {"computed from the configuration"}


def test_missing_unexpected_and_misshapen_tensors_are_named(reference: Path, tmp_path: Path) -> None:
    path = reference / "pytorch_model-00002-of-00002.bin"
    whole = torch.load(path, weights_only=True)
    cases = [
        (
            {k: v for k, v in whole.items() if k != "model.norm.weight"},
            r"lacks 1 tensors, the first is language_model.model.norm.weight \[32\]",
        ),
        (whole | {"model.extra.weight": torch.zeros(2)}, "tensor model.extra.weight is unexpected"),
        (
            whole | {"model.norm.weight": torch.zeros(31)},
            r"model.norm.weight is \[31\], the configuration asks for \[32\]",
        ),
        (whole | {"model.norm.weight": torch.full((32,), float("nan"))}, "model.norm.weight holds NaN"),
    ]
    for changed, words in cases:
        torch.save(changed, path)
        with pytest.raises(CheckpointError, match=words):
            convert(reference, tmp_path / "hf")
        assert [p.name for p in tmp_path.iterdir()] == ["reference"]


def test_a_truncated_shard_leaves_nothing_behind(reference: Path, tmp_path: Path) -> None:
    path = reference / "pytorch_model-00001-of-00002.bin"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"00001-of-00002\.bin is (damaged|refused)"):
        convert(reference, tmp_path / "hf")
    assert [p.name for p in tmp_path.iterdir()] == ["reference"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mm_vision_tower": "EVA02_CLIP_L"}, "only CLIP is"),
        ({"model_type": "mpt"}, "only Llama is"),
        ({"mm_projector_type": "linear"}, "only mlp2x_gelu"),
    ],
)
def test_configurations_without_a_counterpart_are_refused(reference: Path, tmp_path: Path, change, words: str) -> None:
    path = reference / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=words):
        convert(reference, tmp_path / "hf")
