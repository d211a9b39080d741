"""Turns, system messages, and keys for media and tools, which a model would not be shown."""

from __future__ import annotations

from typing import Any

import pytest

from vhm.data.records import check_turns, media_marker, system_message
from vhm.errors import RecordError

TURNS = [{"from": "human", "value": "<image>\nQ"}, {"from": "gpt", "value": "A"}]
GOOD = {"id": 1, "image": "a.jpg", "conversations": TURNS}
SYSTEM_TURN = {"from": "system", "value": "Be brief."}


@pytest.mark.parametrize(
    "keys",
    [
        *(
            {"video": "a.mp4"},
            {"videos": ["a.mp4"]},
            {"audio": "a.wav"},
            {"audios": ["a.wav"]},
            {"video_path": "a.mp4"},
        ),
        *({"images": ["a.jpg", "b.jpg"]}, {"images": ["b.jpg"]}, {"images": "a.jpg"}, {"image2": "b.jpg"}),
        *({"image_B": "b.jpg"}, {"preImage": "b.jpg"}, {"post-image": "b.jpg"}, {"point_cloud": {"path": "a"}}),
    ],
    ids=repr,
)
def test_keys_for_media_that_are_not_shown_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match=f"the record has '{next(iter(keys))}'") as raised:
        check_turns(GOOD | keys)
    assert raised.value.reason == "unknown_media"


@pytest.mark.parametrize("key", ["img", "image_url", "image_file", "images", "picture"])
def test_another_name_for_the_image_is_refused_where_there_is_no_image(key: str) -> None:
    text_only = {"conversations": [{"from": "human", "value": "Q"}, TURNS[1]]}
    with pytest.raises(RecordError, match=f"the record has {key!r}"):
        check_turns(text_only | {key: "a.jpg"})


@pytest.mark.parametrize(
    "keys",
    [
        *({"video": None}, {"videos": []}, {"images": ["a.jpg"]}, {"image_url": "https://example.org/a.jpg"}),
        *({"image_width": 64}, {"video_id": "x"}, {"image_area": 4096}, {"has_video": False}, {"tools": "[]"}),
        *({"tools": []}, {"model": "gpt"}, {"imagery": "aerial"}, {"clip_score": 0.3}, {"cloud": "few"}),
    ],
    ids=repr,
)
def test_empty_keys_and_keys_about_the_image_are_accepted(keys: dict[str, Any]) -> None:
    assert check_turns(GOOD | keys) == [("human", "<image>\nQ"), ("gpt", "A")]


def test_media_of_a_turn_are_refused() -> None:
    for key in ("image", "images", "video"):
        with pytest.raises(RecordError, match=f"turn 0 has {key!r}"):
            check_turns(GOOD | {"conversations": [TURNS[0] | {key: "a.jpg"}, TURNS[1]]})
    assert check_turns(GOOD | {"conversations": [TURNS[0] | {"lang": "en"}, TURNS[1]]})


def test_turns_that_are_not_to_be_trained_on_are_refused() -> None:
    for mask in ({"loss": False}, {"weight": 0}, {"loss": 0.0}):
        with pytest.raises(RecordError) as raised:
            check_turns(GOOD | {"conversations": [TURNS[0], TURNS[1] | mask]})
        assert raised.value.reason == "masked_turn"
    for mask in ({"loss": True}, {"weight": 1}, {"loss": None}):
        assert check_turns(GOOD | {"conversations": [TURNS[0], TURNS[1] | mask]})


def test_tools_are_refused() -> None:
    with pytest.raises(RecordError, match="the record has 'tools'"):
        check_turns(GOOD | {"tools": [{"name": "zoom"}]})
    for speaker in ("function_call", "observation", "tool"):
        with pytest.raises(RecordError) as raised:
            check_turns(GOOD | {"conversations": [TURNS[0], {"from": speaker, "value": "{}"}, TURNS[1]]})
        assert raised.value.reason == "tool_call"


def test_turns_of_other_formats_name_the_command_that_converts_them() -> None:
    roles = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    for record in (
        GOOD | {"conversations": [{"from": "user", "value": "Q"}, {"from": "assistant", "value": "A"}]},
        GOOD | {"conversations": roles},
        {"messages": roles},
        {"instruction": "Q", "output": "A"},
    ):
        with pytest.raises(RecordError, match="vhm data import"):
            check_turns(record)


def test_a_system_message_is_a_key_or_the_first_turn() -> None:
    assert system_message(GOOD) is None
    assert system_message(GOOD | {"system": "Be brief."}) == "Be brief."
    as_turn = GOOD | {"conversations": [SYSTEM_TURN, *TURNS]}
    assert system_message(as_turn) == "Be brief."
    assert system_message(as_turn | {"system": "Be brief."}) == "Be brief."
    assert check_turns(as_turn) == check_turns(GOOD)
    leading_answer = GOOD | {"conversations": [SYSTEM_TURN, {"from": "gpt", "value": "Hi."}, *TURNS]}
    assert check_turns(leading_answer) == check_turns(GOOD)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (GOOD | {"system": "Be long.", "conversations": [SYSTEM_TURN, *TURNS]}, "system_message"),
        (GOOD | {"system_prompt": "Be brief."}, "system_message"),
        (GOOD | {"system": ["Be brief."]}, "wrong_type"),
        (GOOD | {"conversations": [*TURNS, SYSTEM_TURN]}, "wrong_type"),
        (GOOD | {"conversations": [SYSTEM_TURN, SYSTEM_TURN, *TURNS]}, "wrong_type"),
        (GOOD | {"conversations": [{"from": "system"}, *TURNS]}, "wrong_type"),
        (GOOD | {"conversations": [SYSTEM_TURN]}, "no_human_turn"),
    ],
)
def test_a_second_or_misplaced_system_message_is_refused(record: dict[str, Any], reason: str) -> None:
    def read() -> None:
        check_turns(record)
        system_message(record)

    with pytest.raises(RecordError) as raised:
        read()
    assert raised.value.reason == reason


def test_the_image_marker_is_not_a_marker_of_unknown_media() -> None:
    assert media_marker("<image>\nWhat?") is None
    assert media_marker("<image> and <image>") is None
    assert media_marker("<image> and <video>") == "<video>"
