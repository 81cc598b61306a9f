"""The optimizer's loop with its checkpoint: a resumed run ends with the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.memory import trim
from compress.model.head_loss import distillation_loss, label_loss
from compress.model.weights import write_state
from compress.recover.losses import hidden_loss, learning_rate
from compress.recover.models import say
from compress.recover.params import AT_ONCE, Recover
from compress.recover.rows import Batch, Example, collate

if TYPE_CHECKING:
    import torch


class Training:
    """Models, optimizer and checkpoint of one recovery. ``guide`` may be None where the loss needs no teacher."""

    def __init__(self, guide: Any, pupil: Any, recover: Recover, checkpoint: Path, blocks: Sequence[int]) -> None:
        import torch

        self.guide, self.pupil, self.recover, self.checkpoint = guide, pupil, recover, checkpoint
        self.guide_blocks: Sequence[int] = blocks if recover.hidden else ()
        self.trained = {name: p for name, p in pupil.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(self.trained.values(), lr=recover.lr, betas=(0.9, 0.95), weight_decay=0.0)
        self.losses: list[float] = []

    def train(self, batches: Sequence[Sequence[Example]], progress: Callable[..., None]) -> list[float]:
        """Run the steps that are not done yet; the loss of every step."""
        self._resume()
        for step in range(len(self.losses), len(batches)):
            self.losses.append(self._step(step, len(batches), collate(batches[step])))
            progress(step + 1, len(batches), f"recovering, loss {self.losses[-1]:.4f}")
            if (step + 1) % self.recover.checkpoint_every == 0:
                self._save()
        return self.losses

    def held_out(self, examples: Sequence[Example]) -> float:
        """Mean per target in nats: KL(teacher ‖ student) at temperature 1, or the text's cross-entropy."""
        import torch

        total = tokens = 0.0
        with torch.inference_mode():
            for start in range(0, len(examples), self.recover.batch):
                for part in collate(examples[start : start + self.recover.batch]).parts(AT_ONCE):
                    total += float(self._loss(part, 1.0, ())) * len(part.targets)
                    tokens += len(part.targets)
        trim()
        return total / tokens

    def _loss(self, batch: Batch, temperature: float, blocks: Sequence[int]) -> torch.Tensor:
        """Loss over the targets; ``blocks`` of the teacher are what the student's own are compared with."""
        import torch

        quick = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
        given = say(self.pupil, batch, range(len(blocks)))
        if self.recover.loss == "text":
            loss = label_loss(given.hidden.to(quick), given.head, batch.labels(), given.cap) / len(batch.targets)
            if not blocks:
                return loss
        with torch.no_grad():
            wanted = say(self.guide, batch, blocks)
        if self.recover.loss == "distill":
            pairs = (given.hidden.to(quick), given.head, wanted.hidden.to(quick), wanted.head)
            loss = distillation_loss(*pairs, temperature, given.cap) / len(batch.targets)
        return loss + self.recover.hidden * hidden_loss(given.blocks, wanted.blocks) if blocks else loss

    def _step(self, step: int, steps: int, batch: Batch) -> float:
        import torch

        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, self.recover.lr)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for part in batch.parts(AT_ONCE):
            with torch.autocast("cpu", torch.bfloat16):
                loss = self._loss(part, self.recover.temperature, self.guide_blocks)
            loss = loss * (len(part.targets) / len(batch.targets))
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        self.optimizer.step()
        if step % 10 == 0:
            trim()  # batches of other lengths leave holes in the heap
        return total

    def _save(self) -> None:
        weights = {name: p.detach() for name, p in self.trained.items()}
        state = {"model": weights, "optimizer": self.optimizer.state_dict(), "losses": self.losses}
        write_state(self.checkpoint, state)

    def _resume(self) -> None:
        import torch

        if self.checkpoint.is_file():
            state = torch.load(self.checkpoint, weights_only=True)
            with torch.no_grad():
                for name, parameter in self.trained.items():
                    parameter.copy_(state["model"][name])
            self.optimizer.load_state_dict(state["optimizer"])
            self.losses = list(state["losses"])
