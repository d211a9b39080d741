"""Assembly of a base model from tiny parts; tests/e2e/test_smol.py uses a real LLM."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vhm.errors import CheckpointError, InputError
from vhm.model import load_model
from vhm.model.assemble import assemble_base


@pytest.fixture
def parts(base, tmp_path: Path) -> tuple[Path, Path]:
    """The tiny vision tower and LLM in separate directories; the LLM's tokenizer has no `<image>`."""
    from transformers import LlamaForCausalLM

    from vhm.model.llama_tokenizer import from_pieces

    model, _ = base
    model.model.vision_tower.save_pretrained(tmp_path / "clip-vit-tiny")
    llm = LlamaForCausalLM(model.config.text_config)
    llm.model.load_state_dict(model.model.language_model.state_dict())
    llm.lm_head.load_state_dict(model.lm_head.state_dict())
    llm.save_pretrained(tmp_path / "vicuna-tiny")
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((f"<0x{b:02X}>", 0.0) for b in range(256))]
    tokenizer = from_pieces([*pieces, *((f"piece{i}", -float(i)) for i in range(1024 - 259))], legacy=False)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] != "<image>"]
    (tmp_path / "vicuna-tiny" / "tokenizer.json").write_text(json.dumps(state))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "vicuna-tiny" / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path / "clip-vit-tiny", tmp_path / "vicuna-tiny"


def test_parts_keep_their_weights_and_the_image_token_gets_an_embedding(base, parts, tmp_path: Path) -> None:
    assemble_base(*parts, tmp_path / "out", [2, 4, 6])
    model, processor = load_model(tmp_path / "out")
    assert processor.tokenizer.convert_tokens_to_ids("<image>") == model.config.image_token_id == 1024
    rows = model.get_input_embeddings().weight
    old = base[0].get_input_embeddings().weight
    assert rows.shape[0] == 1088
    assert torch.equal(rows[:1024], old)
    assert torch.allclose(rows[1024:], old.mean(0).expand(64, -1), atol=1e-6)
    before, after = (m.model.vision_tower.state_dict() for m in (base[0], model))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.generation_config.suppress_tokens == list(range(1024, 1088))
    assert "Vicuna: llama2, research only" in (tmp_path / "out" / "README.md").read_text()


def test_the_warm_start_stage_assembles_parts(sample: Path, parts, tmp_path: Path) -> None:
    import shutil

    from vhm import stages
    from vhm.recipe import load_recipe

    root = tmp_path / "root"
    root.mkdir()
    for part in parts:
        shutil.copytree(part, root / part.name)
    shutil.copyfile(sample / "mm_projector.bin", root / "mm_projector.bin")
    chosen = {"vision_tower": parts[0].name, "language_model": parts[1].name, "vision_feature_layer": [2, 4, 6]}
    recipe = load_recipe("tiny", [f"base.parts={json.dumps(chosen)}"])
    metrics = stages.warm_start(recipe.text(), str(root), [], str(tmp_path / "model"), str(tmp_path / "metrics"))
    assert metrics["projector"] == "mm_projector.bin"
    load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda clip, llm: (clip / "config.json").unlink(), "has no config.json"),
        (lambda clip, llm: _set(clip, model_type="dinov2"), "a vision tower of type 'dinov2' is not supported"),
        (lambda clip, llm: _set(llm, model_type="mpt"), "a language model of type 'mpt' is not supported"),
        (lambda clip, llm: (llm / "model.safetensors").write_bytes(b"x"), "cannot load"),
        (lambda clip, llm: (llm / "tokenizer.json").unlink(), "cannot load"),
    ],
)
def test_errors_name_unusable_parts(parts, tmp_path: Path, change, message: str) -> None:
    change(*parts)
    with pytest.raises(InputError, match=message):
        assemble_base(*parts, tmp_path / "out", [2, 4, 6])
    assert not (tmp_path / "out").exists()


def test_unknown_layers_and_unsupported_templates_are_refused(parts, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="vision feature layer 8 does not exist"):
        assemble_base(*parts, tmp_path / "out", [8, 16, 24])
    with pytest.raises(InputError, match=r"template chatml needs the token <\|im_start\|>"):
        assemble_base(*parts, tmp_path / "out", [2, 4, 6], "chatml")


def _set(folder: Path, **values: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
