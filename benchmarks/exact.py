"""Which steps give the very logits of single tokens, and how many greedy replies beside others are those asked alone.

    python benchmarks/exact.py model.gguf … --data eval.jsonl [--together 4 16] [--n 16] [--tokens 48] [--json]

Rows are ``{"text"}`` or ``{"messages"}``; a reply goes on from the text's first 64 tokens. "Widest" is the probe's
finding: so many tokens of one sequence in a step round as one after another do.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from kv import texts

import runtime
from runtime.engine.requests import Request


def replies(session: runtime.Session, prompts: list[list[int]], tokens: int, together: int) -> list[list[int]]:
    """Greedy tokens of all prompts, so many at a time, each group from an empty cache."""
    found: list[list[int]] = []
    for start in range(0, len(prompts), together):
        group = [
            Request(ids, max_tokens=tokens, fresh=not i) for i, ids in enumerate(prompts[start : start + together])
        ]
        session.scheduler.submit(group, bounded=False)
        for request in group:
            request.wait()
            found.append(request.tokens)
    return found


def one(model: Path, args: argparse.Namespace) -> dict[str, Any]:
    with runtime.load(model, slots=max(args.together), prefixes=False, context=512) as session:
        prompts = [session.engine.encode(text)[:64] for text in texts(args.data, args.n)]
        alone = replies(session, prompts, args.tokens, 1)
        same = {
            count: sum(a == b for a, b in zip(alone, replies(session, prompts, args.tokens, count), strict=True))
            for count in args.together
        }
        session.scheduler.submit([request := Request(prompts[0], max_tokens=40, drafts=True)])
        request.wait()
        while not session.scheduler._drafter.probe.done and session.scheduler.alive:
            session.scheduler.submit([request := Request(prompts[0], max_tokens=1, drafts=True)])
            request.wait()
        widest = session.scheduler._drafter.drafts.widest
    name = model.parent.name if model.stem == "model" else model.stem
    return {"model": name, "widest": widest, "n": len(prompts), "tokens": args.tokens, "same_together": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--together", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    for model in args.models:
        found = one(model, args)
        print(
            json.dumps(found) if args.json else "  ".join(f"{name} {value}" for name, value in found.items()),
            flush=True,
        )


if __name__ == "__main__":
    main()
