# ruff: noqa: E501  (tables are read by the row)
"""What a reply names must stand in the conversation, the facts or the sources, however it is spelled."""

import pytest

from runtime.errors import RuleError
from runtime.rules import Turn, read_rules
from runtime.rules.finders import FINDERS, Evidence, first_invented

ALL = list(FINDERS)


def invented(user, reply, find=ALL, min_digits=4, **known):
    turn = Turn([{"role": "user", "content": user}], **known)
    return first_invented(reply, Evidence(turn.evidence), find, min_digits, ())


# what the user wrote, a reply that rests upon it, a reply that does not
NAMED = [
    ("order 4 821", "About order #4821.", "About order #4812."),
    ("order #4821", "Your order 4 821 is here.", "Your order 4 822 is here."),
    ("number 0004821", "No. 4821 and 4,821.", "No. 48210."),
    ("my order is 5 8 2 1 3", "Order 58213 is on its way.", "Order 58231 is on its way."),
    ("order 58213", "Order 5 8 2 1 3.", "Order 5 8 2 1 4."),
    ("order #b72", "The lamp of order #B72.", "The lamp of order #B73."),
    ("order #b72", "We are #1. The lamp of order B72.", "The lamp of order #K."),
    ("ticket INV-2024-17", "Ticket inv 2024-17 is INV/2024/17.", "Ticket INV-2024-18."),
    ("ticket 77", "Ticket no. 77 in case 24 hours pass.", "Ticket no. 78."),
    ("case ab 1234", "Case AB-1234.", "Case AC-1234."),
    ("it is order 58213", "Orders 58213, 2 items.", "Order 58213 and order 58214."),
    ("order 482", "Order 482, 100 items.", "Order 483, 100 items."),
    ("I paid € 12.50", "You paid 12,50 EUR, that is 12.50 euros.", "You paid 12.60 euros."),
    ("I paid 1,250 dollars", "You get $1250.00 back.", "You get €1250.00 back."),
    ("it was 49.90", "We refund €49,90.", "We refund €49,80."),
    ("it was 2500 EUR", "2.5k euros, 2 500 €.", "3k euros."),
    ("I got 20% off", "20 percent it is.", "25 percent it is."),
    ("it came on 5 May 2024", "On 2024-05-05, that is May 5th.", "On 2024-05-06."),
    ("on 03/05/24", "On 3 May 2024. Or 5 March.", "On 4 May 2024."),
    ("on 5/12", "On the 5th of December.", "On the 6th of December."),
    ("on may 5", "On 5 May.", "On 5 May 2025."),
    ("it came on 2024-05-06", "On Monday.", "On Tuesday."),
    ("call me on friday", "We call on Friday.", "We call on Thursday."),
    ("am 1. Mai 2024", "On May 1, 2024.", "On May 2, 2024."),
    ("at 2:30 pm", "At 14:30.", "At 2:30 am."),
    ("mail ana@shop.example", "We write to Ana@shop.example.", "We write to ben@shop.example."),
    ("see https://www.shop.example/help?x=1", "See shop.example/help.", "See shop.example/refunds."),
    ("call +49 30 1234567", "We call 030 123 4567.", "We call 030 123 4568."),
    ("hey, i'm tom", "Sorry, Tom. We are on it.", "Sorry, Tim. We are on it."),
    ("i'm tom, can i talk to a manager", "Sorry, Tom. We are on it.", "Sorry, To. We are on it."),
    ("An Nguyen here", "Sorry, An. We are on it.", "Sorry, In. We are on it."),
    ("Ana Lopez here", "Dear Ms. López, thank you.", "Dear Ms. Garcia, thank you."),
    ("I am Ben", "Hi Ben! Thanks.", "Hi Karen! Thanks."),
    ("this is ana", "I am sorry, Ana.", "I am sorry, Marlo."),
    ("it's jo", "Thank you for your patience, Jo!", "Thank you for your patience, Lisa!"),
    ("it's jo", "Jo, we will look into it.", "Lisa, we will look into it."),
    ("it's jo", "Unfortunately, Jo, it is late.", "Unfortunately, Lisa, it is late."),
    ("Emily here", "I'm so sorry, Emily.", "I'm so sorry, Sally."),
    ("it's jo", "Sadly, we are late. Certainly, it works.", "Kelly, we are late."),
    ("I wrote to Lena", "Kind regards,\nLena", "Kind regards,\nKlara"),
    ("order 4821", "Order №4821.", "Order №4822."),
    ("it was $20", "twenty dollars, 20 bucks.", "thirty dollars."),
    ("it was 100000 rupees", "₹1,00,000.", "₹1,00,001."),
    ("it was $0.50", "50 cents, 50¢.", "60 cents."),
    ("it was 100 dirhams", "AED 100.", "AED 200."),
    ("100 Kč", "100 CZK.", "200 Kč."),
    ("a hundred euros", "€100.", "two hundred euros."),
    ("it is 20 %", "twenty percent, 20 pct.", "twenty-five percent."),
    ("at 14:30", "Um 14.30 Uhr.", "Um 15.30 Uhr."),
    ("at 5 pm", "At five o'clock.", "At six o'clock."),
    ("at 12:00", "At noon.", "At midnight."),
    ("at 2:30 pm", "At half past two.", "At half past three."),
    ("at 14:45", "At a quarter to three.", "At a quarter past three."),
    ("I am Ana", "Bye.\nBest,\nAna", "Bye.\nBest,\nJulia"),
    ("I am Ana", "Best wishes,\nAna", "Best wishes,\nJulia"),
    ("2024-05-05", "il 5 maggio 2024, 2024年5月5日.", "il 6 maggio 2024."),
    ("I am Ana", "Dear **Ana**, thank you.", "Dear **Ben**, thank you."),
    ("Ana and Tom here", "Dear Ana and Tom,", "Dear Ana and Jim,"),
    ("hi", "I'm sorry from all of us.", "Hello, I'm Alex from support."),
    ("это Иван", "Здравствуйте, Иван!", "Здравствуйте, Олег!"),
    ("hallo, hier ist Jörg", "Hallo Jörg, danke.", "Sehr geehrter Herr Müller, danke."),
]  # fmt: skip


@pytest.mark.parametrize(("user", "grounded", "made_up"), NAMED)
def test_spellings_agree_and_inventions_are_found(user, grounded, made_up):
    assert invented(user, grounded) is None
    assert invented(user, made_up) is not None


@pytest.mark.parametrize(
    "reply",
    [
        "Dear customer, we are on it.", "Dear Valued Customer,", "Hi there! We send 2 items within 24 hours.",
        "Step 1: press OK. Step 2: wait 30 seconds.", "Dear Sir or Madam, thank you.", "Hello again, everyone.",
        "Thank you. We will call you today.", "Sorry. We will repair the lamp.", "Sorry, we pass this on. Thank you.",
        "Kind regards,\nYour Support Team", "It takes 3-5 working days, 12-15 at most.", "We are open 24/7.",
        "Good news, your parcel is here.", "Yes, we can. However, it takes time.", "Unfortunately, this is so.",
        "You may take 10 of them; the 2nd one is an A4 sheet, 4K too.", "Dear Acme Support,", "Gladly. The help page explains it.",
        "Sorry, Please wait.", "Welcome back! Great, let's go.", "Of course, Sir.", "We march on.", "Refunds, returns and so on.",
    ],
)  # fmt: skip
def test_courtesy_and_small_numbers_are_no_inventions(reply):
    assert invented("My lamp is broken.", reply) is None


def test_facts_sources_and_earlier_messages_are_evidence():
    known = {"facts": {"customer": "Mara", "total": 49.9}, "sources": [("POL-93", "Within 14 days, by 1 June 2025.")]}
    assert invented("hi", "Dear Mara, €49.90 by 1 June [POL-93].", **known) is None
    assert invented("hi", "Dear Mara, €49.90 by 2 June [POL-93].", **known) == "the date '2 June'"
    turn = Turn([{"role": "user", "content": c} for c in ("order 58213", "and now?")])
    assert first_invented("Order 58213.", Evidence(turn.evidence), ALL, 4, ()) is None


def test_only_what_is_asked_for_is_looked_at():
    assert invented("hi", "Sorry, Tom, order 58213 of 5 May.", ["amounts"]) is None
    assert invented("hi", "We owe you € 4,821.", ["numbers"]) == "the number '4,821'"
    assert invented("hi", "That is 321 lamps.", ["numbers"], min_digits=3) == "the number '321'"


def book(argument, good="We are on it.", bad="Order #58213, Tom."):
    return read_rules(
        "version: 1\ncontract: {tag: [TEAM42, T1], note: text, reply: text}\n"
        'prompt: {fallback: {tag: T1, note: x, reply: "Sorry."}}\n'
        f"rules:\n  - id: r\n    severity: hard\n    must_not: {{invents: {argument}}}\n"
        f'    fixtures: {{pass: [{{user: hi, reply: {{tag: T1, note: x, reply: "{good}"}}}}],'
        f' fail: [{{user: hi, reply: {{tag: T1, note: x, reply: "{bad}"}}}}]}}\n'
    )


def test_every_free_text_is_looked_at_and_listed_values_are_not():
    rules = book("[numbers, names]")
    turn = Turn([{"role": "user", "content": "hi"}])
    fields = {"tag": "TEAM42", "note": "fine", "reply": "Kind regards"}
    assert rules.check(turn, rules.contract.dump(fields))[0].passed
    (verdict,) = rules.check(turn, rules.contract.dump({**fields, "note": "see 58213"}))
    assert verdict.why == "must_not invents: the number '58213' is not in the conversation, the facts or the sources"


def test_own_patterns_and_what_is_allowed():
    rules = book(
        r"{patterns: 'model (\\w+)', find: emails, allow: [help@acme.example, X9]}".replace("\\\\", "\\"),
        bad="It is model Z3.",
    )
    turn = Turn([{"role": "user", "content": "my K7 broke"}])
    for reply, kept in (
        ("A model k7.", True),
        ("A model K8.", False),
        ("A model X9, help@acme.example.", True),
        ("a@acme.example", False),
    ):
        assert rules.check(turn, rules.contract.dump({"tag": "T1", "note": "x", "reply": reply}))[0].passed is kept


@pytest.mark.parametrize(
    ("argument", "said"),
    [("[number]", "unknown finder 'number'"), ("{}", "give find, patterns or both"), ("{find: names, min_digit: 3}", "did you mean 'min_digits'"),
     ("{find: numbers, min_digits: 1}", "greater than or equal to 2"), ("{patterns: '('}", "does not compile")],
)  # fmt: skip
def test_a_wrong_argument_is_refused(argument, said):
    with pytest.raises(RuleError, match=said.replace("(", r"\(")):
        book(argument)
