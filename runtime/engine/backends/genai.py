"""onnxruntime-genai: one generator (sequence with its KV cache) per slot, decoded one after another.

A generator can be rewound, so a slot keeps the prefix of its last conversation; it cannot be copied to another slot.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import onnxruntime_genai as genai

from ...errors import ArtifactError, UsageError
from ..door import Door
from ..grammar import MARK, Grammars
from .base import Interrupted, Span
from .pieces import Vocabulary

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .base import Constraint, Rows


PIECE, PAUSE = 16, 0.15
"""Tokens that the library is given at once at least, and the seconds after which it should be back: it holds Python's
lock meanwhile, so that nobody else in the process is heard, and cannot be stopped. Logits are the same to the last bit
however a prompt is cut."""


class GenaiBackend:
    """An onnxruntime-genai folder. See `Backend` for the meaning of the attributes and methods."""

    name = "onnxruntime-genai"
    shares = False
    grammars = True
    drafts = keeps = False
    cache = ""

    def __init__(self, path: Path, *, threads: int | None, slots: int, context: int | None) -> None:
        self.version: str = genai.__version__
        self.threads = threads or len(os.sched_getaffinity(0))
        try:
            settings = json.loads((path / "genai_config.json").read_text(encoding="utf-8"))["model"]
            config = genai.Config(str(path))
            config.overlay(json.dumps(_overlay(settings, threads)))
            self._model = genai.Model(config)
            self._tokenizer = genai.Tokenizer(self._model)
            self._vocabulary = Vocabulary.read(path)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ArtifactError(
                f"onnxruntime-genai cannot load {path} ({error})", next="export the model again"
            ) from None
        self.n_vocab = int(settings["vocab_size"])
        trained = int(settings["context_length"])
        self.context = self.alike = min(context or min(trained, 4096), trained)
        self.slots, self.batch = slots, max(512, slots)
        eos = settings["eos_token_id"]
        self._pad = settings.get("pad_token_id")
        self.stops = frozenset(eos if isinstance(eos, list) else [eos])
        self.controls, self.added = self._vocabulary.controls, self._vocabulary.plain
        self.chat, self.folds = self._vocabulary.chat, self._vocabulary.folds
        decoder = settings.get("decoder", {})
        cell = 2 * 4 * decoder.get("num_key_value_heads", 0) * decoder.get("head_size", 0)
        weights = sum(file.stat().st_size for file in path.glob("*.onnx*"))
        self.memory_bytes = weights + cell * int(decoder.get("num_hidden_layers", 0)) * self.context
        self._generators: dict[int, Any] = {}
        self._piece, self._stopped = PIECE, False
        self.clock = time.perf_counter
        self._grammars = Grammars(self)
        self._door = Door()

    def encode(self, text: str) -> list[int]:
        with self._door:
            return self._vocabulary.encode(text, lambda part: [int(t) for t in self._tokenizer.encode(part)])

    def piece(self, token: int) -> bytes:
        return self._vocabulary.piece(token)

    def decode(self, spans: Sequence[Span]) -> Rows:
        found = [self._append(span) for span in spans]
        kept = [rows for rows in found if len(rows)]
        return np.concatenate(kept) if kept else np.empty((0, self.n_vocab), np.float32)

    def _append(self, span: Span) -> Rows:
        generator = self._generator(span.slot)
        if span.rows <= 1:
            for tokens in self._steps(span.tokens):
                self._append_pieces(generator, np.asarray(tokens, np.int32))
            return self._last(generator) if span.rows else np.empty((0, self.n_vocab), np.float32)
        rows = []  # the graph gives the last position's logits only: every token on its own
        for token in span.tokens:
            self._append_pieces(generator, np.asarray([token], np.int32))
            rows.append(self._last(generator))
        return np.concatenate(rows)

    def _append_pieces(self, generator: Any, tokens: NDArray[np.int32]) -> None:
        while len(tokens):
            if self._stopped:
                raise Interrupted
            piece, tokens = tokens[: self._piece], tokens[self._piece :]
            started = time.perf_counter()
            generator.append_tokens(piece)
            if len(piece) >= PIECE:
                fits = int(len(piece) * PAUSE / (time.perf_counter() - started))
                self._piece = max(PIECE, min(fits, 2 * self._piece))

    def stop(self, *, on: bool) -> None:
        self._stopped = on

    def _steps(self, tokens: Sequence[int]) -> Sequence[Sequence[int]]:
        """The library takes padding at the end of several tokens for no tokens, and gives the logits before it."""
        padded = len(tokens) > 1 and tokens[-1] == self._pad
        return (tokens[:-1], tokens[-1:]) if padded else (tokens,)

    def _last(self, generator: Any) -> Rows:
        logits = np.asarray(generator.get_logits(), np.float32)
        return logits.reshape(-1, logits.shape[-1])[-1:, : self.n_vocab]

    def _generator(self, slot: int) -> Any:
        if slot not in self._generators:
            params = genai.GeneratorParams(self._model)
            params.set_search_options(max_length=self.context, do_sample=False)
            self._generators[slot] = genai.Generator(self._model, params)
        return self._generators[slot]

    def copy(self, source: int, target: int, length: int) -> NoReturn:
        raise UsageError("onnxruntime-genai cannot copy a sequence")

    def keep_threads(self) -> None:
        """They stay as they are."""

    def cut(self, slot: int, length: int) -> None:
        if length == 0:
            self._generators.pop(slot, None)
        elif slot in self._generators:
            self._generators[slot].rewind_to(length)

    def save(self, slot: int) -> NoReturn:
        raise UsageError("onnxruntime-genai cannot save a sequence")

    def restore(self, slot: int, data: memoryview) -> NoReturn:
        raise UsageError("onnxruntime-genai cannot restore a sequence")

    def constraint(self, grammar: str) -> Constraint:
        if not grammar.startswith(MARK):
            raise UsageError("onnxruntime-genai has no GBNF grammars", next="give a JSON schema, or use a GGUF bundle")
        return self._grammars.matcher(grammar)

    def close(self) -> None:
        if self._door.close():
            self._generators.clear()
            del self._tokenizer, self._model


def _overlay(settings: Any, threads: int | None) -> dict[str, Any]:
    """Settings laid over genai_config.json: the number of threads."""
    options = settings.get("decoder", {}).get("session_options", {})
    if threads is None:
        return {}
    return {"model": {"decoder": {"session_options": {**options, "intra_op_num_threads": threads}}}}
