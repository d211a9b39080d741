"""Questions → prompts: the model's own chat template, as token ids with the image expanded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhm.data.encode import IGNORE, Sample, expand, refuse_special_tokens
from vhm.data.records import IMAGE_MARKER

if TYPE_CHECKING:
    from transformers import LlavaProcessor


def build_prompt(question: str, processor: LlavaProcessor, with_image: bool = True) -> str:
    """The prompt of one question in the model's chat format, up to where its answer begins.

    Raises EncodeError when the question's text would become special tokens.
    """
    refuse_special_tokens([("human", question)], processor.tokenizer, has_image=False)
    content = [{"type": "image"}] * with_image + [{"type": "text", "text": question}]
    return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))


def prompt_ids(question: str, processor: LlavaProcessor, image_tokens: int) -> list[int]:
    """The prompt's token ids; the image takes `image_tokens` positions, as in training. Raises EncodeError."""
    tokenizer = processor.tokenizer
    ids = tokenizer(build_prompt(question, processor), add_special_tokens=False)["input_ids"]
    sample = Sample(ids, [IGNORE] * len(ids), truncated=False)
    return expand(sample, tokenizer.convert_tokens_to_ids(IMAGE_MARKER), image_tokens)[0]
