"""What is looked at only where it can matter is found as if it were always looked at."""

from __future__ import annotations

import random
import re

import pytest

from runtime.rules import finders_values, leaks, sentences, spelled, text
from runtime.rules.checks_evidence import _TONES
from runtime.rules.emoji import EMOJI
from runtime.rules.turn import Reply, Turn

PARTS = (
    "order 4711", "e.g.", "U.S.A.", "a.b", "www.a.de", "http://a.b/c", "me@a.co", "_@_._", "12:30", "1,5", "3.",
    "don't", "Two", "twenty-one", "a HUNDRED", "nineteen eighty", "four eight two one", "seventh", "one", "five-fold",
    "thousand", "$ 5", "EUR 19.99", "5eur", "19,99 euros", "3 cents", "7ct", "12 pence", "rs50", "Rs. 50", "kr",
    "5 k usd", "4111 1111 1111 1111", "2024-05-01", "No", "Dr", "p.m", "XIV", "GO AWAY", "I", "UP", "!!", "?", "...",
    ".", "\n\n", "\n1. x", "* y", "```x. y```", "'", '"', "-", "_idiot_", ";",
)  # fmt: skip
FOREIGN = (
    "\u2014",
    "\u0131x",
    "\u017f",
    "\u212ar",
    "\u20ac5",
    "5\u20ac",
    "\u4f60\u597d\u3002",
    "\u00e9t\u00e9",
    "\U0001f600",
)


def drawn(count: int, *more: str) -> list[str]:
    """Texts put together from ``PARTS`` and ``more``."""
    draw = random.Random(11)
    parts = [*PARTS, *more]
    texts = (
        "".join(draw.choice(parts) + draw.choice(("", " ", " ")) for _ in range(draw.randrange(9)))
        for _ in range(count)
    )
    return [one.upper() if draw.random() < 0.1 else one for one in texts]


def test_words() -> None:
    for one in drawn(2000):
        assert text.words(one) == text._ASCII_WORD.findall(one)
    for one in drawn(2000, *FOREIGN):
        assert text.first_word(one) == (text.words(one) or [""])[0]


def test_number_words() -> None:
    for one in drawn(2000):
        always = spelled._ANY_RUN.sub(lambda match: spelled._digits(match[0]).rjust(len(match[0])), one)
        assert spelled.in_digits(one) == always


def test_amounts_of_ascii_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [one for one in drawn(1000) if re.search("[A-Za-z]", one)]
    found = [list(finders_values.amounts(one)) for one in texts]
    assert 100 < sum(map(bool, found)) < len(texts)
    monkeypatch.setattr(finders_values, "_MONEY", frozenset(re.findall("[a-z]+", " ".join(texts).lower())))
    assert [list(finders_values.amounts(one)) for one in texts] == found


def test_ends_of_sentences() -> None:
    bare = re.compile(re.sub(r"^\s*\(\?=\[[^\]]*\]\)", "", sentences._END.pattern, count=1), re.X)
    assert bare.pattern != sentences._END.pattern
    for one in drawn(2000, *FOREIGN):
        assert [m.span() for m in sentences._END.finditer(one)] == [m.span() for m in bare.finditer(one)]


def test_cards_have_thirteen_digits() -> None:
    assert leaks.find_cards("4222222222222") == ["4222222222222"]
    assert leaks.find_cards("42222222222 2") == []


def test_tones_of_ascii_texts() -> None:
    seen = set()
    for one in drawn(2000, *FOREIGN):
        reply = Reply(Turn(()), one)
        loud = [w for w in reply.words if len(w) >= 4 and w.isalpha() and w.isupper() and w not in ("HTTP", "HTML")]
        runs = [run for run in re.findall(r"[^\W\d_a-z]{2,}(?: [^\W\d_a-z]{2,})+", reply.plain) if run.isupper()]
        calm = len(loud) < 2 and not any(len(run) > 10 for run in runs) and "!!" not in reply.plain
        assert _TONES["no_shouting"](reply) == calm
        assert _TONES["no_emoji"](reply) == (EMOJI.search(one) is None)
        seen.add((calm, one.isascii()))
    assert len(seen) == 4
