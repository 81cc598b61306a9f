"""Right or wrong, as replies are really written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.numbers import read_number
from compress.validate.chosen_label import label
from compress.validate.scoring import SCORERS


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
        ("answer: (b)", "B"),
        ("The answer is a.", "A"),
        ("The answer is a cat.", None),
        ("The answer is not A but B.", "B"),
        ("The answer isn't B", None),
        ("It cannot be B.", None),
        ("B is not the answer", None),
        ("A, B and C are wrong, so D", "D"),
        ("Both A and B", None),
        ("It is either B or C.", None),
        ("My answer: B. Wait, it is C.", "C"),
        ("\uff22", "B"),
        ("'B'", "B"),
        ("答案是B。", "B"),
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
        ("-5", "\u20135", True),
        ("-5", "minus 5", True),
        ("1500", "1\u2009500", True),
        ("1500", "1.5 \u00d7 10^3", True),
        ("1500", "1.5x10\u00b3", True),
        ("0.5", "1/2", True),
        ("1.5", "1\u00bd", True),
        ("1.5", "1 1/2", True),
        ("2/6", "\\frac{1}{3}", True),
        ("0.5", "on 1/2/2024", False),
        ("50%", "50 %", True),
        ("1000000", "1 million", True),
        ("1", "1 million", True),
        ("100000", "1,00,000", True),
        ("6", "There are six.", True),
        ("2500", "two thousand five hundred", True),
        ("42", "The answer is 42 (see step 3).", True),
        ("42", "Answer: 42. There are 7 days in a week.", True),
        ("7", "Answer: 42. There are 7 days in a week.", False),
        ("43", "The answer is 42. Wait, it is 43.", True),
        ("8", "The answer is 3 + 5 = 8.", True),
        ("8", "The answer is not 5 but 8.", True),
        ("3", "3 or 4", False),
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
        ("contains", "5", "5.5", False),
        ("contains", "5", "1,5", False),
        ("contains", "5", "It is 5.", True),
        ("contains", "$5", "$5.00", True),
        ("contains", "C", "C++", False),
        ("contains", "Paris", "**Par**is", True),
        ("contains", "\u6771\u4eac", "\u6771\u4eac\u90fd", True),
        ("exact", "Paris", "**Paris**", True),
        ("exact", "Paris", "\u201cParis\u201d!", True),
        ("exact", "Paris", "Paris?", False),
        ("exact", "C#", "C", False),
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


ROWS = [json.loads(line) for line in Path(__file__).with_name("answers.jsonl").open(encoding="utf-8")]


@pytest.mark.parametrize("match", ["choice", "numeric", "contains", "exact"])
def test_labelled_answers(match):
    rows = [row for row in ROWS if row["match"] == match]
    assert len(rows) >= 15
    assert [row for row in rows if bool(SCORERS[match](row["answer"], row["text"])) != row["right"]] == []
