"""Assemble a base model from its parts: a CLIP vision tower and a Llama-type LLM that were trained elsewhere.

The LLM is a Hugging Face directory or one GGUF file. A `tokenizer.model` becomes the exact tokenizer of the published
weights (`vhm.model.llama_tokenizer`); any other tokenizer is kept as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vhm.artifacts.model_card import finish_model
from vhm.data.records import IMAGE_MARKER
from vhm.errors import CheckpointError, InputError, first_line
from vhm.io import JsonObject, read_json_object, whole_directory
from vhm.model.build import assemble, save_model
from vhm.model.llama_tokenizer import llama_tokenizer

if TYPE_CHECKING:
    from transformers import CLIPVisionModel, LlamaForCausalLM, PreTrainedTokenizerBase

_TEMPLATE_TOKENS = {"v1": ("</s>",), "chatml": ("<|im_start|>", "<|im_end|>")}


def assemble_base(
    vision_tower: Path,
    language_model: Path,
    out: Path,
    vision_feature_layer: list[int] | int,
    template: str = "v1",
    seed: int = 0,
) -> None:
    """Write the base model as a Hugging Face LLaVA directory, its projector drawn at random from `seed`.

    The LLM gets an embedding for `<image>`, and further rows up to a multiple of 64; the new rows are the mean of the
    others. Raises InputError for parts of a type that is not supported, CheckpointError for damaged ones.
    """
    import torch

    tower = read_vision_tower(vision_tower)
    llm = read_language_model(language_model)
    tokenizer = read_tokenizer(language_model)
    _check_template(tokenizer, template, language_model)
    _resize_embeddings(llm, len(tokenizer))
    torch.manual_seed(seed)
    model, processor = assemble(tower, llm, tokenizer, vision_feature_layer, template)
    model.to(llm.dtype)
    with whole_directory(out, "config.json") as folder:
        save_model(folder, model, processor)
        parts = {"vision_tower": vision_tower, "language_model": language_model}
        finish_model(folder, "model/assemble", parts, names=[_name(part) for part in parts.values()])


def read_vision_tower(directory: Path) -> CLIPVisionModel:
    """Load the CLIP vision tower of a directory, which may hold a complete CLIP model."""
    from transformers import CLIPVisionModel

    kind = _read_config(directory).get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        raise InputError(f"{directory}: a vision tower of type {kind!r} is not supported: only CLIP is")
    with _load_errors(directory):
        return CLIPVisionModel.from_pretrained(directory, dtype="auto", local_files_only=True)


def read_language_model(source: Path) -> LlamaForCausalLM:
    """Load the Llama-type LLM of a directory or of a GGUF file."""
    if source.suffix == ".gguf":
        return _read_gguf(source)
    from transformers import LlamaForCausalLM

    kind = _read_config(source).get("model_type")
    _check_language_model(source, kind)
    with _load_errors(source):
        return LlamaForCausalLM.from_pretrained(source, dtype="auto", local_files_only=True)


def _read_gguf(source: Path) -> LlamaForCausalLM:
    from importlib.util import find_spec

    from transformers import LlamaForCausalLM

    if not source.is_file():
        raise InputError(f"{source} does not exist")
    if find_spec("gguf") is None:
        raise InputError(f"{source}: reading GGUF needs the package gguf: pip install gguf")
    with _load_errors(source):
        model = LlamaForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype="auto", local_files_only=True
        )
    del model.config.quantization_config  # the loaded weights are not quantized
    _check_language_model(source, model.config.model_type)
    return model


def _check_language_model(source: Path, kind: object) -> None:
    if kind != "llama":
        raise InputError(f"{source}: a language model of type {kind!r} is not supported: only Llama types are")


def read_tokenizer(source: Path) -> PreTrainedTokenizerBase:
    """Load the LLM's tokenizer, with `<image>` added as its last token."""
    from transformers import AutoTokenizer

    if (source / "tokenizer.model").is_file():
        return llama_tokenizer(source)
    gguf = {"gguf_file": source.name} if source.suffix == ".gguf" else {}
    with _load_errors(source):
        # `trust_remote_code=False`: if it is not set, transformers asks on the terminal.
        tokenizer = AutoTokenizer.from_pretrained(
            source.parent if gguf else source, local_files_only=True, trust_remote_code=False, **gguf
        )
    if IMAGE_MARKER in tokenizer.get_vocab():
        raise CheckpointError(f"{source}: the tokenizer has a token {IMAGE_MARKER} already")
    tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE_MARKER]})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def _check_template(tokenizer: PreTrainedTokenizerBase, template: str, source: Path) -> None:
    missing = [token for token in _TEMPLATE_TOKENS[template] if token not in tokenizer.get_vocab()]
    if missing:
        raise InputError(
            f"template {template} needs the token {missing[0]}, which the tokenizer of {source} lacks: choose another"
        )


def _resize_embeddings(llm: LlamaForCausalLM, tokens: int) -> None:
    """Give every token an embedding, with a number of rows that is a multiple of 64."""
    import torch

    old = llm.get_input_embeddings().weight.shape[0]
    rows = -(-max(old, tokens) // 64) * 64
    if rows == old:
        return
    tied = llm.config.tie_word_embeddings
    llm.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for layer in [llm.get_input_embeddings()] + ([] if tied else [llm.get_output_embeddings()]):
            layer.weight[old:] = layer.weight[:old].mean(0, dtype=torch.float32).to(layer.weight.dtype)


def _name(part: Path) -> str:
    """Return the name of a part: the one in its configuration, or that of its directory."""
    path = part / "config.json"
    name = read_json_object(path).get("_name_or_path") if path.is_file() else None
    return str(name or part.name)


def _read_config(directory: Path) -> JsonObject:
    path = directory / "config.json"
    if not path.is_file():
        raise InputError(f"{directory} has no config.json: give a Hugging Face directory (`hf download … --local-dir`)")
    return read_json_object(path)


@contextmanager
def _load_errors(source: Path) -> Iterator[None]:
    """Turn whatever a library raises while it loads `source` into a CheckpointError."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(f"cannot load {source}: {first_line(error)}") from None
