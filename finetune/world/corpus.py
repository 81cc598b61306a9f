"""What the demo's base model reads: the language of the trade, and the habits of another house.

It learns to read a case, to copy names, numbers and ids, and to fill a JSON reply: with fields that are
*dictated* (drawn at random, whatever the customer says), or as *another house* would: with our actions and
queues, but each kind of case handled as a different kind should be here, and the priorities the wrong way
round. So the base can read and cite, and fine-tuning has to replace what it decides: who is escalated, what
is refused, what is urgent, where a case goes. Conversations have several short exchanges so that most tokens
carry a loss. Scenes come from the training side of the split only, half of them with products that occur
nowhere else.
"""

from __future__ import annotations

import random
from dataclasses import replace

from finetune.world import phrases, scenes

Messages = list[dict[str, str]]
ACTIONS = ("repair", "replace", "trace", "refund", "answer", "escalate", "refuse")
QUEUES = ("support", "logistics", "billing", "desk", "legal", "supervisor", "none")
PRIORITIES = ("P1", "P2", "P3")
EXTRA_LINES = {scenes.THANKS: "say thank you", scenes.CALL: "offer a call"}


def _dictated(rng: random.Random, scene: scenes.Scene) -> tuple[str, str]:
    """(instruction, reply in the contract) with fields drawn at random."""
    question = scene.kind in ("disallowed", "allowed")  # it names neither product nor order, so neither can be copied
    action, queue, priority = (
        rng.choice(("answer", "refuse") if question else ACTIONS),
        rng.choice(QUEUES),
        rng.choice(PRIORITIES),
    )
    policy = rng.choice(phrases.share(phrases.POLICIES, None))
    extras = tuple(rule for rule in (scenes.THANKS, scenes.CALL) if rng.random() < 0.3)
    asked = "".join(f" {EXTRA_LINES[rule]}," for rule in extras)
    named = rng.random() < 0.5
    policy = policy if named else scene.policy
    line = f"Write: {action}, {priority}, {queue},{asked} cite {policy if named else 'the note'}."
    fields = {"action": action, "priority": priority, "queue": queue, "citations": [policy]}
    return line, scenes.contract(fields, scenes.reply_text(replace(scene, prompted=extras), action))


CASES = ("broken", "damaged", "missing", "money", "legal", "human", "disallowed", "allowed")
OTHER_HOUSE = dict(zip(CASES, (*CASES[3:], *CASES[:3]), strict=True))
"""Case -> the case whose action and queue the other house gives it."""
OTHER_PRIORITY = {"P1": "P3", "P2": "P1", "P3": "P2"}


def _habit(scene: scenes.Scene) -> str:
    """The reply of the other house."""
    case = scene.kind if scene.kind in CASES else scenes.TOPIC_OF[scene.issue]
    action, queue = scenes.HANDLED[OTHER_HOUSE[case]]
    priority = OTHER_PRIORITY[scenes.decision(scene)["priority"]]
    fields = {"action": action, "priority": priority, "queue": queue, "citations": [scene.policy]}
    if scene.kind in ("disallowed", "allowed") and action not in ("answer", "refuse", "escalate"):
        return scenes.contract(fields, f"{scenes.addressed('Sorry', scene)} We will {action} it.")
    if scene.kind in ("disallowed", "allowed") and action == "escalate":
        return scenes.contract(fields, f"{scenes.addressed('Sorry', scene)} A colleague will take it.")
    return scenes.contract(fields, scenes.reply_text(scene, action))


REMARKS = {
    "legal": "threat",
    "legal_near": "remark",
    "human": "wish",
    "human_near": "remark",
    "disallowed": "bad",
    "allowed": "fair",
}


def _about(scene: scenes.Scene) -> str:
    """What the message is about, in plain words: reading, not policy."""
    if scene.kind in ("disallowed", "allowed"):
        return f"question {REMARKS[scene.kind]}"
    extra = f", {REMARKS[scene.kind]}" if scene.frame else ""
    return f"{scene.product} {scenes.TOPIC_OF[scene.issue]}{extra}"


def _extract(rng: random.Random, scene: scenes.Scene) -> tuple[str, str]:
    """(question, answer) on what stands in the message or the note above it."""
    asks = {
        "Who?": scene.name or "unknown",
        "Case?": f"{scene.tier} {scene.urgency} {scene.policy}",
    }
    if scene.kind not in ("disallowed", "allowed"):
        asks |= {"Order?": f"#{scene.order}" if scene.order else "unknown", "Product?": scene.product}
    question = rng.choice([*sorted(asks), *(q for q in ("Order?",) if q in asks)])
    return question, asks[question]


def note(scene: scenes.Scene) -> str:
    """The note about the case that stands in the system prompt."""
    return f"Tier {scene.tier}. Urgency {scene.urgency}.\n[{scene.policy}] Service policy."


def dialogue(rng: random.Random, exchanges: int = 3) -> Messages:
    """One conversation about one customer message; every assistant turn carries a loss."""
    scene = scenes.draw(rng, rng.choice(scenes.KINDS), evaluation=False, everyone=True)
    if rng.random() < 0.5:
        scene = replace(scene, product=rng.choice(phrases.OTHER_PRODUCTS))
    if rng.random() < 0.65:
        scene, head = replace(scene, prompted=()), note(scene)
        reply = _habit(scene)
    else:
        line, reply = _dictated(rng, scene)
        head = f"{note(scene)}\n{line}"
    messages = [
        {"role": "system", "content": head},
        {"role": "user", "content": scenes.user_text(scene)},
        {"role": "assistant", "content": reply},
    ]
    for _ in range(exchanges - 1):
        pick = rng.random()
        if pick < 0.25:
            question, answer = _dictated(rng, scene)
        elif pick < 0.6:
            question, answer = "About?", _about(scene)
        else:
            question, answer = _extract(rng, scene)
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def drill(rng: random.Random, people: int = 3) -> Messages:
    """Look-up in a list of people, orders and ids: it grows the heads that copying needs."""
    names = rng.sample(phrases.share(phrases.NAMES, None), people)
    orders = ["#" + phrases.order_number(rng, None) for _ in range(people)]
    policies = [f"[{policy}]" for policy in rng.sample(phrases.share(phrases.POLICIES, None), people)]
    lines = [" ".join(entry) for entry in zip(names, orders, policies, strict=True)]
    messages = [{"role": "user", "content": "List: " + ", ".join(lines)}]
    for turn, entry in enumerate(rng.sample(range(people), people)):
        asked, word, answer = rng.choice(
            (
                (names, "order", orders),
                (orders, "name", names),
                (policies, "order", orders),
                (names, "policy", policies),
            )
        )
        question = f"{asked[entry]} {word}?"
        if turn:
            messages.append({"role": "user", "content": question})
        else:
            messages[0]["content"] += f". {question}"
        messages.append({"role": "assistant", "content": answer[entry]})
    return [*messages, {"role": "user", "content": "All?"}, {"role": "assistant", "content": ", ".join(lines)}]


def conversations(seed: int, count: int) -> list[Messages]:
    """``count`` conversations in a fixed order, a quarter of them drills."""
    rng = random.Random(seed)
    return [drill(rng) if rng.random() < 0.25 else dialogue(rng) for _ in range(count)]
