# ruff: noqa: E501  (tables are read by the row)
"""Every kind of check, on a reply that satisfies it and on one that does not."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import RuleError
from runtime.rules import Turn, leaks, read_rules
from runtime.rules import text as texts

CONTRACT = """
contract:
  action: [answer, escalate, refuse]
  tools: {kind: list, of: [find_order, check_policy, refund]}
  citations: list
  score: {kind: number, min: 0, max: 10}
  done: bool
  reply: text
"""
ZERO_WIDTH = "\u200b"

# name, side, argument (YAML), turn keywords, kept, broken
PLAIN = [
    ("include_any", "must", "[refund, money back]", {}, "You will be ReFunded.", "We will see."),
    ("include_any", "must_not", "[guarantee]", {}, "We will try.", f"We guar{ZERO_WIDTH}antee it."),
    ("include_any", "must_not", "','", {}, "No comma here.", "Well, yes."),
    ("include_all", "must", "[order, refund]", {}, "Your order has a refund.", "Your order is here."),
    ("words", "must", "[refund]", {}, "A refund, of course.", "You were refunded."),
    ("words", "must_not", "[ass, hard cash]", {}, "Your assistant has cash.", "We pay hard\n cash."),
    ("any_word", "must", "[sorry, thanks]", {}, "Ｓｏｒｒｙ about that.", "That is sorrylike."),
    ("keyword_frequency", "must", "{word: war, min: 2}", {}, "War is war.", "War is bad."),
    ("letter_frequency", "must", "{word: '!', max: 1}", {}, "Yes!", "Yes!!"),
    ("starts_with", "must", "[Dear customer]", {}, "Dear  Customer, hello.", "Hello, dear customer."),
    ("starts_with", "must_not", "Well", {}, "Yes.", "Well yes."),
    ("ends_with", "must", "Kind regards", {}, '"Bye. Kind regards"', "Kind regards, bye."),
    ("ends_with", "must_not", "[bye]", {}, "Bye now.", "So bye"),
    ("regex", "must", r"'#[A-Z]\d{3}'", {}, "Order #A123.", "Order A123."),
    ("regex", "must", r"{pattern: '\d+', min: 2}", {}, "1 and 2", "1 only"),
    ("regex", "must_not", r"{pattern: '[0-9][0-9 -]{11,22}[0-9]', validator: luhn}", {}, "Card 4111 1111 1111 1112.",
     "Card 4111 1111 1111 1111."),
    ("regex", "must_not", r"{pattern: '[A-Z]{2}[0-9]{2}[A-Z0-9 ]{11,30}', validator: iban}", {},
     "GB82 WEST 1234 5698 7654 33", "GB82 WEST 1234 5698 7654 32"),
    ("regex", "must", r"{pattern: '\S+@\S+', validator: email}", {}, "Write to a.b@shop.example now", "Write to a@b"),
    ("leaks", "must_not", "card", {}, "Order 12345678901234567890.", "４１１１－1111 1111\u200b1111"),
    ("leaks", "must_not", "[iban, email, phone]", {}, "Order B7T2 of 2024-05-01.", "Call +49 30 1234567."),
    ("copies", "must", r"'#(\w+)'", {"user": "order #B7t2"}, "About b7T2 then.", "About B7T3."),
    ("copies", "must", r"{pattern: '#(\w+)', anywhere: true}", {"messages": ["my order #AA1", "and now?"]}, "AA1 comes.", "It comes."),
    ("copies", "must_not", r"'\d{4}'", {"user": "my pin is 1234"}, "Never tell a pin.", "Your pin 1234 is safe."),
    ("max_words", "must", "4", {}, "It's a well-known fact.", "This has five words here."),
    ("min_words", "must", "3", {}, "One two three.", "One two."),
    ("max_sentences", "must", "2", {}, "Dr. No paid 3.50 today. Bye!", "One. Two? Three!"),
    ("min_sentences", "must", "2", {}, "One. Two.", "One, e.g. this."),
    ("max_characters", "must", "5", {}, "12345", "123456"),
    ("paragraphs", "must", "2", {}, "One.\n\nTwo.", "One.\nTwo."),
    ("paragraphs", "must", "{min: 2, max: 3, separator: '***'}", {}, "One\n***\nTwo", "One *** "),
    ("paragraph_first_word", "must", "{paragraph: 2, word: weekend, of: 2}", {}, "A.\n\nWeekend, at last.", "Weekend.\n\nB."),
    ("bullets", "must", "2", {}, "So:\n* one\n- two", "* one"),
    ("highlights", "must", "{min: 2}", {}, "*one* and **two**", "2 * 3 * 4 and *one*"),
    ("placeholders", "must", "{min: 2}", {}, "[name] at [address]", "[name] at []"),
    ("sections", "must", "{marker: SECTION, min: 2}", {}, "SECTION 1\na\nSection 2\nb", "SECTION 1\na SECTION 2"),
    ("responses", "must", "2", {}, "One.\n******\nTwo.", "One.\n******\nOne."),
    ("postscript", "must", "P.P.S", {}, "Bye.\nP.P.S. Call me.", "Bye. P.S. Call me."),
    ("title", "must", "true", {}, "<<Song>>\nla", "<< >> la"),
    ("quoted", "must", "true", {}, "\u201cHello\u201d", 'He said "hello"'),
    ("case", "must", "upper", {}, "ALL LOUD 1!", "All LOUD"),
    ("case", "must", "lower", {}, "all quiet", "All quiet"),
    ("capital_words", "must", "{min: 1, max: 2}", {}, "This is BIG.", "This is big."),
    ("json", "must", "true", {}, '```json\n{"a": 1}\n```', '{"a": 1'),
    ("json_schema", "must", "{type: object, required: [id], properties: {id: {type: integer, minimum: 1}}, additionalProperties: false}",
     {}, '{"id": 3}', '{"id": 0}'),
    ("json_schema", "must", "{type: array, items: {enum: [a, b]}, maxItems: 2}", {}, '["a"]', '["a", "b", "a"]'),
    ("cite", "must", "true", {"sources": [("K7", "Refunds take 5 days.")]}, "See [K7].", "See [K8]."),
    ("cite", "must", "{min: 2}", {"sources": [("K7", "Five days."), ("K8", "No fee.")]}, "So it is [ K7, k8 ].", "So it is [K7][K7]."),
    ("cite", "must", "true", {"sources": [("K7", "Five days.")]}, "- [x] see [the page](https://shop.example) 【K7】", "See [K7, K9]."),
    ("cite", "must", "{quote: true}", {"sources": [("K7", "Free for 30 days.")]}, 'It is "**free** for 30 days" [K7].', 'It is "free for 3" [K7].'),
    ("cite", "must", "{quote: true}", {"sources": [("K7", "Returns are free for 30 days.")]}, '"Returns ... 30 days" [K7]', '"turns are free for" [K7]'),
    ("cite", "must", "{min: 0}", {}, "See nothing.", "See [K8]."),
    ("cite", "must", "{quote: true}", {"system": "[K7] Refunds take five days."}, '"Refunds take five days" [K7]',
     '"Refunds take two days" [K7]'),
    ("cite", "must", r"{pattern: 'POL-\d+'}", {"system": "Policy POL-9 holds."}, "See [POL-9].", "See [POL-8]."),
    ("invents", "must_not", "[numbers, names]", {"user": "I'm Tom, order 4 821"}, "Sorry, Tom: #4821.", "Sorry, Tom: #4812."),
    ("refuse", "must", "true", {}, "Sorry, I cannot help with that.", "Sure, here is how."),
    ("refuse", "must_not", "true", {}, "Yes, I can help with that.", "I'm not able to share this."),
    ("language", "must", "fr", {}, "Nous vous envoyons la lampe avec un autre colis.", "We will send you the lamp."),
    ("language", "must_not", "[de, fr]", {}, "We will send it to you.", "Wir schicken es Ihnen mit der Post."),
    ("tone", "must", "[polite, no_shouting]", {}, "Thank you for waiting.", "THANK YOU FOR WAITING."),
    ("tone", "must", "[calm, no_emoji, not_rude]", {}, "It will be fine.", "It will be fine \U0001f600"),
]  # fmt: skip
STRUCTURED = [
    ("action", "must", "escalate", {"action": "escalate"}, {"action": "answer"}),
    ("action", "must", "[escalate, refuse]", {"action": "refuse"}, {"action": "answer"}),
    ("action", "must_not", "[refuse]", {"action": "answer"}, {"action": "refuse"}),
    ("tools", "must", "[find_order]", {"tools": ["find_order", "refund"]}, {"tools": ["refund"]}),
    ("tools", "must_not", "refund", {"tools": ["find_order"]}, {"tools": ["refund"]}),
    ("score", "must", "{min: 2, max: 5}", {"score": 5}, {"score": 1.5}),
    ("score", "must", "3", {"score": 3}, {"score": 4}),
    ("done", "must", "true", {"done": True}, {"done": False}),
    ("tool_order", "must", "[find_order, refund]", {"tools": ["find_order", "check_policy", "refund"]}, {"tools": ["refund", "find_order"]}),
    ("cite", "must", "true", {"citations": ["k7"]}, {"citations": []}),
    ("refuse", "must", "true", {"action": "refuse"}, {"action": "answer", "reply": "I cannot help."}),
    ("leaks", "must_not", "card", {"reply": "No number."}, {"citations": ["4111111111111111"]}),
    ("ends_with", "must_not", "[bye, bye.]", {"reply": "So.", "citations": ["bye"]}, {"reply": "So bye.", "citations": ["k7"]}),
]  # fmt: skip


def turn_for(user="Hello.", messages=None, system=None, **known):
    said = [{"role": "system", "content": system}] if system else []
    said += [{"role": "user", "content": text} for text in (messages or [user])]
    return Turn(said, **known)


def rule_text(name, side, argument, kept, broken, turn=None, contract=""):
    known = turn or {}
    given = {"messages": [{"role": "user", "content": t} for t in known.get("messages", [known.get("user", "Hello.")])]}
    given |= {"system": known["system"]} if "system" in known else {}
    given |= {"sources": [{"id": i, "text": t} for i, t in known["sources"]]} if "sources" in known else {}
    good, bad = (json.dumps({**given, "reply": reply}, ensure_ascii=False) for reply in (kept, broken))
    return (
        f"version: 1\n{contract}\nrules:\n  - id: r\n    severity: hard\n    {side}:\n      {name}: {argument}\n"
        f"    fixtures:\n      pass: [{good}]\n      fail: [{bad}]\n"
    )


@pytest.mark.parametrize(("name", "side", "argument", "turn", "kept", "broken"), PLAIN)
def test_plain_checks_both_ways(name, side, argument, turn, kept, broken):
    book = read_rules(rule_text(name, side, argument, kept, broken, turn))
    (good,) = book.check(turn_for(**turn), kept)
    (bad,) = book.check(turn_for(**turn), broken)
    assert good.passed
    assert not good.why
    assert not bad.passed
    assert bad.why.startswith(f"{side} {name}: ")
    with pytest.raises(RuleError, match="keeps the rule, and should break it"):  # the fixtures the other way round
        read_rules(rule_text(name, side, argument, broken, kept, turn))


@pytest.mark.parametrize(("name", "side", "argument", "kept", "broken"), STRUCTURED)
def test_contract_checks_both_ways(name, side, argument, kept, broken):
    turn = {"system": "[K7] Refunds take five days."}
    book = read_rules(rule_text(name, side, argument, kept, broken, turn, CONTRACT))
    base = {"action": "answer", "tools": [], "citations": [], "score": 0, "done": False, "reply": "Thank you."}
    good, bad = (book.check(turn_for(**turn), json.dumps({**base, **fields})) for fields in (kept, broken))
    assert [v.passed for v in (*good, *bad)] == [True, False]


def test_every_kind_is_tried_here():
    read_rules(rule_text("title", "must", "true", "<<a>>", "a"))  # fills the table
    from runtime.rules.kinds import KINDS

    tried = {(side, name) for name, side, *_ in PLAIN + STRUCTURED}
    assert {(side, name) for side, name in KINDS if ":" not in name} <= tried


@pytest.mark.parametrize("broken", ["", " \n\t", "\u200b\u2060", "\u3164"])
@pytest.mark.parametrize(("name", "side", "argument"), [("max_words", "must", "9"), ("words", "must_not", "[x]")])
def test_an_empty_reply_fails_every_rule(broken, name, side, argument):
    book = read_rules(rule_text(name, side, argument, "a b", "x " * 10))
    (verdict,) = book.check(turn_for(), broken)
    assert not verdict.passed
    assert "empty" in verdict.why


def test_a_truncated_reply_fails_every_rule():
    book = read_rules(rule_text("max_words", "must", "3", "a b", "a b c d"))
    (verdict,) = book.check(turn_for(), "a b", truncated=True)
    assert not verdict.passed
    assert "cut off" in verdict.why


CARDS = ["4111111111111111", "5500005555555559", "378282246310005", "6011000990139424", "4222222222222"]
ARABIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
FULLWIDTH = str.maketrans("0123456789", "０１２３４５６７８９")


@settings(deadline=None)
@given(st.sampled_from(CARDS), st.data())
def test_a_card_is_found_however_it_is_written(card, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(card) - 1), max_size=5)))
    separator = data.draw(st.sampled_from([" ", "-", "\u2011", ".", "\u00a0", "", "\u200b"]))
    groups = [card[a:b] for a, b in zip([0, *cuts], [*cuts, len(card)], strict=True)]
    written = separator.join(groups).translate(data.draw(st.sampled_from([{}, ARABIC, FULLWIDTH])))
    text = data.draw(st.sampled_from(["Your card ", "No. 12, card: ", "(", ""])) + written + "."
    assert card in leaks.find_cards(texts.plain(text))


@settings(deadline=None)
@given(st.sampled_from(CARDS), st.integers(0, 8), st.integers(1, 9))
def test_one_wrong_digit_is_no_card(card, place, step):
    wrong = card[:place] + str((int(card[place]) + step) % 10) + card[place + 1 :]
    assert not texts.luhn(wrong)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_the_normal_form_is_stable(text):
    once = texts.plain(text)
    assert texts.plain(once) == once
    squeezed = texts.squeeze(text)
    assert squeezed == " ".join(squeezed.split())
    assert "\u200b" not in once


@settings(deadline=None)
@given(st.text(st.characters(), max_size=300))  # lone surrogates too
def test_no_text_upsets_a_checker(text):
    assert len(LOOSE.check(turn_for(user=text), text)) == len(LOOSE.rules)


def test_half_a_character_upsets_no_checker():
    assert not any(v.passed for v in LOOSE.check(turn_for(user="\ud800"), ""))
    assert LOOSE.check(turn_for(user="\ud800 1"), "\udc00 1")


def test_a_reply_is_checked_quickly():
    turn = turn_for()
    texts = [f"Thank you, order B{n} is on its way. We will write again." for n in range(300)]
    start = time.process_time()
    for text in texts:
        LOOSE.check(turn, text)
    assert (time.process_time() - start) / len(texts) < 3e-3  # about 0.3 ms here


def _loose():
    chosen = [row for row in PLAIN if row[0] not in ("copies", "cite")]
    parts = [
        rule_text(*row[:3], row[4], row[5], row[3])
        .split("rules:\n")[1]
        .replace("id: r\n", f"id: r{n}\n")
        .replace("hard", "soft", 1)
        for n, row in enumerate(chosen)
    ]
    return read_rules("version: 1\nrules:\n" + "".join(parts))


LOOSE = _loose()


def test_every_kind_is_in_the_documentation():
    from runtime.rules.kinds import KINDS

    page = (Path(__file__).parents[3] / "docs" / "rules.md").read_text()
    assert [name for _, name in KINDS if f"`{name}`" not in page and ":" not in name] == []


@pytest.mark.parametrize(
    ("said", "holds"),
    [
        ("our co\u0300mpetitor", False),
        ("c\u0300\u0315ompe\u0336titor", False),
        ("comp\u00e9titor", True),  # a letter of its own
        ("a ne\u0301e b", True),
    ],
)
def test_accents_written_apart_hide_nothing(said: str, holds: bool) -> None:
    book = read_rules(
        """
version: 1
rules:
  - id: rivals
    severity: hard
    must_not: {words: [competitor]}
    fixtures: {pass: [{user: hi, reply: a}], fail: [{user: hi, reply: competitor}]}
"""
    )
    assert [verdict.passed for verdict in book.check(Turn([{"role": "user", "content": "hi"}]), said)] == [holds]
