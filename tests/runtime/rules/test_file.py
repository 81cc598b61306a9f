# ruff: noqa: E501  (tables are read by the row)
"""Loading rule files, conditions, the contract, and what the loader refuses."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import RuleError, UsageError
from runtime.rules import RuleBook, Turn, load_rules, read_rules
from runtime.rules import yaml as rule_yaml

HEAD = """\
version: 1
contract:
  action: [answer, escalate, refuse]
  queue: [general, legal, vip, supervisor]
  citations: list
  reply: text
facts: {tier: [gold, silver, basic], urgency: [low, high], order: text}
prompt:
  system: "Support desk. Tier {tier}, {urgency}.\\n{rules}"
  fallback: {action: escalate, queue: supervisor, citations: [], reply: "Sorry, a colleague takes over {order}."}
rules:
"""
LEGAL = """\
  - id: escalate-legal
    severity: hard
    text: Legal threats go to the legal team.
    when: {user_regex: '\\b(lawyer|sue)\\b'}
    must: {action: escalate, queue: legal}
    fixtures:
      pass: [{user: "My lawyer will call.", reply: {action: escalate, queue: legal}}]
      fail: [{user: "I will SUE you.", reply: {action: answer, queue: legal}}]
      inactive: [{user: "An issue with tissue."}]
"""
VIP = """\
  - id: gold-vip
    severity: hard
    unless: escalate-legal
    when: {facts: {tier: gold}}
    must: {queue: vip}
    fixtures:
      pass: [{user: hello, facts: {tier: gold}, reply: {queue: vip}}]
      fail: [{user: hello, facts: {tier: gold}, reply: {queue: general}}]
      inactive: [{user: my lawyer, facts: {tier: gold}}, {user: hello}]
"""
THANKS = """\
  - id: thanks
    severity: soft
    optional: true
    text: Say thank you.
    must: {words: [thank you]}
    fixtures:
      pass: [{user: hello, reply: Thank you.}]
      fail: [{user: hello, reply: Well.}]
"""
GOOD = HEAD + LEGAL + VIP + THANKS


@pytest.fixture(scope="module")
def book() -> RuleBook:
    return read_rules(GOOD)


def turn(*users: str, **known) -> Turn:
    return Turn([{"role": "user", "content": text} for text in users], **known)


def ids(rules) -> list[str]:
    return [rule.id for rule in rules]


def reply(book: RuleBook, **fields) -> str:
    return book.contract.dump({**book.safe, **fields})


def problems(text: str) -> str:
    with pytest.raises(RuleError) as caught:
        read_rules(text)
    return "\n".join(caught.value.problems)


# ── what a good file does ────────────────────────────────────────────────────────────────────────


def test_rules_are_in_force_by_condition(book):
    assert ids(book.active(turn("hello"))) == []
    assert ids(book.active(turn("hello", facts={"tier": "gold"}))) == ["gold-vip"]
    assert ids(book.active(turn("my lawyer!", facts={"tier": "gold"}))) == ["escalate-legal"]
    assert ids(book.active(turn("hello", prompted=["thanks"]))) == ["thanks"]


def test_hard_equalities_are_decided(book):
    assert book.decided(turn("I sue", facts={"tier": "gold"})) == {"action": "escalate", "queue": "legal"}
    assert book.decided(turn("hi", prompted=["thanks"])) == {}


def test_verdicts(book):
    legal, gold = turn("my lawyer"), turn("hi", facts={"tier": "gold"}, prompted=("thanks",))
    assert [v.passed for v in book.check(legal, reply(book, queue="legal"))] == [True]
    (bad,) = book.check(legal, reply(book, queue="vip"))
    assert (bad.rule, bad.severity, bad.passed) == ("escalate-legal", "hard", False)
    assert bad.why == "must queue: is 'vip'"
    assert [v.passed for v in book.check(gold, reply(book, queue="vip", reply="Thank  you"))] == [True, True]
    assert book.check(turn("hello"), "not even JSON") == ()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("Sorry.", "not one JSON object"),
        ("[1]", "not an object"),
        ('{"action":"answer","queue":"general","citations":[]}', "'reply' is missing"),
        ('{"action":"shout","queue":"general","citations":[],"reply":"x"}', "action is 'shout'"),
        ('{"action":["answer"],"queue":"general","citations":[],"reply":"x"}', "action is"),
        ('{"action":"answer","queue":"general","citations":[],"reply":"x","more":1}', "unknown field 'more'"),
        ('{"action":"answer","queue":"general","citations":[],"reply":"x","reply":"y"}', "given twice"),
        ('{"action":"answer","queue":"general","citations":"K7","reply":"x"}', "not a list"),
        ('{"action":"answer","queue":"general","citations":[],"reply":" "}', "reply is empty"),
        ('{"action":"answer","queue":"general","citations":[],"reply":"x"} ok', "not one JSON object"),
        ('{"action":"answer","queue":"general","citations":[],"reply":NaN}', "NaN"),
        ('```json\n{"action":"answer","queue":"general","citations":[],"reply":"x"}\n```', "not one JSON object"),
        ("[" * 100_000, "not one JSON object"),
        ('{"action":"answer","queue":"general","citations":[],"reply":"\\ud800"}', "not one JSON object"),
        ('{"action":"answer","queue":"general","citations":[],"reply":"\u200b"}', "reply is empty"),
        ('{"action":"answer","queue":"general","citations":[" "],"reply":"x"}', "citations has an item"),
    ],
)
def test_a_reply_outside_the_contract_fails_every_rule(book, text, why):
    verdicts = book.check(turn("hi", facts={"tier": "gold"}, prompted=["thanks"]), text)
    assert [v.passed for v in verdicts] == [False, False]
    assert all(why in v.why for v in verdicts), verdicts


def test_the_system_prompt_is_filled(book):
    assert book.system_prompt({"tier": "gold"}, ["thanks", "escalate-legal"]) == (
        "Support desk. Tier gold, unknown.\n- Say thank you.\n- Legal threats go to the legal team."
    )
    assert book.system_prompt({"tier": "silver", "urgency": "low"}) == "Support desk. Tier silver, low."
    for facts, prompted in (({"tier": "iron"}, ()), ({"teir": "gold"}, ()), ({}, ["nothing"])):
        with pytest.raises(UsageError):
            book.system_prompt(facts, prompted)


def test_facts_are_held_against_their_declaration(book):
    assert book.fact_problems({"tier": "gold", "order": "B7"}) == []
    assert book.fact_problems({"tier": "iron", "order": 7, "age": 3}) == [
        "fact tier is 'iron', not one of gold, silver, basic",
        "fact order is 7, not a text",
        "fact 'age' is not declared",
    ]


def test_labels_are_those_declared_and_those_that_conditions_name():
    named = GOOD.replace("when: {facts: {tier: gold}}", "when: {labels: [vip, new]}")
    named = named.replace("facts: {tier: gold}, reply", "labels: [vip, new], reply")
    assert read_rules(named).labels == {"vip", "new"}
    declared = read_rules(GOOD + "\nlabels: [plain]\n")
    assert declared.labels == {"plain"}
    known = turn("hi", facts={"tier": "iron"}, labels=["plian", "x"], prompted=["nothing"])
    assert declared.turn_problems(known) == [
        "fact tier is 'iron', not one of gold, silver, basic",
        "label 'plian' is named by no rule (did you mean 'plain'?)",
        "label 'x' is named by no rule and not declared under labels:",
        "unknown rule 'nothing' in prompted",
    ]
    with pytest.raises(RuleError, match=r"unknown label 'new' .did you mean 'news'"):
        read_rules(named + "\nlabels: [vip, news]\n")


def test_the_example_of_the_page_loads():
    page = (Path(__file__).parents[3] / "docs" / "rules.md").read_text()
    example = page.split("```yaml\n")[1].split("```")[0]
    assert ids(read_rules(example).rules) == ["escalate-legal"]


def test_the_safe_reply_takes_facts_and_decisions(book):
    safe = json.loads(book.fallback(turn("my lawyer", facts={"order": "B7"})))
    assert safe["queue"] == "legal" and safe["reply"] == "Sorry, a colleague takes over B7."  # noqa: PT018


def test_schema_and_order_of_fields(book):
    schema = book.schema()
    assert schema["required"] == ["action", "queue", "citations", "reply"]
    assert schema["properties"]["queue"] == {"type": "string", "enum": ["general", "legal", "vip", "supervisor"]}
    assert not schema["additionalProperties"]
    given = {"reply": "x", "queue": "vip", "citations": [], "action": "answer"}
    assert book.contract.dump(given) == '{"action":"answer","queue":"vip","citations":[],"reply":"x"}'


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    """llama.cpp with a random model whose tokens are single bytes."""
    pytest.importorskip("llama_cpp")
    from tiny_gguf import write_tiny_gguf

    from runtime.engine.backends.llama import LlamaBackend

    path = write_tiny_gguf(tmp_path_factory.mktemp("grammar") / "tiny.gguf")
    return LlamaBackend(path, threads=1, slots=1, context=None)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_grammar_lets_through_is_in_the_contract(backend, seed):
    every = HEAD.replace(
        "  reply: text", "  n: {kind: integer, max: 999999999}\n  x: number\n  ok: bool\n  reply: {kind: text, max: 60}"
    )
    every = every.replace("citations: list", "citations: {kind: list, max: 3}").replace(
        "citations: [],", "citations: [], n: 0, x: 0, ok: true,"
    )
    book = read_rules(every + THANKS)
    rng, constraint, text = np.random.default_rng(seed), backend.constraint(book.grammar()), b""
    beyond_ascii = [token for token in range(backend.n_vocab) if not backend.piece(token).isascii()]
    for _ in range(800):
        logits = rng.normal(size=backend.n_vocab).astype(np.float32)
        logits[beyond_ascii] -= 50  # a random row of bytes is no UTF-8
        logits[list(backend.stops)] += 50  # end as soon as the grammar allows it
        token = int(np.argmax(constraint.allow(logits)))
        if token in backend.stops:
            break
        constraint.accept(token)
        text += backend.piece(token)
    constraint.close()
    parsed = book.parse(text.decode("utf-8", "replace"))
    assert parsed.error is None, (text, parsed.error)


def test_the_grammar_lets_a_dumped_reply_through(backend, book):
    constraint = backend.constraint(book.grammar())
    text = reply(book, citations=["K7", "policy 9"], reply='He said "no"\n\\ and paid 5 \u20ac.')
    by_piece = {backend.piece(token): token for token in range(backend.n_vocab)}
    for byte in text.encode():
        token = by_piece[bytes([byte])]
        assert constraint.permits(token), chr(byte)
        constraint.accept(token)
    assert any(constraint.permits(stop) for stop in backend.stops)
    constraint.close()


def test_the_digest_is_of_the_meaning(book):
    assert read_rules("# a comment\n" + GOOD).digest == book.digest
    assert read_rules(GOOD.replace("Say thank you", "Say thanks")).digest != book.digest


def test_a_row_of_data_becomes_a_turn():
    row = {
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}],
        "facts": {"tier": "gold"},
        "labels": ["a"],
        "sources": [{"id": "K7", "text": "Terms"}],
        "prompted": ["thanks"],
    }
    made = Turn.from_row(row)
    assert [m["role"] for m in made.messages] == ["user"]
    assert (made.facts, made.labels, made.prompted) == ({"tier": "gold"}, ("a",), ("thanks",))
    with pytest.raises(ValueError, match="labels is a text, not a list"):
        Turn.from_row({"messages": [], "labels": "a"})
    assert made.documents == {"K7": "Terms"}


WHEN = [
    ("{turn: 1}", turn("a"), turn("a", "b")),
    ("{turn: {min: 2, max: 3}}", turn("a", "b"), turn("a")),
    ("{label: [x, y]}", turn("a", labels=["y"]), turn("a", labels=["z"])),
    ("{labels: [x, y]}", turn("a", labels=["y", "x"]), turn("a", labels=["x"])),
    ("{any_user_regex: boat}", turn("my BOAT", "hello"), turn("car", "hello")),
    ("{user_regex: boat}", turn("hello", "my bo\u200bat"), turn("my boat", "hello")),
    ("{user_regex: '(?-i)BOAT'}", turn("my BOAT"), turn("my boat")),
    ("{facts: {tier: [gold, silver]}}", turn("a", facts={"tier": "silver"}), turn("a", facts={"tier": "basic"})),
    ("{facts: {tier: gold, urgency: high}}", turn("a", facts={"tier": "gold", "urgency": "high"}),
     turn("a", facts={"tier": "gold"})),
    ("{not: {facts: {tier: gold}}}", turn("a"), turn("a", facts={"tier": "gold"})),
    ("{any: [{turn: 1}, {label: x}]}", turn("a", "b", labels=["x"]), turn("a", "b")),
    ("{all: [{turn: 1}, {label: x}]}", turn("a", labels=["x"]), turn("a")),
    ("{has_sources: true}", turn("a", sources=[("K7", "text")]), turn("a")),
]  # fmt: skip


@pytest.mark.parametrize(("when", "holds", "fails"), WHEN)
def test_conditions_both_ways(when, holds, fails):
    text = THANKS.replace("optional: true", f"when: {when}")
    from runtime.rules.file import _Builder
    from runtime.rules.spec import RULE, Problems

    data, lines, _ = rule_yaml.read(HEAD + text)
    builder = _Builder(Problems(lines), data, text)
    condition = builder._condition(RULE.validate_python(data["rules"][0]).when, ())
    assert condition.holds(holds)
    assert not condition.holds(fails)


# ── what is refused ──────────────────────────────────────────────────────────────────────────────

BAD = [
    ("an unknown top key", GOOD + "rulez: []\n", "unknown key (did you mean 'rules'?)"),
    ("an unknown rule key", GOOD.replace("    must: {words", "    mast: 1\n    must: {words"), "unknown key (did you mean 'must'?)"),
    ("an unknown when key", GOOD.replace("{user_regex:", "{user_regexp:"), "did you mean 'user_regex'?"),
    ("no version", GOOD.replace("version: 1\n", ""), "version: is missing"),
    ("another version", GOOD.replace("version: 1", "version: 2"), "version: input should be 1"),
    ("a wrong severity", GOOD.replace("severity: soft", "severity: medium"), "'hard' or 'soft'"),
    ("no id", GOOD.replace("id: thanks", "text: thanks", 1).replace("text: Say", "x: Say"), "id: is missing"),
    ("a suite's name", GOOD.replace("id: thanks", "id: accuracy"), "'accuracy' is the name of a suite"),
    ("a doubled id", GOOD.replace("id: thanks", "id: gold-vip"), "'gold-vip' is given twice"),
    ("a doubled id of a rule that is wrong", GOOD.replace("id: thanks", "id: gold-vip").replace("severity: soft", "severity: medium"), "'gold-vip' is given twice"),
    ("a doubled key", GOOD.replace("    optional: true", "    severity: soft"), "key 'severity' is given twice"),
    ("broken YAML", GOOD + "  - {", "not valid YAML"),
    ("a tab", GOOD + "\t- x", "not valid YAML"),
    ("an empty file", "", "the file is empty"),
    ("a list", "- a\n", "not a mapping"),
    ("no rules", HEAD.replace("rules:\n", "rules: []\n"), "at least 1 item"),
    ("a regex that does not compile", GOOD.replace(r"\b(lawyer|sue)\b", "(lawyer"), "does not compile: missing )"),
    ("look-ahead", GOOD.replace(r"\b(lawyer|sue)\b", "lawyer(?!s)"), "has no negative look-ahead"),
    ("a back-reference", GOOD.replace(r"\b(lawyer|sue)\b", r"(.)\1"), "has no back-reference"),
    ("an unknown fact", GOOD.replace("facts: {tier: gold}}\n    must", "facts: {teir: gold}}\n    must"), "unknown fact (did you mean 'tier'?)"),
    ("an unknown value", GOOD.replace("facts: {tier: gold}}\n    must", "facts: {tier: golden}}\n    must"), "'golden' is not a value of tier (did you mean 'gold'?)"),
    ("a fact of a fixture", GOOD.replace("user: my lawyer, facts: {tier: gold}", "user: my lawyer, facts: {tier: iron}"), "fact tier is 'iron'"),
    ("an unknown field", GOOD.replace("must: {queue: vip}", "must: {queu: vip}"), "did you mean 'queue'?"),
    ("a value outside the contract", GOOD.replace("must: {queue: vip}", "must: {queue: vips}"), "not one of general, legal, vip, supervisor (did you mean 'vip'?)"),
    ("a kind on the wrong side", GOOD.replace("must: {words: [thank you]}", "must_not: {max_words: 3}"), "can only stand under must"),
    ("a wrong argument", GOOD.replace("must: {words: [thank you]}", "must: {max_words: many}"), "valid integer (got 'many')"),
    ("a negative count", GOOD.replace("must: {words: [thank you]}", "must: {max_words: -1}"), "greater than or equal to 0"),
    ("an unknown argument key", GOOD.replace("must: {words: [thank you]}", "must: {cite: {mim: 1}}"), "did you mean 'min'?"),
    ("an unknown validator", GOOD.replace("words: [thank you]", "regex: {pattern: a, validator: lun}"), "validator 'lun' is not one of"),
    ("an unknown language", GOOD.replace("words: [thank you]", "language: klingon"), "unknown language 'klingon'"),
    ("an unknown tone", GOOD.replace("words: [thank you]", "tone: shrill"), "'calm'"),
    ("a phrase without letters", GOOD.replace("words: [thank you]", "words: ['\u200b']"), "nothing visible"),
    ("a schema keyword", GOOD.replace("words: [thank you]", "json_schema: {anyOf: []}"), "uses 'anyOf', which is not supported"),
    ("a tool order without tools", GOOD.replace("words: [thank you]", "tool_order: [a, b]"), "needs a contract with the field 'tools'"),
    ("neither must nor must_not", GOOD.replace("    must: {words: [thank you]}\n", ""), "neither must nor must_not"),
    ("a pass fixture that fails", GOOD.replace("reply: Thank you.", "reply: Thanks."), "'thanks', pass fixture 1: the reply breaks the rule"),
    ("a fail fixture that passes", GOOD.replace("reply: Well.", "reply: Thank you so."), "'thanks', fail fixture 1: the reply keeps the rule"),
    ("a fixture out of force", GOOD.replace("I will SUE you.", "I will swim."), "not in force here"),
    ("an inactive fixture in force", GOOD.replace("An issue with tissue.", "I sue."), "the rule is in force here"),
    ("a fixture outside the contract", GOOD.replace("reply: {queue: general}", "reply: {queue: x}"), "the reply itself is not valid: queue is 'x'"),
    ("a fixture with a foreign field", GOOD.replace("reply: {queue: general}", "reply: {quoe: x}"), "'quoe' is not a field"),
    ("a fixture without reply", GOOD.replace(", reply: {queue: general}", ""), "has no reply"),
    ("a fixture without user", GOOD.replace("{user: hello, reply: Well.}", "{reply: Well.}"), "give either user"),
    ("no pass fixture", GOOD.replace("      pass: [{user: hello, reply: Thank you.}]\n", ""), "has no pass fixture"),
    ("no fail fixture", GOOD.replace("      fail: [{user: hello, reply: Well.}]\n", ""), "has no fail fixture"),
    ("an unknown unless", GOOD.replace("unless: escalate-legal", "unless: escalate-legul"), "did you mean 'escalate-legal'?"),
    ("a circle of unless", GOOD.replace("    when: {user_regex", "    unless: gold-vip\n    when: {user_regex"), "goes in a circle"),
    ("a placeholder", GOOD.replace("{urgency}.", "{urgncy}."), "{urgncy} is neither a declared fact"),
    ("a fallback outside the contract", GOOD.replace("queue: supervisor, c", "queue: nobody, c"), "fallback: queue is 'nobody'"),
    ("a fallback text for a contract", GOOD.replace("fallback: {action", "fallback: x #"), "must be an object"),
    ("a fallback that breaks a rule", GOOD.replace("must: {queue: vip}", "must: {queue: vip, include_any: vip}").replace("reply: {queue: vip}", "reply: {queue: vip, reply: vip}"), "in a fixture's turn the safe reply fails: gold-vip"),
    ("a contract without reply", GOOD.replace("  reply: text\n", ""), "contract.reply: is missing"),
    ("a boolean among the values", GOOD.replace("[answer, escalate, refuse]", "[answer, yes]"), "put quotes around yes"),
    ("a field called like a kind", GOOD.replace("  reply: text", "  language: text\n  reply: text"), "is the name of a rule kind"),
    ("an unknown kind of field", GOOD.replace("citations: list", "citations: lits"), "unknown kind 'lits' (did you mean 'list'?)"),
    ("an unknown type of fact", GOOD.replace("order: text}", "order: txt}"), "unknown type 'txt' (did you mean 'text'?)"),
    ("an anchor", GOOD.replace("[low, high]", "&a [low, high]"), "anchors and aliases"),
    ("an alias", "a: &x [1]\nb: *x\n", "anchors and aliases"),
    ("a tag", "a: !!python/object/apply:os.system [ls]\n", "tags are not allowed"),
    ("deep nesting", "a: " + "[" * 60 + "]" * 60, "nested deeper than 40"),
    ("a giant file", "# " + "x" * (1 << 20), "larger than 1024 KiB"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_file_is_refused(text, message):
    found = problems(text)
    assert message in found
    assert all(line.startswith("line ") for line in found.splitlines() if line.strip())


def test_all_problems_are_reported_at_once_with_their_lines():
    text = GOOD.replace("severity: soft", "severity: mild").replace("must: {queue: vip}", "must: {queue: vap}")
    text = text.replace(r"\b(lawyer|sue)\b", "(").replace("facts: {tier: [", "fact: 1\nfacts: {tier: [")
    found = problems(text).splitlines()
    rows = text.splitlines()
    for mark, message in (
        ("fact: 1", "unknown key"),
        ("user_regex", "missing )"),
        ("vap", "vap"),
        ("mild", "severity"),
    ):
        line = next(i for i, row in enumerate(rows, 1) if mark in row)
        assert any(p.startswith(f"line {line}: ") and message in p for p in found), (mark, found)


def test_a_rule_that_is_wrong_twice_is_said_to_be():
    found = problems(
        GOOD.replace("severity: soft", "severity: mild").replace("words: [thank you]", "word: [thank you]")
    )
    assert "mild" in found
    assert "did you mean 'words'?" in found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("version: 1", "version: true"), "version: must be 1 (got true)"),
        ("version: 1\nrules:\n\t- id: a\n", "line 3: .*a tab; indent with spaces"),
        (GOOD.replace("text: Say thank you.", "text: say: thanks"), "quotes around a text with a colon"),
        ("version: 1\nprompt: {fallback: ' '}\nrules: []\n", "fallback: is empty"),
    ],
)
def test_a_message_says_what_to_do(text, said):
    assert re.search(said.replace("(got", r"\(got").replace("true)", r"true\)"), problems(text))


# ── contradictions ───────────────────────────────────────────────────────────────────────────────


def pair(first_when, first, second_when, second, extra=""):
    """Two hard rules without fixtures, so that only the contradiction is looked at."""
    body = (
        "  - id: one\n    severity: hard\n    when: {}\n    {}\n  - id: two\n    severity: hard\n    when: {}\n    {}\n"
    )
    for value in (first_when, first, second_when, second):
        body = body.replace("{}", value, 1)
    return problems(HEAD + body + extra)


CLASH = [
    ("{user_regex: a}", "must: {queue: vip}", "{user_regex: b}", "must: {queue: legal}"),
    ("{facts: {tier: gold}}", "must: {queue: vip}", "{facts: {urgency: high}}", "must: {queue: legal}"),
    ("{turn: {min: 2}}", "must: {queue: [vip, legal]}", "{turn: 3}", "must_not: {queue: [vip, legal]}"),
    ("{label: x}", "must: {words: [refund]}", "{label: y}", "must_not: {words: [refund]}"),
    ("{label: x}", "must: {include_all: [a full refund]}", "{label: y}", "must_not: {include_any: [refund]}"),
    ("{label: x}", "must: {min_words: 30}", "{label: y}", "must: {max_words: 20}"),
    ("{not: {facts: {tier: gold}}}", "must: {action: answer}", "{facts: {tier: silver}}", "must_not: {action: answer}"),
    ("{any: [{label: x}, {turn: 1}]}", "must: {action: answer}", "{turn: 1}", "must: {action: refuse}"),
]
APART = [
    ("{facts: {tier: gold}}", "must: {queue: vip}", "{facts: {tier: [silver, basic]}}", "must: {queue: legal}"),
    ("{facts: {tier: gold}}", "must: {queue: vip}", "{not: {facts: {tier: gold}}}", "must: {queue: legal}"),
    ("{turn: 1}", "must: {queue: vip}", "{turn: {min: 2}}", "must: {queue: legal}"),
    ("{user_regex: a}", "must: {queue: vip}", "{not: {user_regex: a}}", "must: {queue: legal}"),
    ("{label: x}", "must: {queue: [vip, legal]}", "{label: y}", "must: {queue: [legal, general]}"),
    ("{label: x}", "must: {words: [refunds]}", "{label: y}", "must_not: {words: [refund]}"),
    ("{all: [{label: x}, {turn: 1}]}", "must: {queue: vip}", "{any: [{not: {label: x}}, {turn: 2}]}", "must: {queue: legal}"),
]  # fmt: skip


@pytest.mark.parametrize("rules", CLASH)
def test_hard_rules_that_contradict_are_refused(rules):
    assert "contradicts rule 'one'" in pair(*rules)


@pytest.mark.parametrize("rules", APART)
def test_hard_rules_that_never_meet_are_not(rules):
    assert "contradicts" not in pair(*rules)


def test_unless_parts_two_rules():
    rules = CLASH[0]
    assert "contradicts" not in pair(*rules[:3], "unless: one\n    " + rules[3])


def test_a_rule_that_contradicts_itself():
    assert "contradicts itself: no value of queue is left" in pair(
        "{turn: 1}", "must: {queue: vip}\n    must_not: {queue: vip}", "{turn: 2}", "must: {action: answer}"
    )


def test_a_thousand_hard_rules_are_compared_in_no_time():
    one = LEGAL.replace("escalate-legal", "escalate-%d")
    other = (
        VIP.replace("gold-vip", "vip-%d")
        .replace("    unless: escalate-legal\n", "")
        .replace("tier: gold", "tier: silver")
    )
    text = HEAD + "".join(one % number for number in range(400)) + "".join(other % number for number in range(3))
    began = time.process_time()
    found = problems(text)
    assert found.count("contradicts rule") == 3 * 400
    assert time.process_time() - began < 10


def test_a_soft_rule_may_contradict():
    text = GOOD.replace("must: {words: [thank you]}", "must_not: {queue: legal}")
    text = text.replace("reply: Thank you.", "reply: {queue: vip}").replace("reply: Well.", "reply: {queue: legal}")
    assert read_rules(text)


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def test_files_are_read_with_bom_and_windows_lines(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_rules(path).digest == read_rules(GOOD).digest


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(RuleError, match=r"missing\.yaml.*\n.*cannot be read"):
        load_rules(tmp_path / "missing.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"text: \xe9t\xe9")
    with pytest.raises(RuleError, match="not UTF-8"):
        load_rules(tmp_path / "latin.yaml")


def test_importing_rules_is_light():
    code = "import sys, runtime.rules, runtime.guard; print(sorted({'pydantic', 're2', 'yaml', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_rule_that_yields_to_a_wrong_one_is_not_blamed():
    text = """
version: 1
rules:
  - {id: a, severity: medium, must: {max_words: 3}, fixtures: {pass: [{user: x, reply: y}], fail: [{user: x, reply: a b c d}]}}
  - id: b
    severity: soft
    unless: [a]
    must: {max_words: 4}
    fixtures:
      pass: [{user: x, reply: a b}]
      fail: [{user: x, reply: a b c d e}]
      inactive: [{user: x}]
"""
    with pytest.raises(RuleError) as caught:
        read_rules(text)
    assert "severity" in str(caught.value)
    assert "1 problem" in str(caught.value)
