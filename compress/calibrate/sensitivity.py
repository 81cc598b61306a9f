"""How much an error in each linear's output costs in KL divergence, measured by one backward pass in a block's memory.

With p the model's own distribution and g the gradient of −log p(label) for labels drawn from p, an error dy of a
linear's output costs KL(p ‖ p̂) ≈ ½ E[(g·dy)²]: the Fisher information is the KL's curvature, but only with labels from
the model instead of the text (Kunstner et al., "Limitations of the Empirical Fisher Approximation", NeurIPS 2019).
Inputs count as independent of gradients, as in K-FAC (Martens & Grosse, "Optimizing Neural Networks with
Kronecker-factored Approximate Curvature", ICML 2015), positions as independent of each other, as in K-FAC-expand
(Eschenhagen et al., NeurIPS 2023), and so do outputs. An error D of a weight then costs ½ Σ_o γ_o (D H Dᵀ)_oo per
token, with γ_o = E[g_o²] and H = E[x xᵀ]. Weighting the errors that a choice of bits really makes by Fisher
information follows FGMP (Hooper et al. 2025).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from compress.calibrate.streaming import States
from compress.errors import ArtifactError
from compress.model.blocks import ModelFolder
from compress.model.decoder import run_block

if TYPE_CHECKING:
    import torch

    Take = Callable[[str, torch.Tensor], None]

ACTIVATION_BYTES = 8 << 20
"""Upper size of a batch's widest activation in float32."""
LOGIT_BYTES = 32 << 20
"""Upper size of a batch's logits."""


def measure(
    model: ModelFolder,
    windows: torch.Tensor,
    scratch: Path,
    seed: int,
    progress: Callable[..., None],
    dtype: torch.dtype,
) -> dict[str, torch.Tensor]:
    """γ of every block linear by its full name, float32 ``[out]``: mean over tokens of its output's squared gradient.

    The loss is Σ −log p(label) in nats over all positions of a window, with one label per position drawn from the
    model's own distribution (``seed``). ``windows`` int64 ``[windows, positions]``; ``dtype``: float32 or bfloat16, in
    which the linears are computed and the states kept. ``scratch`` takes (blocks + 2) · tokens · hidden numbers and is
    empty again at the end. ArtifactError names a linear whose gradients are NaN or Inf.
    """
    import torch

    with torch.inference_mode(False):
        return _Backward(model, windows, scratch, dtype, progress).run(seed)


def predicted_kl(D: torch.Tensor, H: torch.Tensor, gamma: torch.Tensor) -> float:
    """½ Σ_o γ_o (D H Dᵀ)_oo: nats of KL(p ‖ p̂) per token that the weight error D = Ŵ − W is expected to cost.

    D float32 ``[out, in]``, H float32 ``[in, in]`` the mean of x xᵀ over the linear's inputs, ``gamma`` float32
    ``[out]``.
    """
    errors = ((D @ H) * D).sum(1).double()
    return float(errors @ gamma.double()) / 2


def draw_labels(p: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Labels int64 ``[…]`` of the distributions ``p`` float32 ``[…, vocab]``, by inversion at ``u`` ``[…]`` in [0, 1).

    One uniform number per label, whatever batch it is drawn in.
    """
    import torch

    cumulative = p.cumsum(-1)
    threshold = u[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[..., 0].clamp_max(p.shape[-1] - 1)


class _Backward:
    """One pass forward and one back, block by block."""

    def __init__(
        self,
        model: ModelFolder,
        windows: torch.Tensor,
        scratch: Path,
        dtype: torch.dtype,
        progress: Callable[..., None],
    ) -> None:
        import torch

        self.model, self.windows, self.dtype, self.progress = model, windows, dtype, progress
        shape, positions = model.shape, windows.shape[1]
        self.rope = model.rope(positions)
        self.batch = max(1, ACTIVATION_BYTES // (4 * positions * max(shape.hidden, shape.ffn)))
        self.head_batch = max(1, LOGIT_BYTES // (4 * positions * shape.vocab))

        def states(name: str, kind: torch.dtype) -> States:
            return States(scratch / f"{name}.bin", positions, shape.hidden, kind)

        self.states = [states(f"states-{block:03d}", dtype) for block in range(model.blocks + 1)]
        self.gradients = states("gradients", torch.float32)

    def run(self, seed: int) -> dict[str, torch.Tensor]:
        import torch

        blocks = self.model.blocks
        gamma: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            self._embed()
            for block in range(blocks):
                self.progress(block, 2 * blocks + 1, f"sensitivity: block {block} forward")
                self._forward(block)
        with torch.enable_grad():
            self.progress(blocks, 2 * blocks + 1, "sensitivity: head")
            self._head(seed)
            for block in reversed(range(blocks)):
                self.progress(2 * blocks - block, 2 * blocks + 1, f"sensitivity: block {block} backward")
                gamma |= self._back(block)
        self.gradients.path.unlink()
        self.progress(2 * blocks + 1, 2 * blocks + 1, "sensitivity measured")
        return {name: gamma[name] for name in self.model.linears()}

    def _spans(self, size: int) -> Iterator[tuple[int, int]]:
        count = self.windows.shape[0]
        return ((start, min(start + size, count)) for start in range(0, count, size))

    def _block(self, block: int, tensors: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return run_block(self.model, block, tensors, x, self.rope)

    def _embed(self) -> None:
        for start, stop in self._spans(self.batch):
            self.states[0].put(start, self.model.embed(self.windows[start:stop]))
        self.model.forget()

    def _forward(self, block: int) -> None:
        tensors = self.model.block_tensors(block, self.dtype)
        for start, stop in self._spans(self.batch):
            x = self.states[block].read(start, stop).float()
            self.states[block + 1].put(start, self._block(block, tensors, x))

    def _head(self, seed: int) -> None:
        """Gradient of the last state; that of the logits is p − onehot(label)."""
        import torch

        u = torch.rand(self.windows.shape, generator=torch.Generator().manual_seed(seed))
        last = self.states[self.model.blocks]
        for start, stop in self._spans(self.head_batch):
            x = last.read(start, stop).float().requires_grad_()
            logits = self.model.logits(self.model.final_norm(x).to(self.dtype))
            p = logits.detach().softmax(-1)
            labels = draw_labels(p, u[start:stop])[..., None]
            (g,) = torch.autograd.grad(logits, x, p.scatter_add_(-1, labels, torch.full(labels.shape, -1.0)))
            self.gradients.put(start, g)
        last.path.unlink()
        self.model.forget()

    def _back(self, block: int) -> dict[str, torch.Tensor]:
        """γ of the block's linears; ``gradients`` become those of the block's input."""
        import torch

        tensors = self.model.block_tensors(block, self.dtype)
        names = {linear: tensors[f"{linear}.weight"] for linear in self.model.layout.linears()}
        sums = {linear: torch.zeros(len(W)) for linear, W in names.items()}

        def take(linear: str, g: torch.Tensor) -> None:
            sums[linear] += g.float().square().sum((0, 1))

        for start, stop in self._spans(self.batch):
            x = self.states[block].read(start, stop).float().requires_grad_()
            with output_gradients(names, take):
                y = self._block(block, tensors, x)
            (g,) = torch.autograd.grad(y, x, self.gradients.read(start, stop))
            self.gradients.put(start, g)
        self.states[block].path.unlink()
        return {self.model.name(block, linear): self._mean(block, linear, total) for linear, total in sums.items()}

    def _mean(self, block: int, linear: str, total: torch.Tensor) -> torch.Tensor:
        if not math.isfinite(float(total.sum())):
            raise ArtifactError(
                f"the gradients of {self.model.name(block, linear)} become NaN or Inf on the calibration text",
                next="check the model in float32; its activations overflow",
            )
        return total / self.windows.numel()


@contextmanager
def output_gradients(weights: Mapping[str, torch.Tensor], take: Take) -> Iterator[None]:
    """``take(name, g)`` gets, in the backward pass, the gradient ``[…, out]`` of what each of ``weights`` ``[out, in]``
    gives in ``torch.nn.functional.linear`` while the context is open."""
    from functools import partial

    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    names = {id(W): name for name, W in weights.items()}

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if func is functional.linear and id(args[1]) in names:
                out.register_hook(partial(take, names[id(args[1])]))
            return out

    with Watch():
        yield
