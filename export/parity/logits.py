"""Logits of a runtime against the very same weights in transformers, in float32.

What remains between the two is the runtime's own arithmetic. How much that may be is not a constant: it is measured on
the same prompts by rounding in torch as the runtime does (``noise.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compress.errors import ArtifactError
from export.checkpoint import Checkpoint
from export.parity.noise import arithmetic
from export.parity.weights import HEAD, Stored, whole

Floats = npt.NDArray[np.float32]

BATCH_BYTES = 256 << 20
"""Logits of one torch batch."""
NOISE = 2.0
"""The runtime may be so many times as far from exact arithmetic as the same roundings in torch put it, on average …"""
PEAK = 4.0
"""… and at the worst position (measured on correct exports: docs/formats.md, Parity)."""
FLOOR = 2e-4
"""Least tolerance as a share of the logits' own spread: float32 sums in another order."""


class Twin:
    """The Hugging Face model of a folder's config.json, float32, whose weights are put in one by one."""

    def __init__(self, reference: Checkpoint) -> None:
        from compress.extras import need

        torch, transformers = need("torch"), need("transformers")
        config = transformers.AutoConfig.from_pretrained(reference.folder, local_files_only=True)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        self.tied = HEAD not in reference.names()
        config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
        self.torch, self.reference = torch, reference
        self.model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        self.own = dict(self.model.named_parameters())
        self.roundings: dict[str, str] = {}
        self.fresh: set[str] = set()

    def parameter(self, name: str) -> str:
        """The model's name of a checkpoint's tensor (folders are saved with and without the model's prefix)."""
        prefix = f"{self.model.base_model_prefix}."
        for candidate in (name, prefix + name, name.removeprefix(prefix)):
            if candidate in self.own:
                return candidate
        raise ArtifactError(f"transformers' {type(self.model).__name__} has no weight {name}", next="check config.json")

    def put(self, stored: Stored) -> None:
        """Set one weight, and how the runtime rounds what it is multiplied with."""
        name = self.parameter(stored.name)
        with self.torch.no_grad():
            self.own[name].copy_(self.torch.from_numpy(np.ascontiguousarray(stored.values)))
        self.fresh.add(name)
        embedding = name == self.parameter_of_embedding()
        if stored.rounding and not embedding:
            self.roundings[name.removesuffix(".weight")] = stored.rounding
        if embedding and HEAD not in self.fresh and self.tied:
            self.put(Stored(HEAD, stored.values, stored.kind, stored.rounding))

    def parameter_of_embedding(self) -> str:
        """Name of the token embedding's weight."""
        wanted = self.model.get_input_embeddings().weight
        return next(name for name, value in self.own.items() if value is wanted)

    @property
    def filled(self) -> bool:
        """Whether every weight was put in."""
        return self.fresh == set(self.own)

    def complete(self) -> None:
        """Raise ArtifactError when a weight was never put in."""
        if missing := sorted(set(self.own) - self.fresh):
            raise ArtifactError(f"nothing gave {missing[0]}", next="check that reference and candidate are one model")

    def logits(self, rows: Sequence[Sequence[int]]) -> Iterator[tuple[int, Floats]]:
        """``(number, float32 [len(row), vocabulary])`` of every row."""
        for batch in self._batches(rows):
            yield from self._run(batch, rows)

    def pairs(self, rows: Sequence[Sequence[int]], *, half_cache: bool) -> Iterator[tuple[int, Floats, Floats]]:
        """``logits``, and the same with the runtime's roundings."""
        for batch in self._batches(rows):
            exact = list(self._run(batch, rows))
            with arithmetic(self.model, self.roundings, half_cache=half_cache):
                for (number, wanted), (_, noisy) in zip(exact, self._run(batch, rows), strict=True):
                    yield number, wanted, noisy

    def _batches(self, rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Numbers of rows of like length whose logits fit into BATCH_BYTES."""
        vocabulary = self.model.get_output_embeddings().weight.shape[0]
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        at = 0
        while at < len(order):
            batch = order[at : at + max(1, BATCH_BYTES // (4 * len(rows[order[at]]) * vocabulary))]
            at += len(batch)
            yield batch

    def _run(self, batch: Sequence[int], rows: Sequence[Sequence[int]]) -> Iterator[tuple[int, Floats]]:
        """Rows are padded behind their end, which a causal model does not see."""
        ids = self.torch.zeros(len(batch), len(rows[batch[0]]), dtype=self.torch.long)
        for line, number in enumerate(batch):
            ids[line, : len(rows[number])] = self.torch.tensor(list(rows[number]))
        with self.torch.inference_mode():
            out = self.model(input_ids=ids, use_cache=False).logits.float().numpy()
        for line, number in enumerate(batch):
            yield number, out[line, : len(rows[number])]


def twin_of(reference: Checkpoint) -> Twin:
    """The reference itself in torch."""
    twin = Twin(reference)
    for name in reference.names():
        twin.put(Stored(name, whole(reference, name), "F32"))
    twin.complete()
    return twin


def divergence(expected: Floats, got: Floats) -> Floats:
    """KL(expected ‖ got) per row in nats, from logits ``[n, V]``."""
    import torch

    p, q = (torch.log_softmax(torch.from_numpy(np.ascontiguousarray(row)), 1) for row in (expected, got))
    found: Floats = (p.exp() * (p - q)).sum(1).clamp_min(0).numpy()
    return found


@dataclass
class Gap:
    """How far two sets of logits are apart."""

    positions: int = 0
    squares: float = 0.0
    """Sum over positions of the mean squared difference."""
    own_squares: float = 0.0
    """The same of the first set's own spread."""
    largest_row: float = 0.0
    """Largest root mean square difference of one position."""
    largest: float = 0.0
    """Largest absolute difference of one logit."""
    kl: float = 0.0
    largest_kl: float = 0.0
    agree: int = 0
    where: tuple[int, int] = (0, 0)
    """Row and position of ``largest_row``."""

    def add(self, number: int, expected: Floats, got: Floats) -> None:
        """Count one row of prompt and reply."""
        import torch

        width = min(expected.shape[1], got.shape[1])
        a, b = (torch.from_numpy(np.ascontiguousarray(logits[:, :width])) for logits in (expected, got))
        a, b = (logits - logits.mean(1, keepdim=True) for logits in (a, b))  # a constant changes no probability
        apart = (a - b).square().mean(1).double().numpy()
        kl = divergence(a.numpy(), b.numpy())
        self.positions += len(a)
        self.squares += float(apart.sum())
        self.own_squares += float(a.square().mean(1).double().sum())
        self.largest = max(self.largest, float((a - b).abs().max()))
        self.kl += float(kl.sum(dtype=np.float64))
        self.largest_kl = max(self.largest_kl, float(kl.max()))
        self.agree += int((a.argmax(1) == b.argmax(1)).sum())
        worst = float(np.sqrt(apart.max()))
        if not worst <= self.largest_row:  # NaN counts as worse
            self.largest_row, self.where = worst, (number, int(apart.argmax()))

    @property
    def rms(self) -> float:
        """Root mean square difference of a logit."""
        return math.sqrt(self.squares / max(self.positions, 1))

    @property
    def own(self) -> float:
        """Root mean square of the first set around its means."""
        return math.sqrt(self.own_squares / max(self.positions, 1))

    def told(self) -> dict[str, float | int]:
        """For parity.json."""
        count = max(self.positions, 1)
        return {
            "positions": self.positions,
            "max_abs": _figure(self.largest),
            "rms": _figure(self.rms),
            "kl_mean": _figure(self.kl / count),
            "kl_max": _figure(self.largest_kl),
            "top1": round(self.agree / count, 5),
        }


def _figure(value: float) -> float:
    """Four significant digits: what is written down must not depend on the last bits of a sum."""
    return float(f"{value:.4g}") if math.isfinite(value) else 1e30
