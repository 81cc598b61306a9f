"""IFEval's and IFBench's instructions as rules: all 25 and 55 of 57, by name, by rows, and by what they count."""

import json
import re

import pytest

from runtime.errors import RuleError
from runtime.rules import Turn, read_rules
from runtime.rules.instructions import LEFT_OUT, instruction_ids, instruction_problems, not_followed
from runtime.rules.published import punkt, sentences, tokens, treebank

IFEVAL = {
    "change_case", "combination", "detectable_content", "detectable_format", "keywords", "language",
    "length_constraints", "punctuation", "startend",
}  # fmt: skip


def test_how_many_are_expressible():
    ids = instruction_ids()
    ifeval = [name for name in ids if name.split(":")[0] in IFEVAL]
    assert len(ifeval) == 25
    assert len(ids) - len(ifeval) == 56  # with custom:character_reverse, which is in the registry and not in the data
    assert not set(LEFT_OUT) & set(ids)


def test_every_row_of_the_published_data_is_a_rule(shared_data):
    rows = [json.loads(line) for line in (shared_data / "ifeval" / "input_data.jsonl").open()]
    seen = set()
    for row in rows:
        for name, kwargs in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            seen.add(name)
            assert instruction_problems([{"id": name, **kwargs}]) == []
            given = {key: value for key, value in kwargs.items() if value is not None}
            fixtures = {"pass": [{"user": "Go.", "reply": "a"}], "fail": [{"user": "Go.", "reply": "b"}]}
            rule = {"id": "r", "severity": "soft", "must": {name: given or True}, "fixtures": fixtures}
            with pytest.raises(RuleError) as caught:  # "a" and "b" are no real replies; nothing else is wrong
                read_rules(json.dumps({"version": 1, "rules": [rule]}))
            assert all("fixture" in problem for problem in caught.value.problems)
    assert len(seen) == 25


@pytest.mark.parametrize(
    ("instruction", "what"),
    [
        ({"id": "count:numberz", "N": 3}, "did you mean 'count:numbers'"),
        ({"id": "words:start_verb"}, "part-of-speech tagger"),
        ({"id": "count:numbers"}, "N: field required|input should be"),
        ({"id": "count:numbers", "N": 2.5}, "N: "),
        ({"id": "count:numbers", "N": 2, "M": 1}, "M: extra inputs"),
        ({"id": "max_words", "N": 2}, "unknown"),
        ({"id": "language:response_language", "language": "xx"}, "unknown language 'xx'"),
    ],
)
def test_wrong_instructions_are_named(instruction, what):
    (problem,) = instruction_problems([instruction])
    assert re.search(what, problem), problem


def test_a_row_is_followed_when_all_of_it_is():
    asked = [{"id": "count:numbers", "N": 2.0}, {"id": "punctuation:no_comma", "language": None}]
    assert not_followed(asked, "From 3 to 4.") == []
    assert [why.split(":")[0] for why in not_followed(asked, "From 3, to 5, to 7.")] == [
        "must count",
        "must punctuation",
    ]
    assert len(not_followed(asked, " \n")) == 2


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One is here. Two is there.", 2),
        ("We met Dr. Low at 5 p.m. on Monday. He left.", 2),
        ("1. Open it.\n2. Close it.", 4),  # as Punkt does: the number of an entry is a sentence
        ("It cost 3.50 in all.", 1),
        ("Wait... What? No!", 2),  # a capital says nothing of "what"
        ("Wait... and see.", 1),
        ('He said "Stop." Then he went.', 2),
        ("(It is so.) Yes.", 2),
        ("See the U.S. map.", 1),
        ("J. Smith wrote it.", 1),
        ("Plan B. It works.", 2),
        ("no full stop", 1),
        ("Really?! Yes.", 2),
    ],
)
def test_punkt(text, count):
    assert len(punkt(text)) == count, punkt(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One is here. Two is there.", 2),
        ("We met Dr. Low at 5 p.m. on Monday. He left.", 2),
        ("1. Open it. 2. Close it.", 4),
        ("See acme.com now. It cost 3.50.", 2),
        ("Wait... what? No!", 3),
        ('"Stop." Then he went.', 2),
        ("A Ph.D. is hard. Yes.", 2),
        ("no full stop", 1),
        ("Acme Inc. He sells it.", 2),
    ],
)
def test_sentences_by_substitution(text, count):
    assert len(sentences(text)) == count, sentences(text)


def test_tokens_of_both():
    assert tokens("Don't go, it_is 3.5") == ["Don", "t", "go", "it_is", "3", "5"]
    assert treebank("They can't go (now). \"So,\" I'm gonna.") == (
        "They", "ca", "n't", "go", "(", "now", ")", ".", "``", "So", ",", "''", "I", "'m", "gon", "na", ".",
    )  # fmt: skip


@pytest.mark.parametrize(
    "text", ["[" * 20_000, "<<" * 20_000, "*" * 20_000, "(" * 20_000, "\n" * 20_000 + "x", "a." * 10_000, "'\"" * 9_000]
)
def test_no_text_takes_long(text):
    arguments = {"count:person_names": {"N": 1}}
    turn = Turn([{"role": "user", "content": "Go."}])
    from runtime.rules.kinds import KINDS
    from runtime.rules.turn import Reply

    for (_, name), kind in KINDS.items():
        if ":" in name and kind.model is None:
            kind.check(Reply(turn, text), True)
    for name, given in {
        **arguments,
        "length_constraints:number_sentences": {"num_sentences": 1, "relation": "at least"},
    }.items():
        KINDS["must", name].check(Reply(turn, text), KINDS["must", name].adapter.validate_python(given))
