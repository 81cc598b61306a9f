"""Patterns that are tried only where a word of theirs stands find what they find when they are always tried."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from runtime.rules import refusal, refusal_patterns, refusal_questions, refusal_service, refusal_verdicts
from runtime.rules.sentences import sentences
from runtime.rules.sieve import Sieve, alternatives, held_by

SIEVES = {
    name: found
    for module in (refusal, refusal_patterns, refusal_questions, refusal_service, refusal_verdicts)
    for name, found in vars(module).items()
    if isinstance(found, Sieve)
}
ROWS = [json.loads(line) for line in (Path(__file__).parent / "refusals.jsonl").read_text().splitlines()]
SAID = sorted(
    {" ".join(s.casefold().split()) for row in ROWS for s in (row.get("asked") or "", *sentences(row["reply"]))}
)


@pytest.mark.parametrize("name", SIEVES)
def test_on_everything_that_was_labelled(name: str) -> None:
    sieve, plain = SIEVES[name], re.compile(SIEVES[name].pattern)
    assert [text for text in SAID if (sieve.search(text) is None) != (plain.search(text) is None)] == []
    assert [text for text in SAID if (sieve.match(text) is None) != (plain.match(text) is None)] == []
    assert any(plain.search(text) for text in SAID)


@pytest.mark.parametrize(
    ("pattern", "words", "pieces"),
    [
        (r"\bonly the (?:owner|holder) may\b", {"owner", "holder"}, set()),
        (r"(?:a|b) (?:cannot|will not) (?!wait)\w+", {"cannot", "not"}, set()),
        (r"(?:very )?\w+ no|x{2,}yes", set(), {" no", "yes"}),
        (r"\b(?:no|never) |x", {"no", "never"}, {"x"}),
        (r"never|\bnever(?= )\b", {"never"}, {"never"}),
        (r"i (?:can )+not", set(), {"not"}),
        (r"\bi (?:gladly )+do\b", set(), {"gladly "}),
        (r"violat\w*|\bviolates?\b", set(), {"violat", "violate"}),
        (r"^odd(?: one)?$|odd\B|\bodd(?:ly)?", {"odd"}, {"odd"}),
        (r"\bmust (?:\w+ly )?hand[.,;]", {"must"}, set()),
        (r"(?<!not )\btoo late\b|\blater[a-z]", {"late"}, {"later"}),
        (r"\w+", set(), {""}),
        (r"no(?:body)?", set(), {"no"}),
        (r"[ab]c|\d", set(), {"c", ""}),
    ],
)
def test_what_every_match_holds(pattern: str, words: set[str], pieces: set[str]) -> None:
    found = {held for part in alternatives(pattern) for held in held_by(part)}
    assert {held.text for held in found if held.whole} == words
    assert {held.text for held in found if not held.whole} == pieces


def test_sub_puts_what_re_puts() -> None:
    sieve = Sieve(r"\bi cannot (?:eat|sleep)\b")
    for text in ("i cannot eat, i cannot sleep", "i cannot meet", "nobody cannoti eat", ""):
        assert sieve.sub("-", text) == re.sub(sieve.pattern, "-", text)


def test_alternatives_are_those_of_the_whole_pattern() -> None:
    assert alternatives(r"(?:a(?:b|c)|[|)]\||d)") == [r"a(?:b|c)", r"[|)]\|", "d"]
    assert alternatives(r"(?:a|b) (?:c|d)") == [r"(?:a|b) (?:c|d)"]
