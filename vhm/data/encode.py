"""Conversations → token ids and labels. All prompt templates are defined here.

    plain   <s> IMAGE caption"\\n"                          no </s>; the text of the question is dropped
    v1      <s> SYSTEM USER: IMAGE"\\n"question ASSISTANT: answer</s>USER: …      Vicuna, LLaVA-1.5, VHM
    chatml  <|im_start|>role"\\n"text<|im_end|>"\\n"…                             SmolLM2 and others

SYSTEM is the record's system message if it has one, else the template's own; `plain` has no place for one.
Labels are the ids of the caption, or of each answer and its end token; all other positions are -100. `CHAT_TEMPLATES`
express the last two formats in Jinja. A model directory carries one of them, so that inference
(`vhm.inference.prompts`, plain transformers, other servers) uses the same prompt as training.
Source: arXiv 2403.20213, section 4; the reference's conversation templates; SmolLM2's model card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhm.data.records import IMAGE_MARKER, check_turns, media_marker, system_message
from vhm.errors import EncodeError, InputError, RecordError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

IGNORE = -100
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
SMOL_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"

# The text of a message. An image's marker comes first; without text, no newline follows it.
_JINJA_TURN = (
    "{% for message in messages %}"
    "{% set content = message['content'] %}"
    "{% set turn = namespace(text='', image=false) %}"
    "{% if content is string %}{% set turn.text = content %}{% else %}"
    "{% for part in content %}"
    "{% if part['type'] == 'text' %}{% set turn.text = turn.text + part['text'] %}"
    "{% elif part['type'] in ('image', 'image_url') %}{% set turn.image = true %}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if turn.image and message['role'] == 'user' %}"
    "{% set turn.text = ('" + IMAGE_MARKER + "\n' + turn.text | trim) | trim %}{% endif %}"
)
CHAT_TEMPLATES = {
    "v1": (
        "{{ bos_token }}"
        "{% if messages[0]['role'] != 'system' %}{{ '"
        + SYSTEM.replace("'", "\\'")
        + " ' }}{% endif %}"
        + _JINJA_TURN
        + "{% if message['role'] == 'system' %}{{ turn.text + ' ' }}"
        "{% elif message['role'] == 'user' %}{{ 'USER:' + (' ' + turn.text + ' ' if turn.text else '') }}"
        "{% elif message['role'] == 'assistant' %}"
        "{{ 'ASSISTANT:' + (' ' + turn.text + '</s>' if turn.text else '') }}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    ),
    "chatml": (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
        + SMOL_SYSTEM
        + "<|im_end|>\n' }}{% endif %}"
        + _JINJA_TURN
        + "{{ '<|im_start|>' + message['role'] + '\n' + turn.text + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
}
TEMPLATES = ("plain", *CHAT_TEMPLATES)


@dataclass(frozen=True)
class Sample:
    """Token ids and labels of one record; the image is one id until `expand`."""

    input_ids: list[int]
    labels: list[int]
    truncated: bool


def encode(
    record: Mapping[str, object],
    tokenizer: PreTrainedTokenizerBase,
    template: str = "v1",
    image_tokens: int = 576,
    max_length: int = 2048,
) -> dict[str, torch.Tensor]:
    """One record as {"input_ids": LongTensor[T], "labels": LongTensor[T]}.

    The image takes `image_tokens` positions with the id of `<image>`. `max_length` counts it as one, so T is at most
    max_length + image_tokens - 1. Raises EncodeError if the record cannot be trained on.
    """
    import torch

    sample = encode_compact(record, tokenizer, template, max_length)
    input_ids, labels = expand(sample, tokenizer.convert_tokens_to_ids(IMAGE_MARKER), image_tokens)
    return {"input_ids": torch.tensor(input_ids), "labels": torch.tensor(labels)}


def encode_compact(
    record: Mapping[str, object], tokenizer: PreTrainedTokenizerBase, template: str, max_length: int
) -> Sample:
    """As `encode`, but the image is one id. Raises EncodeError if the record cannot be trained on."""
    if template not in TEMPLATES:
        raise InputError(f"template {template!r} is unknown: use one of {', '.join(TEMPLATES)}")
    try:
        turns = check_turns(record)
        system = system_message(record)
    except RecordError as error:
        raise EncodeError(error.reason, error.detail) from None
    has_image = record.get("image") is not None
    refuse_special_tokens(turns, tokenizer, has_image)
    _refuse_media_markers(turns)
    if system is not None:
        _check_system(system, template, tokenizer)
    if template == "plain":
        return _plain(turns, has_image, tokenizer, max_length)
    text, targets = (_v1_text if template == "v1" else _chatml_text)(turns, system, tokenizer)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    input_ids = list(encoded["input_ids"])
    labels = _label(input_ids, encoded["offset_mapping"], targets)
    return _truncate(input_ids, labels, tokenizer, max_length)


def expand(sample: Sample, image_id: int, image_tokens: int) -> tuple[list[int], list[int]]:
    """(input_ids, labels) with the image's id repeated `image_tokens` times."""
    if image_id not in sample.input_ids:
        return sample.input_ids, sample.labels
    position = sample.input_ids.index(image_id)
    ids = sample.input_ids[:position] + [image_id] * image_tokens + sample.input_ids[position + 1 :]
    return ids, sample.labels[:position] + [IGNORE] * image_tokens + sample.labels[position + 1 :]


def refuse_special_tokens(
    turns: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, has_image: bool
) -> None:
    """Raise EncodeError if text would become special tokens, or if the image markers do not match the image."""
    marked = 0
    for number, (speaker, text) in enumerate(turns):
        for token in tokenizer.get_added_vocab():
            if token != IMAGE_MARKER and token in text:
                raise EncodeError("special_token", f"turn {number} contains {token!r}: escape or remove it")
        if IMAGE_MARKER in text:
            if speaker != "human":
                raise EncodeError("special_token", f"turn {number} is an answer and contains {IMAGE_MARKER!r}")
            marked += 1
            # Removing a marker must not create another one from the text around it.
            if IMAGE_MARKER in text.replace(IMAGE_MARKER, ""):
                raise EncodeError("special_token", f"turn {number} contains nested image markers")
    if marked != int(has_image):
        raise EncodeError("image_count", f"{marked} turns with an image marker, {int(has_image)} images")


def _refuse_media_markers(turns: Sequence[tuple[str, str]]) -> None:
    for number, (_, text) in enumerate(turns):
        if marker := media_marker(text):
            raise EncodeError("unknown_media", f"turn {number} contains {marker!r}: only images are shown")


def _check_system(system: str, template: str, tokenizer: PreTrainedTokenizerBase) -> None:
    if template == "plain":
        raise EncodeError("system_message", "the plain template has no place for a system message")
    for token in (IMAGE_MARKER, *tokenizer.get_added_vocab()):
        if token in system:
            raise EncodeError("special_token", f"the system message contains {token!r}: escape or remove it")


def _plain(
    turns: list[tuple[str, str]], has_image: bool, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Sample:
    if len(turns) != 2:
        raise EncodeError("turn_count", f"a caption record has {len(turns)} turns instead of 2")
    if not has_image or IMAGE_MARKER not in turns[0][1]:
        raise EncodeError("image_count", "a caption record needs an image and its marker in the first turn")
    if not turns[1][1]:
        raise EncodeError("no_target", "the caption is empty")
    start = tokenizer(f"{tokenizer.bos_token}{IMAGE_MARKER}", add_special_tokens=False)["input_ids"]
    caption = _ids_at_start(f"{turns[1][1]}\n", tokenizer)
    return _truncate([*start, *caption], [IGNORE] * len(start) + caption, tokenizer, max_length)


def _ids_at_start(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a text at the start of a sequence.

    The non-legacy Llama tokenizer treats `USER:` at the start of a segment as if it followed `</s>`. After a newline
    it is ordinary text, so a newline is put in front and its ids are removed.
    """

    def ids(part: str) -> list[int]:
        return list(tokenizer(part, add_special_tokens=False)["input_ids"])

    newline = ids("\n")
    if text.startswith("USER:") and tokenizer.convert_ids_to_tokens(newline[0]) == "▁":
        return ids(f"\n {text}")[len(newline) :]
    return ids(text)


def _v1_text(
    turns: list[tuple[str, str]], system: str | None, tokenizer: PreTrainedTokenizerBase
) -> tuple[str, list[tuple[int, int]]]:
    """The prompt, and the spans of characters that are targets."""
    text = f"{tokenizer.bos_token}{SYSTEM if system is None else system} "
    targets = []
    for speaker, content in turns:
        if speaker == "human":
            content = _marker_first(content)
            text += f"USER: {content} " if content else "USER:"
        elif content:
            text += "ASSISTANT:"
            start = len(text)
            text += f" {content}{tokenizer.eos_token}"
            targets.append((start, len(text)))
        else:
            text += "ASSISTANT:"
    return text, targets


def _chatml_text(
    turns: list[tuple[str, str]], system: str | None, tokenizer: PreTrainedTokenizerBase
) -> tuple[str, list[tuple[int, int]]]:
    """The prompt, and the spans of characters that are targets."""
    text = f"<|im_start|>system\n{SMOL_SYSTEM if system is None else system}<|im_end|>\n"
    targets = []
    for speaker, content in turns:
        text += f"<|im_start|>{'user' if speaker == 'human' else 'assistant'}\n"
        start = len(text)
        text += f"{_marker_first(content) if speaker == 'human' else content}<|im_end|>"
        if speaker == "gpt" and content:
            targets.append((start, len(text)))
        text += "\n"
    return text, targets


def _marker_first(content: str) -> str:
    """A turn with its image marker moved to the front, as in the reference."""
    if IMAGE_MARKER not in content:
        return content
    return f"{IMAGE_MARKER}\n{content.replace(IMAGE_MARKER, '').strip()}".strip()


def _label(input_ids: list[int], offsets: list[tuple[int, int]], targets: list[tuple[int, int]]) -> list[int]:
    """The id of each token that begins inside a target span, IGNORE for the others; both sequences are sorted."""
    labels = []
    remaining = iter(targets)
    start, end = next(remaining, (0, -1))
    for token, (begin, _) in zip(input_ids, offsets, strict=True):
        while end >= 0 and begin >= end:
            start, end = next(remaining, (0, -1))
        labels.append(token if start <= begin < end else IGNORE)
    return labels


def _truncate(input_ids: list[int], labels: list[int], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Sample:
    if tokenizer.convert_tokens_to_ids(IMAGE_MARKER) in input_ids[max_length:]:
        raise EncodeError("too_long", f"the image is not within the first {max_length} tokens")
    truncated = len(input_ids) > max_length
    input_ids, labels = input_ids[:max_length], labels[:max_length]
    if all(label == IGNORE for label in labels):
        raise EncodeError("no_target", f"no token to train on within the first {max_length} tokens")
    return Sample(input_ids, labels, truncated)
