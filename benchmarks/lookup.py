"""One-stream tokens/s with and without drafts (lookup and forced tokens), on the same conversations, in one process.

    python benchmarks/lookup.py BUNDLE_OR_MODEL --data eval.jsonl [--rules rules.yaml] [--n 40] [--rounds 5] [--json]

Rows are ``{"messages", "facts"?}``; a final assistant message is left out. Each round asks all conversations with
drafts and all without, in turns of one conversation; tokens/s are those of decoding, the first token apart. Texts of
both ways are compared. ``--plain`` asks without rules. ``--processor`` takes processor time of the whole process
instead of the clock's, prompts included: for a machine that does other work too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import runtime
from runtime.session import Session


def rows(path: Path, count: int) -> list[dict[str, Any]]:
    """Conversations that wait for a reply."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines()[:count]:
        row = json.loads(line)
        if row["messages"][-1]["role"] == "assistant":
            row["messages"].pop()
        found.append(row)
    return found


def ask(
    session: Session, row: dict[str, Any], how: dict[str, Any], lookup: bool, processor: bool
) -> tuple[str, int, float]:
    """The reply, how many tokens came after the first, and in how many seconds."""
    session.lookup = lookup
    started = time.process_time()
    turn = session.turn(row["messages"], row.get("facts") or {}, **how)
    if session.rules is not None:
        turn.structured()
    request = turn.submit()
    request.wait()
    spent = time.process_time() - started if processor else request.finished_at - request.first_token_at
    return request.text, len(request.tokens) - 1, spent


def measure(
    session: Session, data: list[dict[str, Any]], how: dict[str, Any], processor: bool
) -> dict[bool, tuple[list[str], float]]:
    """Both ways over all conversations: texts and tokens/s."""
    texts: dict[bool, list[str]] = {True: [], False: []}
    tokens, seconds = {True: 0, False: 0}, {True: 0.0, False: 0.0}
    for number, row in enumerate(data):
        ask(session, row, {**how, "max_tokens": 1}, False, processor)  # then both ways find the prompt read
        for lookup in (number % 2 == 0, number % 2 == 1):
            text, count, spent = ask(session, row, how, lookup, processor)
            texts[lookup].append(text)
            tokens[lookup] += count
            seconds[lookup] += spent
    return {way: (texts[way], tokens[way] / seconds[way]) for way in (True, False)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rules", type=Path)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--n", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--processor", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    data = rows(args.data, args.n)
    how = {"max_tokens": args.max_tokens, "temperature": args.temperature, "seed": 1}
    with runtime.load(args.model, rules=args.rules, threads=args.threads, slots=2, prefixes=False) as session:
        if args.plain:
            session.rules = None
        for _ in range(2):
            measure(session, data[:4], how, args.processor)  # the probe runs in the pauses of these
        rounds = [measure(session, data, how, args.processor) for _ in range(args.rounds)]
        counters, drafts = session.scheduler.counters, session.scheduler._drafter.drafts
        seconds = {width: round(1e3 * s, 2) for width, s in enumerate(drafts.seconds) if s}
        head = {"model": args.model.name, "threads": getattr(session.engine, "threads", None)}
    ratios = [found[True][1] / found[False][1] for found in rounds]
    result = {
        **head,
        "conversations": len(data),
        "rounds": args.rounds,
        "tokens_per_s": round(statistics.median(found[False][1] for found in rounds), 1),
        "with_drafts": round(statistics.median(found[True][1] for found in rounds), 1),
        "ratio": [round(value, 3) for value in (statistics.median(ratios), min(ratios), max(ratios))],
        "first_round_ratio": round(ratios[0], 3),
        "same_texts": all(found[True][0] == found[False][0] for found in rounds),
        "drafted": counters.drafted_tokens,
        "taken": counters.taken_tokens,
        "widest_step": drafts.widest,
        "step_ms": seconds,
    }
    print(json.dumps(result) if args.json else "\n".join(f"{name:18} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
