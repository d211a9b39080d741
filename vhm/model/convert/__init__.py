"""Convert checkpoints between the reference layout and Hugging Face LLaVA directories, tensor by tensor.

The reference layout (arXiv 2403.20213, published weights):

    config.json                    Llama's, with mm_vision_select_layer, mm_projector_type, …
    pytorch_model*.bin or *.safetensors
        model.{embed_tokens,layers.*,norm}.*  lm_head.weight  model.mm_projector.*
        model.vision_tower.vision_tower.*     in some copies
    vision_tower/                  CLIP: config.json, pytorch_model.bin or safetensors
    tokenizer.model                sentencepiece

The conversion is planned and checked before a byte is written; then tensors pass through memory one at a time.
A converted directory keeps the reference's small files in `reference/`, so that it can be converted back.

run            the two directions: configuration, plan, files
configuration  reference config.json ↔ LlavaConfig
tokenizer      the tokenizer of a reference checkpoint, with `<image>`
keys           the table of tensor names, and the tensors that are skipped
plan           which tensor is written where, checked against the model's shapes
tensors        the plan carried out
"""

from vhm.model.convert.plan import TensorMapping
from vhm.model.convert.run import convert

__all__ = ["TensorMapping", "convert"]
