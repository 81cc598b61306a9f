"""``python -m compress.probe CORES``: prints a ``compress.machine.Machine`` as one line of JSON.

One thread measures, on the clock of its own processor time, and each figure is the best of repeats: so the answer is
that of the machine when nothing else runs. Products are multiplied by the number of cores.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence

SIZE = 768
"""Rows and columns of the products."""
COPY = 64 << 20
"""Bytes that are copied."""
CALLS = 2000
BUDGET_S = 0.12
"""Time for each figure, warm-up apart."""


def best(run: Callable[[], object]) -> float:
    """Seconds of processor time of the fastest run."""
    run()
    found: list[float] = []
    while len(found) < 3 or sum(found) < BUDGET_S:
        start = time.thread_time()
        run()
        found.append(time.thread_time() - start)
    return min(found)


def measure(cores: int) -> dict[str, float]:
    """The figures by their names."""
    start = time.process_time()
    import torch
    import transformers

    del transformers
    start_s = time.process_time() - start
    torch.set_num_threads(1)
    products = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(SIZE, SIZE).to(dtype) for _ in range(2))
        products[str(dtype).removeprefix("torch.")] = cores * 2 * SIZE**3 / best(lambda a=a, b=b: a @ b)  # type: ignore[misc]
    source = torch.zeros(COPY, dtype=torch.uint8)
    target = torch.empty_like(source)
    small = torch.zeros(64)

    def calls() -> None:
        for _ in range(CALLS):
            small.add_(1)

    copied = 2 * COPY / best(lambda: target.copy_(source))
    return {**products, "bandwidth": copied, "call_s": best(calls) / CALLS, "start_s": start_s}


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    (cores,) = sys.argv[1:] if arguments is None else arguments
    sys.stdout.write(json.dumps(measure(int(cores))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
