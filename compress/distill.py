"""Recovery by distillation (Hinton et al. 2015; for pruned LLMs: Muralidharan et al. 2024, "Minitron").

The student learns the teacher's next-token distribution on the assistant's tokens of chat-templated training
rows: loss = T² · KL(teacher ‖ student) at temperature T, all parameters, AdamW, linear warm-up and cosine decay.
Some rows are held out: if training does not bring the student nearer to the teacher on them, it stays as pruned.
Rows of like length share a batch. The state is checkpointed, and a resumed run ends with the same bytes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from compress.errors import DataError
from compress.stage import Params
from compress.windows import load_encoder, read_rows, render_row

if TYPE_CHECKING:
    import torch


class Recover(Params):
    """How a pruned model is recovered."""

    distill_steps: int = Field(default=300, ge=1)
    """Optimizer steps."""
    batch: int = Field(default=16, ge=1)
    """Rows per step."""
    lr: float = Field(default=1e-4, gt=0)
    """Peak learning rate."""
    temperature: float = Field(default=1.0, gt=0)
    """Softens both distributions; 1 compares them as they are used."""
    max_length: int = Field(default=512, ge=16)
    """Longer rows are left out."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Steps between checkpoints; a crash loses at most these."""


class Example(NamedTuple):
    """Token ids of a whole conversation; the positions from ``start`` on belong to the last reply."""

    ids: list[int]
    start: int


def load_examples(folder: Path, path: Path, max_length: int) -> list[Example]:
    """Chat-templated rows; the reply starts where the row without its last message, prompted to reply, ends."""
    encode = load_encoder(folder)
    whole, heads = [], []
    for number, row in read_rows(path):
        messages = row.get("messages")
        if not messages or messages[-1].get("role") != "assistant":
            raise DataError(path, number, "the row does not end with an assistant message", next="fix that row")
        whole.append(render_row(folder, path, number, row))
        heads.append(render_row(folder, path, number, {"messages": messages[:-1]}, generation_prompt=True))
    pairs = zip(encode(whole, False), encode(heads, False), strict=True)
    examples = [Example(ids, len(head)) for ids, head in pairs if len(ids) <= max_length and len(ids) > len(head)]
    if not examples:
        raise DataError(path, None, f"no row fits into {max_length} tokens", next="raise recover.max_length")
    return examples


def plan_batches(lengths: Sequence[int], batch: int, steps: int, seed: int) -> list[list[int]]:
    """Row indices of each step: rows of like length together, buckets in random order, epoch after epoch."""
    import random

    rng = random.Random(seed)
    plan: list[list[int]] = []
    while len(plan) < steps:
        rows = list(range(len(lengths)))
        rng.shuffle(rows)
        rows.sort(key=lambda row: lengths[row])  # stable: equal lengths stay shuffled
        buckets = [rows[i : i + batch] for i in range(0, len(rows), batch)]
        rng.shuffle(buckets)
        plan += buckets
    return plan[:steps]


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 5 % of the steps, cosine to a tenth of the peak."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * (0.55 + 0.45 * math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean over rows of T² · KL(teacher ‖ student); logits float ``[positions, vocabulary]``."""
    from torch.nn import functional

    p = functional.log_softmax(teacher.float() / temperature, dim=-1)
    q = functional.log_softmax(student.float() / temperature, dim=-1)
    return functional.kl_div(q, p, log_target=True, reduction="batchmean") * temperature**2


class Batch(NamedTuple):
    """``ids`` int64 ``[rows, positions]`` (right-padded; causal attention needs no mask), ``targets``: the flat
    positions whose next token belongs to a reply."""

    ids: torch.Tensor
    targets: torch.Tensor


def collate(examples: Sequence[Example]) -> Batch:
    """Pad on the right: what follows a position cannot influence it."""
    import torch

    width = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.int64)
    targets: list[int] = []
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        targets += range(row * width + max(example.start - 1, 0), row * width + len(example.ids) - 1)
    return Batch(ids, torch.tensor(targets))


def reply_logits(model: Any, batch: Batch) -> torch.Tensor:
    """Logits ``[targets, vocabulary]`` at the reply's positions only (the head is most of a small model's work)."""
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
    return model.lm_head(hidden.flatten(0, 1)[batch.targets])


def distill_folder(
    *,
    student: Path,
    teacher: Path,
    rows: Path,
    recover: Recover,
    scratch: Path,
    seed: int,
    progress: Callable[..., None],
) -> dict[str, Any]:
    """Train the model in folder ``student`` towards ``teacher`` and write it back there; facts of the training."""
    import torch

    from compress.extras import need

    auto = need("transformers").AutoModelForCausalLM
    examples = load_examples(teacher, rows, recover.max_length)
    held_out, examples = split_held_out(examples)
    plan = plan_batches([len(e.ids) for e in examples], recover.batch, recover.distill_steps, seed)
    guide = auto.from_pretrained(teacher, dtype=torch.float32, local_files_only=True).eval().requires_grad_(False)
    pupil = auto.from_pretrained(student, dtype=torch.float32, local_files_only=True).train()
    torch.manual_seed(seed)
    run = _Distillation(guide, pupil, recover, scratch / "distill.pt")
    before = run.divergence(held_out)
    steps = run.train([[examples[i] for i in rows_of_step] for rows_of_step in plan], progress)
    after = run.divergence(held_out)
    if after < before:
        _write_back(pupil, student)
    return {
        "examples": len(examples),
        "held_out": len(held_out),
        "steps": len(steps),
        "kl_before": round(before, 6),
        "kl_after": round(after, 6),
        "kept": "recovered" if after < before else "as pruned",
    }


def split_held_out(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Evenly spaced rows, a tenth but at most 64, and the rest; a single row serves as both."""
    every = max(10, len(examples) // 64)
    held_out = list(examples[::every])
    rest = [example for i, example in enumerate(examples) if i % every]
    return held_out, rest or held_out


class _Distillation:
    """Models, optimizer and the checkpoint of one recovery."""

    def __init__(self, guide: Any, pupil: Any, recover: Recover, checkpoint: Path) -> None:
        import torch

        self.guide, self.pupil, self.recover, self.checkpoint = guide, pupil, recover, checkpoint
        self.optimizer = torch.optim.AdamW(pupil.parameters(), lr=recover.lr, betas=(0.9, 0.95), weight_decay=0.0)
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

    def divergence(self, examples: Sequence[Example]) -> float:
        """Mean KL(teacher ‖ student) per reply token at temperature 1."""
        import torch

        total = tokens = 0.0
        with torch.inference_mode():
            for start in range(0, len(examples), self.recover.batch):
                batch = collate(examples[start : start + self.recover.batch])
                pair = reply_logits(self.pupil, batch), reply_logits(self.guide, batch)
                total += float(distillation_loss(*pair, 1.0)) * len(batch.targets)
                tokens += len(batch.targets)
        return total / tokens

    def _step(self, step: int, steps: int, batch: Batch) -> float:
        import torch

        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, self.recover.lr)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                wanted = reply_logits(self.guide, batch)
            given = reply_logits(self.pupil, batch)
        loss = distillation_loss(given, wanted, self.recover.temperature)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.pupil.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def _save(self) -> None:
        import torch

        temporary = self.checkpoint.with_suffix(".tmp")
        state = {"model": self.pupil.state_dict(), "optimizer": self.optimizer.state_dict(), "losses": self.losses}
        with open(temporary, "wb") as handle:
            torch.save(state, handle)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, self.checkpoint)

    def _resume(self) -> None:
        import torch

        if self.checkpoint.is_file():
            state = torch.load(self.checkpoint, weights_only=True)
            self.pupil.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.losses = list(state["losses"])


def _write_back(model: Any, folder: Path) -> None:
    """Overwrite the folder's tensors with the trained ones, names and dtypes as they were stored."""
    from compress.weights import Weights, write_model

    weights = Weights(folder)
    specs = [weights.spec(name) for name in weights.names()]
    trained = model.state_dict()
    stored = {spec.name: weights.load(spec.name).dtype for spec in specs}
    write_model(folder, specs, lambda name: trained[name].to(stored[name]).contiguous())
