"""The streaming pass itself: hidden states on disk between blocks, one block's weights and Hessians in memory.

State in the scratch folder: ``hidden-<k>.bin`` (input of block k, float32) and the files of finished blocks.
``hidden-<k+1>`` is complete before block k's file gets its name, so a run that was killed goes on with the
first block that has no file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from compress.blocks import ModelFolder
from compress.decoder import rms_norm
from compress.errors import ArtifactError
from compress.hessian import HessianSum, fast_products
from compress.weights import append, read_into, write_tensors

if TYPE_CHECKING:
    import torch

HEAD_FILE = "head.safetensors"
BATCH_BYTES = 6 << 20
"""Upper size of the widest activation of one batch."""


def block_file(block: int) -> str:
    """File name of a block's Hessians."""
    return f"block-{block:03d}.safetensors"


class HiddenStates:
    """float32 ``[windows, positions, hidden]`` in a file, read and written by ranges of windows."""

    def __init__(self, path: Path, positions: int, hidden: int) -> None:
        self.path = path
        self.shape = (positions, hidden)

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Windows ``start:stop``."""
        import torch

        states = torch.empty(stop - start, *self.shape)
        with open(self.path, "rb") as handle:
            handle.seek(start * states[0].nbytes)
            if not read_into(handle, states):
                raise ArtifactError(f"{self.path} is cut short", next="delete that folder and run again")
        return states

    def write(self, batches: Iterable[torch.Tensor]) -> None:
        """Write all windows in order; the file gets its name once it is complete."""
        temporary = self.path.with_suffix(".tmp")
        with open(temporary, "wb") as handle:
            for batch in batches:
                append(handle, batch)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, self.path)


class StreamingPass:
    """One pass of ``windows`` (int64 ``[windows, positions]``) through ``model``."""

    def __init__(self, model: ModelFolder, windows: torch.Tensor, scratch: Path, progress: Callable[..., None]) -> None:
        self.model, self.windows, self.scratch, self.progress = model, windows, scratch, progress
        self.positions = windows.shape[1]
        self.hidden = int(model.config["hidden_size"])
        widest = max(self.hidden, int(model.config["intermediate_size"]))
        self.batch = max(1, BATCH_BYTES // (4 * self.positions * widest))
        self.rope = model.rope(self.positions)

    def run(self) -> None:
        """Leave one file per block and one for the head in the scratch folder."""
        import torch

        with torch.inference_mode(), fast_products():
            first = self._finished()
            if first == 0:
                self._embed()
            for block in range(first, self.model.blocks):
                self.progress(block, self.model.blocks, f"calibrating block {block}")
                self._block(block)
            if not (self.scratch / HEAD_FILE).is_file():
                self._head()
        self.progress(self.model.blocks, self.model.blocks, "calibrated")

    def _finished(self) -> int:
        done = 0
        while done < self.model.blocks and (self.scratch / block_file(done)).is_file():
            done += 1
        return done

    def _states(self, block: int) -> HiddenStates:
        return HiddenStates(self.scratch / f"hidden-{block:03d}.bin", self.positions, self.hidden)

    def _batches(self, block: int) -> Iterator[torch.Tensor]:
        states = self._states(block)
        count = self.windows.shape[0]
        for start in range(0, count, self.batch):
            yield states.read(start, min(start + self.batch, count))

    def _embed(self) -> None:
        table = self.model.weights.load(f"{self.model.layout.embed}.weight")
        self._states(0).write(table[part].float() for part in self.windows.split(self.batch))

    def _block(self, block: int) -> None:
        tensors = self.model.block_tensors(block)
        sums: dict[str, HessianSum] = {}

        def see(linear: str, x: torch.Tensor) -> None:
            sums.setdefault(linear, HessianSum(x.shape[-1])).add(x)

        cosines: list[float] = []

        def outputs() -> Iterator[torch.Tensor]:
            for x in self._batches(block):
                y = self.model.layout.run(self.model, block, tensors, x, self.rope, see)
                cosines.append(float(_cosine(x, y).double().sum()))
                yield y

        self._states(block + 1).write(outputs())
        self._save(block_file(block), sums, sum(cosines) / self.windows.numel(), self.model.name(block, ""))
        self._states(block).path.unlink(missing_ok=True)

    def _head(self) -> None:
        weight = self.model.weights.load_finite(f"{self.model.layout.final_norm}.weight")
        total = HessianSum(self.hidden)
        for x in self._batches(self.model.blocks):
            total.add(rms_norm(x, weight, float(self.model.config["rms_norm_eps"])))
        self._save(HEAD_FILE, {self.model.layout.head: total}, None, "")

    def _save(self, file: str, sums: dict[str, HessianSum], similarity: float | None, prefix: str) -> None:
        import torch

        tensors: dict[str, torch.Tensor] = {}
        for linear, total in sums.items():
            hessian = total.mean()
            if not bool(hessian.diagonal().isfinite().all()):
                raise ArtifactError(
                    f"the inputs of {prefix}{linear} become NaN or Inf on the calibration text",
                    next="check the model in float32; its activations overflow",
                )
            tensors[f"hessian.{linear}"] = hessian
            tensors[f"diagonal.{linear}"] = hessian.diagonal().clone()
        if similarity is not None:
            tensors["similarity"] = torch.tensor(similarity, dtype=torch.float64)
        write_tensors(self.scratch / file, tensors)


def _cosine(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.nn.functional.cosine_similarity(x, y, dim=-1)
