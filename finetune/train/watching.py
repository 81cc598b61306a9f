"""What a training shows of itself: losses of every step, a part of the data that is only measured, and when to stop."""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compress import launch
from compress.errors import HoldfastError, UsageError
from compress.json_files import write_json
from compress.stage import Job
from finetune.train import sharding, together
from finetune.train.batches import measured, rows_at_once, split
from finetune.train.logs import Logs
from finetune.train.objective import GROUP, Example, Objective
from finetune.train.starting import known

log = logging.getLogger(__name__)
TOLD = ("loss", "learning_rate", "grad_norm")
"""What other programs get of each step."""
HISTORY = "training.json"
"""In the artifact: ``loss`` and ``learning_rate`` of each step, ``validation``: [step, loss, agreement or null, n];
``rules``: rule -> [step, pairs on which the model prefers the reply that keeps it, pairs]."""
MEASURED, BEST = "validation.json", "best.safetensors"
"""In the scratch folder."""


class Diverged(HoldfastError):
    """A loss that is no number, and no better weights to go back to."""


class Watch:
    """Holds examples out, measures their loss every so many steps, keeps the best weights where training may stop.

    ``judge`` is told each measurement (step, loss, agreement) and may end the training by an exception; ``fold``: hold
    this part of so many out and measure it at the end.
    """

    def __init__(
        self,
        job: Job[Any],
        objective: Objective,
        examples: Sequence[Example],
        judge: Callable[[int, float, float | None], None] | None = None,
        fold: tuple[int, int] | None = None,
    ) -> None:
        self.job, self.objective, self.how = job, objective, job.params.validation
        self.judge, self.fold = judge, fold
        groups = [group_of(example) for example in examples]
        if fold is not None:
            held = parts(groups, fold[1], job.seed)[fold[0]]
        else:
            held = part(groups, self.how.share if self.how else 0.0, job.seed)
        self.taught, self.held = (
            [e for e, g in zip(examples, groups, strict=True) if (g in held) is side] for side in (False, True)
        )
        self.measured: list[list[Any]] = []
        self.rules: dict[str, list[list[int]]] = {}
        self.logs = Logs(job.params.log_to, job.scratch)
        self.stopped: str | None = None

    def begin(self, step: int) -> None:
        """Forget what was measured after ``step``, from which training goes on, unless it was ``stopped`` there."""
        place = self.job.scratch / MEASURED
        if place.is_file():
            found = known(place)
            self.measured = [entry for entry in found["measured"] if entry[0] <= step]
            self.rules = {rule: [e for e in entries if e[0] <= step] for rule, entries in found["rules"].items()}
            at, why = found.get("stopped") or (None, None)
            self.stopped = why if at == step else None
        for at, value, agrees, _ in self.measured:
            if self.judge is not None:
                self.judge(at, value, agrees)

    def step(self, trainer: Any, step: int, logged: Mapping[str, float]) -> bool:
        """Whether training should go on after ``step``, of which ``logged`` tells the loss and what else is known."""
        loss = float(logged["loss"])
        if not math.isfinite(loss):
            self._lost(f"the loss of step {step} is {loss}", step)
            return False
        told = {f"train/{name}": float(logged[name]) for name in TOLD if name in logged}
        if self.how is None or (step % self.how.every and step < trainer.state.max_steps):
            self.logs.write(step, told)
            return True
        value, agrees, n, rules = measure(trainer, self.objective, self.held, self.job.params.batch)
        if not math.isfinite(value):
            self._lost(f"the validation loss of step {step} is {value}", step)
            return False
        best = min((entry[1] for entry in self.measured), default=math.inf)
        self.measured.append([step, round(value, 6), agrees, n])
        for rule, found in rules.items():
            self.rules.setdefault(rule, []).append([step, *found])
        told |= {"validation/loss": value} | ({} if agrees is None else {"validation/agreement": agrees})
        self.logs.write(step, told | {f"rules/{rule}": right / count for rule, (right, count) in rules.items()})
        self._keep(step)
        if self.judge is not None:
            self.judge(*self.measured[-1][:3])  # as it is read again after a kill
        if self.how.patience is None:
            return True
        if value < best:
            save_trained(trainer, self.job.scratch / BEST)
            return True
        since = len(self.measured) - 1 - min(range(len(self.measured)), key=lambda i: self.measured[i][1])
        if since >= self.how.patience:
            self.stopped = f"no better validation loss in {since} measurements"
            self._keep(step)
        return self.stopped is None

    def _keep(self, step: int) -> None:
        """Write down what was measured, and that training ends with ``step`` if it does."""
        stopped = [step, self.stopped] if self.stopped else None
        if launch.place().leads:
            found = {"measured": self.measured, "rules": self.rules, "stopped": stopped}
            write_json(self.job.scratch / MEASURED, found)

    def _lost(self, what: str, step: int | None = None) -> None:
        kept = (self.job.scratch / BEST).is_file()
        if not kept:
            self.logs.close("FAILED")
            keep = "set validation: {patience: 3} to keep the best weights"
            if self.how is not None and self.how.patience is not None:
                keep = "validation.every: nothing had been measured that could be kept"
            raise Diverged(f"{what}: training has diverged", next=f"lower rate, or {keep}")
        self.stopped = what
        if step is not None:
            self._keep(step)
        log.warning("%s; the best weights measured so far are kept", self.stopped)

    def end(self, trainer: Any) -> dict[str, Any]:
        """Put the best weights back where they are wanted, write the history; facts."""
        facts: dict[str, Any] = {}
        if self.measured and self.how is not None:
            best = min(self.measured, key=lambda entry: entry[1])
            _, loss, agrees, n = best if self.how.patience else self.measured[-1]
            facts |= {"validation_loss": loss} | ({} if agrees is None else {"validation_agreement": agrees})
            if self.how.patience:
                load_trained(trainer, self.job.scratch / BEST)
                facts["best_step"] = best[0]
        if not _finite(trainer):
            self._lost("weights are no numbers after the last step")
            load_trained(trainer, self.job.scratch / BEST)
        if self.fold is not None:
            loss, agrees, n, _ = measure(trainer, self.objective, self.held, self.job.params.batch)
            facts |= {"validation_loss": round(loss, 6), "validation_n": n}
            facts |= {} if agrees is None else {"validation_agreement": agrees}
        if self.stopped:
            facts["stopped"] = self.stopped
        steps = [entry for entry in trainer.state.log_history if math.isfinite(entry.get("loss", math.nan))]
        history = {
            "loss": [round(float(entry["loss"]), 6) for entry in steps],
            "learning_rate": [float(f"{entry['learning_rate']:.6g}") for entry in steps],
            "validation": self.measured,
        }
        write_json(self.job.out / HISTORY, history | ({"rules": self.rules} if self.rules else {}))
        return facts


def group_of(example: Example) -> Any:
    """What stays on one side of a split: examples that answer the same question. It is taken off the example."""
    named = [row.pop(GROUP, None) for row in example]
    return named[0] or tuple(example[0]["input_ids"])


def part(groups: Sequence[Any], share: float, seed: int) -> set[Any]:
    """The groups that are only measured, of about ``share`` of the examples. Raises UsageError if that leaves nothing
    to measure or to learn."""
    sizes, count = Counter(groups), round(share * len(groups))
    order, held, taken = list(sizes), set[Any](), 0
    random.Random(f"validation {seed}").shuffle(order)
    while taken < count and order:
        held.add(order.pop())
        taken = sum(sizes[group] for group in held)
    if share and not (held and order):
        what = f"validation.share {share:g} of {len(groups)} examples of {len(sizes)} questions"
        raise UsageError(f"{what} leaves nothing to measure or to learn", next="give more rows or another share")
    return held


def parts(groups: Sequence[Any], count: int, seed: int) -> list[set[Any]]:
    """``count`` parts of like size. Raises UsageError for fewer groups than parts."""
    sizes = Counter(groups)
    if len(sizes) < count:
        what = f"{len(groups)} examples ask {len(sizes)} questions, too few for {count} folds"
        raise UsageError(what, next="lower cross_validation.folds or give more rows")
    order = list(sizes)
    random.Random(f"folds {seed}").shuffle(order)
    found = [set[Any]() for _ in range(count)]
    filled = [0] * count
    for group in order:
        least = filled.index(min(filled))
        found[least].add(group)
        filled[least] += sizes[group]
    return found


def measure(
    trainer: Any, objective: Objective, held: Sequence[Example], batch: int
) -> tuple[float, float | None, int, dict[str, tuple[int, int]]]:
    """(mean loss, share of pairs on which the model agrees or None, how many examples, and for each rule: of how many
    pairs whose rejected reply breaks it the model prefers the other one, and their number); no gradient."""
    import torch

    total = count = 0.0
    passes = 0
    objective.agreed = []
    part_of = together.mine(held)
    with measured(trainer) as model:
        for start in range(0, len(part_of), batch):
            rows = [row for example in part_of[start : start + batch] for row in example]
            inputs = objective.prepare(model, trainer._prepare_inputs(trainer.data_collator(rows)))
            count += float(objective.count(inputs))
            for part in split(inputs, rows_at_once(inputs["input_ids"], trainer.at_once, objective.rows)):
                total += float(objective.loss(model, part))
                passes += 1
        sharding.accompany(model, passes)
    sums = [total, count, sum(right for _, right in objective.agreed), len(objective.agreed)]
    for rule in objective.rules:
        of_rule = [right for broken, right in objective.agreed if broken == rule]
        sums += [sum(of_rule), len(of_rule)]
    total, count, agreed, pairs, *each = together.summed(torch.tensor(sums, dtype=torch.float64)).tolist()
    rules = zip(objective.rules, each[0::2], each[1::2], strict=True)
    found = {rule: (int(right), int(n)) for rule, right, n in rules if n}
    return total / count, round(agreed / pairs, 4) if pairs else None, len(held), found


def save_trained(trainer: Any, place: Path) -> None:
    """The weights that learn, float32."""
    from safetensors.torch import save_file

    found = sharding.gathered(_trained(trainer))
    if launch.place().leads:
        partial = place.with_suffix(".tmp")
        save_file({name: weight.contiguous() for name, weight in found.items()}, partial)
        partial.replace(place)
    together.wait()


def load_trained(trainer: Any, place: Path) -> None:
    """Put saved weights back."""
    import torch
    from safetensors.torch import load_file

    saved = load_file(place)
    with torch.no_grad():
        for name, weight in _trained(trainer).items():
            weight.copy_(sharding.own(saved[name], weight))


def _finite(trainer: Any) -> bool:
    """Whether all that learns holds numbers."""
    own = all(bool(sharding.here(weight.detach()).isfinite().all()) for weight in _trained(trainer).values())
    return bool(together.smallest(own))


def _trained(trainer: Any) -> dict[str, Any]:
    return trainer.learnable or {name: w for name, w in trainer.model.named_parameters() if w.requires_grad}
