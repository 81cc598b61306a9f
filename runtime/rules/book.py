"""What a rule file says once it is loaded: rules, their verdicts, the contract, the system prompt, the safe reply."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import RuleError, UsageError
from .contract import Contract, ParsedReply
from .turn import Reply, Turn

if TYPE_CHECKING:
    from .when import Condition

UNKNOWN_FACT = "unknown"
"""What a placeholder of the system prompt shows for a fact that the caller did not give."""


@dataclass(frozen=True)
class Verdict:
    """What one rule says of one reply. ``why`` explains a failure and is empty when the rule is kept."""

    rule: str
    severity: str
    passed: bool
    why: str = ""


@dataclass(frozen=True)
class Clause:
    """One compiled obligation: ``must.max_words`` and its argument."""

    side: str
    name: str
    check: Callable[[Reply, Any], tuple[bool, str]]
    argument: Any
    is_field: bool = False
    everywhere: bool = False

    def broken(self, reply: Reply) -> str | None:
        """Why the reply breaks this clause, or None."""
        must = self.side == "must"
        if must or not self.everywhere:
            holds, why = self.check(reply, self.argument)
        else:
            holds, why = self.check(reply.every_text, self.argument)
            if not holds and (bare := reply.every_text.unmarked) is not None:
                holds, why = self.check(bare, self.argument)
        return None if holds == must else f"{self.side} {self.name}: {why}"


@dataclass(frozen=True)
class Rule:
    """One testable obligation."""

    id: str
    severity: str
    """``hard`` or ``soft``."""
    text: str
    """The rule in words, as it may stand in the system prompt."""
    optional: bool
    """In force only when named in the system prompt (``Turn.prompted``)."""
    condition: Condition
    clauses: tuple[Clause, ...]
    sets: Mapping[str, Any] = field(default_factory=dict)
    """Contract fields that this rule, when hard and in force, leaves only one value for."""
    fallback: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the safe reply that this rule wants otherwise than ``prompt.fallback``."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """The rule as written in the file."""
    margin: float | None = None
    """By how much less often than the baseline a candidate may keep it, as a share; None: the gate's default."""

    def judge(self, reply: Reply) -> Verdict:
        """The verdict on a well-formed reply to a turn in which the rule is in force."""
        for clause in self.clauses:
            why = clause.broken(reply)
            if why is not None:
                return Verdict(self.id, self.severity, False, why)
        return Verdict(self.id, self.severity, True)


@dataclass(frozen=True)
class RuleBook:
    """A loaded rule file."""

    rules: tuple[Rule, ...]
    contract: Contract | None
    facts: Mapping[str, tuple[Any, ...] | str]
    """Declared facts: the allowed values, or the name of a type (text, number, integer, bool)."""
    system: str
    """The system prompt's template."""
    safe: Mapping[str, Any] | str | None
    """``prompt.fallback``: what is said when a hard rule stays broken."""
    digest: str
    """SHA-256 of the file's meaning: comments and layout do not change it."""
    text: str
    """The file as it was read."""
    labels: frozenset[str] = frozenset()
    """Labels that a turn may carry: those declared and those that a condition names."""

    @cached_property
    def by_id(self) -> dict[str, Rule]:
        return {rule.id: rule for rule in self.rules}

    @cached_property
    def optional(self) -> tuple[Rule, ...]:
        """Rules in force only when the system prompt names them."""
        return tuple(rule for rule in self.rules if rule.optional)

    def active(self, turn: Turn) -> tuple[Rule, ...]:
        """The rules in force for the reply to ``turn``, in file order."""
        return tuple([rule for rule in self.rules if rule.condition.holds(turn)])

    def parse(self, reply_text: str) -> ParsedReply:
        """Take a reply apart: strictly by the contract, or as plain text where the file has none."""
        if self.contract is not None:
            return self.contract.parse(reply_text)
        from .text import plain

        return ParsedReply(None, reply_text, None if plain(reply_text).strip() else "the reply is empty")

    def check(
        self, turn: Turn, reply_text: str, truncated: bool = False, active: Sequence[Rule] | None = None
    ) -> tuple[Verdict, ...]:
        """One verdict per rule in force. A reply that is cut off, empty or outside the contract fails them all.

        ``active``: what ``self.active(turn)`` gave, where several replies to one turn are checked.
        """
        active = self.active(turn) if active is None else active
        if not active:
            return ()
        parsed = self.parse(reply_text)
        broken = "the reply was cut off" if truncated else parsed.error
        if broken:
            return tuple(Verdict(rule.id, rule.severity, False, broken) for rule in active)
        reply = self.reply(turn, parsed)
        return tuple(rule.judge(reply) for rule in active)

    def reply(self, turn: Turn, parsed: ParsedReply) -> Reply:
        """What the checkers look at; ``parsed`` is without error."""
        actions = self.contract["action"].allowed if self.contract and "action" in self.contract else ()
        closed = (
            frozenset(field.name for field in self.contract.fields if field.allowed) if self.contract else frozenset()
        )
        return Reply(turn, parsed.text, parsed.fields, actions, closed)

    def decided(self, turn: Turn) -> dict[str, Any]:
        """Contract fields that the hard rules in force leave one value for: code sets them, the model need not."""
        values: dict[str, Any] = {}
        for rule in self.active(turn):
            if rule.severity == "hard":
                values.update(rule.sets)
        return values

    def fallback(self, turn: Turn) -> str:
        """The safe reply to ``turn``, as text: ``prompt.fallback`` with what the rules in force change or decide.

        Raises RuleError when the file has a contract and no fallback.
        """
        if self.contract is None:
            texts = [rule.fallback["reply"] for rule in self.active(turn) if "reply" in rule.fallback]
            return self._fill(str(texts[0] if texts else self.safe or DEFAULT_FALLBACK), turn)
        if not isinstance(self.safe, Mapping):
            raise RuleError("rules", ["prompt.fallback is missing"], next=NEED_FALLBACK)
        fields = dict(self.safe)
        for rule in reversed(self.active(turn)):  # the first rule of the file has the last word
            fields.update(rule.fallback)
        fields["reply"] = self._fill(fields["reply"], turn)
        return self.contract.dump({**fields, **self.decided(turn)})

    def system_prompt(self, facts: Mapping[str, Any] | None = None, prompted: Sequence[str] = ()) -> str:
        """The system prompt: ``{fact}`` filled in, ``{rules}`` the texts of ``prompted`` in that order, one per line.

        Raises UsageError for a fact value outside the declaration or an unknown rule id.
        """
        problems = self.fact_problems(facts or {}) + [f"unknown rule {p!r}" for p in prompted if p not in self.by_id]
        if problems:
            raise UsageError("; ".join(problems), next="see facts: and rules: of the rule file")
        lines = "\n".join(f"- {self.by_id[name].text or name}" for name in prompted)
        values = {name: str((facts or {}).get(name, UNKNOWN_FACT)) for name in self.facts} | {"rules": lines}
        return PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), self.system).strip()

    def _fill(self, text: str, turn: Turn) -> str:
        """``text`` with ``{fact}`` filled in; braces around anything else stay."""
        known = {name: str(turn.facts.get(name, UNKNOWN_FACT)) for name in self.facts}
        return PLACEHOLDER.sub(lambda match: known.get(match[1], match[0]), text)

    def fact_problems(self, facts: Mapping[str, Any]) -> list[str]:
        """What is wrong with the facts of a row or a request: undeclared names, values outside the declaration."""
        problems = []
        for name, value in facts.items():
            allowed = self.facts.get(name)
            if allowed is None:
                problems.append(f"fact {name!r} is not declared")
            elif isinstance(allowed, tuple):
                if value not in allowed:
                    problems.append(f"fact {name} is {value!r}, not one of {', '.join(map(str, allowed))}")
            elif not isinstance(value, FACT_TYPES[allowed]) or (isinstance(value, bool) and allowed != "bool"):
                problems.append(f"fact {name} is {value!r}, not a {allowed}")
        return problems

    def turn_problems(self, turn: Turn) -> list[str]:
        """What is wrong with a row's facts, labels and named rules: whatever is misspelled takes rules out of force."""
        strange = [label for label in turn.labels if label not in self.labels]
        labels = [f"label {label!r} is named by no rule{_nearest(label, self.labels)}" for label in strange]
        named = [f"unknown rule {name!r} in prompted" for name in turn.prompted if name not in self.by_id]
        return [*self.fact_problems(turn.facts), *labels, *named]

    def answer_problems(self, answer: Mapping[str, Any]) -> list[str]:
        """What no reply of the contract could ever say of the fields that are expected."""
        if self.contract is None:
            return []
        strange = [f"{name!r} is not a field of the contract" for name in answer if name not in self.contract]
        known = [self.contract[name].problem(value) for name, value in answer.items() if name in self.contract]
        return strange + [what for what in known if what]

    def schema(self) -> dict[str, Any] | None:
        """JSON Schema of the contract, or None in plain-text mode."""
        return self.contract.schema() if self.contract else None

    def grammar(self) -> str | None:
        """The contract's grammar for the runtime's backends, or None in plain-text mode."""
        return self.contract.grammar() if self.contract else None


def _nearest(label: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(label, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else " and not declared under labels:"


FACT_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "bool": bool,
    "integer": int,
    "number": (int, float),
    "text": str,
}
PLACEHOLDER = re.compile(r"\{(\w+)\}")
DEFAULT_FALLBACK = "I am sorry, I cannot answer that here. A colleague will get back to you."
NEED_FALLBACK = "add prompt.fallback: the reply object that is sent when a hard rule stays broken"
