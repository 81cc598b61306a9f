"""One-stream decode of the runtime against the raw llama.cpp loop, and tokens/s of 1, 4, 8, 16 sequences.

    python benchmarks/decode.py model.gguf [--tokens 200] [--repeats 7] [--json]

Both run in one process on one model file, alternating, so that the ratio does not depend on the machine's mood. The raw
loop is what a careful user of llama-cpp-python's ctypes layer would write: one batch made once, argmax by numpy.
Medians are reported, with the lowest and the highest of the repeats. One sequence: decoding alone; several: prompts
included, because the session reads some while it already decodes others.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

import runtime
from runtime.engine.requests import Request

PROMPT_TOKENS = 96


def raw_loop(backend: Any, prompts: list[list[int]], n_tokens: int) -> float:
    """Tokens/s of greedy decoding straight on the C API."""
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_seq_max = backend.context * len(prompts), len(prompts)
    params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = backend.threads
    params.no_perf = True
    context = lib.llama_init_from_model(backend._model, params)
    batch = lib.llama_batch_init(512, 0, 1)
    chosen = []
    start = time.perf_counter()
    for sequence, prompt in enumerate(prompts):
        fill(batch, [(token, i, sequence, i == len(prompt) - 1) for i, token in enumerate(prompt)])
        assert lib.llama_decode(context, batch) == 0
        chosen.append(int(rows(context, 1, backend.n_vocab).argmax()))
    if len(prompts) == 1:
        start = time.perf_counter()
    for step in range(n_tokens - 1):
        fill(batch, [(t, len(prompts[i]) + step, i, True) for i, t in enumerate(chosen)])
        assert lib.llama_decode(context, batch) == 0
        chosen = rows(context, len(prompts), backend.n_vocab).argmax(axis=1).tolist()
    seconds = time.perf_counter() - start
    lib.llama_batch_free(batch)
    lib.llama_free(context)
    return (len(prompts) * n_tokens if len(prompts) > 1 else n_tokens - 1) / seconds


def fill(batch: Any, entries: list[tuple[int, int, int, bool]]) -> None:
    """Write a batch of (token, position, sequence, wants logits)."""
    batch.n_tokens = len(entries)
    for i, (token, position, sequence, wanted) in enumerate(entries):
        batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence


def rows(context: Any, count: int, n_vocab: int) -> np.ndarray:
    """The logits of the last batch, not copied."""
    pointer = ctypes.cast(lib.llama_get_logits(context), ctypes.POINTER(ctypes.c_float * (count * n_vocab)))
    return np.frombuffer(pointer.contents, np.float32).reshape(count, n_vocab)


def ours(session: runtime.Session, prompts: list[list[int]], n_tokens: int) -> float:
    """Tokens/s of the same work through the session's scheduler."""
    requests = [Request(prompt, max_tokens=n_tokens, fresh=i == 0) for i, prompt in enumerate(prompts)]
    session.scheduler.submit(requests)
    for request in requests:
        request.wait()
    end = max(r.finished_at for r in requests)
    if len(requests) == 1:
        return (n_tokens - 1) / (end - requests[0].first_token_at)
    return sum(len(r.tokens) for r in requests) / (end - requests[0].submitted_at)


def compare(session: runtime.Session, n: int, n_tokens: int, repeats: int) -> dict[str, Any]:
    """Alternate both loops; medians and extremes."""
    rng = np.random.default_rng(n)
    # ordinary tokens only; each prompt differs from its first token on, so that nothing is shared
    low = max(session.engine.stops, default=0) + 1
    prompts = [[int(t) for t in rng.integers(low, session.engine.n_vocab, PROMPT_TOKENS)] for _ in range(n)]
    pairs = [(raw_loop(session.engine, prompts, n_tokens), ours(session, prompts, n_tokens)) for _ in range(repeats)]
    raw, own = zip(*pairs, strict=True)
    return {
        "sequences": n,
        "raw_tokens_per_s": spread(raw),
        "session_tokens_per_s": spread(own),
        "ratio": spread([b / a for a, b in pairs]),
        "n": repeats,
    }


def spread(values: Any) -> dict[str, float]:
    """Median, lowest, highest."""
    return {"median": round(statistics.median(values), 3), "low": round(min(values), 3), "high": round(max(values), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with runtime.load(args.model, slots=16, threads=args.threads) as session:
        # the raw loop does not stop at an end-of-turn token, so neither may the session
        session.engine.stops = frozenset()
        results = [compare(session, n, args.tokens, args.repeats) for n in (1, 4, 8, 16)]
        head = {"model": args.model.name, "threads": session.engine.threads, "llama_cpp": session.engine.version}
    if args.json:
        print(json.dumps({**head, "results": results}))
        return
    print(head)
    for row in results:
        raw, own, ratio = row["raw_tokens_per_s"], row["session_tokens_per_s"], row["ratio"]
        print(
            f"{row['sequences']:3} sequences: raw {raw['median']:8.1f}  session {own['median']:8.1f} tokens/s  "
            f"ratio {ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f}, n={row['n']})"
        )


if __name__ == "__main__":
    main()
