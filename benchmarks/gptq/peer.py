"""Quantize with GPTQModel, in its own environment: peer.py MODEL WINDOWS.json OUT BITS GROUP [key=value…]

``key=value``: fields of its QuantizeConfig, values in JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main() -> None:
    """Its defaults, but for what the command line says; the seconds of ``quantize`` on stdout as JSON."""
    import torch
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    torch.set_num_threads(2)
    model, windows, out, bits, group, *rest = sys.argv[1:]
    extra = {key: json.loads(value) for key, _, value in (item.partition("=") for item in rest)}
    ids = json.loads(Path(windows).read_text())
    rows = [
        {"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row), dtype=torch.long)} for row in ids
    ]
    quantizer = GPTQModel.load(
        model, QuantizeConfig(bits=int(bits), group_size=int(group), **extra), device="cpu", backend=BACKEND.TORCH
    )
    started = time.perf_counter()
    quantizer.quantize(rows, batch_size=8)
    seconds = round(time.perf_counter() - started, 2)
    quantizer.save(out)
    sys.stdout.write("\n" + json.dumps({"quantize": seconds}) + "\n")


if __name__ == "__main__":
    main()
