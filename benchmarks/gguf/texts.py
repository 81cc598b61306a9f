"""Chats and general text for `divergence.py`: calibration of both, and held-out text of each.

    python benchmarks/gguf/texts.py SGD WIKITEXT OUT

SGD: folder of `dialogues_*.json.gz` (Schema-Guided Dialogue, https://github.com/google-research-datasets/
dstc8-schema-guided-dialogue, CC BY-SA 4.0). WIKITEXT: folder with `valid.txt` and `test.txt` (WikiText-2, text CC BY-SA
3.0). Writes OUT/mixed.jsonl (a chat, two paragraphs of `valid.txt`, a chat, …), chats.jsonl (the chats alone),
chats_held.jsonl (other chats) and general_held.jsonl (`test.txt`). Order from a fixed seed.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

ROLES = {"USER": "user", "SYSTEM": "assistant"}
WORDS = 20
"""Lines of fewer words are headings."""
PAIRS = 250
LAST = "dialogues_020.json.gz"


def chats(folder: Path) -> list[dict[str, Any]]:
    """Dialogues of the test split's files up to number 20 as rows of messages, shuffled."""
    rows = [
        {"messages": [{"role": ROLES[turn["speaker"]], "content": turn["utterance"]} for turn in dialogue["turns"]]}
        for file in sorted(folder.glob("dialogues_*.json.gz"))
        if file.name <= LAST
        for dialogue in json.loads(gzip.decompress(file.read_bytes()))
    ]
    random.Random(0).shuffle(rows)
    return rows


def paragraphs(file: Path) -> list[str]:
    """Its paragraphs, shuffled."""
    found = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if len(line.split()) > WORDS]
    random.Random(0).shuffle(found)
    return found


def write(file: Path, rows: Sequence[Any]) -> None:
    """JSONL."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main(sgd: Path, wikitext: Path, out: Path) -> None:
    """See above."""
    talk, general = chats(sgd), paragraphs(wikitext / "valid.txt")
    pairs = [{"text": f"{one}\n\n{two}"} for one, two in zip(general[::2], general[1::2], strict=False)]
    out.mkdir(parents=True, exist_ok=True)
    write(out / "mixed.jsonl", list(chain.from_iterable(zip(talk[:PAIRS], pairs[:PAIRS], strict=True))))
    write(out / "chats.jsonl", talk[:400])
    write(out / "chats_held.jsonl", talk[600:800])
    write(out / "general_held.jsonl", [{"text": text} for text in paragraphs(wikitext / "test.txt")[:400]])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
