"""Rows of IFEval and IFBench: what they ask for, as clauses of the rule language.

A row names instructions and their arguments: ``[{"id": "count:numbers", "N": 3}, …]``. Both suites count a reply as
right when it follows every one of them (their "strict" accuracy).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from . import checks_ifbench, checks_ifbench_form, checks_ifeval  # noqa: F401  (enter kinds)
from .book import Clause, RuleBook
from .kinds import KINDS
from .spec import nearest
from .turn import Reply, Turn

LEFT_OUT = {
    "words:odd_even_syllables": "needs a dictionary of syllables",
    "words:start_verb": "needs a part-of-speech tagger",
}
"""Published instructions that no rule kind expresses, and why."""


def instruction_ids() -> tuple[str, ...]:
    """The published names that are rule kinds."""
    return tuple(sorted(name for _, name in KINDS if ":" in name))


def instruction_clause(instruction: Mapping[str, Any]) -> Clause:
    """The clause ``must: {id: arguments}``. Raises ValueError for an unknown id or arguments that it does not take."""
    return _clause(json.dumps(instruction, sort_keys=True))


@lru_cache(maxsize=4096)
def _clause(written: str) -> Clause:
    given = {key: value for key, value in json.loads(written).items() if value is not None}
    name = given.pop("id", None)
    kind = KINDS.get(("must", str(name))) if ":" in str(name) else None
    if kind is None:
        why = f" {LEFT_OUT[name]}" if name in LEFT_OUT else f" is unknown{nearest(str(name), instruction_ids())}"
        raise ValueError(f"instruction {name!r}{why}")
    try:
        argument = kind.adapter.validate_python(given or True)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise ValueError(f"instruction {name}: {place}: {fault['msg'].lower()}".replace(": :", ":")) from None
    return Clause("must", kind.name, kind.check, argument)


def published_row(row: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """The prompt and the instructions of a row as it is published: ``{"prompt", "instruction_id_list", "kwargs"}``,
    whose arguments that are null are not given. Raises ValueError for a row of another shape."""
    names, arguments = row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise ValueError("prompt is missing or empty")
    if not isinstance(names, list) or not isinstance(arguments, list) or len(names) != len(arguments) or not names:
        raise ValueError("instruction_id_list and kwargs are not lists of one length")
    asked = [
        {"id": name} | {key: value for key, value in (given or {}).items() if value is not None}
        for name, given in zip(names, arguments, strict=True)
    ]
    return row["prompt"], asked


def expected_problems(book: RuleBook, expected: Mapping[str, Any]) -> list[str]:
    """Why no reply under the rule file can be what a row expects; empty where one can."""
    match = expected.get("match")
    if match not in ("json", "instructions"):
        return []
    found = book.answer_problems(expected["answer"]) if match == "json" else instruction_problems(expected["answer"])
    return [f"expected.answer: {what}" for what in found]


def instruction_problems(instructions: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with a row's instructions."""
    problems = []
    for one in instructions:
        try:
            instruction_clause(one)
        except ValueError as error:
            problems.append(str(error))
    return problems


def not_followed(instructions: Sequence[Mapping[str, Any]], text: str) -> list[str]:
    """Why each instruction that ``text`` does not follow is not; empty where it follows them all."""
    if not text.strip():
        return [f"{one['id']}: the reply is empty" for one in instructions]
    reply = Reply(Turn(()), text)
    return [why for one in instructions if (why := instruction_clause(one).broken(reply)) is not None]
