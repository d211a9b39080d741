"""Words, letters and numbers in free text. A function returns None if the text is ambiguous or has none."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LARGEST = 1e15  # generation can repeat a digit until its limit
_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_LETTER_FIRST = re.compile(r"^\s*[(\[]?([A-Ea-e])(?:[)\].:,]|\s*$)")
_LETTER_NAMED = re.compile(r"\b(?:answer|option|choice)\b(?:\s+is)?\s*:?\s*[(\[]?([A-E])\b", re.IGNORECASE)
_OPTION = re.compile(r"(?:^|\s)[(\[]?([A-E])[)\].:]\s*(.+?)(?=(?:\s[(\[]?[A-E][)\].:]\s)|(?:\s*Answer\b)|$)", re.DOTALL)
_DENIAL = re.compile(
    r"\b(?:no|not|none|nothing|neither|never|without|absent|missing|cannot|isn't|aren't|doesn't|don't|can't)\b"
)


def yes_or_no(text: str) -> str | None:
    """ "yes" or "no" when exactly one of the two occurs as a word; "true" and "false" count as well."""
    words = set(_WORD.findall(text.lower()))
    yes, no = bool(words & {"yes", "true"}), bool(words & {"no", "false"})
    return None if yes == no else "yes" if yes else "no"


def denies(text: str) -> bool:
    """Whether the text denies that the object of the question exists or can be recognised."""
    return bool(_DENIAL.search(text.lower().replace("’", "'")))


def mentioned(text: str, names: Iterable[str]) -> set[str]:
    """The names that occur in the text as whole words; a name inside a longer one that occurs does not count."""
    remaining = f" {normal(text)} "
    matches = set()
    for name in sorted(set(names), key=lambda n: (-len(normal(n)), n)):
        words = f" {normal(name)} "
        if words.strip() and words in remaining:
            matches.add(name)
            remaining = remaining.replace(words, " | ")
    return matches


def normal(text: str) -> str:
    """Lower case, letters and digits only, single spaces."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def letter(text: str, query: str = "") -> str | None:
    """The option letter that the text chooses: by letter, or by the words of exactly one option of the query."""
    match = _LETTER_FIRST.match(text) or _LETTER_NAMED.search(text)
    if match:
        return match.group(1).upper()
    options = {words: letter for letter, words in _OPTION.findall(query)}
    chosen = {options[words] for words in mentioned(text, options)}
    return chosen.pop() if len(chosen) == 1 else None


def numbers(text: str) -> list[float]:
    """All numbers written in digits; thousands may be separated by commas. Those above 10¹⁵ are no answer."""
    values = [float(number.replace(",", "")) for number in _NUMBER.findall(text)]
    return [value for value in values if abs(value) <= _LARGEST]


def count(text: str) -> int | None:
    """The first whole number in the text, in digits or in English words."""
    for number in numbers(text):
        if number >= 0 and number == int(number):
            return int(number)
    return count_words(text)


def count_words(text: str) -> int | None:
    """The first English number word or phrase ("twenty-three"); "no" and "none" are zero."""
    from text_to_num import text2num

    words = _WORD.findall(text.lower().replace("-", " "))
    for start in range(len(words)):
        for end in range(min(len(words), start + 6), start, -1):
            try:
                return int(text2num(" ".join(words[start:end]), "en"))
            except ValueError:
                continue
    return 0 if {"no", "none", "zero"} & set(words) else None


def query_classes(query: str) -> list[str]:
    """The comma list after the first colon of a multi-label query."""
    _, _, tail = query.partition(":")
    return [name.strip() for name in tail.strip().rstrip(".?").split(",") if name.strip()]
