"""The float model and its quantized copy side by side: what the calibration text is to the one and to the other.

A linear of the copy reads inputs x̂ that carry the errors of everything quantized before it. Its Hessian is that of
x̂, and the drift E[x̂ (x − x̂)ᵀ] tells the solver how to aim at the float model's outputs all the same.
The states of both streams lie in files between the steps of a block, so memory holds one block (twice) and a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from compress.calibrate.hessian import DriftSum, HessianSum
from compress.calibrate.streaming import States, Stream
from compress.model.blocks import ModelFolder
from compress.model.compute import device, dtype
from compress.model.decoder import Block

if TYPE_CHECKING:
    import torch

    Both = tuple[torch.Tensor, torch.Tensor]
    """The same batch in the float model and in the quantized one."""


class Moments(NamedTuple):
    """Second moments of the inputs of one group of linears, float32 ``[in, in]`` each."""

    hessian: torch.Tensor
    drift: torch.Tensor | None
    tokens: int


if TYPE_CHECKING:
    Quantize = Callable[[Sequence[str], Moments], dict[str, torch.Tensor]]
    """Full names of linears that read one input -> their new weights, float32 ``[out, in]``."""


class TwoStreams(Stream):
    """See above. ``quantize`` is asked group by group, in the order of computation."""

    def __init__(self, model: ModelFolder, windows: torch.Tensor, scratch: Path) -> None:
        super().__init__(model, windows, scratch)
        self.batch = max(1, self.batch // 4)  # two models' activations, and their differences

    def begin(self) -> None:
        """Write the input of the first block."""
        for name in ("wanted", "actual"):
            self.hidden(0, name).write(self.embedded())
        self.model.forget()

    def block(self, block: int, quantize: Quantize) -> None:
        """Quantize a block and write the next one's input."""
        layout, tensors = self.model.layout, self.tensors(block)
        changed = dict(tensors)
        blocks = tuple(Block(self.model, block, t, self.rope) for t in (tensors, changed))
        width, hidden = self.model.shape.heads * self.model.shape.head_dim, self.model.shape.hidden
        x, after = self._pair(f"-{block:03d}", hidden), self._pair("-after-attention", hidden)
        mixed = self._pair("-mixed", width, dtype())

        def inside(b: Block, s: torch.Tensor) -> torch.Tensor:
            return b.ffn(b.ffn_input(s))

        def solve(linears: Sequence[str], inputs: Iterable[Both]) -> None:
            names = {self.model.name(block, linear): linear for linear in linears}
            weights = quantize(list(names), moments(inputs, next(iter(names))))
            for name, weight in weights.items():
                changed[f"{names[name]}.weight"] = weight.to(device(), dtype())

        solve(layout.qkv, (_each(blocks, Block.attention_input, s) for s in x.read(self.spans())))
        mixing = (_each(blocks, lambda b, s: b.mix(b.attention_input(s)), s) for s in x.read(self.spans()))
        solve([layout.out], mixed.record(mixing, over=True))
        added = (
            _each(blocks, Block.add_attention, s, m)
            for s, m in zip(x.read(self.spans()), mixed.read(self.spans()), strict=True)
        )
        solve(layout.ffn, (_each(blocks, Block.ffn_input, s) for s in after.record(added, over=True)))
        solve([layout.down], (_each(blocks, inside, s) for s in after.read(self.spans())))
        outputs = (_each(blocks, lambda b, s: b.add_ffn(s, inside(b, s)), s) for s in after.read(self.spans()))
        for _ in self._pair(f"-{block + 1:03d}", hidden).record(outputs):
            pass

    def head(self, quantize: Quantize) -> None:
        """Quantize the output head behind the last block."""
        final = (
            (self.model.final_norm(a), self.model.final_norm(b))
            for a, b in self._pair(f"-{self.model.blocks:03d}", self.model.shape.hidden).read(self.spans())
        )
        quantize([self.model.head_name], moments(final, self.model.head_name))

    def forget(self, block: int) -> None:
        """Delete the states before ``block``."""
        for name in ("wanted", "actual"):
            self.hidden(block, name).path.unlink(missing_ok=True)

    def _pair(self, name: str, width: int, kind: torch.dtype | None = None) -> _Pair:
        return _Pair(self.states(f"wanted{name}", width, kind), self.states(f"actual{name}", width, kind))


class _Pair(NamedTuple):
    """A file for each stream."""

    wanted: States
    actual: States

    def read(self, spans: Iterable[tuple[int, int]]) -> Iterator[Both]:
        for start, stop in spans:
            yield self.wanted.read(start, stop).to(device()), self.actual.read(start, stop).to(device())

    def record(self, pairs: Iterable[Both], *, over: bool = False) -> Iterator[Both]:
        """Write down batches and pass them on, see ``States.record``."""
        wanted, actual = tee(pairs)
        yield from zip(
            self.wanted.record((w for w, _ in wanted), over=over),
            self.actual.record((a for _, a in actual), over=over),
            strict=True,
        )


def _each(blocks: Sequence[Block], step: Callable[..., torch.Tensor], *pairs: Both) -> Both:
    """One step of the float block and of the quantized one, each on its own states."""
    wanted, actual = (step(block, *states) for block, states in zip(blocks, zip(*pairs, strict=True), strict=True))
    return wanted, actual


def moments(inputs: Iterable[Both], name: str) -> Moments:
    """Hessian and drift over all batches; ArtifactError naming the linear ``name`` if they are not finite."""
    hessian: HessianSum | None = None
    drift: DriftSum | None = None
    for wanted, actual in inputs:
        if hessian is None or drift is None:
            width = actual.shape[-1]
            hessian, drift = HessianSum(width, actual.device), DriftSum(width, actual.device)
        hessian.add(actual)
        drift.add(actual, wanted)
    assert hessian is not None
    assert drift is not None
    return Moments(hessian.mean(name), drift.mean(name), hessian.tokens)
