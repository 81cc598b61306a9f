"""llama.cpp through llama-cpp-python's low-level API: many sequences in one `llama_decode`.

The KV cache is split in one stream per slot (``kv_unified = False``): attention then reads only a sequence's own
cells. With 16 sequences of 200 tokens that decodes 1.4 times faster than one shared buffer.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llama_cpp.llama_cpp as lib
import numpy as np

from ...errors import ArtifactError, ResourceError, UsageError
from ..chat import of_gguf
from ..door import Door
from ..gguf_model import check_model
from ..grammar import MARK, Grammars
from .base import Interrupted, Span
from .crew import Crew
from .gbnf import Grammar

if TYPE_CHECKING:
    from .base import Constraint, Rows

log = logging.getLogger(__name__)
_ERROR = 4  # GGML_LOG_LEVEL_ERROR, which the binding does not name
_BYTES = ctypes.POINTER(ctypes.c_uint8)
_USER_DEFINED = 4  # LLAMA_TOKEN_TYPE_USER_DEFINED
_ABORTED = 2  # what llama_decode says when its abort callback did
_IS_SET = ctypes.cast(ctypes.CDLL(None).strlen, lib.ggml_abort_callback)
"""The abort callback, asked before each node of the graph: the length of a text of at most one byte. A function of C's
library, because one of Python's would have every node wait for the interpreter."""


_complaints: deque[str] = deque(maxlen=3)
"""The library's last error lines: it says why it failed only in its log."""


def _forward_log(level: int, text: bytes, _: object) -> None:
    if level == _ERROR:
        _complaints.append(text.decode("utf-8", "replace").strip())
    severity = logging.INFO if level == _ERROR else logging.DEBUG
    if log.isEnabledFor(severity):
        log.log(severity, "%s", text.decode("utf-8", "replace").rstrip())


_CALLBACK = lib.llama_log_callback(_forward_log)  # kept for as long as the library may call it
_address_of_logits: Callable[..., int | None] = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(
    ("llama_get_logits", lib._lib)
)
_started: list[bool] = []


def _why() -> str:
    """The library's complaints since the last call, as a parenthesis."""
    text = "; ".join(_complaints)
    _complaints.clear()
    return f" ({text})" if text else ""


def _start() -> None:
    if not _started:
        lib.llama_log_set(_CALLBACK, ctypes.c_void_p(0))
        lib.llama_backend_init()
        _started.append(True)


def _amx() -> bool:
    """Whether this build of ggml uses AMX tiles. Compiled by gcc 12 they crash on the first prompt (``ldtilecfg``
    reads a configuration the compiler did not store), so such a build runs without its repacked weights."""
    return b"AMX_INT8 = 1" in lib.llama_print_system_info()


ITERATIVE = frozenset({"gpt-2", "smollm", "llama-bpe", "smaug-bpe", "qwen2", "qwen35"})
"""Pre-tokenizers that llama.cpp (llama-cpp-python 0.3.36) runs without recursion; the other regular expressions
overflow the stack and end the process somewhere above 20,000 characters without (or of) white space."""
LONGEST = 8192
_ENDLESS = re.compile(rf"\S{{{LONGEST + 1}}}|\s{{{LONGEST + 1}}}")


TOGETHER = 256
"""Tokens of a sequence whose attention one thread computes whole. Of longer ones, over a float16 cache, the threads of
a step with a single token of a single sequence take a part each, whose sums are rounded apart."""
KV_TYPES = {"f16": (1, (1, 2)), "q8_0": (8, (32, 34))}
"""Types of keys and values in the cache: ggml's number of the type, and its values per block and bytes per block."""


class LlamaBackend:
    """A GGUF model. See `Backend` for the meaning of the attributes and methods."""

    name = "llama.cpp"
    shares = keeps = True
    grammars = True
    drafts = True

    def __init__(self, path: Path, *, threads: int | None, slots: int, context: int | None, kv: str = "f16") -> None:
        if kv not in KV_TYPES:
            raise UsageError(f"there is no KV cache of type {kv!r}", next="known: " + ", ".join(KV_TYPES))
        self._kv = kv
        header = check_model(path)
        self.folds = "tokenizer.ggml.precompiled_charsmap" in header.metadata
        self.chat, self.added = of_gguf(header.metadata), _user_defined(header.metadata)
        _start()
        _complaints.clear()
        import llama_cpp

        self.version: str = llama_cpp.__version__
        self.clock = time.perf_counter if lib.llama_supports_gpu_offload() else time.thread_time
        self.cache = f"llama-cpp-python {self.version} KV {kv}"
        params = lib.llama_model_default_params()
        params.use_extra_bufts = not _amx()
        self._model = lib.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise ArtifactError(
                f"llama.cpp cannot read {path}{_why()}", next="export the model again or check the file"
            )
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.n_vocab: int = lib.llama_vocab_n_tokens(self._vocab)
        trained = lib.llama_model_n_ctx_train(self._model)
        self.context: int = min(context or min(trained, 4096), trained)
        self.slots = self._affordable(slots)
        self.batch = 512
        self._open_context(threads or _threads(lib.llama_model_size(self._model)))
        yields = threads is None and self.threads > 1 and not lib.llama_supports_gpu_offload()
        self._crew = Crew(self.threads) if yields else None
        self._read_vocabulary()
        self._grammars = Grammars(self)
        self._door = Door()

    def _affordable(self, slots: int) -> int:
        """``slots``, or fewer when their KV caches would take more than a quarter of the machine's memory."""
        values, size = KV_TYPES[self._kv][1]
        heads, heads_kv = lib.llama_model_n_head(self._model), lib.llama_model_n_head_kv(self._model)
        own = self._setting(f"{self._setting('general.architecture')}.attention.key_length")
        width = int(own or lib.llama_model_n_embd(self._model) // max(heads, 1)) * heads_kv
        if width % values or (width // max(heads_kv, 1)) % values:
            raise UsageError(
                f"a KV cache of {self._kv} needs heads whose size is a multiple of {values}", next="use kv='f16'"
            )
        cell = 2 * width * size // values * lib.llama_model_n_layer(self._model)  # K and V
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.memory_bytes = int(lib.llama_model_size(self._model)) + cell * self.context
        fit = max(1, min(slots, memory // 4 // max(cell * self.context, 1)))
        if fit < slots:
            log.warning("%d slots instead of %d: the KV caches would not fit in memory", fit, slots)
        return int(fit)

    def _open_context(self, threads: int) -> None:
        params = lib.llama_context_default_params()
        params.n_ctx = self.context * self.slots
        params.n_seq_max = self.slots
        params.n_batch = params.n_ubatch = self.batch
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = False
        params.type_k = params.type_v = KV_TYPES[self._kv][0]
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED if self._kv != "f16" else params.flash_attn_type
        params.no_perf = True
        self.threads = threads
        self._context = lib.llama_init_from_model(self._model, params)
        if not self._context:
            lib.llama_model_free(self._model)
            raise ResourceError(
                f"llama.cpp cannot make a context of {self.slots} x {self.context} tokens",
                next="lower slots or context",
            )
        self._memory = lib.llama_get_memory(self._context)
        self._stop = ctypes.create_string_buffer(2)
        lib.llama_set_abort_callback(self._context, _IS_SET, ctypes.cast(self._stop, ctypes.c_void_p))
        self._views: dict[tuple[int, int], Rows] = {}
        self._make_batch()

    def _make_batch(self) -> None:
        """A batch whose arrays are numpy arrays, so that a chunk is written by slices."""
        n = self.batch
        self._token, self._position, self._sequence = (np.zeros(n, np.int32) for _ in range(3))
        self._wanted = np.zeros(n, np.int8)
        self._ones = np.ones(n, np.int32)
        base = self._sequence.ctypes.data
        self._pointers = (ctypes.POINTER(lib.llama_seq_id) * n)(
            *(ctypes.cast(base + 4 * i, ctypes.POINTER(lib.llama_seq_id)) for i in range(n))
        )
        i32, i8 = ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_int8)
        self._batch = lib.llama_batch(
            n_tokens=0,
            token=self._token.ctypes.data_as(i32),
            embd=None,
            pos=self._position.ctypes.data_as(i32),
            n_seq_id=self._ones.ctypes.data_as(i32),
            seq_id=self._pointers,
            logits=self._wanted.ctypes.data_as(i8),
        )

    def _read_vocabulary(self) -> None:
        vocab = self._vocab
        controls = [t for t in range(self.n_vocab) if lib.llama_vocab_is_control(vocab, t)]
        self.stops = frozenset(t for t in range(self.n_vocab) if lib.llama_vocab_is_eog(vocab, t))
        self.controls = tuple(sorted({text for t in controls if (text := self._text(t))}))
        self._controls = frozenset(controls)
        kind, pre = (self._setting(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
        self._words = kind == "whitespace"  # whose tokens are words, and have no space in their text
        self._recursive = kind == "gpt2" and pre not in ITERATIVE
        self._pieces: dict[int, bytes] = {}

    def _setting(self, key: str) -> str:
        """A value of the file's header as text, at most 255 bytes of it; empty if it is not there."""
        value = ctypes.create_string_buffer(256)
        lib.llama_model_meta_val_str(self._model, key.encode(), value, len(value))
        return value.value.decode("utf-8", "replace")

    def _text(self, token: int) -> str:
        return lib.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace") if token >= 0 else ""

    def encode(self, text: str) -> list[int]:
        if self._recursive and _ENDLESS.search(text):
            raise UsageError(
                f"the text has a word of more than {LONGEST} characters, for which llama.cpp would run out of stack",
                next="shorten it",
            )
        data = text.encode()
        room = len(data) + 8
        ids = (lib.llama_token * room)()
        with self._door:
            count = lib.llama_tokenize(self._vocab, data, len(data), ids, room, False, True)
        assert count >= 0, "a token is at least one byte, so the room suffices"
        found: list[int] = ids[:count]
        return found

    def piece(self, token: int) -> bytes:
        found = self._pieces.get(token)
        if found is None:
            with self._door:
                found = b"" if token in self._controls else self._read_piece(token)
            self._pieces[token] = found
        return found

    def _read_piece(self, token: int) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count: int = lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
            if count >= 0:
                return b" " * self._words + buffer.raw[:count]
            size = -count

    def decode(self, spans: Sequence[Span]) -> Rows:
        n = wanted = 0
        token, position, sequence, flags = self._token, self._position, self._sequence, self._wanted
        for slot, start, tokens, rows in spans:
            count = len(tokens)
            if count == 1:
                token[n], position[n], sequence[n], flags[n] = tokens[0], start, slot, rows
            else:
                end = n + count
                token[n:end], sequence[n:end] = tokens, slot
                position[n:end] = np.arange(start, start + count)
                flags[n : end - rows], flags[end - rows : end] = 0, 1
            n += count
            wanted += rows
        self._batch.n_tokens = n
        code = self._timed_decode() if self._crew is not None else lib.llama_decode(self._context, self._batch)
        if code == _ABORTED:
            raise Interrupted
        if code != 0:
            raise ResourceError(f"llama.cpp could not decode a batch of {n} tokens (code {code})", next="lower slots")
        return self._rows(wanted)

    def _timed_decode(self) -> int:
        started, used = time.perf_counter(), time.process_time()
        code: int = lib.llama_decode(self._context, self._batch)
        used, now = time.process_time() - used, time.perf_counter()
        crew = self._crew
        if crew is not None and crew.note(now, now - started, used):
            self._use(crew.threads)
        return code

    def _use(self, threads: int) -> None:
        self.threads = threads
        lib.llama_set_n_threads(self._context, threads, threads)

    def keep_threads(self) -> None:
        if self._crew is not None:
            self._use(self._crew.most)
            self._crew = None

    @property
    def alike(self) -> int:
        apart = self._kv == "f16" and self.threads > 1
        return min(TOGETHER, self.context) if apart else self.context

    def stop(self, *, on: bool) -> None:
        self._stop[0] = b"\1" if on else b"\0"

    def _rows(self, count: int) -> Rows:
        """A view of the logits, without a copy; the views of an unmoved buffer are kept."""
        if not count:
            return np.empty((0, self.n_vocab), np.float32)
        address = _address_of_logits(self._context)
        assert address, "rows were asked for"
        view = self._views.get((address, count))
        if view is None:
            if len(self._views) > 64:
                self._views.clear()
            memory = (ctypes.c_float * (count * self.n_vocab)).from_address(address)
            view = self._views[address, count] = np.ctypeslib.as_array(memory).reshape(count, self.n_vocab)
        return view

    def copy(self, source: int, target: int, length: int) -> None:
        lib.llama_memory_seq_rm(self._memory, target, -1, -1)
        lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        self.cut(target, length)

    def cut(self, slot: int, length: int) -> None:
        lib.llama_memory_seq_rm(self._memory, slot, length, -1)

    def save(self, slot: int) -> memoryview:
        size = lib.llama_state_seq_get_size(self._context, slot)
        data = np.empty(size, np.uint8)
        written = lib.llama_state_seq_get_data(self._context, data.ctypes.data_as(_BYTES), size, slot)
        if written != size:
            raise ResourceError("llama.cpp could not save a sequence", next="load with prefixes=False")
        return memoryview(data.data)

    def restore(self, slot: int, data: memoryview) -> bool:
        lib.llama_memory_seq_rm(self._memory, slot, -1, -1)
        view = np.frombuffer(data, np.uint8)
        if lib.llama_state_seq_set_data(self._context, view.ctypes.data_as(_BYTES), len(view), slot) == len(view):
            return True
        lib.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return False

    def constraint(self, grammar: str) -> Constraint:
        if grammar.startswith(MARK):
            return self._grammars.matcher(grammar)
        with self._door:
            return Grammar(self._vocab, self.n_vocab, grammar)

    def close(self) -> None:
        if self._door.close():
            lib.llama_free(self._context)
            lib.llama_model_free(self._model)
            self._context = self._model = None


def _user_defined(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    tokens, types = (metadata.get(f"tokenizer.ggml.{name}") or () for name in ("tokens", "token_type"))
    return tuple(sorted({token for token, kind in zip(tokens, types, strict=False) if kind == _USER_DEFINED}))


def _threads(size_bytes: int) -> int:
    """All cores this process may use, but few for a small model: below some 16 MB of weights per thread the
    hand-over between threads costs more than it brings (two threads pay from the start: 847 against 603 tokens/s
    for a 5 MB model)."""
    return min(len(os.sched_getaffinity(0)), 2 + size_bytes // (16 << 20))
