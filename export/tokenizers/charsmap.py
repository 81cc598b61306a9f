"""SentencePiece's precompiled character map: prefixes of UTF-8 text and what replaces each.

Layout (google/sentencepiece src/normalizer.cc, on a darts-clone double array): uint32 size of the array in bytes,
the array, the replacements as NUL-terminated strings. The reader takes the longest key that matches at a place,
writes its replacement and goes on behind it. One unit of the array is 32 bits: a label in the low byte, bit 8 set
where a key ends, from bit 10 the XOR offset to the block of its children; a unit with bit 31 holds a value.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

BLOCK = 256
"""Children of a node lie in one aligned block of this many units, so that offset ^ label never leaves it."""
MOST_BLOCKS = 1 << 13
"""Offsets have 21 bits."""


@dataclass
class _Node:
    children: dict[int, _Node] = field(default_factory=dict)
    value: int | None = None


def build(replacements: Mapping[bytes, bytes]) -> bytes:
    """The character map that replaces every key by its value.

    ``replacements``: keys are non-empty UTF-8 (or parts of it) without NUL, values are without NUL.
    Raises ValueError when the map is too large for the format (8,192 blocks of 256 units).
    """
    strings, places = _strings(replacements)
    root = _Node()
    for key, value in replacements.items():
        node = root
        for byte in key:
            node = node.children.setdefault(byte, _Node())
        node.value = places[value]
    units = _units(root)
    return struct.pack("<I", 4 * len(units)) + struct.pack(f"<{len(units)}I", *units) + strings


def _strings(replacements: Mapping[bytes, bytes]) -> tuple[bytes, dict[bytes, int]]:
    places: dict[bytes, int] = {}
    joined = b""
    for value in sorted(set(replacements.values())):
        places[value] = len(joined)
        joined += value + b"\0"
    return joined, places


def _units(root: _Node) -> list[int]:
    """Breadth first; block 0 holds the root alone, values of leaves share blocks in which nothing has a label."""
    units = [0] * BLOCK
    free_values: list[int] = []
    queue = [(0, root)]
    for at, node in _walk(queue):
        if node.children:
            base = _grow(units)
            for label, child in sorted(node.children.items()):
                units[base ^ label] = label
                queue.append((base ^ label, child))
        else:
            if not free_values:
                start = _grow(units)
                free_values = list(range(start + BLOCK - 1, start - 1, -1))
            base = free_values.pop()
        units[at] |= (at ^ base) << 10
        if node.value is not None:
            units[at] |= 1 << 8
            units[base] = 1 << 31 | node.value
    return units


def _walk(queue: list[tuple[int, _Node]]) -> Iterator[tuple[int, _Node]]:
    position = 0
    while position < len(queue):
        yield queue[position]
        position += 1


def _grow(units: list[int]) -> int:
    if len(units) >= MOST_BLOCKS * BLOCK:
        raise ValueError("too many distinct prefixes for a character map")
    units.extend([0] * BLOCK)
    return len(units) - BLOCK
