"""The exact side: a folder's transformers model in float32, with the weights of the reference or of an export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from compress.errors import ArtifactError
from export.checkpoint import Checkpoint
from export.parity.logits import Floats
from export.parity.noise import arithmetic
from export.parity.weights import HEAD, Stored, whole

BATCH_BYTES, BATCH_TOKENS = 128 << 20, 2048
"""Logits and tokens of one torch batch."""
WORTH_SHARING = 12
"""A shorter common beginning of a batch is computed for every row."""


class Row(NamedTuple):
    """Token ids, and from which of them on logits are wanted."""

    ids: Sequence[int]
    start: int = 0


class Twin:
    """The Hugging Face model of a folder's config.json, float32, whose weights are put in one by one. One twin serves
    all candidates, one after another."""

    def __init__(self, reference: Checkpoint) -> None:
        from compress.extras import LOCAL, need

        torch, transformers = need("torch"), need("transformers")
        config = transformers.AutoConfig.from_pretrained(reference.folder, **LOCAL)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        self.tied = HEAD not in reference.names()
        config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
        self.torch, self.reference = torch, reference
        self.model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        _multiply_fast(self.model)
        self.own = dict(self.model.named_parameters())
        self.roundings: dict[str, str] = {}
        self.fresh: set[str] = set()

    def empty(self) -> None:
        """Forget which weights were put in: another candidate's follow."""
        self.roundings.clear()
        self.fresh.clear()

    def parameter(self, name: str) -> str:
        """The model's name of a checkpoint's tensor (folders are saved with and without the model's prefix)."""
        prefix = f"{self.model.base_model_prefix}."
        for candidate in (name, prefix + name, name.removeprefix(prefix)):
            if candidate in self.own:
                return candidate
        raise ArtifactError(f"transformers' {type(self.model).__name__} has no weight {name}", next="check config.json")

    def put(self, stored: Stored) -> None:
        """Set one weight, and how the runtime rounds what it is multiplied with."""
        name = self.parameter(stored.name)
        with self.torch.no_grad():
            self.own[name].copy_(self.torch.from_numpy(np.ascontiguousarray(stored.values)))
        self.fresh.add(name)
        embedding = name == self.parameter_of_embedding()
        if stored.rounding and not embedding:
            self.roundings[name.removesuffix(".weight")] = stored.rounding
        if embedding and HEAD not in self.fresh and self.tied:
            self.put(Stored(HEAD, stored.values, stored.kind, stored.rounding))

    def parameter_of_embedding(self) -> str:
        """Name of the token embedding's weight."""
        wanted = self.model.get_input_embeddings().weight
        return next(name for name, value in self.own.items() if value is wanted)

    @property
    def filled(self) -> bool:
        """Whether every weight was put in."""
        return self.fresh == set(self.own)

    def complete(self) -> None:
        """Raise ArtifactError when a weight was never put in."""
        if missing := sorted(set(self.own) - self.fresh):
            raise ArtifactError(f"nothing gave {missing[0]}", next="check that reference and candidate are one model")

    @property
    def vocabulary(self) -> int:
        """Logits per position."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    def logits(self, rows: Sequence[Row]) -> Iterator[tuple[int, Floats]]:
        """``(number, float32 [len(ids) - start, vocabulary])`` of every row."""
        for batch in self._batches(rows):
            yield from self._run(batch, rows)

    def pairs(self, rows: Sequence[Row], *, half_cache: bool) -> Iterator[tuple[int, Floats, Floats]]:
        """``logits``, and the same with the runtime's roundings."""
        for batch in self._batches(rows):
            exact = list(self._run(batch, rows))
            with arithmetic(self.model, self.roundings, half_cache=half_cache):
                for (number, wanted), (_, noisy) in zip(exact, self._run(batch, rows), strict=True):
                    yield number, wanted, noisy

    def _batches(self, rows: Sequence[Row]) -> Iterator[list[int]]:
        """Numbers of rows of like length whose logits fit into BATCH_BYTES."""
        batch: list[int] = []
        width = first = 0
        for number in sorted(range(len(rows)), key=lambda i: -len(rows[i].ids)):
            ids, start = rows[number]
            count, positions = len(batch) + 1, width - min(first, start)
            if batch and (count * width > BATCH_TOKENS or 4 * count * positions * self.vocabulary > BATCH_BYTES):
                yield batch
                batch = []
            width, first = (width, min(first, start)) if batch else (len(ids), start)
            batch.append(number)
        if batch:
            yield batch

    def _run(self, batch: Sequence[int], rows: Sequence[Row]) -> Iterator[tuple[int, Floats]]:
        """Rows are padded behind their end, which a causal model does not see; their common beginning is computed
        once."""
        torch, given = self.torch, [rows[number] for number in batch]
        first = min(row.start for row in given)
        ids = torch.zeros(len(batch), max(len(row.ids) for row in given), dtype=torch.long)
        for line, row in enumerate(given):
            ids[line, : len(row.ids)] = torch.tensor(list(row.ids))
        shared = common([row.ids for row in given], first) if len(given) > 1 else 0
        shared = shared if shared >= WORTH_SHARING else 0
        more: dict[str, Any] = {"use_cache": False}
        with torch.inference_mode():
            if shared:
                cache = self.model(input_ids=ids[:1, :shared], use_cache=True, logits_to_keep=1).past_key_values
                cache.batch_repeat_interleave(len(given))
                more = {"use_cache": True, "past_key_values": cache}
            keep = torch.arange(first - shared, ids.shape[1] - shared)
            out = self.model(input_ids=ids[:, shared:], logits_to_keep=keep, **more).logits.float().numpy()
        for line, (number, row) in enumerate(zip(batch, given, strict=True)):
            yield number, out[line, row.start - first : len(row.ids) - first]


def common(rows: Sequence[Sequence[int]], most: int) -> int:
    """How many tokens all rows begin with alike, at most ``most``."""
    least, last = min(rows, key=list), max(rows, key=list)
    most = min(most, len(least), len(last))
    return next((at for at in range(most) if least[at] != last[at]), most)


def _multiply_fast(model: Any) -> None:
    """Let linear layers use oneDNN's float32 product, where torch has it: MKL, torch's first choice, takes half as
    long again or twice as long on processors that are not Intel's (benchmarks/README.md)."""
    import torch

    product = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if not torch.backends.mkldnn.is_available() or product is None:
        return

    def forward(module: Any, x: Any) -> Any:
        return product(x, module.weight, module.bias, "none", [], "")

    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.forward = partial(forward, module)


def fill(twin: Twin, reference: Checkpoint) -> None:
    """Put the reference's own weights in, one tensor at a time."""
    for name in reference.names():
        twin.put(Stored(name, whole(reference, name), "F32"))
    twin.complete()
