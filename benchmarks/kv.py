"""What a KV cache of another type costs: KL divergence per token from a float16 cache, speed, bytes per slot.

    python benchmarks/kv.py model.gguf --data eval.jsonl [--kv q8_0] [--texts 20] [--tokens 512] [--json]

Rows are ``{"text"}`` or ``{"messages"}``. Both caches score the same tokens, one text after another; KL(f16 || other)
is taken over the whole vocabulary behind every token, and a second float16 run gives the floor.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import runtime


def texts(path: Path, count: int) -> list[str]:
    found = []
    for line in path.read_text(encoding="utf-8").splitlines()[:count]:
        row = json.loads(line)
        found.append(row.get("text") or "\n".join(message["content"] for message in row["messages"]))
    return found


def log_softmax(rows: Any) -> Any:
    rows = rows.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


def decode_speed(session: runtime.Session, ids: list[int], tokens: int) -> float:
    """Tokens/s of one greedy reply."""
    started = time.perf_counter()
    (reply,) = session.continue_many([ids], max_tokens=tokens)
    return (len(reply.token_ids) - 1) / max(time.perf_counter() - started - reply.ttft_s, 1e-9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kv", default="q8_0")
    parser.add_argument("--texts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    divergence: dict[str, list[Any]] = {"f16": [], args.kv: []}
    agree: list[Any] = []
    speeds: dict[str, list[float]] = {"f16": [], args.kv: []}
    how = {"slots": 1, "prefixes": False}
    with runtime.load(args.model, **how) as full, runtime.load(args.model, kv=args.kv, **how) as other:
        cells = [session.engine.memory_bytes for session in (full, other)]
        for text in texts(args.data, args.texts):
            ids = full.engine.encode(text)[: min(args.tokens, full.engine.context)]
            if len(ids) < 2:
                continue
            base = log_softmax(full.logits(ids))
            for name, session in (("f16", full), (args.kv, other)):
                rows = log_softmax(session.logits(ids))
                divergence[name].append((np.exp(base) * (base - rows)).sum(axis=1))
                speeds[name].append(decode_speed(session, ids[: len(ids) // 2], 32))
            agree.append(rows.argmax(axis=1) == base.argmax(axis=1))
    kl = np.concatenate(divergence[args.kv])
    result = {
        "model": args.model.name,
        "kv": args.kv,
        "tokens": len(kl),
        "mean_kl": float(kl.mean()),
        "standard_error": float(kl.std() / np.sqrt(len(kl))),
        "p99.9_kl": float(np.quantile(kl, 0.999)),
        "floor_kl": float(np.concatenate(divergence["f16"]).mean()),
        "top_1": float(np.concatenate(agree).mean()),
        "tokens_per_s": {name: round(float(np.median(found)), 1) for name, found in speeds.items()},
        "weights_and_one_slot_bytes": dict(zip(("f16", args.kv), cells, strict=True)),
    }
    print(json.dumps(result) if args.json else "\n".join(f"{name:28} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
