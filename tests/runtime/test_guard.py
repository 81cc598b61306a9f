# ruff: noqa: E501  (tables are read by the row)
"""What the guard does to a reply, and that it says so."""

import pytest

from runtime.errors import RuleError
from runtime.guard import enforce
from runtime.rules import Turn, read_rules

BOOK = read_rules(
    """
version: 1
contract: {action: [answer, escalate, refuse], queue: [general, legal], reply: text}
facts: {tier: [gold, basic]}
prompt: {fallback: {action: escalate, queue: general, reply: "Sorry, a colleague takes over."}}
rules:
  - id: legal
    severity: hard
    when: {user_regex: lawyer}
    must: {action: escalate, queue: legal}
    fixtures:
      pass: [{user: my lawyer, reply: {action: escalate, queue: legal}}]
      fail: [{user: my lawyer, reply: {action: answer, queue: legal}}]
  - id: no-promise
    severity: hard
    must_not: {words: [promise]}
    fixtures:
      pass: [{user: hi, reply: We try.}]
      fail: [{user: hi, reply: We promise.}]
  - id: polite
    severity: soft
    must: {any_word: [sorry, thanks]}
    fixtures:
      pass: [{user: hi, reply: Sorry.}]
      fail: [{user: hi, reply: No.}]
"""
)
HELLO, LAWYER = (Turn([{"role": "user", "content": text}]) for text in ("hello", "my lawyer calls"))


def said(reply="Sorry.", action="answer", queue="general"):
    return BOOK.contract.dump({"action": action, "queue": queue, "reply": reply})


class Retry:
    def __init__(self, text):
        self.text, self.calls = text, 0

    def __call__(self):
        self.calls += 1
        return self.text


def test_a_good_reply_is_sent_as_it_is():
    retry = Retry(said("Thanks."))
    sent = enforce(BOOK, HELLO, said(), retry)
    assert (sent.text, sent.interventions, retry.calls) == (said(), (), 0)
    assert sent.fields["action"] == "answer"
    assert [v.passed for v in sent.report] == [True, True]


def test_decided_fields_are_set_without_asking_again():
    retry = Retry("")
    sent = enforce(BOOK, LAWYER, said(), retry)
    assert sent.fields == {"action": "escalate", "queue": "legal", "reply": "Sorry."}
    assert sent.interventions == ("set:action", "set:queue")
    assert retry.calls == 0
    assert all(v.passed for v in sent.report)


def test_a_broken_hard_rule_is_retried_once():
    sent = enforce(BOOK, HELLO, said("We promise. Sorry."), Retry(said("Thanks.")))
    assert (sent.text, sent.interventions) == (said("Thanks."), ("retry:no-promise",))


def test_then_the_safe_reply_is_sent():
    retry = Retry(said("I promise."))
    sent = enforce(BOOK, LAWYER, said("We promise."), retry)
    assert retry.calls == 1
    assert sent.fields == {"action": "escalate", "queue": "legal", "reply": "Sorry, a colleague takes over."}
    assert sent.interventions == (
        "set:action",
        "set:queue",
        "retry:no-promise",
        "set:action",
        "set:queue",
        "template:no-promise",
    )
    assert all(v.passed for v in sent.report)


@pytest.mark.parametrize("text", ["", "Sorry.", said()[:-3], '{"action":"shout"}'])
def test_a_reply_outside_the_contract_is_replaced_even_where_no_rule_is_broken(text):
    sent = enforce(BOOK, HELLO, text)
    assert sent.interventions == ("template:contract",)
    assert BOOK.parse(sent.text).error is None


def test_a_truncated_reply_is_not_trusted():
    assert enforce(BOOK, HELLO, said(), truncated=True).interventions == ("template:contract",)
    assert enforce(BOOK, HELLO, said(), Retry(said("Thanks.")), truncated=True).text == said("Thanks.")


def test_a_retry_may_be_cut_off_too():
    sent = enforce(BOOK, HELLO, "", lambda: (said("Thanks."), True))
    assert sent.interventions == ("retry:contract", "template:contract")
    assert enforce(BOOK, HELLO, "", lambda: (said("Thanks."), False)).text == said("Thanks.")


def test_soft_rules_are_reported_only():
    sent = enforce(BOOK, HELLO, said("No."))
    assert sent.interventions == ()
    assert [v.rule for v in sent.report if not v.passed] == ["polite"]


def test_a_contract_without_fallback_cannot_be_enforced():
    book = read_rules(BOOK.text.replace("prompt: {fallback", "facts2: {fallback").replace("facts2", "prompt").replace(
        '{fallback: {action: escalate, queue: general, reply: "Sorry, a colleague takes over."}}', "{system: hi}"))  # fmt: skip
    with pytest.raises(RuleError, match=r"prompt\.fallback is missing"):
        enforce(book, HELLO, "nothing")


PLAIN = """
version: 1
rules:
  - id: no-promise
    severity: hard
    must_not: {words: [promise]}
    fallback: "We will look into it."
    fixtures:
      pass: [{user: hi, reply: We try.}]
      fail: [{user: hi, reply: We promise.}]
"""


def test_plain_text_mode():
    book = read_rules(PLAIN)
    assert enforce(book, HELLO, "We try.").fields is None
    assert enforce(book, HELLO, "I promise.").text == "We will look into it."
    assert enforce(read_rules(PLAIN.replace('    fallback: "We will look into it."\n', "")), HELLO, "").report[0].passed


def test_an_unsafe_safe_reply_is_owned_up_to():
    text = PLAIN.replace("must_not: {words: [promise]}", "must: {include_all: [B7]}").replace("We try.", "B7")
    book = read_rules(text.replace('    fallback: "We will look into it."\n', ""))
    sent = enforce(book, HELLO, "nothing")
    assert sent.interventions == ("template:no-promise", "unsafe:no-promise")
    assert not sent.report[0].passed
