"""Seeded damage to files, for tests that a reader refuses it with our own error and nothing worse."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

EXTREMES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**63, 2**64 - 1)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 0.5, 2**31, 2**63, 10**400, "", "text", "\0", [], {}, [[]], {"a": {}}, [1, 2, 3]),
    *([-1, 4], [4, -1], ["0", "4"], float("nan"), float("inf")),
)


def flip(draw: random.Random, data: bytearray, reach: int) -> None:
    """Change one bit of the first ``reach`` bytes."""
    data[draw.randrange(min(reach, len(data)))] ^= 1 << draw.randrange(8)


def overwrite(draw: random.Random, data: bytearray, reach: int) -> None:
    """Put an extreme number where perhaps a length, a count or an offset stood."""
    width = draw.choice([4, 8])
    at = draw.randrange(min(reach, len(data)))
    data[at : at + width] = (draw.choice(EXTREMES) % 2 ** (8 * width)).to_bytes(width, "little")


def insert(draw: random.Random, data: bytearray, reach: int) -> None:
    """Push bytes in."""
    at = draw.randrange(min(reach, len(data)))
    data[at:at] = draw.randbytes(draw.randint(1, 9))


def delete(draw: random.Random, data: bytearray, reach: int) -> None:
    """Take bytes out."""
    at = draw.randrange(min(reach, len(data)))
    del data[at : at + draw.randint(1, 9)]


def truncate(draw: random.Random, data: bytearray, reach: int) -> None:
    """Cut the end off."""
    del data[draw.randrange(min(reach, len(data))) :]


def repeat(draw: random.Random, data: bytearray, reach: int) -> None:
    """Say a stretch twice."""
    at = draw.randrange(min(reach, len(data)))
    stretch = data[at : at + draw.randint(1, 64)]
    data[at:at] = stretch


HARMS: tuple[Callable[[random.Random, bytearray, int], None], ...] = (
    *(flip, overwrite, insert, delete, truncate, repeat),
)


def mutants(data: bytes, count: int, *, seed: int, reach: int) -> Iterator[bytes]:
    """``count`` damaged copies of ``data``; most of the damage is within the first ``reach`` bytes."""
    draw = random.Random(seed)
    for _ in range(count):
        mutant = bytearray(data)
        for _ in range(draw.choice([1, 1, 1, 2, 5])):
            if mutant:
                draw.choice(HARMS)(draw, mutant, reach if draw.random() < 0.95 else len(data))
        yield bytes(mutant)


def json_mutants(value: Any, count: int, *, seed: int) -> Iterator[str]:
    """``count`` JSON texts, each like ``value`` with one or two places changed, doubled, lost or nested."""
    draw = random.Random(seed)
    for _ in range(count):
        changed = json.loads(json.dumps(value))
        for _ in range(draw.choice([1, 1, 2])):
            changed = _change(draw, changed)
        text = json.dumps(changed)
        if draw.random() < 0.05:
            text = text.replace("{", "{" + text[1 : text.find(",") + 1], 1) if "," in text else text
        yield text if draw.random() < 0.97 else "[" * 5000 + text


def _change(draw: random.Random, value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or draw.random() < 0.1:
        return copy.deepcopy(draw.choice(VALUES))
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw.choice(keys)
    harm = draw.random()
    if harm < 0.15:
        del value[key]
    elif harm < 0.25 and isinstance(value, dict):
        value[draw.choice(["", "\0", "__metadata__", "x" * 300, str(key) + " "])] = copy.deepcopy(value[key])
    elif harm < 0.35:
        value[key] = copy.deepcopy(draw.choice(list(value.values()) if isinstance(value, dict) else value))
    elif harm < 0.4:
        value[key] = {str(key): [value[key]]}
    else:
        value[key] = _change(draw, value[key])
    return value
