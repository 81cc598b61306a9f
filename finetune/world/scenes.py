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
NAMELESS, ORDERLESS, CURT = 0.1, 0.1, 0.1
"""Shares of messages without a name, without an order number, and with neither greeting nor name."""
ISSUE_LIST = tuple(issue for issues in phrases.ISSUES.values() for issue in issues)
TOPIC_OF = {issue: topic for topic, issues in phrases.ISSUES.items() for issue in issues}


@dataclass(frozen=True)
class Scene:
    """One customer writing one message. ``frame``/``noun`` are empty for a plain complaint, ``name`` and ``order``
    where the customer gives none."""

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
    style: int
    """Seed of the wording: shape of the message, opening, introduction, how the order is named."""
    card: str = ""
    prompted: tuple[str, ...] = ()
    curt: bool = False
    """Without a greeting and a name."""

    @property
    def scenario(self) -> str:
        """What decides the reply besides facts and copied words; a scenario is on one side of the split only."""
        about = "" if self.kind in ("disallowed", "allowed") else f"{self.product} {self.issue}"
        return f"{self.kind}|{about}|{self.frame.format(x=self.noun)}"


@cache
def _pool(kind: str, evaluation: bool, hard: bool) -> list[tuple[str, str]]:
    """The pairs that decide the reply: (product, issue) of a complaint, (frame, request) of a question.

    What a complaint says besides, a threat or a wish, is drawn from all its pairs: its scenario is new
    because product and issue never met in training. In the hard form the wording is new as well.
    """
    if kind == "plain":
        return phrases.pairs(phrases.PRODUCTS, ISSUE_LIST, evaluation)
    if hard:
        return phrases.HARD[kind].pairs(evaluation)
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


def draw(rng: random.Random, kind: str, evaluation: bool, *, everyone: bool = False, hard: bool = False) -> Scene:
    """A random scene of one kind from one side of the split.

    ``everyone``: with names and ids of both sides; ``hard``: with the wordings of ``phrases.HARD``.
    """
    side = None if everyone else evaluation
    thing, issue = rng.choice(_pool("plain", evaluation, hard))
    frame, noun = ("", "") if kind == "plain" else rng.choice(_pool(kind, evaluation, hard))
    card = ""
    if kind not in ("disallowed", "allowed") and rng.random() < 0.08:
        stem = "4" + "".join(rng.choice("0123456789") for _ in range(14))
        card = stem + luhn_digit(stem)
    name, order = rng.choice(phrases.share(phrases.NAMES, side)), phrases.order_number(rng, side)
    scene = Scene(
        kind=kind,
        name="" if rng.random() < NAMELESS else name,
        product=thing,
        issue=issue,
        order="" if rng.random() < ORDERLESS else order,
        policy=rng.choice(phrases.share(phrases.POLICIES, side)),
        tier=rng.choices(phrases.TIERS, (2, 1, 1))[0],
        urgency=rng.choice(phrases.URGENCIES),
        frame=frame,
        noun=noun,
        style=rng.getrandbits(32),
        card=card,
        prompted=tuple(rule for rule, p in ((THANKS, 0.3), (CALL, 0.25)) if rng.random() < p),
    )
    curt = not everyone and rng.random() < CURT  # tuning teaches these; what the base reads is polite
    return replace(scene, name="", curt=True) if curt else scene


def user_text(scene: Scene) -> str:
    """What the customer writes."""
    rng = random.Random(scene.style)
    question = scene.kind in ("disallowed", "allowed")
    shape = _curt if scene.curt else rng.choice(_QUESTION_SHAPES if question else _SHAPES)
    text = shape(rng, scene)
    if shape is not _letter and rng.random() < 0.4:
        text = text.lower()
    return text.format(name=scene.name, order=scene.order, card=scene.card)


def _letter(rng: random.Random, scene: Scene) -> str:
    """Whole sentences, one after another."""
    body = [f"My {scene.product} {scene.issue}."]
    body += [rng.choice(phrases.ORDER_LINES)] if scene.order else []
    body += [rng.choice(phrases.CARD_LINES)] if scene.card else []
    if scene.frame:
        body.insert(rng.randrange(len(body) + 1), _sentence(_extra(scene)))
    return " ".join([_hello(rng, scene) + ".", *body])


def _chat(rng: random.Random, scene: Scene) -> str:
    """All in one breath."""
    order = f" from {rng.choice(phrases.ORDER_NAMES)}" if scene.order else ""
    parts = [
        _hello(rng, scene),
        f"my {scene.product}{order} {scene.issue}{rng.choice(phrases.TIMES)}",
        *_rest(rng, scene),
    ]
    return _sentence(", ".join(parts))


def _signed(rng: random.Random, scene: Scene) -> str:
    """The complaint first, the name at the end."""
    about = f"My {scene.product} {scene.issue}{rng.choice(phrases.TIMES)}"
    order = [rng.choice(phrases.ORDER_LINES)] if scene.order else []
    rest = [_sentence(part) for part in _rest(rng, scene)]
    return " ".join([about + ".", *rest, *order, _goodbye(rng, scene)])


def _order_first(rng: random.Random, scene: Scene) -> str:
    """The order number as a heading."""
    order = [rng.choice(phrases.ORDER_NAMES)] if scene.order else [rng.choice(phrases.OPENINGS)]
    parts = [*order, f"my {scene.product} {scene.issue}", *_rest(rng, scene)]
    return f"{_sentence(', '.join(parts))} {_goodbye(rng, scene)}"


def _curt(rng: random.Random, scene: Scene) -> str:
    """No greeting, no name, often no full stop."""
    if scene.kind in ("disallowed", "allowed"):
        text = _sentence(_extra(scene))
    else:
        order = [rng.choice(phrases.ORDER_NAMES)] if scene.order else []
        about = f"{rng.choice(('my', 'the'))} {scene.product} {scene.issue}{rng.choice(phrases.TIMES)}"
        text = _sentence(", ".join([about, *_rest(rng, scene), *order]))
    return text if rng.random() < 0.5 else text.rstrip(".")


def _asked(rng: random.Random, scene: Scene) -> str:
    """A question after a greeting."""
    return f"{_hello(rng, scene)}{rng.choice(('.', ','))} {_sentence(_extra(scene))}"


def _asked_first(rng: random.Random, scene: Scene) -> str:
    """A question before the name."""
    return f"{_sentence(_extra(scene))} {_goodbye(rng, scene)}"


_SHAPES = (_letter, _letter, _chat, _chat, _signed, _order_first)
_QUESTION_SHAPES = (_asked, _asked, _asked_first)


def _extra(scene: Scene) -> str:
    return scene.frame.format(x=scene.noun)


def _rest(rng: random.Random, scene: Scene) -> list[str]:
    """The threat, wish or remark, and how it was paid."""
    card = [rng.choice(phrases.CARD_LINES).rstrip(".")] if scene.card else []
    return [*([_extra(scene)] if scene.frame else []), *card]


def _hello(rng: random.Random, scene: Scene) -> str:
    opening = rng.choice(phrases.OPENINGS)
    return f"{opening}, {rng.choice(phrases.INTRODUCTIONS)}" if scene.name else opening


def _goodbye(rng: random.Random, scene: Scene) -> str:
    closing = rng.choice(phrases.CLOSINGS)
    return f"{closing}, {{name}}" if scene.name else closing + "."


def _sentence(text: str) -> str:
    """With a capital letter, and a question mark where it asks."""
    asks = text.split(", ")[-1].lower().startswith(_ASKING)
    return f"{text[:1].upper()}{text[1:]}{'?' if asks else '.'}"


_ASKING = ("can ", "could ", "how ", "what ", "is there ", "may ", "would ", "where ", "do I ")


HANDLED = {
    **phrases.HANDLING,
    "legal": ("escalate", "legal"),
    "human": ("escalate", "supervisor"),
    "disallowed": ("refuse", "none"),
    "allowed": ("answer", "desk"),
}
"""Topic, or kind of a scene that decides by itself -> (action, queue)."""


def decision(scene: Scene) -> dict[str, Any]:
    """The fields that the rules and the routing table decide."""
    action, queue = HANDLED[scene.kind if scene.kind in HANDLED else TOPIC_OF[scene.issue]]
    if scene.tier == "gold":
        priority = "P1" if scene.urgency == "high" else "P2"
    else:
        priority = "P2" if scene.urgency == "high" else "P3"
    return {"action": action, "priority": priority, "queue": queue, "citations": [scene.policy]}


def reply_text(scene: Scene, action: str) -> str:
    """The sentence(s) for the customer that go with ``action``. They name only what the message names."""
    order = f" of order #{scene.order}" if scene.order else ""
    text = {
        "escalate": f"A colleague will take {f'order #{scene.order}' if scene.order else 'this case'}.",
        "refuse": "I cannot help with that.",
        "answer": "The help page explains it.",
    }.get(action, f"We will {action} the {scene.product}{order}.")
    text = f"{addressed('Gladly' if action == 'answer' else 'Sorry', scene)} {text}"
    text += " We will call you today." if CALL in scene.prompted else ""
    return text + (" Thank you." if THANKS in scene.prompted else "")


def addressed(word: str, scene: Scene) -> str:
    """``Sorry, Marlo.``, or ``Sorry.`` to somebody who gave no name."""
    return f"{word}, {scene.name}." if scene.name else f"{word}."


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
