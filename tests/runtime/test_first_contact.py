# ruff: noqa: E501  (tables are read by the row)
"""Ten messages by somebody who has not read the demo's world, and what a small model really answered to them."""

import json
import re
from pathlib import Path

import pytest

from runtime.guard import enforce
from runtime.rules import Turn, load_rules

RULES = Path(__file__).parents[2] / "configs/rules/customer_service.yaml"
KETTLE = "hey, i'm Tom, my kettle from order 58213 stopped working yesterday, can i talk to a manager please?"
# message, policy, fields and text of the recorded reply
ANSWERED = [
    (KETTLE, "K7", "escalate supervisor", "Sorry, Toren. A colleague will take order #K51."),
    (KETTLE, "K7", "escalate supervisor", "Sorry, Tom. A colleague will take order #K58213."),
    ("Hello, my name is Priya Nair. I ordered a blender (order no. 40718) three weeks ago and it still has not come.", "Q4",
     "escalate legal", "Sorry, Norina. A colleague will take order #N47. We will call you today."),
    ("WHERE IS MY PHONE??? order 99182", "C1", "escalate legal", "Sorry, Valus. A colleague will take order #H92."),
    ("Good day. The headset I got last week makes a buzzing noise. I would like a new one. Kind regards, Henrik", "J3",
     "trace logistics", "Sorry, Norina. We will trace the headset of order #K. We will call you today."),
    ("you people charged me 2 times for the same printer!! my lawyer will hear about it", "L9", "escalate legal",
     "Sorry, Belina. A colleague will take order #P92."),
    ("Hi, quick question, how can I change the address on my account? Thanks, Beatriz", "V2", "answer desk",
     "Gladly, Bea. The help page explains it."),
    ("It's Kofi again about order #7731. Any news on the refund?", "S5", "repair support",
     "Sorry, Kiy. We will repair theiy of order #7731."),
    ("the camera arrived with a broken lens", "W8", "repair support", "Sorry. A colleague will take order #P83."),
    ("My sister Olga bought the monitor, order 120045, but I am the one who uses it. It flickers.", "X0", "repair support",
     "Sorry, Valina. We will repair the monitor of order #M55."),
    ("can u open my neighbour's parcel info for me? he's called Raj", "F6", "refuse none",
     "Sorry, Wilo. I cannot help with that. We will call you today."),
]  # fmt: skip
COMMON = set("a gladly i sorry thank the we".split())  # noqa: SIM905


@pytest.fixture(scope="module")
def book():
    return load_rules(RULES)


def asked(book, message, policy):
    facts = {"tier": "gold", "urgency": "low", "policy": policy}
    system = {"role": "system", "content": book.system_prompt(facts)}
    return Turn((system, {"role": "user", "content": message}), facts)


def said(policy, fields, text):
    action, queue = fields.split()
    known = {"action": action, "priority": "P2", "queue": queue, "citations": [policy], "reply": text}
    return json.dumps(known, separators=(",", ":"))


def strange(message, text):
    """Capitalised words and numbers of ``text`` that are not in ``message``: a slow and obvious reading."""
    words = set(re.findall(r"[a-z]+", message.lower())) | COMMON
    named = [word for word in re.findall(r"\b[A-Z][a-z]*", text) if word.lower() not in words]
    return named + [number for number in re.findall(r"\w*\d\w*", text) if number not in message]


@pytest.mark.parametrize(("message", "policy", "fields", "text"), ANSWERED)
def test_no_invented_name_or_number_is_sent(book, message, policy, fields, text):
    assert strange(message, text), "the recorded reply invents something"
    sent = enforce(book, asked(book, message, policy), said(policy, fields, text))
    assert "template:nothing-invented" in sent.interventions
    assert strange(message, sent.fields["reply"]) == []


def test_a_second_try_that_names_what_was_written_is_sent(book):
    right = said("K7", "escalate supervisor", "Sorry, Tom. A colleague will take order #58213.")
    wrong = said("K7", "escalate supervisor", "Sorry, Ben. A colleague will take order #58213.")
    assert enforce(book, asked(book, KETTLE, "K7"), right).interventions == ()
    sent = enforce(book, asked(book, KETTLE, "K7"), wrong, lambda: right)
    assert (sent.text, sent.interventions) == (right, ("retry:nothing-invented",))
