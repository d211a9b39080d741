"""Text of records as a page can show it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vhm.data.validation.report.words import shown


def test_invisible_characters_become_visible() -> None:
    assert shown("a\u202eb\u2066c\x07d\ud800e\u200bf") == "a⟨U+202E⟩b⟨U+2066⟩c⟨U+0007⟩d⟨U+D800⟩e⟨U+200B⟩f"
    assert shown("Überschwemmung – 洪水\n\t½ é") == "Überschwemmung – 洪水\n\t½ é"


def test_long_text_is_cut_and_says_so() -> None:
    assert shown("x" * 700, 600) == "x" * 600 + "… (100 more characters)"
    assert shown("x" * 600, 600) == "x" * 600


@given(st.text(st.characters(), max_size=50))
def test_any_text_can_be_written(text: str) -> None:
    assert shown(text).encode().decode() == shown(text)
