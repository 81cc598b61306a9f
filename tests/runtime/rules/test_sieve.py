"""Patterns that are tried only where a word of theirs stands find what they find when they are always tried."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from runtime.rules import refusal_patterns, refusal_verdicts
from runtime.rules.sentences import sentences
from runtime.rules.sieve import Sieve, alternatives, held_by

SIEVES = {
    name: found
    for module in (refusal_patterns, refusal_verdicts)
    for name, found in vars(module).items()
    if isinstance(found, Sieve)
}
ROWS = [json.loads(line) for line in (Path(__file__).parent / "refusals.jsonl").read_text().splitlines()]
SAID = sorted({" ".join(s.casefold().split()) for row in ROWS for s in sentences(row["reply"])})


@pytest.mark.parametrize("name", SIEVES)
def test_on_everything_that_was_labelled(name: str) -> None:
    sieve, plain = SIEVES[name], re.compile(SIEVES[name].pattern)
    assert [text for text in SAID if (sieve.search(text) is None) != (plain.search(text) is None)] == []
    assert any(plain.search(text) for text in SAID)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (r"\bonly the (?:owner|holder) may\b", {"only the "}),
        (r"(?:a|b) (?:cannot|will not) (?!wait)\w+", {"cannot", "will not"}),
        (r"(?:very )?\w+ no|x{2,}yes", {"yes", " no"}),
        (r"i (?:can )+not", {"can "}),
        (r"\w+", {""}),
        (r"no(?:body)?", {"no"}),
        (r"[ab]c|\d", {"c", ""}),
    ],
)
def test_the_words_that_every_match_holds(pattern: str, words: set[str]) -> None:
    found = {word for part in alternatives(pattern) for word in held_by(part)}
    assert found == words


def test_alternatives_are_those_of_the_whole_pattern() -> None:
    assert alternatives(r"(?:a(?:b|c)|[|)]\||d)") == [r"a(?:b|c)", r"[|)]\|", "d"]
    assert alternatives(r"(?:a|b) (?:c|d)") == [r"(?:a|b) (?:c|d)"]
