"""Bits per linear by predicted KL against uniform bits at the same bytes, on held-out text.

    python benchmarks/sensitivity/allocate.py MODEL CALIBRATION.jsonl HELD_OUT.jsonl [--windows 64] [--held-out 64]
        [--singles 4]

Every linear may take 2, 3, 4 or 8 bits (symmetric round-to-nearest, 128 inputs to a float16 scale, scales searched for
the least Σ hᵢ (wᵢ − ŵᵢ)²). Budgets are the bytes of 3 bits everywhere, and of 3 bits in one half of the blocks and 4 in
the other. Losses: the predicted KL; the same with γ = 1, the squared output error that needs no backward pass. KL is
that of KL(float32 ‖ rounded) per token. ``--singles N``: round one linear at a time, too, and compare the KL of N
held-out windows with the prediction.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from scipy.stats import spearmanr

from compress.calibrate.sensitivity import measure, predicted_kl
from compress.model.blocks import ModelFolder
from compress.model.decoder import run_block
from compress.quantize.budget import Option, allocate
from compress.windows import calibration_windows

BITS = (2, 3, 4, 8)
GROUP = 128
LENGTH = 256


def rounded(W, h, bits):
    """W ``[out, in]`` on its grid, h ``[in]`` the mean squares of the inputs."""
    groups, weights = W.unflatten(1, (-1, GROUP)), h.view(-1, GROUP)
    top = 2 ** (bits - 1)
    best, least = groups, torch.full(groups.shape[:2], torch.inf)
    for fraction in torch.linspace(1.0, 0.5, 16).tolist():
        scale = (groups.abs().amax(-1, keepdim=True) * fraction / (top - 0.5)).half().float()
        trial = (groups / scale).round().clamp(-top, top - 1) * scale
        error = ((trial - groups).square() * weights).sum(-1)
        best = torch.where((error < least)[..., None], trial, best)
        least = torch.minimum(error, least)
    return best.flatten(1)


def hessians(model, windows):
    """Linear -> mean of x xᵀ, block by block."""
    x, rope, found = model.embed(windows), model.rope(windows.shape[1]), {}
    for block in range(model.blocks):
        sums = {}
        see = lambda linear, h, sums=sums: sums.update({linear: h.flatten(0, 1).T @ h.flatten(0, 1)})  # noqa: E731
        x = run_block(model, block, model.block_tensors(block), x, rope, see)
        for group in model.layout.inputs:
            mean = sums[group[0]] / windows.numel()
            found |= dict.fromkeys([model.name(block, linear) for linear in group], mean)
    return found


class Measured:
    """KL of changed weights on held-out windows."""

    def __init__(self, folder, windows):
        from transformers import AutoModelForCausalLM

        self.net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.parts = windows.split(8)
        self.before = [self._say(part) for part in self.parts]

    def _say(self, part):
        return self.net(input_ids=part).logits.log_softmax(-1)

    def kl(self, weights):
        modules = {name: self.net.get_submodule(name) for name in weights}
        kept = {name: module.weight.clone() for name, module in modules.items()}
        for name, W in weights.items():
            modules[name].weight.copy_(W)
        total = sum(
            float((p.exp() * (p - self._say(part))).sum()) for p, part in zip(self.before, self.parts, strict=True)
        )
        for name, W in kept.items():
            modules[name].weight.copy_(W)
        return total / sum(part.numel() for part in self.parts)


def size(W, bits):
    """Bytes of codes and scales."""
    return W.numel() * bits // 8 + 2 * W.numel() // GROUP


def halves(model, seed):
    """Bits by linear: 4 in half of the blocks, 3 in the others; without a seed in every second block."""
    order = list(range(model.blocks))
    if seed is not None:
        order = torch.randperm(model.blocks, generator=torch.Generator().manual_seed(seed)).tolist()
    high = set(order[::2]) if seed is None else set(order[: model.blocks // 2])
    return {
        model.name(block, linear): 4 if block in high else 3
        for block in range(model.blocks)
        for linear in model.layout.linears()
    }


@torch.no_grad()
def compare(options):
    model = ModelFolder(options.model)
    windows = calibration_windows(options.model, options.calibration, options.windows * LENGTH, LENGTH)
    held_out = calibration_windows(options.model, options.held_out_text, options.held_out * LENGTH, LENGTH)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        gamma = measure(model, windows, Path(scratch), 0, lambda *_: None, torch.float32)
    facts = {"tokens": windows.numel(), "measure_seconds": round(time.monotonic() - start, 2)}
    H = hessians(model, windows)
    W = {name: model.weight(name) for name in model.linears()}
    choices = {(name, bits): rounded(W[name], H[name].diagonal(), bits) for name in W for bits in BITS}
    losses = {
        "predicted KL": {(n, b): predicted_kl(C - W[n], H[n], gamma[n]) for (n, b), C in choices.items()},
        "output error": {(n, b): predicted_kl(C - W[n], H[n], torch.ones(len(C))) for (n, b), C in choices.items()},
    }
    measured = Measured(options.model, held_out)
    facts |= {"allocations": budgets(model, W, choices, losses, measured)}
    if options.singles:
        facts |= singles(choices, losses, Measured(options.model, held_out[: options.singles]))
    print(json.dumps(facts, indent=2))


def budgets(model, W, choices, losses, measured):
    """Measured KL of each way to choose at each budget."""

    def of(bits):
        kl = measured.kl({name: choices[name, b] for name, b in bits.items()})
        return {"kl": kl, "predicted": sum(losses["predicted KL"][name, b] for name, b in bits.items())}

    fused = [[model.name(k, name) for name in group] for k in range(model.blocks) for group in model.layout.inputs]
    found = {}
    for title, uniform in (("3", dict.fromkeys(W, 3)), ("3.5", halves(model, None))):
        room = sum(size(W[name], b) for name, b in uniform.items())
        row = {"bytes": room, "uniform": of(uniform)}
        if title == "3.5":
            row["random halves"] = [of(halves(model, seed))["kl"] for seed in range(5)]
        for loss, table in losses.items():
            options = {n: [Option(str(b), size(W[n], b), table[n, b]) for b in BITS] for n in W}
            for label, groups in ((loss, ()), (f"{loss}, fused inputs share bits", fused)):
                chosen = allocate(options, room, groups)
                bits = {name: int(option.label) for name, option in chosen.items()}
                row[label] = of(bits)
                row[label]["bytes"] = sum(option.nbytes for option in chosen.values())
                row[label]["bits"] = "".join(map(str, bits.values()))
        found[title] = row
    return found


def singles(choices, losses, measured):
    """Rank correlations over linears × bits, 8 bits left out where the KL is rounding noise."""
    keys = [key for key in choices if key[1] != 8]
    kl = [measured.kl({name: choices[name, bits]}) for name, bits in keys]
    ranks = {loss: float(spearmanr([table[key] for key in keys], kl).statistic) for loss, table in losses.items()}
    ratios = torch.tensor([k / losses["predicted KL"][key] for key, k in zip(keys, kl, strict=True)])
    quantiles = ratios.quantile(torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])).tolist()
    return {"rank correlations": ranks, "measured / predicted (0, 10, 50, 90, 100 %)": quantiles}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("held_out_text", type=Path)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--held-out", type=int, default=64)
    parser.add_argument("--singles", type=int, default=0)
    compare(parser.parse_args())


if __name__ == "__main__":
    main()
