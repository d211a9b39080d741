"""Prompts and labels: the templates, image positions, refused records, agreement with the oracle."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vhm.data.encode import CHAT_TEMPLATES, SYSTEM, encode, encode_compact
from vhm.errors import EncodeError


def record(*turns: str, image: str | None = "a.jpg") -> dict[str, Any]:
    speakers = ("human", "gpt")
    conversations = [{"from": speakers[i % 2], "value": text} for i, text in enumerate(turns)]
    return {"conversations": conversations} | ({"image": image} if image else {})


@pytest.fixture(scope="module")
def tokenizer(base):
    return base[1].tokenizer


def target_text(tokenizer, encoded) -> str:
    return tokenizer.decode(encoded["labels"][encoded["labels"] >= 0])


def test_plain_keeps_the_caption_and_drops_the_question(tokenizer) -> None:
    encoded = encode(record("<image>\nDescribe.", "A river."), tokenizer, "plain", image_tokens=4)
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert encoded["input_ids"][:5].tolist() == [tokenizer.bos_token_id, *[image] * 4]
    assert encoded["labels"][:5].tolist() == [-100] * 5
    assert encoded["labels"][5:].tolist() == encoded["input_ids"][5:].tolist()
    assert tokenizer.decode(encoded["input_ids"][5:]) == "A river.\n"


def test_v1_labels_are_each_answer_and_its_end_token(tokenizer) -> None:
    encoded = encode(record("<image>\nWhat?", "A river.", "Wide?", "Yes."), tokenizer, "v1", image_tokens=2)
    assert target_text(tokenizer, encoded) == "A river.</s> Yes.</s>"
    text = tokenizer.decode(encoded["input_ids"])
    assert text.replace("<image><image>", "<image>").startswith(f"<s> {SYSTEM} USER: <image>")


def test_a_marker_anywhere_in_a_turn_moves_to_its_front(tokenizer) -> None:
    front = encode(record("<image>\nWhat is it?", "A river."), tokenizer)
    for text in ("What is it? <image>", "<image> What is it? <image>", "  What is it?<image>\n"):
        assert encode(record(text, "A river."), tokenizer)["input_ids"].tolist() == front["input_ids"].tolist()


def test_a_leading_answer_is_dropped(tokenizer) -> None:
    turns = [{"from": "gpt", "value": "Hi."}, *record("<image>\nQ", "A")["conversations"]]
    with_leading = {"image": "a.jpg", "conversations": turns}
    assert (
        encode(with_leading, tokenizer)["labels"].tolist()
        == encode(record("<image>\nQ", "A"), tokenizer)["labels"].tolist()
    )


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record("<image>\nQ", "A</s>B"), "special_token"),
        (record("<image>\nQ <unk>", "A"), "special_token"),
        (record("<image>\nQ", "A <image>"), "special_token"),
        (record("<ima<image>ge>\nQ", "A"), "special_token"),
        (record("Q", "A"), "image_count"),
        (record("<image>\nQ", "A", image=None), "image_count"),
        (record("<image>\nQ", "A", "<image> again", "B"), "image_count"),
        (record("<image>\nQ", ""), "no_target"),
        (record("<image>\nQ"), "alternation"),
        ({"conversations": "Q"}, "wrong_type"),
        ({}, "missing_field"),
        ([], "not_object"),
        ({"conversations": [{"from": "gpt", "value": "A"}]}, "no_human_turn"),
    ],
)
def test_records_that_cannot_be_trained_on_are_refused_with_a_reason(tokenizer, bad: Any, reason: str) -> None:
    with pytest.raises(EncodeError) as caught:
        encode(bad, tokenizer)
    assert caught.value.reason == reason


def test_a_caption_needs_exactly_two_turns(tokenizer) -> None:
    with pytest.raises(EncodeError, match="turn_count"):
        encode(record("<image>\nQ", "A", "Q", "B"), tokenizer, "plain")


def test_truncation_counts_the_image_as_one_and_is_reported(tokenizer) -> None:
    long = record("<image>\nQ", "river " * 500)
    sample = encode_compact(long, tokenizer, "v1", 100)
    assert (len(sample.input_ids), sample.truncated) == (100, True)
    assert len(encode(long, tokenizer, "v1", image_tokens=50, max_length=100)["input_ids"]) == 149


def test_an_image_or_answer_beyond_the_length_limit_is_refused(tokenizer) -> None:
    with pytest.raises(EncodeError, match="too_long"):
        encode(record("Q", "A" * 200, "<image>\nQ", "A"), tokenizer, "v1", max_length=60)
    with pytest.raises(EncodeError, match="no_target"):
        encode(record("<image>\n" + "Q " * 200, "A"), tokenizer, "v1", max_length=60)


_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="<>"), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(question=_TEXT.filter(str.strip), answer=_TEXT.filter(str.strip))
def test_processor_and_encode_give_the_same_prompt(base, question: str, answer: str) -> None:
    from PIL import Image

    _, processor = base
    content = [{"type": "image", "image": Image.new("RGB", (20, 10))}, {"type": "text", "text": question}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"][0]
    encoded = encode(record(f"<image>\n{question}", answer), processor.tokenizer, "v1", image_tokens=144)
    ids = encoded["input_ids"].tolist()
    assert ids[: len(prompt)] == list(prompt)
    first = int((encoded["labels"] >= 0).nonzero()[0])
    assert first == len(prompt)


# --- token by token, against an independent slow implementation with the real vocabulary ---------

QUESTIONS = [
    "Describe the image.", "", " leading and trailing  ", "runs   of    spaces     here", "tabs\tand\t\ttabs",
    "line\nbreaks\n\nand more\n", "\n", "Wie viele Häuser? Größe: 3 m²", "图中有多少艘船？", "emoji 🛰️🌍👩‍🚀 inside",
    "mixed ελληνικά и кириллица", "USER: not a role", "ASSISTANT: neither", "US ER: USER:", "[12, 34, 567, 890]",
    "1,234.56 / 7e-5", "▁literal underline▁", "nul-free \u200b zero width", "¿Qué? «ça»", "a" * 60,
    "<unknown> <im> </ s>", "éé composed", "ﬁ ligature ｆｕｌｌ", "🇩🇪🇫🇷", "\u3000ideographic space",
    "{CLS} tag", "(a) (b) (c)", "x=1;y=2",
]  # fmt: skip
ANSWERS = [
    "A river.", " two leading spaces", "trailing spaces   ", "\nnewline first", "No", "42", "[10, 20, 300, 400]",
    "河流", "🌊", "", "yes\tno", "USER: echo", "ASSISTANT: echo", " ", "A\n\nB",
]  # fmt: skip
CONVERSATIONS = (
    [[f"<image>\n{question}", "A river."] for question in QUESTIONS]
    + [["<image>\nWhat?", answer, "And then?", "Done."] for answer in ANSWERS]
    + [
        ["Text only?", "Yes."],
        ["first", "one", "second <image>", "two"],
        ["", "An answer to nothing.", "<image>", "An answer to the image."],
        ["<image>", "A river.", "Wide?", "Yes."],
        [" \n<image>\t", "A river."],
        [f"<image>\n{QUESTIONS[3]}", ANSWERS[4], QUESTIONS[8], ANSWERS[7], QUESTIONS[5], ANSWERS[8]],
        ["<image> both <image>", "ends", "", "and goes on", "again", "last"],
    ]
)


@pytest.fixture(scope="module", params=[False, True], ids=["legacy=false", "legacy=true"])
def llama(request, llama_pieces, tmp_path_factory):
    """(oracle, tokenizer): the oracle's rules, and what stock AutoTokenizer loads after a conversion."""
    from transformers import AutoTokenizer

    from tests.support.slow_llama import SlowLlama, write_tokenizer
    from vhm.model.llama_tokenizer import llama_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, llama_pieces, request.param)
    llama_tokenizer(folder).save_pretrained(folder / "converted")
    return SlowLlama(llama_pieces, request.param), AutoTokenizer.from_pretrained(folder / "converted")


@pytest.mark.parametrize("turns", CONVERSATIONS, ids=range(len(CONVERSATIONS)))
def test_v1_ids_and_labels_equal_the_references(llama, turns: list[str]) -> None:
    oracle, tokenizer = llama
    image = "a.jpg" if any("<image>" in turn for turn in turns) else None
    encoded = encode(record(*turns, image=image), tokenizer, "v1", image_tokens=1)
    assert (encoded["input_ids"].tolist(), encoded["labels"].tolist()) == oracle.v1(turns)


@pytest.mark.parametrize("caption", [text for text in QUESTIONS + ANSWERS if text], ids=repr)
def test_plain_ids_and_labels_equal_the_references(llama, caption: str) -> None:
    oracle, tokenizer = llama
    encoded = encode(record("<image>\nDescribe.", caption), tokenizer, "plain", image_tokens=1)
    assert (encoded["input_ids"].tolist(), encoded["labels"].tolist()) == oracle.plain(caption)


def test_ids_equal_the_documented_example(llama) -> None:
    oracle, tokenizer = llama
    ids = encode(record("<image>\nDescribe the", "A", "B", "C"), tokenizer, image_tokens=1)["input_ids"].tolist()
    position = ids.index(32000)
    assert ids[position - 4 : position + 6] == [3148, 1001, 29901, 29871, 32000, 29871, 13, 4002, 29581, 278]
    after = ids[ids.index(2) : ids.index(2) + 4]
    assert after == ([2, 3148, 1001, 29901] if oracle.legacy else [2, 3308, 1001, 29901])


@pytest.mark.parametrize("turns", [c for c in CONVERSATIONS if len(c) > 2 and "<image>" in c[0]], ids=repr)
def test_the_processor_gives_the_same_ids_for_several_rounds(llama, turns: list[str]) -> None:
    from PIL import Image
    from transformers import LlavaConfig

    from vhm.model.build import build_processor

    _, tokenizer = llama
    processor = build_processor(tokenizer, LlavaConfig(vision_config={"image_size": 28, "patch_size": 14}))
    messages = [{"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate(turns)]
    text = turns[0].replace("<image>", "").strip()
    messages[0]["content"] = [
        {"type": "image", "image": Image.new("RGB", (20, 10))},
        {"type": "text", "text": text},
    ]
    conversation = processor.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"][0]
    encoded = encode(record(*turns), tokenizer, image_tokens=4)["input_ids"].tolist()
    assert list(conversation) == encoded
    question = processor.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=True, return_dict=True)
    prompt = list(question["input_ids"][0])
    assert prompt == encoded[: len(prompt)]


IMAGE_ONLY_RECORDS = ["<image>", "<image>\n", " \n<image>\t", "<image> <image>"]
IMAGE_ONLY_MESSAGES = [
    [{"type": "image"}],
    [{"type": "image"}, {"type": "text", "text": ""}],
    [{"type": "image"}, {"type": "text", "text": " \n\t "}],
    [{"type": "text", "text": "  "}, {"type": "image"}],
]


@pytest.mark.parametrize("content", IMAGE_ONLY_MESSAGES, ids=repr)
@pytest.mark.parametrize("turn", IMAGE_ONLY_RECORDS, ids=repr)
def test_an_image_only_question_has_no_newline_in_v1(llama, turn: str, content: list[dict[str, str]]) -> None:
    oracle, tokenizer = llama
    encoded = encode(record(turn, "A river."), tokenizer, image_tokens=1)
    assert (encoded["input_ids"].tolist(), encoded["labels"].tolist()) == oracle.v1([turn, "A river."])
    assert 13 not in encoded["input_ids"], "<0x0A>"
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "A river."}]
    assert template_ids(tokenizer, "v1", messages) == encoded["input_ids"].tolist()


@pytest.mark.parametrize("content", IMAGE_ONLY_MESSAGES, ids=repr)
@pytest.mark.parametrize("turn", IMAGE_ONLY_RECORDS, ids=repr)
def test_an_image_only_question_has_no_newline_in_chatml(chatml, turn: str, content: list[dict[str, str]]) -> None:
    encoded = encode(record(turn, "A river."), chatml, "chatml", image_tokens=1)
    ids = encoded["input_ids"].tolist()
    expected = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\n<image><|im_end|>\n<|im_start|>assistant\nA river.<|im_end|>\n"
    )
    assert ids == chatml(expected, add_special_tokens=False)["input_ids"]
    image = ids.index(chatml.convert_tokens_to_ids("<image>"))
    assert ids[image + 1] == chatml.convert_tokens_to_ids("<|im_end|>")
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "A river."}]
    assert template_ids(chatml, "chatml", messages) == ids


def with_system(turns: list[str], system: str, as_turn: bool) -> dict[str, Any]:
    made = record(*turns)
    if not as_turn:
        return made | {"system": system}
    return made | {"conversations": [{"from": "system", "value": system}, *made["conversations"]]}


SYSTEM_TURNS = ["<image>\nWhat?", "A river.", "Wide?", "Yes."]
SYSTEM_TEXTS = ["You read maps.", " Two lines\nand a space ", "Große Häuser: USER", "[1, 2]"]


@pytest.mark.parametrize("as_turn", [False, True], ids=["key", "turn"])
@pytest.mark.parametrize("system", SYSTEM_TEXTS, ids=repr)
def test_a_system_message_replaces_the_templates_own_as_in_the_chat_template(
    llama, chatml, system: str, as_turn: bool
) -> None:
    messages = [{"role": "system", "content": system}]
    for number, turn in enumerate(SYSTEM_TURNS):
        content = [{"type": "image"}] * (number == 0) + [{"type": "text", "text": turn.replace("<image>", "").strip()}]
        messages.append({"role": ("user", "assistant")[number % 2], "content": content})
    for template, tokenizer in (("v1", llama[1]), ("chatml", chatml)):
        encoded = encode(with_system(SYSTEM_TURNS, system, as_turn), tokenizer, template, image_tokens=1)
        assert encoded["input_ids"].tolist() == template_ids(tokenizer, template, messages)
        plain = encode(record(*SYSTEM_TURNS), tokenizer, template, image_tokens=1)
        own, replaced = (ids[ids >= 0].tolist() for ids in (plain["labels"], encoded["labels"]))
        assert own == replaced, "the answers, and nothing of the system message, are targets"
        assert plain["input_ids"].tolist() != encoded["input_ids"].tolist()


@pytest.mark.parametrize("blank", [None, "", " \n"])
def test_a_blank_system_message_is_none(tokenizer, blank: str | None) -> None:
    blank_ids = encode(record("<image>\nQ", "A") | {"system": blank}, tokenizer)["input_ids"]
    assert blank_ids.tolist() == encode(record("<image>\nQ", "A"), tokenizer)["input_ids"].tolist()


@pytest.mark.parametrize(
    ("changes", "template", "reason"),
    [
        ({"system": "Be brief."}, "plain", "system_message"),
        ({"system": "Look at <image>."}, "v1", "special_token"),
        ({"system": "End</s>"}, "v1", "special_token"),
        ({"system": {"text": "Be brief."}}, "v1", "wrong_type"),
        ({"video": "a.mp4"}, "v1", "unknown_media"),
        ({"images": ["a.jpg", "b.jpg"]}, "plain", "unknown_media"),
        ({"tools": "[{}]"}, "v1", "tool_call"),
    ],
)
def test_messages_and_media_that_cannot_be_shown_are_refused(
    tokenizer, changes: dict[str, Any], template: str, reason: str
) -> None:
    with pytest.raises(EncodeError) as caught:
        encode(record("<image>\nQ", "A") | changes, tokenizer, template)
    assert caught.value.reason == reason


def test_markers_of_other_media_are_refused(tokenizer) -> None:
    with pytest.raises(EncodeError, match="turn 2 contains '<video>'"):
        encode(record("<image>\nQ", "A", "And in <video>?", "B"), tokenizer)


@pytest.fixture(scope="module")
def chatml(llama_pieces, tmp_path_factory):
    """The Llama vocabulary with the two tokens that the chatml template needs."""
    from tests.support.slow_llama import write_tokenizer
    from vhm.model.llama_tokenizer import llama_tokenizer

    folder = tmp_path_factory.mktemp("chatml")
    write_tokenizer(folder, llama_pieces, legacy=False)
    tokenizer = llama_tokenizer(folder)
    tokenizer.add_special_tokens({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"})
    return tokenizer


def template_ids(tokenizer, template: str, messages: list[dict[str, Any]]) -> list[int]:
    """Ids of the prompt that the Jinja template writes, the image as one id."""
    prompt = tokenizer.apply_chat_template(messages, chat_template=CHAT_TEMPLATES[template], tokenize=False)
    return list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
