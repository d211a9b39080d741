"""The tokenizer of a reference checkpoint: tokenizer.model or tokenizer.json in, `<image>` as its last token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vhm.data.records import IMAGE_MARKER
from vhm.errors import CheckpointError, first_line
from vhm.model.llama_tokenizer import llama_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def reference_tokenizer(source: Path, vocabulary: int) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a reference checkpoint, with `<image>` added as its last token.

    Raises CheckpointError unless the id of `<image>` is `vocabulary`, the number of embeddings in the checkpoint.
    """
    tokenizer = _read_tokenizer(source)
    image_token = int(tokenizer.convert_tokens_to_ids(IMAGE_MARKER))
    if image_token != vocabulary:
        used = image_token > vocabulary
        reason = f"id {vocabulary} is used already" if used else "not an id after the embeddings' last row"
        raise CheckpointError(
            f"{source}: the tokenizer gives {IMAGE_MARKER} the id {image_token}, the first free row is {vocabulary} "
            f"({reason}): its vocabulary does not match the checkpoint's"
        )
    return tokenizer


def _read_tokenizer(source: Path) -> PreTrainedTokenizerBase:
    from transformers import PreTrainedTokenizerFast

    if (source / "tokenizer.model").is_file():
        return llama_tokenizer(source)
    if not (source / "tokenizer.json").is_file():
        raise CheckpointError(f"{source} has neither tokenizer.model nor tokenizer.json")
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(source, local_files_only=True)
    except Exception as error:
        raise CheckpointError(f"{source}/tokenizer.json cannot be read: {first_line(error)}") from None
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_MARKER]})
    tokenizer.image_token = IMAGE_MARKER
    return tokenizer
