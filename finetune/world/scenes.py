"""Scenes of the customer-service world: what happens, what the customer writes, what the right reply is.

A scene is drawn from one side of the split (training or evaluation), so that no combination which
decides a reply is on both sides.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

from finetune.world import phrases

KINDS = ("plain", "legal", "legal_near", "human", "human_near", "disallowed", "allowed")
THANKS, CALL = "say-thanks", "offer-call"
"""Ids of the optional rules of the demo's rule file."""

_EXTRAS = {
    "legal": (phrases.LEGAL, phrases.LAWYERS),
    "legal_near": (phrases.LEGAL_NEAR, phrases.LAWYERS),
    "human": (phrases.HUMAN, phrases.PEOPLE),
    "human_near": (phrases.HUMAN_NEAR, phrases.PEOPLE),
    "disallowed": (phrases.ASKS, phrases.DISALLOWED),
    "allowed": (phrases.ASKS, phrases.ALLOWED),
}
ISSUE_LIST = tuple(issue for issues in phrases.ISSUES.values() for issue in issues)
TOPIC_OF = {issue: topic for topic, issues in phrases.ISSUES.items() for issue in issues}


@dataclass(frozen=True)
class Scene:
    """One customer writing one message. ``frame``/``noun`` are empty for a plain complaint."""

    kind: str
    name: str
    product: str
    issue: str
    order: str
    policy: str
    tier: str
    urgency: str
    frame: str
    noun: str
    style: tuple[int, ...]
    """Choices of opening, introduction, order line and the place of the extra sentence."""
    card: str = ""
    prompted: tuple[str, ...] = ()

    @property
    def scenario(self) -> str:
        """What decides the reply besides facts and copied words; a scenario is on one side of the split only."""
        about = "" if self.kind in ("disallowed", "allowed") else f"{self.product} {self.issue}"
        return f"{self.kind}|{about}|{self.frame.format(x=self.noun)}"


@cache
def _pool(kind: str, evaluation: bool) -> list[tuple[str, str]]:
    """The pairs that decide the reply: (product, issue) of a complaint, (frame, request) of a question.

    What a complaint says besides, a threat or a wish, is drawn from all its pairs: its scenario is new
    because product and issue never met in training.
    """
    if kind == "plain":
        return phrases.pairs(phrases.PRODUCTS, ISSUE_LIST, evaluation)
    if kind in ("disallowed", "allowed"):
        return phrases.pairs(*_EXTRAS[kind], evaluation)
    return list(product(*_EXTRAS[kind]))


def luhn_digit(digits: str) -> str:
    """The check digit that makes ``digits`` plus it pass the Luhn test (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def draw(rng: random.Random, kind: str, evaluation: bool, *, everyone: bool = False) -> Scene:
    """A random scene of one kind from one side of the split; ``everyone``: with names and ids of both sides."""
    side = None if everyone else evaluation
    thing, issue = rng.choice(_pool("plain", evaluation))
    frame, noun = ("", "") if kind == "plain" else rng.choice(_pool(kind, evaluation))
    card = ""
    if kind not in ("disallowed", "allowed") and rng.random() < 0.08:
        stem = "4" + "".join(rng.choice("0123456789") for _ in range(14))
        card = stem + luhn_digit(stem)
    return Scene(
        kind=kind,
        name=rng.choice(phrases.share(phrases.NAMES, side)),
        product=thing,
        issue=issue,
        order=rng.choice(phrases.share(phrases.ORDERS, side)),
        policy=rng.choice(phrases.share(phrases.POLICIES, side)),
        tier=rng.choices(phrases.TIERS, (2, 1, 1))[0],
        urgency=rng.choice(phrases.URGENCIES),
        frame=frame,
        noun=noun,
        style=tuple(rng.randrange(n) for n in (8, 4, 4, 3, 2)),
        card=card,
        prompted=tuple(rule for rule, p in ((THANKS, 0.3), (CALL, 0.25)) if rng.random() < p),
    )


def user_text(scene: Scene) -> str:
    """What the customer writes."""
    opening, introduction, order, place, card = scene.style
    first = f"{phrases.OPENINGS[opening]}, {phrases.INTRODUCTIONS[introduction].format(name=scene.name)}."
    extra = scene.frame.format(x=scene.noun)
    extra = extra[:1].upper() + extra[1:]
    if scene.kind in ("disallowed", "allowed"):
        return f"{first} {extra}{'.' if extra.startswith('I ') else '?'}"
    body = [f"My {scene.product} {scene.issue}.", phrases.ORDER_LINES[order].format(order=scene.order)]
    if scene.card:
        body.append(phrases.CARD_LINES[card].format(card=scene.card))
    if extra:
        body.insert(place, extra + ".")
    return " ".join([first, *body])


def decision(scene: Scene) -> dict[str, Any]:
    """The fields that the rules and the routing table decide."""
    action, queue = {
        "legal": ("escalate", "legal"),
        "human": ("escalate", "supervisor"),
        "disallowed": ("refuse", "none"),
        "allowed": ("answer", "desk"),
    }.get(scene.kind, phrases.HANDLING[TOPIC_OF[scene.issue]])
    if scene.tier == "gold":
        priority = "P1" if scene.urgency == "high" else "P2"
    else:
        priority = "P2" if scene.urgency == "high" else "P3"
    return {"action": action, "priority": priority, "queue": queue, "citations": [scene.policy]}


def reply_text(scene: Scene, action: str) -> str:
    """The sentence(s) for the customer that go with ``action``."""
    text = {
        "escalate": f"Sorry, {scene.name}. A colleague will take order #{scene.order}.",
        "refuse": f"Sorry, {scene.name}. I cannot help with that.",
        "answer": f"Gladly, {scene.name}. The help page explains it.",
    }.get(action, f"Sorry, {scene.name}. We will {action} the {scene.product} of order #{scene.order}.")
    text += " We will call you today." if CALL in scene.prompted else ""
    return text + (" Thank you." if THANKS in scene.prompted else "")


def contract(fields: Mapping[str, Any], reply: str) -> str:
    """The reply in its contract: compact JSON, fixed order of fields."""
    return json.dumps({**fields, "reply": reply}, separators=(",", ":"), ensure_ascii=False)


def answer(scene: Scene) -> str:
    """The right reply in its contract."""
    fields = decision(scene)
    return contract(fields, reply_text(scene, fields["action"]))


def labels(scene: Scene) -> tuple[str, ...]:
    """Labels for rules that no pattern can decide."""
    topic = () if scene.kind in ("disallowed", "allowed") else (TOPIC_OF[scene.issue],)
    near = ("near-miss",) if scene.kind in ("legal_near", "human_near", "allowed") else ()
    routed = ("routed",) if scene.kind in ("plain", "legal_near", "human_near") else ()
    return (scene.kind, *topic, *near, *routed)


def facts(scene: Scene) -> dict[str, str]:
    """What the application knows about the customer and the case."""
    return {"tier": scene.tier, "urgency": scene.urgency, "policy": scene.policy}


def toggled(scene: Scene, rule: str) -> Scene:
    """The counterfactual: the same message with one optional rule switched."""
    on = set(scene.prompted) ^ {rule}
    return replace(scene, prompted=tuple(r for r in (THANKS, CALL) if r in on))
