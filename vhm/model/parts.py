"""A base model from its parts: a CLIP vision tower and a Llama-type LLM that somebody else trained.

The LLM comes as a Hugging Face directory, or as one GGUF file. A `tokenizer.model` becomes the exact
tokenizer of the published weights (`vhm.model.llama_tokenizer`); any other tokenizer stays its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhm.artifacts.model_card import finish_model
from vhm.data.records import IMAGE_MARKER
from vhm.errors import CheckpointError, InputError, first_line
from vhm.io import read_json, whole_directory
from vhm.model.build import assemble, save_model

if TYPE_CHECKING:
    from transformers import CLIPVisionModel, LlamaForCausalLM, PreTrainedTokenizerBase


def assemble_base(
    vision_tower: Path,
    language_model: Path,
    out: Path,
    vision_feature_layer: list[int] | int,
    template: str = "v1",
    seed: int = 0,
) -> None:
    """Write the base model as a Hugging Face LLaVA directory; its projector is drawn from `seed`.

    The LLM gets an embedding for `<image>`, and rows up to a multiple of 64, all the mean of the others.
    Raises InputError for parts of a type that is not supported, CheckpointError for damaged ones.
    """
    import torch

    tower = read_vision_tower(vision_tower)
    llm = read_language_model(language_model)
    tokenizer = read_tokenizer(language_model)
    _require_template(tokenizer, template, language_model)
    _make_room(llm, len(tokenizer))
    torch.manual_seed(seed)
    model, processor = assemble(tower, llm, tokenizer, vision_feature_layer, template)
    model.to(llm.dtype)
    with whole_directory(out, "config.json") as folder:
        save_model(folder, model, processor)
        parts = {"vision_tower": vision_tower, "language_model": language_model}
        finish_model(folder, "model/assemble", parts, names=[_name(part) for part in parts.values()])


def read_vision_tower(directory: Path) -> CLIPVisionModel:
    """The CLIP vision tower of a directory, which may hold the whole of CLIP."""
    from transformers import CLIPVisionModel

    kind = _config(directory).get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        raise InputError(f"{directory}: a vision tower of type {kind!r} is not supported: only CLIP is")
    return _load(CLIPVisionModel, directory)


def read_language_model(source: Path) -> LlamaForCausalLM:
    """The Llama-type LLM of a directory or a GGUF file."""
    from transformers import LlamaForCausalLM

    if source.suffix == ".gguf":
        _require_gguf(source)
        model = _load(LlamaForCausalLM, source.parent, gguf_file=source.name)
        del model.config.quantization_config  # its weights are whole numbers no longer
        kind = model.config.model_type
    else:
        kind = _config(source).get("model_type")
        model = _load(LlamaForCausalLM, source) if kind == "llama" else None
    if kind != "llama":
        raise InputError(f"{source}: a language model of type {kind!r} is not supported: only Llama types are")
    return model


def read_tokenizer(source: Path) -> PreTrainedTokenizerBase:
    """The LLM's tokenizer with `<image>` added after its last id."""
    from transformers import AutoTokenizer

    from vhm.model.llama_tokenizer import llama_tokenizer

    if (source / "tokenizer.model").is_file():
        return llama_tokenizer(source)
    place: dict[str, Any] = {"gguf_file": source.name} if source.suffix == ".gguf" else {}
    tokenizer = _load(AutoTokenizer, source.parent if place else source, **place)
    if IMAGE_MARKER in tokenizer.get_vocab():
        raise CheckpointError(f"{source}: the tokenizer has a token {IMAGE_MARKER} already")
    tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE_MARKER]})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def _make_room(llm: LlamaForCausalLM, tokens: int) -> None:
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


def _require_template(tokenizer: PreTrainedTokenizerBase, template: str, source: Path) -> None:
    needed = {"v1": ["</s>"], "chatml": ["<|im_start|>", "<|im_end|>"]}[template]
    lost = [token for token in needed if token not in tokenizer.get_vocab()]
    if lost:
        raise InputError(f"template {template} needs the token {lost[0]}, which {source} has not: choose another")


def _require_gguf(source: Path) -> None:
    from importlib.util import find_spec

    if not source.is_file():
        raise InputError(f"{source} does not exist")
    if find_spec("gguf") is None:
        raise InputError(f"{source}: reading GGUF needs the package gguf: pip install gguf")


def _config(directory: Path) -> dict[str, Any]:
    if not (directory / "config.json").is_file():
        raise InputError(f"{directory} has no config.json: give a Hugging Face directory (`hf download … --local-dir`)")
    config = read_json(directory / "config.json")
    return config if isinstance(config, dict) else {}


def _name(part: Path) -> str:
    """What the part is called, by its own configuration where that says."""
    path = part / "config.json"
    told = read_json(path).get("_name_or_path") if path.is_file() else None
    return str(told or part.name)


def _load(kind: Any, directory: Path, **arguments: Any) -> Any:
    import torch

    if issubclass(kind, torch.nn.Module):
        arguments |= {"dtype": "auto"}
    else:
        arguments |= {"trust_remote_code": False}  # unset, transformers would ask on the terminal
    try:
        return kind.from_pretrained(directory, local_files_only=True, **arguments)
    except Exception as error:
        raise CheckpointError(f"cannot load {directory}: {first_line(error)}") from None
