"""What reinforcement takes: training, and replies in the runtime."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compress.costs import WORKER, Work, forward
from compress.outline import Split
from compress.stage import JobOutline, Needs
from finetune.reinforce.policy import CACHE_BYTES
from finetune.train import costs, training

if TYPE_CHECKING:
    from finetune.reinforce.params import ReinforceParams

SPEED = 0.7
"""Share of the probe's float32 speed that the runtime's products reach (as in ``compress.validate.costs``)."""
REPLY_S, DRAW_S, LOGIT_S = 0.004, 2e-5, 1e-8
"""Seconds of the interpreter: a reply in the runtime's loop, judged by every rule; drawing a token, and for each entry
of the vocabulary."""
SNAPSHOT_S, VOCABULARY_S, WEIGHT_MOVED = 0.4, 3.0, 80
"""Seconds for a file and for its vocabulary; bytes moved for a weight that is merged, saved, quantized and loaded."""
TOLD = 0.3
"""Share of prompts whose replies are not worth the same: grpo learns from no others, and rejection sampling draws
more than ``probes`` replies for them alone."""


def needs(job: JobOutline[ReinforceParams]) -> Needs:
    """Of training as by ``finetune.sft``, and of the replies that it learns from."""
    p, model, every = job.params, job.input.sizes, costs.augmented(job)
    asked, rounds, samples = min(p.prompts, every.rows), 1, p.probes + TOLD * (p.samples - p.probes)
    if p.algorithm == "rejection_sampling":
        trained = costs.needs(job, Split(asked, every.disk_bytes, every.sample))
    else:
        steps = training.steps_of(p, every.rows)
        rows = max(1, round(TOLD * p.samples))
        asked, rounds, samples = steps * p.batch, -(-steps // p.refresh), p.samples
        trained = costs.needs(job, Split(asked, every.disk_bytes, every.sample), rows, referenced=True)
        kept = (6 if p.method == "full" else 2) * model.parameters  # what answers, and what is compared with
        trained = replace(trained, ram_bytes=int(trained.ram_bytes + kept))
    lengths = every.lengths(model)
    prompt, tokens = lengths.whole - lengths.reply, asked * samples * lengths.reply
    read = forward(model, asked * prompt + tokens, lengths.whole, tokens)
    work = Work(
        float32=read / SPEED,
        moved=rounds * WEIGHT_MOVED * model.parameters,
        python=VOCABULARY_S
        + rounds * SNAPSHOT_S
        + asked * samples * REPLY_S
        + tokens * (DRAW_S + LOGIT_S * model.shape.vocab),
    )
    answering = WORKER + CACHE_BYTES + 2 * model.parameters
    memory = max(trained.ram_bytes, answering) if rounds == 1 else trained.ram_bytes + answering - WORKER
    return Needs(trained.disk_bytes + 3 * model.parameters, int(memory), trained.work + work)
