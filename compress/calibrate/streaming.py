"""A model as a stream: hidden states in files between blocks, one block's weights and Hessians in memory.

The calibration pass keeps in its scratch folder ``hidden-<k>.bin`` (input of block k, float32) and the files of
finished blocks. ``hidden-<k+1>`` is complete before block k's file gets its name, so a run that was killed goes on
with the first block that has no file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from compress.calibrate.hessian import HessianSum
from compress.errors import ArtifactError
from compress.memory import trim
from compress.model.blocks import ModelFolder
from compress.model.compute import device, dtype, fast_products
from compress.model.decoder import run_block
from compress.model.weights import append, read_into, write_tensors

if TYPE_CHECKING:
    import torch

HEAD_FILE = "head.safetensors"
BATCH_BYTES = 12 << 20
"""Upper size of the widest activation of one batch in float32; on a GPU a hundred times as much."""


def block_file(block: int) -> str:
    """File name of a block's results."""
    return f"block-{block:03d}.safetensors"


def finished_blocks(scratch: Path, blocks: int) -> int:
    """Leading blocks whose file is there; none if the machine was restarted: scratch is not fsynced."""
    boot = scratch / "boot"
    if boot.is_file() and boot.read_text() != _boot_id():
        for file in scratch.glob("block-*"):
            file.unlink()
    boot.write_text(_boot_id())
    return next((k for k in range(blocks) if not (scratch / block_file(k)).is_file()), blocks)


def _boot_id() -> str:
    """Differs after a restart of the machine."""
    linux = Path("/proc/sys/kernel/random/boot_id")
    return linux.read_text() if linux.is_file() else str(round(psutil.boot_time(), -1))


class States:
    """Activations ``[windows, positions, width]`` in a file, read and written by ranges of windows.

    Plain reads and writes: the pages of a memory map would count as the process's own memory.
    """

    def __init__(self, path: Path, positions: int, width: int, kind: torch.dtype | None = None) -> None:
        import torch

        self.path, self.shape, self.kind = path, (positions, width), kind or torch.float32

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Windows ``start:stop``, in main memory."""
        import torch

        states = torch.empty(stop - start, *self.shape, dtype=self.kind)
        with open(self.path, "rb") as handle:
            handle.seek(start * states[0].nbytes)
            if not read_into(handle, states):
                raise ArtifactError(f"{self.path} is cut short", next="delete that folder and run again")
        return states

    def put(self, start: int, states: torch.Tensor) -> None:
        """Write windows from ``start`` on, in place."""
        states = states.detach().to("cpu", self.kind)
        with open(self.path, "r+b" if self.path.exists() else "wb") as handle:
            handle.seek(start * states[0].nbytes)
            append(handle, states)

    def write(self, batches: Iterable[torch.Tensor]) -> None:
        """Write all windows in order; the file gets its name once it is complete."""
        for _ in self.record(batches):
            pass

    def record(self, batches: Iterable[torch.Tensor], *, over: bool = False) -> Iterator[torch.Tensor]:
        """Write down batches and pass them on; complete when the iterator is exhausted.

        ``over``: overwrite the file in place (its pages stay), for states that no resumed run reads.
        """
        target = self.path if over else self.path.with_suffix(".tmp")
        with open(target, "r+b" if over and target.exists() else "wb") as handle:
            for batch in batches:
                append(handle, batch.cpu())
                yield batch
        if not over:
            os.replace(target, self.path)


class Stream:
    """``windows`` (int64 ``[windows, positions]``) on their way through ``model``, in batches."""

    def __init__(self, model: ModelFolder, windows: torch.Tensor, scratch: Path) -> None:
        self.model, self.windows, self.scratch = model, windows, scratch
        self.positions = windows.shape[1]
        self.rope = model.rope(self.positions)
        widest = 4 * self.positions * max(model.shape.hidden, model.shape.ffn)
        self.batch = max(1, BATCH_BYTES * (100 if device().type == "cuda" else 1) // widest)

    def states(self, name: str, width: int, kind: torch.dtype | None = None) -> States:
        """A file of activations in the scratch folder."""
        return States(self.scratch / f"{name}.bin", self.positions, width, kind)

    def hidden(self, block: int, prefix: str = "hidden") -> States:
        """The residual stream before ``block``."""
        return self.states(f"{prefix}-{block:03d}", self.model.shape.hidden)

    def spans(self) -> Iterator[tuple[int, int]]:
        """Ranges of windows that make a batch."""
        count = self.windows.shape[0]
        return ((start, min(start + self.batch, count)) for start in range(0, count, self.batch))

    def embedded(self) -> Iterator[torch.Tensor]:
        """Batches of the first block's input."""
        for start, stop in self.spans():
            yield self.model.embed(self.windows[start:stop].to(device()))

    def tensors(self, block: int) -> dict[str, torch.Tensor]:
        """A block's tensors in the compute dtype, on the device."""
        return {name: t.to(device()) for name, t in self.model.block_tensors(block, dtype()).items()}


class StreamingPass(Stream):
    """One pass that leaves a file of Hessians per block and one for the head."""

    def __init__(self, model: ModelFolder, windows: torch.Tensor, scratch: Path, progress: Callable[..., None]) -> None:
        super().__init__(model, windows, scratch)
        self.progress = progress

    def run(self) -> None:
        """Go through all blocks that have no file yet."""
        import torch

        blocks = self.model.blocks
        with torch.inference_mode(), fast_products():
            first = finished_blocks(self.scratch, blocks)
            if first == 0:
                self.hidden(0).write(self.embedded())
                self.model.forget()
            for block in range(first, blocks):
                self.progress(block, blocks, f"calibrating block {block}")
                self._block(block)
            if not (self.scratch / HEAD_FILE).is_file():
                self._head()
        self.progress(blocks, blocks, "calibrated")

    def _block(self, block: int) -> None:
        import torch

        tensors = self.tensors(block)
        sums: dict[str, HessianSum] = {}

        def see(linear: str, x: torch.Tensor) -> None:
            if linear not in sums:
                sums[linear] = HessianSum(x.shape[-1], x.device)
            sums[linear].add(x)

        cosines = torch.zeros((), dtype=torch.float64, device=device())

        def outputs() -> Iterator[torch.Tensor]:
            for start, stop in self.spans():
                x = self.hidden(block).read(start, stop).to(device())
                y = run_block(self.model, block, tensors, x, self.rope, see)
                cosines.add_(torch.nn.functional.cosine_similarity(x, y, dim=-1).double().sum())
                yield y

        self.hidden(block + 1).write(outputs())
        similarity = {"similarity": (cosines / self.windows.numel()).cpu()}
        self._save(block_file(block), sums, similarity, self.model.name(block, ""))
        self.hidden(block).path.unlink(missing_ok=True)
        trim()

    def _head(self) -> None:
        total = HessianSum(self.model.shape.hidden, device())
        for start, stop in self.spans():
            total.add(self.model.final_norm(self.hidden(self.model.blocks).read(start, stop).to(device())))
        self._save(HEAD_FILE, {self.model.head_name: total}, {}, "")

    def _save(self, file: str, sums: dict[str, HessianSum], tensors: dict[str, torch.Tensor], prefix: str) -> None:
        for linear in list(sums):
            hessian = sums.pop(linear).mean(prefix + linear).cpu()
            tensors[f"hessian.{linear}"] = hessian
            tensors[f"diagonal.{linear}"] = hessian.diagonal().clone()
        write_tensors(self.scratch / file, tensors, durable=False)
