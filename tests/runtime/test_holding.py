"""A stream under rules: every moment of it is a reply that keeps them."""

from __future__ import annotations

import random

import pytest

from runtime.holding import Holding
from runtime.rules import Turn, read_rules
from runtime.rules.book import RuleBook

HELLO = Turn([{"role": "user", "content": "hello"}], facts={})
PLAIN = read_rules(
    """
version: 1
rules:
  - id: no-promise
    severity: hard
    must_not: {include_any: ["we promise", "Dr. No", "gua-ran-tee"]}
    fixtures: {pass: [{user: hi, reply: We try.}], fail: [{user: hi, reply: We promise.}]}
  - id: short
    severity: hard
    must: {max_words: 30}
    fixtures: {pass: [{user: hi, reply: a b}], fail: [{user: hi, reply: "%s"}]}
  - id: kind
    severity: soft
    must: {any_word: [thanks]}
    fixtures: {pass: [{user: hi, reply: Thanks}], fail: [{user: hi, reply: No}]}
"""
    % ("a " * 31)
)
CONTRACT = """
version: 1
contract: {action: [answer, escalate], queue: [general, legal], reply: text}
prompt: {fallback: {action: escalate, queue: general, reply: "Sorry."}}
rules:
  - id: legal
    severity: hard
    must: {action: escalate, queue: legal}
    fixtures:
      pass: [{user: hi, reply: {action: escalate, queue: legal}}]
      fail: [{user: hi, reply: {action: answer, queue: legal}}]
  - id: no-promise
    severity: hard
    must_not: {words: [promise]}
    fixtures: {pass: [{user: hi, reply: We try.}], fail: [{user: hi, reply: We promise.}]}
"""
BOOK = read_rules(CONTRACT)


def streamed(
    book: RuleBook, text: str, *, size: int = 1, truncated: bool = False
) -> tuple[list[str], str | None, Holding]:
    hold = Holding(book, HELLO)
    pieces = [hold.push(text[: at + size]) for at in range(0, len(text), size)]
    last, reason = hold.end(text, truncated=truncated)
    return [piece for piece in [*pieces, last] if piece], reason, hold


def keeps(book: RuleBook, text: str) -> bool:
    return book.parse(text).error is None and all(v.passed for v in book.check(HELLO, text) if v.severity == "hard")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_good_reply_leaves_by_sentences(size: int) -> None:
    text = "We look into it. It may take 3.5 days! Is that fine?\nBest wishes"
    pieces, reason, hold = streamed(PLAIN, text, size=size)
    assert ("".join(pieces), hold.sent, reason) == (text, text, None)
    if size == 1:
        assert pieces == ["We look into it.", " It may take 3.5 days!", " Is that fine?", "\nBest wishes"]


def test_what_breaks_a_rule_stays_and_what_was_sent_is_whole() -> None:
    pieces, reason, _ = streamed(PLAIN, "We try. We pro" + "mise. And more.")
    assert (pieces, reason) == (["We try."], "no-promise")
    pieces, reason, _ = streamed(PLAIN, "Ask Dr. No about it. Bye.")
    assert (pieces, reason) == (["Ask Dr."], "no-promise")
    pieces, reason, _ = streamed(PLAIN, " ".join(f"Word {i}." for i in range(40)))
    assert reason == "short"
    assert len("".join(pieces).split()) == 30


def test_a_rule_that_asks_for_something_holds_back_until_it_is_said() -> None:
    fixtures = "fixtures: {pass: [{user: hi, reply: order 7}], fail: [{user: hi, reply: x}]}"
    rule = "must: {include_all: [order 7]}\n    " + fixtures
    book = read_rules(f"version: 1\nrules:\n  - id: number\n    severity: hard\n    {rule}\n")
    pieces, reason, _ = streamed(book, "Hello. It is order 7. Bye. Bye.")
    assert (pieces, reason) == (["Hello. It is order 7.", " Bye.", " Bye."], None)
    assert streamed(book, "Hello. Bye.")[:2] == ([], "number")


def test_a_cut_text_goes_out_by_whole_sentences_only() -> None:
    pieces, reason, hold = streamed(PLAIN, "We look into it. It may ta", truncated=True)
    assert (pieces, reason, hold.close()) == (["We look into it."], "contract", "")


def test_contract_fields_are_set_before_the_first_words_leave() -> None:
    raw = '{"action": "answer", "queue":"general",\n"reply":"Hi \\"you\\" \\ud83d\\ude00. We try.\\nBye"}'
    pieces, reason, hold = streamed(BOOK, raw)
    assert pieces[0] == '{"action":"escalate","queue":"legal","reply":"Hi \\"you\\" 😀.'
    assert reason is None
    assert "".join(pieces) == hold.sent == BOOK.contract.dump(BOOK.parse(hold.sent).fields)  # type: ignore[union-attr,arg-type]
    assert sorted(hold.changed) == ["action", "queue"]
    pieces, reason, hold = streamed(BOOK, raw.replace("We try", "We promise"))
    assert reason == "no-promise"
    assert keeps(BOOK, "".join(pieces) + hold.close())


def test_a_field_behind_the_words_holds_everything_back() -> None:
    book = read_rules(
        CONTRACT.replace("reply: text}", "reply: text, mood: [good, bad]}").replace('"Sorry."', '"Sorry.", mood: bad')
    )
    raw = '{"action":"escalate","queue":"legal","reply":"Hi. We try.","mood":"bad"}'
    assert streamed(book, raw)[:2] == ([raw], None)


@pytest.mark.parametrize("seed", range(30))
def test_at_every_moment_what_was_sent_keeps_the_rules(seed: int) -> None:
    rng = random.Random(seed)
    parts = [
        "We",
        " promise",
        "gua",
        "-ran",
        "-tee",
        ". ",
        "Dr.",
        " No",
        "! ",
        "\n",
        " fine",
        "pro",
        "mise",
        "e.g. ",
        "…\n",
        "\u200b",
    ]
    text = "".join(rng.choices(parts, k=40))
    for book in (PLAIN, BOOK):
        raw = text if book is PLAIN else BOOK.contract.dump({"action": "answer", "queue": "legal", "reply": text})  # type: ignore[union-attr]
        hold, so_far = Holding(book, HELLO), ""
        for at in range(1, len(raw) + 1, rng.randint(1, 5)):
            so_far += hold.push(raw[:at])
            assert not so_far or keeps(book, so_far if book is PLAIN else so_far + '"}')
        last, reason = hold.end(raw, truncated=False)
        so_far += last + (hold.close() if reason and hold.sent else "")
        assert so_far == hold.sent
        assert not so_far or keeps(book, so_far)
        assert (reason is None) == keeps(book, raw) or book is BOOK
