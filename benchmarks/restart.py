"""Time to the first token of a conversation with a long system prompt: cold, warm, and after a restart.

    python benchmarks/restart.py model.gguf [--tokens 1500] [--repeats 3] [--kv f16] [--json]

Each load is a process of its own. "Cold" keeps nothing; "restart" finds the system prompt's keys and values in a file
that an earlier process wrote, checks its hash and reads the customer's words only. The greedy tokens must be the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

QUESTIONS = ["Where is my parcel? Order 4821.", "I was charged twice, please help.", "How do I send shoes back?"]


def system_prompt(session: Any, tokens: int) -> str:
    """A policy of so many tokens: numbered sentences, no two alike."""
    lines: list[str] = ["You are the customer service of a shop. Answer politely and briefly."]
    while len(session.engine.encode("\n".join(lines))) < tokens:
        n = len(lines)
        lines.append(
            f"Rule {n}: parcels to zone {n % 7} take {2 + n % 5} days; returns of type {n} are free for {n + 10} days."
        )
    return "\n".join(lines)


def one(model: str, folder: str, tokens: int, kv: str) -> dict[str, Any]:
    """Load, ask, and ask again; run in a process of its own."""
    import runtime

    started = time.perf_counter()
    session = runtime.load(model, prefixes=folder or False, slots=4, context=4096, kv=kv)
    loaded = time.perf_counter() - started
    system = {"role": "system", "content": system_prompt(session, tokens)}
    with session:
        replies = [session.chat([system, {"role": "user", "content": q}], max_tokens=24) for q in QUESTIONS]
        restored = session.scheduler.counters.restored_tokens
    first, second = replies[:2]
    return {
        "load_s": loaded,
        "prompt_tokens": first.usage.prompt_tokens,
        "restored_tokens": restored,
        "ttft_ms": first.timings.ttft_ms,
        "warm_ttft_ms": second.timings.ttft_ms,
        "texts": [reply.raw for reply in replies],
    }


def apart(*arguments: Any) -> dict[str, Any]:
    """`one` in a fresh process."""
    command = [sys.executable, __file__, "--one", *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        model, folder, tokens, kv = sys.argv[2:]
        print(json.dumps(one(model, folder, int(tokens), kv)))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kv", default="f16")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o700)
        apart(args.model, folder, args.tokens, args.kv)
        size = sum(file.stat().st_size for file in Path(folder).glob("*.prefix"))
        pairs = [
            (apart(args.model, "", args.tokens, args.kv), apart(args.model, folder, args.tokens, args.kv))
            for _ in range(args.repeats)
        ]
    cold, again = (statistics.median(run["ttft_ms"] for run in runs) for runs in zip(*pairs, strict=True))
    found = {
        "model": args.model.name,
        "n": args.repeats,
        "prompt_tokens": pairs[0][0]["prompt_tokens"],
        "restored_tokens": pairs[0][1]["restored_tokens"],
        "file_bytes": size,
        "cold_ttft_ms": round(cold, 1),
        "warm_ttft_ms": round(statistics.median(run["warm_ttft_ms"] for run, _ in pairs), 1),
        "restart_ttft_ms": round(again, 1),
        "sooner": round(cold / again, 1),
        "same_replies": all(run["texts"] == other["texts"] for run, other in pairs),
    }
    print(json.dumps(found) if args.json else "\n".join(f"{name:16} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
