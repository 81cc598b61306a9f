"""The same questions in harmless other words."""

from compress.validate.items import Item
from compress.validate.wording import WORDINGS, Reworded, reword, sensitivity
from runtime.rules import Turn, read_rules

BOOK = read_rules(
    "version: 1\nrules:\n  - {id: a, severity: soft, must: {words: [b]},\n"
    "     fixtures: {pass: [{user: x, reply: b}], fail: [{user: x, reply: c}]}}\n"
)
TALK = (
    {"role": "system", "content": "Answer."},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "two"},
)


def item(number, messages):
    return Item(f"i{number}", messages, Turn(messages), "b", "contains", f"#{number}")


def test_what_is_changed():
    asked = {name: [m["content"] for m in reword([item(0, TALK)], name)[0].messages] for name in WORDINGS}
    assert asked == {
        "blank lines": ["Answer.\n\n", "one\n\n", "b", "two\n\n"],
        "general sentence": ["You are a helpful assistant.\nAnswer.", "one", "b", "two"],
        "greeting": ["Answer.", "one", "b", "Hello! two"],
    }
    alone = reword([item(0, TALK[1:2])], "general sentence")[0]
    assert [m["role"] for m in alone.messages] == ["system", "user"]
    assert alone.turn.messages == TALK[1:2], "rules judge the question as it was"


def test_flips_stand_beside_each_other():
    items = [item(number, TALK) for number in range(6)]
    baseline = [("b", False)] * 5 + [("c", False)]
    greeted = Reworded("greeting", [0, 3, 5], [("b, hello", False), ("c", False), ("b", True)])
    assert Reworded.from_json(greeted.to_json()) == greeted
    others = {"again": dict(enumerate(baseline)), "small": dict.fromkeys(range(4), ("c", False))}
    rows = sensitivity(BOOK, items, [greeted], baseline, others)
    assert [(r["name"], r["n"], r["text_changed"], r["accuracy_flips"], r["rule_flips"]) for r in rows] == [
        ("greeting", 3, 3, [0, 1], [0, 1]),  # a reply that was cut off is not right
        ("again", 3, 0, [0, 0], [0, 0]),
        ("small", 2, 2, [0, 2], [0, 2]),  # it was asked four items only
    ]
    assert sensitivity(BOOK, items, [], baseline, others) == []
