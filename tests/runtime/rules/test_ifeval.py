# ruff: noqa: E501  (tables are read by the row)
"""The 25 instruction types of IFEval (Zhou et al. 2023) are expressible as rules."""

import json

import pytest

from runtime.errors import RuleError
from runtime.rules import Turn, read_rules

CONSTRAINED = ["My answer is yes.", "My answer is no.", "My answer is maybe."]


def bounds(relation, count):
    return {"max": count - 1} if relation == "less than" else {"min": count}


def limit(unit):
    return lambda k: (
        {f"max_{unit}": k[f"num_{unit}"] - 1} if k["relation"] == "less than" else {f"min_{unit}": k[f"num_{unit}"]}
    )


MUST, MUST_NOT = "must", "must_not"
# id -> (side, kwargs -> clause, example kwargs, a reply that follows, one that does not)
RULES = {
    "change_case:capital_word_frequency": (MUST, lambda k: {"capital_words": bounds(k["capital_relation"], k["capital_frequency"])},
        {"capital_relation": "at least", "capital_frequency": 2}, "THIS IS it.", "This is IT."),
    "change_case:english_capital": (MUST, lambda k: {"case": "upper", "language": "en"}, {}, "THIS IS THE END.", "This is the END."),
    "change_case:english_lowercase": (MUST, lambda k: {"case": "lower", "language": "en"}, {}, "this is the end.", "This is the end."),
    "combination:repeat_prompt": (MUST, lambda k: {"starts_with": k["prompt_to_repeat"]}, {"prompt_to_repeat": "Write a\n poem."},
        "Write a poem.\n\nRoses.", "Roses. Write a poem."),
    "combination:two_responses": (MUST, lambda k: {"responses": 2}, {}, "One\n******\nTwo", "One\n***\nTwo"),
    "detectable_content:number_placeholders": (MUST, lambda k: {"placeholders": {"min": k["num_placeholders"]}}, {"num_placeholders": 2},
        "[a] and [b c]", "[a] and (b)"),
    "detectable_content:postscript": (MUST, lambda k: {"postscript": k["postscript_marker"]}, {"postscript_marker": "P.P.S"},
        "Bye\nP.P.S. more", "Bye\nP.S. more"),
    "detectable_format:constrained_response": (MUST, lambda k: {"include_any": CONSTRAINED}, {}, "My answer is maybe.", "Maybe."),
    "detectable_format:json_format": (MUST, lambda k: {"json": True}, {}, '```json\n{"a": [1]}\n```', "{a: 1}"),
    "detectable_format:multiple_sections": (MUST, lambda k: {"sections": {"marker": k["section_spliter"], "min": k["num_sections"]}},
        {"section_spliter": "Day", "num_sections": 2}, "Day 1\nA\nDay 2\nB", "Day 1\nA, then day two"),
    "detectable_format:number_bullet_lists": (MUST, lambda k: {"bullets": k["num_bullets"]}, {"num_bullets": 2}, "* a\n* b", "* a\n* b\n- c"),
    "detectable_format:number_highlighted_sections": (MUST, lambda k: {"highlights": {"min": k["num_highlights"]}}, {"num_highlights": 2},
        "*a* **b**", "*a* b"),
    "detectable_format:title": (MUST, lambda k: {"title": True}, {}, "<<On Rocks>> text", "<On Rocks> text"),
    "keywords:existence": (MUST, lambda k: {"include_all": k["keywords"]}, {"keywords": ["kelp", "rock"]}, "Kelp on rocks", "Kelp"),
    "keywords:forbidden_words": (MUST_NOT, lambda k: {"words": k["forbidden_words"]}, {"forbidden_words": ["rock"]}, "rocket", "a rock"),
    "keywords:frequency": (MUST, lambda k: {"keyword_frequency": {"word": k["keyword"], **bounds(k["relation"], k["frequency"])}},
        {"keyword": "war", "relation": "less than", "frequency": 2}, "war", "War, war"),
    "keywords:letter_frequency": (MUST, lambda k: {"letter_frequency": {"word": k["letter"], **bounds(k["let_relation"], k["let_frequency"])}},
        {"letter": "e", "let_relation": "at least", "let_frequency": 3}, "Eve fell", "Eve"),
    "language:response_language": (MUST, lambda k: {"language": k["language"]}, {"language": "de"}, "Das ist nicht die Lampe.", "This is the lamp."),
    "length_constraints:nth_paragraph_first_word": (MUST,
        lambda k: {"paragraph_first_word": {"paragraph": k["nth_paragraph"], "word": k["first_word"], "of": k["num_paragraphs"]}},
        {"nth_paragraph": 2, "first_word": "summary", "num_paragraphs": 2}, "A.\n\nSummary: b.", "A.\n\nThe summary."),
    "length_constraints:number_paragraphs": (MUST, lambda k: {"paragraphs": {"min": k["num_paragraphs"], "max": k["num_paragraphs"], "separator": "***"}},
        {"num_paragraphs": 2}, "A\n***\nB", "A\n\nB"),
    "length_constraints:number_sentences": (MUST, limit("sentences"), {"relation": "less than", "num_sentences": 3}, "A. B.", "One. Two. Three. Four."),
    "length_constraints:number_words": (MUST, limit("words"), {"relation": "at least", "num_words": 3}, "one two three", "one two"),
    "punctuation:no_comma": (MUST_NOT, lambda k: {"include_any": ","}, {}, "None here.", "Well, yes."),
    "startend:end_checker": (MUST, lambda k: {"ends_with": k["end_phrase"]}, {"end_phrase": "Any questions?"}, "So. Any questions?", "Any questions? No."),
    "startend:quotation": (MUST, lambda k: {"quoted": True}, {}, '"All of it"', '"Half" of it'),
}  # fmt: skip
TURN = Turn([{"role": "user", "content": "Go."}])


def load(side, clause, kept, broken):
    fixtures = {"pass": [{"user": "Go.", "reply": kept}], "fail": [{"user": "Go.", "reply": broken}]}
    rule = {"id": "r", "severity": "soft", side: clause, "fixtures": fixtures}
    return read_rules(json.dumps({"version": 1, "rules": [rule]}, ensure_ascii=False))


@pytest.mark.parametrize("name", sorted(RULES))
def test_each_instruction_both_ways(name):
    side, clause, kwargs, kept, broken = RULES[name]
    book = load(side, clause(kwargs), kept, broken)
    assert [book.check(TURN, text)[0].passed for text in (kept, broken)] == [True, False]


def test_every_instruction_of_the_data_set_loads(shared_data):
    rows = [json.loads(line) for line in (shared_data / "ifeval" / "input_data.jsonl").open()]
    seen, refused = set(), {}
    for row in rows:
        for name, kwargs in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            side, clause, *_ = RULES[name]
            seen.add(name)
            try:
                load(side, clause({k: v for k, v in kwargs.items() if v is not None}), "a", "b")
            except RuleError as error:
                wrong = [p for p in error.problems if "fixture" not in p]  # "a" and "b" are no real replies
                if wrong:
                    refused[name] = wrong
    assert seen == set(RULES)
    assert not refused
