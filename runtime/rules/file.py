"""From the text of a rule file to a RuleBook; every problem of the file is found before any is raised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import RuleError
from . import (  # noqa: F401  (checks_* enter kinds)
    checks_evidence,
    checks_format,
    checks_ifbench,
    checks_ifbench_form,
    checks_ifeval,
    checks_text,
    conflicts,
    fixtures,
)
from .book import FACT_TYPES, PLACEHOLDER, Clause, Rule, RuleBook
from .contract import Contract
from .fields import field_argument, field_check, read_contract
from .kinds import KINDS
from .spec import RULE, SECTIONS, Problems, RuleSpec, WhenSpec, nearest
from .text import plain
from .when import NO_LIMIT, All, AnyOf, Condition, Fact, HasSources, Label, Not, Prompted, TurnIn, UserSays
from .yaml import Place, YamlError, read

NEXT = "docs/rules.md describes every key; nothing was loaded"
SUITES = ("accuracy", "adherence")
"""Rows of a verdict, which a rule of that name could not be told from."""


def read_rules(text: str, name: str = "rules") -> RuleBook:
    """Parse YAML text, compile, try the fixtures, look for contradictions; ``name`` stands in the messages.

    Raises RuleError with all that is wrong.
    """
    try:
        data, lines, doubled = read(text)
    except YamlError as error:
        raise RuleError(name, [f"line {error.line}: {error}"], next=NEXT) from None
    problems = Problems(lines)
    problems.found += [(fault.line, str(fault)) for fault in doubled]
    book = _Builder(problems, data, text).book()
    if problems.found:
        raise RuleError(name, problems.sorted(), next=NEXT)
    return book


def load_rules(path: Path | str) -> RuleBook:
    """Load a rule file. Raises RuleError listing every problem with its line."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RuleError(str(path), [f"cannot be read: {error.strerror or error}"], next="check the path") from None
    try:
        return read_rules(data.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise RuleError(str(path), [f"is not UTF-8 (byte {error.start})"], next="save the file as UTF-8") from None


class _Builder:
    def __init__(self, problems: Problems, data: Any, text: str) -> None:
        self.problems, self.data, self.text = problems, data, text
        self.sections = self._sections()
        self.facts = self._facts()
        self.declared = self.sections.get("labels")
        self.ids: set[str] = set()
        """Those of all rules, also of the ones that are wrong."""
        self.named: set[str] = set()
        """Labels that conditions name."""
        self.contract = self._contract()
        self.prompt = self.sections.get("prompt")
        self.safe = self._safe()

    def _sections(self) -> dict[str, Any]:
        if not isinstance(self.data, dict):
            self.problems.add((), "the file is not a mapping with version: and rules:")
            return {}
        for key in self.data:
            if key not in SECTIONS:
                self.problems.add((key,), f"unknown key{nearest(key, SECTIONS)}")
        if self.data.get("version") is True:
            self.problems.add(("version",), "must be 1 (got true)")
        for key in ("version", "rules"):
            if key not in self.data:
                self.problems.add((key,), "is missing")
        model = {"prompt": SECTIONS["prompt"]._type}
        given = {key: value for key, value in self.data.items() if key in SECTIONS}
        return {
            key: self.problems.validate(SECTIONS[key], value, (key,), model.get(key)) for key, value in given.items()
        }

    def _facts(self) -> dict[str, tuple[Any, ...] | str]:
        facts: dict[str, tuple[Any, ...] | str] = {}
        for name, spec in (self.sections.get("facts") or {}).items():
            facts[name] = spec if isinstance(spec, str) else tuple(spec)
            if isinstance(spec, str) and spec not in FACT_TYPES:
                self.problems.add(("facts", name), f"unknown type {spec!r}{nearest(spec, FACT_TYPES)}")
        return facts

    def _contract(self) -> Contract | None:
        raw = self.sections.get("contract")
        if raw is None:
            return None
        contract, faults = read_contract(raw, frozenset(name for _, name in KINDS))
        for name, what in faults:
            self.problems.add(("contract", name), what)
        return contract

    def _safe(self) -> Mapping[str, Any] | str | None:
        safe: Mapping[str, Any] | str | None = self.prompt.fallback if self.prompt else None
        if self.prompt:
            for name in PLACEHOLDER.findall(self.prompt.system):
                if name != "rules" and name not in self.facts:
                    near = nearest(name, ["rules", *self.facts])
                    self.problems.add(
                        ("prompt", "system"), f"{{{name}}} is neither a declared fact nor {{rules}}{near}"
                    )
        if safe is None:
            return None
        if isinstance(safe, str) == (self.contract is not None):
            wanted = "an object with every contract field" if self.contract else "a text (the file has no contract)"
            self.problems.add(("prompt", "fallback"), f"must be {wanted}")
            return None
        if isinstance(safe, str) and not plain(safe).strip():
            self.problems.add(("prompt", "fallback"), "is empty; a customer would read nothing")
        for what in self.contract.problems(safe) if self.contract and isinstance(safe, Mapping) else ():
            self.problems.add(("prompt", "fallback"), what)
        return safe

    def book(self) -> RuleBook:
        """The book, whose rules are those that compiled; fixtures and contradictions are tried on them."""
        specs = self._specs()
        rules = _Conditions(self, specs).resolve([self._rule(path, spec) for path, spec in specs])
        digest = hashlib.sha256(json.dumps(self.data, sort_keys=True, default=str).encode()).hexdigest()
        system = self.prompt.system if self.prompt else ""
        labels = frozenset(self.named | set(self.declared or ()))
        book = RuleBook(tuple(rules), self.contract, self.facts, system, self.safe, digest, self.text, labels)
        paths = {spec.id: path for path, spec in specs}
        broken = bool(self.problems.found)
        for rule_id, what in conflicts.find(book):
            self.problems.add((*paths[rule_id], "must"), what, f"rule {rule_id!r}")
        for path, spec in specs:
            if spec.id in book.by_id:
                fixtures.try_rule(book, book.by_id[spec.id], spec, path, self.problems)
        if not broken and not self.problems.found:
            fixtures.try_fallback(book, specs, self.problems)
        return book

    def _specs(self) -> list[tuple[Place, RuleSpec]]:
        specs: list[tuple[Place, RuleSpec]] = []
        for index, raw in enumerate(self.sections.get("rules") or ()):
            path: Place = ("rules", index)
            spec = self.problems.validate(RULE, raw, path, RuleSpec)
            name = raw.get("id") if isinstance(raw, dict) else None
            wrong = isinstance(name, str) and (name in self.ids or name in SUITES)
            if wrong:
                what = f"rule {name!r} is given twice" if name in self.ids else f"{name!r} is the name of a suite"
                self.problems.add((*path, "id"), what)
            if isinstance(name, str):
                self.ids.add(name)
            if spec is None:
                self._clauses_of(path, raw)
            elif not wrong:
                specs.append((path, spec))
        return specs

    def _clauses_of(self, path: Place, raw: Any) -> None:
        """Note what is wrong in the clauses of a rule that is wrong elsewhere, so that all is said at once."""
        for side in ("must", "must_not"):
            wanted = raw.get(side) if isinstance(raw, dict) else None
            for name, value in wanted.items() if isinstance(wanted, dict) else ():
                self._clause((*path, side, name), side, name, value)

    def _rule(self, path: Place, spec: RuleSpec) -> Rule | None:
        before = len(self.problems.found)
        clauses = [
            clause
            for side, wanted in (("must", spec.must), ("must_not", spec.must_not))
            for name, raw in wanted.items()
            if (clause := self._clause((*path, side, name), side, name, raw))
        ]
        if not spec.must and not spec.must_not:
            self.problems.add(path, "has neither must nor must_not", f"rule {spec.id!r}")
        condition = self._condition(spec.when, (*path, "when"))
        fallback = self._rule_fallback(path, spec)
        if len(self.problems.found) > before:
            return None
        sets = _decided(clauses, self.contract) if self.contract and spec.severity == "hard" else {}
        source = self.data["rules"][path[1]]
        how = spec.optional, condition, tuple(clauses), sets, fallback, source, spec.margin
        return Rule(spec.id, spec.severity, spec.text, *how)

    def _rule_fallback(self, path: Place, spec: RuleSpec) -> dict[str, Any]:
        given = {"reply": spec.fallback} if isinstance(spec.fallback, str) else dict(spec.fallback or {})
        for name, value in given.items():
            if self.contract and name not in self.contract:
                self.problems.add((*path, "fallback", name), "is not a field of the contract")
            elif self.contract and (problem := self.contract[name].problem(value)):
                self.problems.add((*path, "fallback", name), problem)
            elif not self.contract and name != "reply":
                self.problems.add((*path, "fallback", name), "the file has no contract; fallback is a text")
        return given

    def _clause(self, path: Place, side: str, name: str, raw: Any) -> Clause | None:
        try:
            if self.contract and name in self.contract and name != "reply":
                field = self.contract[name]
                return Clause(side, name, field_check(field, side), field_argument(field, raw), True)
        except ValueError as error:
            self.problems.add(path, str(error))
            return None
        kind = KINDS.get((side, name))
        if kind is None:
            self.problems.add(path, self._unknown_kind(side, name))
            return None
        if kind.needs and not (self.contract and kind.needs in self.contract):
            self.problems.add(path, f"needs a contract with the field {kind.needs!r}")
            return None
        before = len(self.problems.found)
        argument = self.problems.validate(kind.adapter, raw, path, kind.model)
        return (
            None
            if len(self.problems.found) > before
            else Clause(side, name, kind.check, argument, everywhere=kind.everywhere)
        )

    def _unknown_kind(self, side: str, name: str) -> str:
        other = "must" if side == "must_not" else "must_not"
        if (other, name) in KINDS:
            return f"can only stand under {other}"
        fields = [field.name for field in self.contract.fields if field.name != "reply"] if self.contract else []
        return (
            f"is neither a contract field nor a rule kind{nearest(name, fields + [k for s, k in KINDS if s == side])}"
        )

    def _condition(self, spec: WhenSpec, path: Place) -> Condition:
        parts: list[Condition] = [
            self._fact(name, values, (*path, "facts", name)) for name, values in spec.facts.items()
        ]
        for compiled, anywhere in ((spec.user_regex, False), (spec.any_user_regex, True)):
            if compiled is not None:
                parts.append(UserSays(str(compiled.pattern), anywhere, compiled))
        if spec.turn:
            parts.append(TurnIn(spec.turn.min, spec.turn.max or NO_LIMIT))
        if spec.label:
            parts.append(AnyOf(tuple(self._label(name, (*path, "label")) for name in spec.label)))
        parts += [self._label(name, (*path, "labels")) for name in spec.labels or ()]
        if spec.has_sources is not None:
            parts.append(HasSources() if spec.has_sources else Not(HasSources()))
        if spec.not_:
            parts.append(Not(self._condition(spec.not_, (*path, "not"))))
        if spec.any:
            parts.append(AnyOf(tuple(self._condition(s, (*path, "any", i)) for i, s in enumerate(spec.any))))
        parts += [self._condition(s, (*path, "all", i)) for i, s in enumerate(spec.all or ())]
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _label(self, name: str, path: Place) -> Condition:
        if self.declared is not None and name not in self.declared:
            self.problems.add(path, f"unknown label {name!r}{nearest(name, self.declared)}")
        self.named.add(name)
        return Label(name)

    def _fact(self, name: str, values: list[Any], path: Place) -> Condition:
        declared = self.facts.get(name)
        if declared is None:
            self.problems.add(path, f"unknown fact{nearest(name, self.facts)}")
        elif isinstance(declared, tuple):
            for value in values:
                if value not in declared:
                    self.problems.add(
                        path, f"{value!r} is not a value of {name}{nearest(str(value), map(str, declared))}"
                    )
        return Fact(name, frozenset(values))


def _decided(clauses: list[Clause], contract: Contract) -> dict[str, Any]:
    """Fields of which these clauses leave exactly one allowed value."""
    left: dict[str, list[Any]] = {}
    for clause in clauses:
        field = contract[clause.name] if clause.is_field else None
        if field is None or field.kind not in ("enum", "bool"):
            continue
        every = left.get(field.name, list(field.allowed) if field.kind == "enum" else [False, True])
        left[field.name] = [v for v in every if (v in clause.argument[1]) == (clause.side == "must")]
    return {name: values[0] for name, values in left.items() if len(values) == 1}


class _Conditions:
    """Folds ``optional`` and ``unless`` into each rule's condition."""

    def __init__(self, builder: _Builder, specs: list[tuple[Place, RuleSpec]]) -> None:
        self.problems, self.ids = builder.problems, builder.ids
        self.specs = {spec.id: (path, spec) for path, spec in specs}
        self.done: dict[str, Condition] = {}

    def resolve(self, compiled: list[Rule | None]) -> list[Rule]:
        self.rules = {rule.id: rule for rule in compiled if rule}
        for rule_id, (path, spec) in self.specs.items():
            for other in spec.unless or ():
                if other not in self.ids:
                    self.problems.add((*path, "unless"), f"unknown rule {other!r}{nearest(other, self.ids)}")
            self._whole(rule_id, ())
        return [replace(rule, condition=self.done[rule.id]) for rule in self.rules.values() if rule.id in self.done]

    def _whole(self, rule_id: str, trail: tuple[str, ...]) -> Condition | None:
        if rule_id in self.done or rule_id not in self.rules:
            return self.done.get(rule_id)
        path, spec = self.specs[rule_id]
        if rule_id in trail:
            self.problems.add((*path, "unless"), f"goes in a circle: {' -> '.join((*trail, rule_id))}")
            return None
        parts: list[Condition] = [self.rules[rule_id].condition]
        if spec.optional:
            parts.append(Prompted(rule_id))
        for other in spec.unless or ():
            whole = self._whole(other, (*trail, rule_id))
            if whole:
                parts.append(Not(whole))
            elif other in self.ids - self.rules.keys():
                return None  # which is wrong itself, so that nobody can tell when this one is in force
        self.done[rule_id] = parts[0] if len(parts) == 1 else All(tuple(parts))
        return self.done[rule_id]
