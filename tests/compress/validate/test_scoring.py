"""Right or wrong, as replies are really written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.rows import read_number
from compress.validate.scoring import SCORERS, label


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B. Because A is wrong.", "B"),
        ("**B**", "B"),
        ("I think the answer is B", "B"),
        ("I would choose option C, not A.", "C"),
        ("A dog barks, so the answer is (D).", "D"),
        ("The correct choice is: C", "C"),
        ("Answer: A", "A"),
        ("Let me see. A and B are wrong, hence C", "C"),
        ("I am sure it is [B].", "B"),
        ("The answer is \\boxed{D}.", "D"),
        ("I", "I"),
        ("none of them", None),
        ("I do not know.", None),
        ("A cat sat on it.", None),
    ],
)
def test_the_label_of_a_reply(text, chosen):
    assert label(text) == chosen
    assert SCORERS["choice"]("B", text) == (chosen == "B")


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [
        ("5", "It is 5.", True),
        ("-3", "The result is \u22123", True),
        ("-3", "The result is 3", False),
        ("1.5", "It weighs 1,5 kg", True),
        ("1500", "It costs 1,500 euros", True),
        ("1500", "It costs 1.500,00 euros", True),
        ("1234567.5", "1 234 567,5", True),
        ("1234567", "1'234'567", True),
        ("5", "Between 3 and 5-7 days", False),
        ("20", "10\u201320", False),
        ("5", "from 3 to 5", False),
        ("5", "3 - 5", False),
        ("5", "5 of 7: so 5", True),
        ("1000000", "1e6", True),
        ("18", "so she has 9 * 2 = 18 dollars", True),
        ("18", "She has $18.", True),
        ("18", "no number", False),
    ],
)
def test_the_last_number(answer, text, right):
    assert SCORERS["numeric"](answer, text) == right


@pytest.mark.parametrize(
    ("match", "answer", "text", "right"),
    [
        ("exact", "It's fine", "It\u2019s  fine.", True),
        ("contains", 'say "yes"', "They say \u201cyes\u201d now", True),
        ("contains", ["2", "seats"], "2 seats", True),
        ("contains", "art", "start", False),
        ("exact", "a-b", "a\u2011b", True),
    ],
)
def test_quotes_dashes_and_spaces_make_no_difference(match, answer, text, right):
    assert SCORERS[match](answer, text) == right


@settings(deadline=None)
@given(st.integers(-(10**12), 10**12))
def test_whole_numbers_survive_every_way_of_writing(number):
    for text in (f"{number}", f"{number:,}", f"{number:,}".replace(",", "\u202f"), f"{number}".replace("-", "\u2212")):
        assert read_number(text) == number
        assert SCORERS["numeric"](number, f"so it is {text}.")


@pytest.mark.parametrize("text", ["", "abc", "1-2", "1..2,", "--3", "3 apples", "1e"])
def test_what_is_no_number(text):
    assert read_number(text) is None
