"""R6: conversations with hostile text give the oracle's tokens and labels, or are refused for their content."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.slow_llama import SlowLlama, write_tokenizer
from vhm.data.encode import encode
from vhm.errors import EncodeError

HOSTILE = [
    "<image>", "</s>", "<s>", "<unk>", "USER:", "ASSISTANT:", " ASSISTANT: ", "\n", "\t", "  ", "     ", "▁",
    "<0x0A>", "<|im_end|>", "[INST]", "</s", "s>", "<ima", "ge>", "🛰️", "👩‍🚀", "\u200b", "\u202e", "\ufeff", "é",
    "e\u0301", "图",
    "[1, 2]", "0", "A", "river", " the", ".", "{VQA} ", "\\n", "%s", "{{ x }}", "\x85", "\u2028", "\U0010ffff",
]  # fmt: skip


def text(rng: random.Random, hostile: bool) -> str:
    parts = [
        part
        for part in HOSTILE
        if hostile or part not in ("<image>", "</s>", "<s>", "<unk>", "<ima", "ge>", "</s", "s>")
    ]
    return "".join(rng.choice(parts) for _ in range(rng.randrange(7)))


@pytest.mark.parametrize("legacy", [False, True])
def test_hostile_conversations(llama_pieces, tmp_path: Path, proof, legacy: bool) -> None:
    from vhm.model.llama_tokenizer import llama_tokenizer

    write_tokenizer(tmp_path, llama_pieces, legacy)
    tokenizer, oracle = llama_tokenizer(tmp_path), SlowLlama(llama_pieces, legacy)
    rng = random.Random(f"R6 {legacy}")
    cases, refused, trained = proof.size(150, 5000), 0, 0
    for number in range(cases):
        hostile = rng.random() < 0.3
        turns = [text(rng, hostile) for _ in range(2 * rng.randrange(1, 4))]
        turn = 2 * rng.randrange(len(turns) // 2)
        turns[turn] = f"{turns[turn]}<image>{text(rng, False)}"
        plain = number % 5 == 0 and len(turns) == 2
        speakers = ("human", "gpt")
        conversation = [{"from": speakers[i % 2], "value": value} for i, value in enumerate(turns)]
        record = {"image": "a.jpg", "conversations": conversation}
        try:
            encoded = encode(record, tokenizer, "plain" if plain else "v1", image_tokens=1, max_length=100_000)
        except EncodeError as error:
            reason = error.reason
        else:
            reason = None
        assert expected_refusal(turns, plain) == reason, turns
        if reason is not None:
            refused += 1
            continue
        ids, labels = oracle.plain(turns[1]) if plain else oracle.v1(turns)
        assert (encoded["input_ids"].tolist(), encoded["labels"].tolist()) == (ids, labels), turns
        ends = 0 if plain else sum(bool(turn) for turn in turns[1::2])
        assert [ids.count(special) for special in (0, 1, 2, 32000)] == [0, 1, ends, 1], "no special id from text"
        assert any(label >= 0 for label in labels)
        trained += 1
    assert refused > cases // 20
    assert trained > cases // 2
    outcome = f"{trained} equal to the oracle, {refused} refused, 0 special ids from text"
    proof.record("R6", f"{cases} conversations, legacy={legacy}: {outcome}")


def expected_refusal(turns: list[str], plain: bool) -> str | None:
    """Return the reason why a conversation must be refused, derived from the rules alone; None if it must not."""
    for number, turn in enumerate(turns):
        if any(token in turn for token in ("</s>", "<s>", "<unk>")):
            return "special_token"
        if "<image>" in turn and (number % 2 or "<image>" in turn.replace("<image>", "")):
            return "special_token"
    if sum("<image>" in turn for turn in turns) != 1:
        return "image_count"
    if plain and "<image>" not in turns[0]:
        return "image_count"
    if not any(turns[1::2]):
        return "no_target"
    return None
