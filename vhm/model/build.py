"""Load a model directory, assemble a model from its parts in memory, and save it with everything it needs.

A model is a Hugging Face `LlavaForConditionalGeneration` whose `vision_feature_layer` may be a list: the features
of those layers of the vision tower, without CLS, are concatenated on the channel axis and go through a two-layer MLP
(arXiv 2403.20213, section 3).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhm.artifacts.lineage import verify
from vhm.data.encode import CHAT_TEMPLATES
from vhm.data.images.transform import ImageTransform
from vhm.data.records import IMAGE_MARKER
from vhm.errors import CheckpointError, first_line

if TYPE_CHECKING:
    import torch
    from transformers import (
        GenerationConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )


def load_model(
    directory: str | Path,
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
    check_files: bool = True,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Load the model (in evaluation mode) and the processor of a Hugging Face LLaVA directory.

    `dtype` defaults to the checkpoint's. Weights are read from safetensors only, and no code of the directory runs.
    If the directory has a lineage.json, every file must have the hash that it lists; `check_files=False` skips this
    check, for example when another process has made it. Raises CheckpointError when the directory is not a complete
    LLaVA model.
    """
    import torch
    from transformers import AutoProcessor, LlavaConfig, LlavaForConditionalGeneration

    directory = Path(directory)
    _check_present(directory)
    if check_files:
        verify(directory)
    try:
        config = LlavaConfig.from_pretrained(directory, local_files_only=True)
        if config.model_type != "llava":
            raise CheckpointError(f"{directory} holds a {config.model_type} model, not a LLaVA model")
        model, report = LlavaForConditionalGeneration.from_pretrained(
            directory, dtype=dtype or "auto", local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        processor = AutoProcessor.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"cannot load {directory}: {first_line(error)}") from error
    wrong = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])
    if wrong:
        raise CheckpointError(f"{directory} has missing or unexpected tensors: {', '.join(map(str, wrong[:5]))}")
    if device:
        model = model.to(torch.device(device))
    return model.eval(), processor


def _check_present(directory: Path) -> None:
    if not (directory / "config.json").is_file():
        raise CheckpointError(f"{directory} has no config.json: give a Hugging Face LLaVA directory")
    if not list(directory.glob("model*.safetensors")):
        raise CheckpointError(f"{directory} has no model*.safetensors: convert it first with `vhm convert`")


def assemble(
    vision_tower: PreTrainedModel,
    language_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vision_feature_layer: list[int] | int,
    template: str = "v1",
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Build a LLaVA model from a CLIP vision tower and a Llama-type LLM, with an untrained projector.

    The tokenizer must have a token `<image>`, and the LLM an embedding for it. `template` is the chat format.
    Raises CheckpointError when a feature layer does not exist in the tower.
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    layers = [vision_feature_layer] if isinstance(vision_feature_layer, int) else vision_feature_layer
    check_feature_layers(layers, vision_tower.config.num_hidden_layers)
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_MARKER)
    rows = language_model.get_input_embeddings().weight.shape[0]
    if image_token is None or not 0 <= image_token < rows:
        raise CheckpointError(f"the tokenizer's {IMAGE_MARKER} has id {image_token}, the LLM has {rows} embeddings")
    config = LlavaConfig(
        vision_config=vision_tower.config,
        text_config=language_model.config,
        image_token_id=image_token,
        vision_feature_layer=vision_feature_layer,
        vision_feature_select_strategy="default",
        image_seq_length=(vision_tower.config.image_size // vision_tower.config.patch_size) ** 2,
        tie_word_embeddings=language_model.config.tie_word_embeddings,
    )
    config.architectures = ["LlavaForConditionalGeneration"]
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(vision_tower.state_dict())
    model.model.language_model.load_state_dict(language_model.model.state_dict())
    model.lm_head.load_state_dict(language_model.lm_head.state_dict())
    model.generation_config = generation_config(tokenizer, rows)
    return model, build_processor(tokenizer, config, template=template)


def check_feature_layers(layers: list[int], depth: int) -> None:
    """Raise CheckpointError unless each layer exists in a vision tower of `depth` layers; -1 is the last one."""
    for layer in layers:
        if not -depth - 1 <= layer <= depth:
            raise CheckpointError(f"vision feature layer {layer} does not exist: the vision tower has {depth} layers")


def image_tokens(config: LlavaConfig) -> int:
    """Return the number of positions that an image takes in a model's input: its patches, and CLS if it is kept."""
    vision = config.vision_config
    patches = int(vision.image_size // vision.patch_size) ** 2
    return patches + (1 if config.vision_feature_select_strategy == "full" else 0)


def generation_config(tokenizer: PreTrainedTokenizerBase, rows: int) -> GenerationConfig:
    """Return greedy decoding that never generates `<image>` or a row of the `rows` embeddings without a token."""
    from transformers import GenerationConfig

    image_token = tokenizer.convert_tokens_to_ids(IMAGE_MARKER)
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=sorted({image_token, *range(len(tokenizer), rows)}),
        do_sample=False,
        max_new_tokens=512,
    )


def build_processor(
    tokenizer: PreTrainedTokenizerBase, config: Any, template: str = "v1", pad: bool = True
) -> LlavaProcessor:
    """Return the processor that gives exactly training's pixels and prompts for a model with this LlavaConfig.

    `pad`: images are padded to a square with CLIP's mean colour before they are resized.
    """
    from transformers import LlavaProcessor

    transform = ImageTransform(config.vision_config.image_size, "pad" if pad else "crop")
    return LlavaProcessor(
        image_processor=transform.image_processor(),
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        chat_template=CHAT_TEMPLATES[template],
        image_token=IMAGE_MARKER,
        num_additional_image_tokens=1,
    )


def save_model(
    directory: Path,
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    state: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write what plain transformers needs into `directory`. `state` holds the weights if they are not in the model."""
    model.save_pretrained(directory, safe_serialization=True, state_dict=state)
    processor.save_pretrained(directory)
    for path in directory.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors makes them readable by their owner only; servers run as another user
