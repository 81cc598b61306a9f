"""Rules: one file that augments training data, is the gate's adherence suite, and is enforced at run time.

``load_rules`` fails closed: it raises RuleError with every problem of the file at once. What may stand in a file is in
docs/rules.md; the table of rule kinds is ``kinds.py``, filled by ``checks_*.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .book import Clause, Rule, RuleBook, Verdict
from .contract import Contract, Field, ParsedReply
from .turn import Turn

if TYPE_CHECKING:
    from .file import load_rules, read_rules

__all__ = [
    "Clause",
    "Contract",
    "Field",
    "ParsedReply",
    "Rule",
    "RuleBook",
    "Turn",
    "Verdict",
    "load_rules",
    "read_rules",
]


def __getattr__(name: str) -> object:
    if name in ("load_rules", "read_rules"):  # with pydantic and re2, which judging alone does without
        from . import file

        return getattr(file, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
