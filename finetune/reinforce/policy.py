"""The model as it stands, in the runtime that ships: written as a GGUF file and asked there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.memory import trim
from compress.model.outline import folder_outline
from compress.stage import Job
from export.gguf.snapshot import write_snapshot
from finetune.train import merge
from finetune.train.objective import IGNORED
from finetune.train.objective import Row as Tokens
from runtime.engine.sampling import Sampling
from runtime.session import Session, load

if TYPE_CHECKING:
    from export.tokenizers.vocabulary import Vocabulary
    from finetune.reinforce.params import ReinforceParams

FOLDER, FILE = "policy", "policy.gguf"
SLOTS, CACHE_BYTES = (8, 64), 512 << 20
"""Replies that are drawn together, at least and at most, and bytes of their keys and values."""


@dataclass(frozen=True)
class Drawn:
    """A reply as it was drawn: tokens without the one that ended it; ``truncated``: the token limit did."""

    ids: tuple[int, ...]
    text: str
    truncated: bool


class Policy:
    """Opens a model folder in the runtime, one at a time."""

    def __init__(self, job: Job[ReinforceParams]) -> None:
        self.p, self.threads, self.base = job.params, job.threads, job.input.path
        self.place = job.scratch / FOLDER
        self.vocabulary: Vocabulary | None = None
        self.shell: Any = None

    @contextmanager
    def session(self, context: int, model: Any = None) -> Iterator[Session]:
        """``model`` (one in training; by default the base) answering prompts and replies of up to ``context``
        tokens together."""
        self.place.mkdir(exist_ok=True)
        folder = self.base if model is None else self._save(model)
        file = self.place / FILE
        self.vocabulary = write_snapshot(folder, file, self.p.type, vocabulary=self.vocabulary, threads=self.threads)
        session = load(file, context=context, slots=slots_for(self.base, context))
        session.engine.keep_threads()
        try:
            yield session
        finally:
            session.close()
            trim()

    def _save(self, model: Any) -> Path:
        """The folder of the trained model's weights, merged."""
        if self.shell is None:
            import torch

            self.shell = merge.load_base(self.base, four_bit=False, compute=torch.float32).cpu()
        put_merged(model, self.shell)
        folder = self.place / "model"
        folder.mkdir(exist_ok=True)
        merge.save_merged(self.shell, self.base, folder)
        return folder


def slots_for(folder: Path, context: int) -> int:
    """Replies of so many tokens that are drawn together: small models take more for the price of one, as far as their
    keys and values (float16) fit into CACHE_BYTES."""
    model = folder_outline(folder).model
    if model is None:
        return SLOTS[0]
    s = model.shape
    return max(SLOTS[0], min(SLOTS[1], CACHE_BYTES // (4 * s.blocks * s.kv_heads * s.head_dim * context)))


def put_merged(model: Any, shell: Any) -> None:
    """Let ``shell``, the plain model, hold the weights that ``model`` (with an adapter, on a base of any precision, or
    trained whole) computes with."""
    import torch

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    weights = inner.state_dict() | merge.dequantized(inner)
    plain = {name.replace(".base_layer.", "."): value for name, value in weights.items()}
    with torch.no_grad():
        plain |= {f"{name}.weight": merged_weight(layer) for name, layer in adapted_layers(inner)}
        for name, stored in shell.state_dict().items():
            stored.copy_(plain[name])


def adapted_layers(inner: Any) -> list[tuple[str, Any]]:
    """(name, layer) of every linear with a LoRA adapter."""
    from peft.tuners.lora.layer import LoraLayer

    return [(name, module) for name, module in inner.named_modules() if isinstance(module, LoraLayer)]


def merged_weight(layer: Any) -> Any:
    """float32 ``[out, in]`` (Conv1D: ``[in, out]``): the base's weight with its adapter's change."""
    (adapter,) = layer.active_adapters
    base = layer.base_layer
    state = getattr(base.weight, "quant_state", None)
    if state is None:
        weight = base.weight.detach().float()
    else:
        from bitsandbytes.functional import dequantize_4bit

        weight = dequantize_4bit(base.weight.data, state).float()
    if adapter in layer.lora_variant:
        return layer.lora_variant[adapter].merge_safe(layer, adapter, weight)
    return weight + layer.get_delta_weight(adapter).detach().float()


def draw(
    session: Session, prompts: Sequence[Sequence[int]], seeds: Sequence[int], p: ReinforceParams, progress: Any = None
) -> list[Drawn]:
    """One reply to each prompt of token ids; the same list gives the same replies."""
    how = [Sampling(p.temperature, 1.0, seed) for seed in seeds]
    replies = session.continue_many(prompts, max_tokens=p.max_tokens, sampling=how, progress=progress)
    return [Drawn(tuple(r.token_ids), r.text, r.finish_reason == "length") for r in replies]


def prompt_of(row: Tokens) -> list[int]:
    """The tokens before a row's first label."""
    ids: list[int] = row["input_ids"]
    return ids[: next(i for i, label in enumerate(row["labels"]) if label != IGNORED)]


def seed_of(*parts: int) -> int:
    """A seed for a reply of its own."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "big")
