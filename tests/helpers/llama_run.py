"""Logits of a .gguf file by llama.cpp's C interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from export.tokenizers.probes import quiet_llama


def logits(path: Path, ids: list[int]) -> np.ndarray:
    """float32 [len(ids), vocabulary]."""
    return logits_of(path, [ids])[0]


def logits_of(path: Path, rows: list[list[int]]) -> list[np.ndarray]:
    """float32 [len(ids), vocabulary] of each row, one after the other."""
    lib = quiet_llama()
    params = lib.llama_model_default_params()
    params.use_extra_bufts = False  # plain kernels: nothing that depends on the CPU's extensions
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    assert model, f"llama.cpp refuses {path}"
    settings = lib.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 256
    settings.type_k = settings.type_v = 0  # float32 cache
    settings.flash_attn_type = 0
    settings.n_threads = settings.n_threads_batch = 2
    context = lib.llama_init_from_model(model, settings)
    size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    found = [_decode(lib, context, ids, size) for ids in rows]
    lib.llama_free(context)
    lib.llama_model_free(model)
    return found


def _decode(lib: Any, context: Any, ids: list[int], size: int) -> np.ndarray:
    lib.llama_memory_clear(lib.llama_get_memory(context), True)
    batch = lib.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for at, token in enumerate(ids):
        batch.token[at], batch.pos[at], batch.logits[at] = token, at, True
        batch.n_seq_id[at], batch.seq_id[at][0] = 1, 0
    assert lib.llama_decode(context, batch) == 0
    rows = [np.ctypeslib.as_array(lib.llama_get_logits_ith(context, i), (size,)).copy() for i in range(len(ids))]
    lib.llama_batch_free(batch)
    return np.stack(rows)
