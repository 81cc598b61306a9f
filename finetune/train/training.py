"""The training run inside every method: trl's SFTTrainer on tokenised conversations, with the objective's loss."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import launch
from compress.extras import LOCAL, need
from compress.model.families import LAYOUTS
from compress.model.tensors import held
from compress.stage import Job
from finetune.train import adapters, batches, freezing, gpu, hooks, merge, sharding, starting, together
from finetune.train.logs import Logs
from finetune.train.objective import Example, Objective
from finetune.train.watching import Watch

if TYPE_CHECKING:
    from finetune.train.params import TuningParams

ALIASES = {"adamw": "adamw_torch", "constant": "constant_with_warmup"}
"""Optimizers and schedules that transformers' trainer calls otherwise."""
POLYNOMIAL_END = 1e-7
"""The rate at which transformers' polynomial schedule ends; a peak below it would be refused."""
FUSED = frozenset({"cohere", "glm4", "gpt_neox", "granite", "olmo2", "opt", "smollm3", "stablelm", "starcoder2"})
"""Families without a row in LAYOUTS whose blocks compute with fused adapters; others get peft's own."""
STARTED = "started"
"""Folder of an adapter's first values."""


@dataclass(frozen=True)
class Result:
    """What training left: the model for ``full``, the adapter's folder otherwise."""

    model: Any
    adapter: Path
    loss: float
    """Mean of the last steps."""
    steps: int
    tokens: int
    seconds: float
    probes: Sequence[Sequence[int]]
    """Token sequences of some training rows."""
    facts: dict[str, Any]
    """What the objective has measured."""
    weights: dict[str, Any] | None = None
    """Those of a model that was cut over the processes and trained in full, as they are stored."""
    logs: Logs | None = None
    """What other programs were told so far; whoever has the last facts ends it."""


def train(
    job: Job[Any],
    objective: Objective,
    rate: float,
    judge: Callable[[int, float, float | None], None] | None = None,
    fold: tuple[int, int] | None = None,
) -> Result:
    """Fine-tune by ``objective`` from the last whole checkpoint in ``job.scratch``; ``judge`` and ``fold`` as in
    ``watching.Watch``."""
    torch, p = need("torch"), job.params
    for module in ("peft", "trl", "bitsandbytes", "datasets"):
        need(module)
    from transformers import AutoTokenizer, TrainerState, set_seed

    set_seed(job.seed)
    quiet()
    tokenizer = AutoTokenizer.from_pretrained(job.input.path, **LOCAL)
    starting.require_template(job.input.path, tokenizer)
    watch = Watch(job, objective, objective.examples(tokenizer), judge, fold)
    examples = watch.taught
    starting.require_ends(job.input.path, tokenizer, examples)
    starting.require_room(job.input.path, examples)
    on_cpu = not torch.cuda.is_available()
    together.join(str(job.scratch), on_cpu=on_cpu)
    starting.require_same(job)
    fit = gpu.Fit(batches.AT_ONCE, False) if on_cpu else _fit(job, examples, objective)
    model = merge.load_base(
        job.input.path,
        four_bit=p.method == "qlora",
        compute=torch.bfloat16,
        attention="eager" if on_cpu and p.max_length <= 1024 else None,  # faster than the fused kernel on a CPU
        on_cpu=together.cut(),
    )
    starting.require_ids(tokenizer, model, examples)
    last = hooks.last_checkpoint(job.scratch)
    trainer = _trainer(job, model, tokenizer, objective, watch, rate, on_cpu, fit, last)
    begun = int(last.name.split("-")[1]) if last else 0
    watch.begin(begun)
    watch.logs.begin(p.model_dump(mode="json") | {"rate": rate, "seed": job.seed, "examples": len(examples)})
    started = time.monotonic()
    objective.begin(trainer)
    if last is not None and watch.stopped:  # it had ended there; the best weights are on disk
        trainer.state = TrainerState.load_from_json(str(last / "trainer_state.json"))
    else:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    facts = watch.end(trainer)
    adapter = job.scratch / "adapter"
    weights = _save(job, trainer.model, adapter)
    facts |= objective.end(trainer)
    if trainer.plan is not None:
        blocks = trainer.model.config.get_text_config().num_hidden_layers
        facts |= freezing.told(trainer.plan, trainer.learnable, blocks)
    together.leave()
    seconds, steps = time.monotonic() - started, int(trainer.state.global_step)
    mean = sum(map(length, examples)) / len(examples)
    done = steps - begun
    probes = [example[0]["input_ids"] for example in examples[:64]]
    loss = hooks.recent_loss(trainer.state.log_history)
    tokens = objective.seen or int(mean * p.batch * done)
    return Result(trainer.model, adapter, loss, steps, tokens, seconds, probes, facts, weights, watch.logs)


def _save(job: Job[Any], model: Any, adapter: Path) -> dict[str, Any] | None:
    """Write the adapter, where there is one; what is stored of a model that was cut."""
    import torch

    p = job.params
    dtype = getattr(torch, merge.saved_dtype(job.input.path)) if p.method == "full" else None
    weights = sharding.stored(model, dtype) if together.cut() else None
    if p.method != "full" and launch.place().leads:
        shutil.rmtree(adapter, ignore_errors=True)
        adapters.save(model, adapter, job.scratch / STARTED if p.adapter.kind == "pissa" else None, weights)
    return weights


def _fit(job: Job[Any], examples: Sequence[Example], objective: Objective) -> gpu.Fit:
    """How batches go through the model on the first GPU."""
    import torch

    from compress.model.outline import folder_outline

    model = folder_outline(job.input.path).model
    if model is None:
        return gpu.Fit(gpu.MOST, True)
    longest = max(len(row["input_ids"]) for example in examples for row in example)
    over, free = launch.place().world if together.cut() else 1, torch.cuda.mem_get_info()[0]
    return gpu.fitted(model, job.params, -(-longest // 8) * 8, objective.rows, free, over)


def quiet() -> None:
    """The libraries' own bars and notices off: the stage reports its progress itself."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it looks for an optional GPU kernel package


def steps_of(p: TuningParams, rows: int) -> int:
    """Optimiser steps: as given, or as the epochs make them."""
    return p.steps or max(1, round(p.epochs * -(-rows // p.batch)))


def warmup_steps(share: float, steps: int) -> int:
    """Steps of the warm-up. The first one changes nothing, as its rate is 0, so one step at least comes behind."""
    return min(math.ceil(share * steps), steps - 1)


def length(example: Example) -> int:
    """Tokens of an example."""
    return sum(len(row["input_ids"]) for row in example)


def step_tokens(p: TuningParams, examples: Sequence[Example]) -> float:
    """Tokens of a step, on average."""
    return p.batch * sum(map(length, examples)) / len(examples)


def in_order(
    examples: Sequence[Example], steps: int, batch: int, seed: int, *, fill: bool = False
) -> list[dict[str, Any]]:
    """The rows as the steps read them, in an order of our own that does not depend on where a run resumed. Several
    processes take a part of each batch, with rows of like length in all parts. ``fill``: see ``plan_batches``."""
    plan = batches.plan_batches(list(map(length, examples)), steps, batch, seed, fill=fill)
    world = launch.place().world
    dealt = ([i for start in range(world) for i in chosen[start::world]] for chosen in plan)
    return [row for chosen in dealt for i in chosen for row in examples[i]]


def _trainer(
    job: Job[Any],
    model: Any,
    tokenizer: Any,
    objective: Objective,
    watch: Watch,
    rate: float,
    on_cpu: bool,
    fit: gpu.Fit,
    last: Path | None = None,
) -> Any:
    """``last``: the checkpoint from which training will go on."""
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback

    from finetune.train.fused import fuse

    p, examples = job.params, watch.taught
    steps = steps_of(p, len(examples))
    if p.method != "full":
        model = adapters.adapted(model, p, on_cpu, job.input.path, checkpointing=fit.checkpointing)
    trainer = _objective_trainer()(
        objective=objective,
        at_once=fit.tokens,
        model=model,
        args=_arguments(job, rate, on_cpu, steps, objective.rows, fit.checkpointing, model.config.model_type),
        train_dataset=Dataset.from_list(in_order(examples, steps, p.batch, job.seed, fill=p.steps is None)),
        data_collator=_collate(tokenizer.pad_token_id or 0, objective),
        processing_class=tokenizer,
        callbacks=[hooks.progress(job, objective, step_tokens(p, examples))],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(hooks.watcher(trainer, watch))
    for weight in trainer.model.parameters():
        if weight.requires_grad:  # trl makes an NF4 model's adapter bfloat16, and a resumed one float32
            weight.data = weight.data.float()
    if p.method != "full" and p.adapter.kind == "pissa":
        trainer.model.save_pretrained(job.scratch / STARTED)
    if fused(p, on_cpu, model.config.model_type):
        fuse(trainer.model)
    if together.cut():
        trainer.cut(last, on_cpu)
    faster = p.method != "full" and p.adapter.kind == "lora+"
    if p.freeze or p.freeze_blocks or p.unfreeze or p.layer_decay != 1 or faster:
        epoch = max(1, len(examples) // p.batch) if p.steps else -(-len(examples) // p.batch)
        _freeze(trainer, p, job.input.path, steps, epoch)
    return trainer


def _collate(pad: int, objective: Objective) -> Any:
    return batches.pack(pad) if objective.packed else batches.collate(pad)


def _freeze(trainer: Any, p: TuningParams, folder: Path, steps: int, epoch: int) -> None:
    """Give the trainer its plan of what learns when."""
    trainer.learnable = {name: w for name, w in trainer.model.named_parameters() if w.requires_grad}
    blocks = trainer.model.config.get_text_config().num_hidden_layers
    how: dict[str, Any] = {
        "freeze": p.freeze,
        "freeze_blocks": p.freeze_blocks,
        "unfreeze": p.unfreeze,
        "decay": p.layer_decay,
    }
    names, others = freezing.known_names(trainer.model, held(folder).entries)
    found = freezing.plan(names, blocks, steps=steps, epoch=epoch, others=others, **how)
    if p.method != "full" and p.adapter.kind == "lora+":
        quick = {name: f * (p.adapter.ratio if ".lora_B." in name else 1) for name, f in found.factors.items()}
        found = replace(found, factors=quick)
    trainer.plan = found
    freezing.apply(trainer.learnable, trainer.plan, steps)  # DDP looks once at what will learn at some time
    trainer.add_callback(hooks.unfreezer(trainer))


def _objective_trainer() -> Any:
    """trl's SFTTrainer with the objective's loss, and so many tokens at a time as the memory holds."""
    import torch
    from trl import SFTTrainer

    from finetune.train.loss import score_labels

    class ObjectiveTrainer(SFTTrainer):  # type: ignore[misc]
        def __init__(self, objective: Objective, at_once: int, **given: Any) -> None:
            super().__init__(**given)
            self.objective, self.at_once = objective, at_once
            self.plan: freezing.Plan | None = None
            self.learnable: dict[str, Any] = {}
            self.optimizer: Any
            score_labels(self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model)

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            """``num_items_in_batch``: what the sums of a batch's parts are divided by."""
            count = self.objective.count(inputs) if num_items_in_batch is None else num_items_in_batch
            loss = self.objective.loss(model, inputs) / count
            return (loss, {}) if return_outputs else loss

        def create_optimizer(self, *given: Any, **named: Any) -> Any:
            """AdamW over the weights that learn at some time, each at its own rate."""
            if self.optimizer is None and self.plan is not None:
                args = self.args
                parts = freezing.groups(self.learnable, self.plan, args.learning_rate)
                self.optimizer = torch.optim.AdamW(
                    parts, lr=args.learning_rate, betas=(args.adam_beta1, args.adam_beta2), weight_decay=0.0
                )
            return super().create_optimizer(*given, **named)

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            """Gradients of the parts of a batch add up to those of the whole."""
            step = super().training_step
            inputs = self.objective.prepare(model, self._prepare_inputs(inputs))
            count = _of_all(self.objective.count(inputs))
            rows = together.smallest(batches.rows_at_once(inputs["input_ids"], self.at_once, self.objective.rows))
            parts = list(batches.split(inputs, rows))
            *parts, last = parts + [sharding.nothing(model)] * sharding.missing(len(parts))
            with self.accelerator.no_sync(model) if parts else contextlib.nullcontext():
                loss = sum(step(model, part, count) for part in parts)
            return loss + step(model, last, count)

        def _load_from_checkpoint(self, place: str, model: Any = None) -> None:
            if hasattr(self.model, "get_base_model"):
                super()._load_from_checkpoint(place, model)
            else:
                self.model.load_state_dict(_whole(place))

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            if launch.place().leads:
                super()._save(output_dir, state_dict)

    return sharding.trainer(ObjectiveTrainer) if together.cut() else ObjectiveTrainer


def _whole(place: str) -> dict[str, Any]:
    """Weights of a whole model's checkpoint by transformers' own loader: it stores some under other names (GPT-NeoX's
    head), which its trainer would leave as they were before training, unsaid."""
    import torch
    from transformers import AutoModelForCausalLM

    saved: dict[str, Any] = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **LOCAL).state_dict()
    return saved


def _of_all(count: Any) -> Any:
    """What makes the mean over the processes, which accelerate takes, a mean over their whole batch."""
    import torch

    world = launch.place().world
    return count if world == 1 else together.summed(torch.as_tensor(count).float()) / world


def fused(p: TuningParams, on_cpu: bool, family: str) -> bool:
    """Whether adapters are computed inside the matrix products (``finetune.train.fused``)."""
    known = family in LAYOUTS or family in FUSED
    return on_cpu and known and p.method != "full" and p.adapter.kind != "dora"


def _arguments(
    job: Job[Any], rate: float, on_cpu: bool, steps: int, rows: int, checkpointing: bool, family: str
) -> Any:
    from trl import SFTConfig

    p = job.params
    return SFTConfig(
        output_dir=str(job.scratch),
        max_steps=steps,
        per_device_train_batch_size=together.share(p.batch) * rows,
        ddp_find_unused_parameters=p.unfreeze is not None,  # what does not learn yet has no gradient to wait for
        ddp_broadcast_buffers=False,
        remove_unused_columns=False,
        learning_rate=rate,
        optim=ALIASES.get(p.optimizer, p.optimizer),
        lr_scheduler_type=ALIASES.get(p.schedule, p.schedule),
        lr_scheduler_kwargs={"lr_end": 0.0} if p.schedule == "polynomial" and rate <= POLYNOMIAL_END else None,
        warmup_steps=warmup_steps(p.warmup, steps),
        weight_decay=0.0,
        adam_beta2=0.99,
        max_grad_norm=1.0,
        max_length=p.max_length,
        dataset_kwargs={"skip_prepare_dataset": True},  # the rows are tokenised, with labels on the replies alone
        train_sampling_strategy="sequential",
        bf16=not fused(p, on_cpu, family),  # fused adapters choose their types themselves
        use_cpu=on_cpu,
        gradient_checkpointing=checkpointing,
        dataloader_pin_memory=False,
        save_strategy="steps",
        save_steps=p.checkpoint_every,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        seed=job.seed,
        data_seed=job.seed,
    )
