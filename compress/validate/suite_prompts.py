"""Prompts of our own in the shape of IFEval and IFBench (``own_suites.json``): for where the published ones are not at
hand. They are few and plain; figures on them are not figures on the published sets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROWS = 4
"""Prompts for each instruction."""
_WORDS = {"less than": "fewer than"}


def own_prompts(suite: str) -> Iterator[dict[str, Any]]:
    """Rows ``{key, prompt, instruction_id_list, kwargs}`` of a suite: topics and arguments by turns."""
    table = json.loads((Path(__file__).parent / "own_suites.json").read_text(encoding="utf-8"))
    for kind, asked in enumerate(table[suite]):
        for place in range(ROWS):
            given = asked["arguments"][place % len(asked["arguments"])]
            topic = table["topics"][(kind + place) % len(table["topics"])]
            yield _row(asked["id"], place, f"{topic} {asked['asks'].format(**_shown(given))}", given)
    for asked in table["tasks"] if suite == "ifbench" else ():
        yield _row(asked["id"], 0, asked["asks"], {})


def _row(name: str, place: int, prompt: str, given: Mapping[str, Any]) -> dict[str, Any]:
    key = f"own-{name}-{place + 1}"
    return {"key": key, "prompt": prompt, "instruction_id_list": [name], "kwargs": [given]}


def _shown(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: " and ".join(v) if isinstance(v, list) else _WORDS.get(v, v) for key, v in given.items()}
