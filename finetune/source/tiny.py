"""Stage ``source.tiny``: the base model of the offline demo, a small Llama trained from scratch on the CPU.

The steps are counted, never timed, and each checkpoint holds everything that the next step reads, so
a run that was killed ends with the same bytes as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from compress.artifact import MEASUREMENTS
from compress.costs import ROW, TRAINING, WORKER, Work, activations, forward, padded, touched
from compress.extras import need
from compress.json_files import write_json
from compress.model.weights import write_state
from compress.outline import ModelOutline, Outline, Shape, folder_outline
from compress.stage import Job, JobOutline, Needs, Params, Stage
from finetune.source import tiny_tokenizer
from finetune.train import batches
from finetune.world import corpus

PAD_LABEL = -100
TOKENS_PER_ROW, LONGEST, REPLY = 107, 200, 0.45
"""Of a conversation of finetune.world.corpus in its own tokens: mean and largest length, share of the reply."""
ROW_S, BLOCK_S, STEP_S = 0.0006, 0.002, 0.02
"""Seconds of the interpreter for a conversation (made and tokenised), and for a block and the rest of a step."""
PASSES = 4.0
"""Times that a step reads and writes what one pass touches."""


class TinyParams(Params):
    hidden: int = Field(256, ge=32)
    """Hidden size."""
    layers: int = Field(3, ge=1)
    """Transformer blocks."""
    ffn: int = Field(1024, ge=32)
    """Inner size of the feed-forward network."""
    heads: int = Field(4, ge=1)
    """Attention heads."""
    vocabulary: int = Field(1280, ge=300)
    """Entries of the tokenizer."""
    context: int = Field(512, ge=64)
    """Longest sequence, in tokens."""
    conversations: int = Field(14000, ge=16)
    """Training conversations that are made."""
    steps: int = Field(700, ge=1)
    """Optimiser steps."""
    batch: int = Field(20, ge=1)
    """Conversations per step."""
    matrix_rate: float = Field(0.02, gt=0)
    """Peak learning rate of Muon (the matrices of the blocks)."""
    rate: float = Field(3e-3, gt=0)
    """Peak learning rate of AdamW (embedding and norms)."""
    checkpoint_every: int = Field(100, ge=1)
    """Steps between checkpoints."""


class TinySource(Stage[TinyParams]):
    """Trains a Llama-architecture model with its own tokenizer and chat template."""

    Params = TinyParams
    version = 2
    accepts = frozenset()
    produces = "hf"
    modules = frozenset({"torch", "transformers", "tokenizers"})
    libraries = frozenset({"torch", "transformers", "tokenizers"})
    smaller = "a smaller batch"

    def outline(self, job: JobOutline[TinyParams]) -> Outline:
        """A float32 Llama with a tied head."""
        p = job.params
        shape = Shape(p.layers, p.hidden, p.ffn, p.heads, p.heads, p.hidden // p.heads, p.vocabulary)
        return folder_outline(ModelOutline(shape, tied=True, weight_bytes=4.0))

    def needs(self, job: JobOutline[TinyParams]) -> Needs:
        """Memory: weights, gradients and two moments in float32, the conversations, one step's activations.

        Work of a step: a pass forward and twice as much back, and Muon's five iterations on every matrix [n, m]:
        two products with n x n x m and one with n x n x n multiplications (n the smaller side).
        """
        p, found = job.params, self.outline(job)
        model = found.sizes
        length = min(padded(TOKENS_PER_ROW, 16), p.context)
        tokens = p.batch * length
        muon = p.layers * (4 * _muon(p.hidden, p.hidden) + 3 * _muon(p.hidden, p.ffn))
        products = 3 * forward(model, tokens, length, REPLY * tokens) + muon
        step = Work(
            bfloat16=products,
            moved=PASSES * touched(model, tokens) + 40 * model.parameters,
            python=STEP_S + BLOCK_S * p.layers,
        )
        memory: float = 16 * model.parameters + p.conversations * ROW
        memory += activations(model, p.batch, min(LONGEST, p.context), 40, 20)
        work = step * p.steps + Work(python=p.conversations * ROW_S)
        return Needs(found.disk_bytes + 16 * model.parameters, int(WORKER + TRAINING + memory), work)

    def run(self, job: Job[TinyParams]) -> Mapping[str, Any]:
        need("torch").set_num_threads(job.threads)
        transformers = need("transformers")
        p, started = job.params, time.monotonic()
        texts = corpus.conversations(job.seed, p.conversations)
        tokenizer = tiny_tokenizer.train_tokenizer(
            (m["content"] for messages in texts[:4000] for m in messages), p.vocabulary, p.context
        )
        rows = [tiny_tokenizer.encode(tokenizer, messages) for messages in texts]
        rows = [row for row in rows if len(row[0]) <= p.context]
        model = build_model(tokenizer, p, job.seed)
        tokens, loss = train(model, rows, job, pad=tokenizer.pad_token_id)
        transformers.utils.logging.disable_progress_bar()
        model.save_pretrained(job.out)
        tokenizer.save_pretrained(job.out)
        seconds = time.monotonic() - started
        write_json(job.out / MEASUREMENTS, {"seconds": round(seconds, 1), "tokens_per_second": round(tokens / seconds)})
        parameters = sum(w.numel() for w in model.parameters())
        return {
            "architecture": "LlamaForCausalLM",
            "parameters": parameters,
            "vocabulary": len(tokenizer),
            "loss": round(loss, 4),
        }


def _muon(rows: int, columns: int) -> float:
    """Floating-point operations of one orthogonalisation (five Newton-Schulz iterations) of a matrix."""
    least, most = sorted((rows, columns))
    return 5.0 * (4 * least * least * most + 2 * least**3)


def build_model(tokenizer: Any, p: TinyParams, seed: int) -> Any:
    """A freshly initialised Llama (float32) that fits the tokenizer."""
    torch = need("torch")
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=p.hidden,
        intermediate_size=p.ffn,
        num_hidden_layers=p.layers,
        num_attention_heads=p.heads,
        num_key_value_heads=p.heads,
        max_position_embeddings=p.context,
        tie_word_embeddings=True,
        attn_implementation="eager",  # at these lengths faster on a CPU than the fused kernel
        **ids,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=False, **ids)
    return model


def scale(step: int, total: int) -> float:
    """Learning rate multiplier: warm-up, plateau, linear decay over the second half (the WSD schedule)."""
    return min(1.0, (step + 1) / min(30, max(1, total // 4))) * max(0.02, min(1.0, 2 * (1 - step / total)))


def train(
    model: Any, rows: Sequence[tuple[list[int], list[int]]], job: Job[TinyParams], *, pad: int
) -> tuple[int, float]:
    """Train in place, from the last checkpoint if there is one. Returns (tokens seen, mean loss of the last steps)."""
    p = job.params
    plan = batches.plan_batches([len(ids) for ids, _ in rows], p.steps, p.batch, job.seed)
    optimizers = make_optimizers(model, p)
    peaks = [[group["lr"] for group in o.param_groups] for o in optimizers]
    first, losses = restore(job.scratch / "checkpoint.pt", model, optimizers)
    tokens = 0
    for step in range(first, p.steps):
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale(step, p.steps)
        ids, labels = collate([rows[i] for i in plan[step]], pad)
        losses = [*losses[-49:], one_step(model, optimizers, ids, labels)]
        tokens += ids.numel()
        if (step + 1) % p.checkpoint_every == 0 and step + 1 < p.steps:
            held = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
            write_state(job.scratch / "checkpoint.pt", {"step": step + 1, "losses": losses, **held})
        if (step + 1) % 10 == 0 or step + 1 == p.steps:
            job.progress(step + 1, p.steps, f"loss {math.fsum(losses) / len(losses):.3f}")
    return tokens, math.fsum(losses) / len(losses)


def make_optimizers(model: Any, p: TinyParams) -> list[Any]:
    """Muon (Jordan et al., 2024) for the blocks' matrices, AdamW for the rest: half the steps of AdamW alone."""
    torch = need("torch")
    blocks = [
        w for name, w in model.named_parameters() if w.ndim == 2 and "embed" not in name and "lm_head" not in name
    ]
    chosen = {id(w) for w in blocks}
    rest = [w for w in model.parameters() if id(w) not in chosen]
    return [
        torch.optim.Muon(blocks, lr=p.matrix_rate, momentum=0.95, weight_decay=0.05, adjust_lr_fn="original"),
        torch.optim.AdamW(rest, lr=p.rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def collate(rows: Sequence[tuple[list[int], list[int]]], pad: int) -> tuple[Any, Any]:
    """Right-padded (ids, labels), int64 [rows, longest rounded up to 16, so that few shapes occur]."""
    torch = need("torch")
    width = -(-max(len(ids) for ids, _ in rows) // 16) * 16
    ids = torch.tensor([row + [pad] * (width - len(row)) for row, _ in rows])
    labels = torch.tensor([row + [PAD_LABEL] * (width - len(row)) for _, row in rows])
    return ids, labels


def one_step(model: Any, optimizers: Sequence[Any], ids: Any, labels: Any) -> float:
    """One update. Padding stands on the right of causal attention and carries no label, so it needs no mask."""
    torch = need("torch")
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids).last_hidden_state
        places, targets = scored(labels)
        scores = model.lm_head(hidden.flatten(0, 1)[places])
        loss = torch.nn.functional.cross_entropy(scores.float(), targets, ignore_index=PAD_LABEL)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.item())


def scored(labels: Any) -> tuple[Any, Any]:
    """(flat positions that predict a labelled token, those tokens), filled up to a multiple of 256 with ignored ones.

    A length of its own in every step would make oneDNN compile and keep a kernel for each.
    """
    torch = need("torch")
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=PAD_LABEL).flatten()
    places = (shifted != PAD_LABEL).nonzero().squeeze(1)
    places = torch.nn.functional.pad(places, (0, -len(places) % 256))
    targets = shifted[places]
    targets[int((shifted != PAD_LABEL).sum()) :] = PAD_LABEL
    return places, targets


def restore(path: Path, model: Any, optimizers: Sequence[Any]) -> tuple[int, list[float]]:
    """(steps done, last losses); (0, []) without a checkpoint."""
    if not path.is_file():
        return 0, []
    state = need("torch").load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"], state["losses"]
