"""Conversations → token ids and labels, exactly as the reference's two templates do.

    plain   <s> IMAGE caption"\\n"                          no </s>; the question's words are dropped
    v1      <s> SYSTEM USER: IMAGE"\\n"question ASSISTANT: answer</s>USER: …

Labels keep what the model must say (the caption; each answer and its </s>), everything else is -100.
Source: arXiv 2403.20213, section 4; the reference's conversation templates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vhm.data.records import IMAGE_MARKER, check_turns
from vhm.errors import EncodeError, InputError, RecordError

if TYPE_CHECKING:
    import torch

IGNORE = -100
TEMPLATES = ("plain", "v1")
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

# Jinja, the same words as `_v1_text`: what a model directory carries so that `apply_chat_template`
# gives the prompt that training used.
CHAT_TEMPLATE = (
    "{{ bos_token }}{{ '" + SYSTEM.replace("'", "\\'") + " ' }}"
    "{% for message in messages %}"
    "{% set content = message['content'] %}"
    "{% set turn = namespace(text='', image=false) %}"
    "{% if content is string %}{% set turn.text = content %}{% else %}"
    "{% for part in content %}"
    "{% if part['type'] == 'text' %}{% set turn.text = turn.text + part['text'] %}"
    "{% elif part['type'] in ('image', 'image_url') %}{% set turn.image = true %}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'user' %}"
    "{% if turn.image %}{% set turn.text = '<image>\n' + turn.text | trim %}{% endif %}"
    "{{ 'USER:' + (' ' + turn.text if turn.text else '') + ' ' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ 'ASSISTANT:' + (' ' + turn.text + '</s>' if turn.text else '') }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@dataclass(frozen=True)
class Sample:
    """`input_ids` with one id for the image, before its place is expanded, and the labels beside them."""

    input_ids: list[int]
    labels: list[int]
    truncated: bool


def encode(
    record: Mapping[str, Any],
    tokenizer: Any,
    template: str = "v1",
    image_tokens: int = 576,
    max_length: int = 2048,
) -> dict[str, torch.Tensor]:
    """One record as {"input_ids": LongTensor[T], "labels": LongTensor[T]}, the image expanded.

    The image is `image_tokens` times the id of `<image>`; `max_length` counts it as one, so T can reach
    max_length + image_tokens - 1. Raises EncodeError when the record cannot be trained on.
    """
    import torch

    sample = encode_compact(record, tokenizer, template, max_length)
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_MARKER)
    input_ids: list[int] = []
    labels: list[int] = []
    for token, label in zip(sample.input_ids, sample.labels, strict=True):
        times = image_tokens if token == image_id else 1
        input_ids += [token] * times
        labels += [label] * times
    return {"input_ids": torch.tensor(input_ids), "labels": torch.tensor(labels)}


def encode_compact(record: Mapping[str, Any], tokenizer: Any, template: str, max_length: int) -> Sample:
    """As `encode`, with one id in the image's place: what lengths are planned with."""
    if template not in TEMPLATES:
        raise InputError(f"template {template!r} is unknown: use one of {', '.join(TEMPLATES)}")
    try:
        turns = check_turns(record)
    except RecordError as error:
        raise EncodeError(error.reason, error.detail) from None
    has_image = record.get("image") is not None
    refuse_special_tokens(turns, tokenizer, has_image)
    text, targets = (_plain_text if template == "plain" else _v1_text)(turns, has_image, tokenizer)
    return _tokenize(text, targets, tokenizer, max_length)


def prompt_text(question: str, tokenizer: Any, with_image: bool = True) -> str:
    """The v1 prompt for one question, up to and including `ASSISTANT:`."""
    turn = f"{IMAGE_MARKER}\n{question.strip()}" if with_image else question
    return f"{tokenizer.bos_token}{SYSTEM} USER: {turn} ASSISTANT:"


def question_tag(task: str) -> str:
    """The tag that the reference puts before a question, by the published key of its task."""
    name = task.lower()
    if "cls" in name:
        return "{CLS} "
    if "vqa" in name:
        return "{VQA} "
    if "vg" in name:
        return "{VG} "
    if any(word in name for word in ("color", "presence", "position")):
        return "{IDK} "
    return "{IT} "


def refuse_special_tokens(turns: list[tuple[str, str]], tokenizer: Any, has_image: bool) -> None:
    """Raise EncodeError where text would become special tokens, or markers do not match the image."""
    forbidden = [token for token in tokenizer.all_special_tokens if token != IMAGE_MARKER]
    marked = 0
    for number, (speaker, text) in enumerate(turns):
        for token in forbidden:
            if token in text:
                raise EncodeError("special_token", f"turn {number} holds {token!r}: escape or remove it")
        if IMAGE_MARKER in text:
            if speaker != "human":
                raise EncodeError("special_token", f"turn {number} is an answer and holds {IMAGE_MARKER!r}")
            marked += 1
    if marked != int(has_image):
        raise EncodeError("image_count", f"{marked} turns with an image marker, {int(has_image)} images")


def _plain_text(turns: list[tuple[str, str]], has_image: bool, tokenizer: Any) -> tuple[str, list[tuple[int, int]]]:
    if len(turns) != 2:
        raise EncodeError("turn_count", f"a caption record has {len(turns)} turns instead of 2")
    if not has_image or IMAGE_MARKER not in turns[0][1]:
        raise EncodeError("image_count", "a caption record needs an image and its marker in the first turn")
    start = f"{tokenizer.bos_token}{IMAGE_MARKER}"
    text = f"{start}{turns[1][1]}\n"
    return text, [(len(start), len(text))]


def _v1_text(turns: list[tuple[str, str]], has_image: bool, tokenizer: Any) -> tuple[str, list[tuple[int, int]]]:
    text = f"{tokenizer.bos_token}{SYSTEM} "
    targets = []
    for speaker, words in turns:
        if IMAGE_MARKER in words:
            words = f"{IMAGE_MARKER}\n{words.replace(IMAGE_MARKER, '').strip()}"
        if speaker == "human":
            text += f"USER: {words} " if words else "USER:"
        elif words:
            text += "ASSISTANT:"
            start = len(text)
            text += f" {words}{tokenizer.eos_token}"
            targets.append((start, len(text)))
        else:
            text += "ASSISTANT:"
    return text, targets


def _tokenize(text: str, targets: list[tuple[int, int]], tokenizer: Any, max_length: int) -> Sample:
    """Ids of the whole text at once; a token is a target when it begins inside one."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    input_ids = list(encoded["input_ids"])
    labels = [
        token if any(start <= begin < end for start, end in targets) else IGNORE
        for token, (begin, _) in zip(input_ids, encoded["offset_mapping"], strict=True)
    ]
    truncated = len(input_ids) > max_length
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_MARKER)
    if image_id in input_ids[max_length:]:
        raise EncodeError("too_long", f"the image lies beyond the first {max_length} tokens")
    input_ids, labels = input_ids[:max_length], labels[:max_length]
    if all(label == IGNORE for label in labels):
        raise EncodeError("no_target", "no answer is left within the length limit")
    return Sample(input_ids, labels, truncated)
