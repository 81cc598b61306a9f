"""Every type offered: the same tensor types and bytes as llama.cpp's own quantizer makes from a float32 file."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_models import save_family
from small_folder import write_model

from compress.artifact import Artifact
from compress.stage import Job
from export.checkpoint import Checkpoint
from export.gguf.layout import layout_of
from export.gguf.mix import FILE_TYPES
from export.gguf.params import GgufParams
from export.gguf.plan import plan_tensors
from export.gguf.tensors import tensors_of
from export.gguf.write import stream, write_header

COMMON = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q4_0", "Q3_K_M", "Q2_K", "IQ4_XS", "F16")
QUANTIZED = [name for name in FILE_TYPES if name not in ("F32", "F16", "BF16")]
WITHOUT = [name for name in QUANTIZED if not name.startswith(("IQ2", "IQ3_X", "Q2_K_S"))]


def spread(types: list[str], fast: tuple[str, ...]) -> list:
    """Every type, those not in ``fast`` marked slow."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in types]


class Source:
    """A folder, its plain float32 GGUF and an importance matrix made from a seed."""

    def __init__(self, folder: Path, place: Path) -> None:
        from export.tokenizers.read import load_tokenizer, read_vocabulary

        self.place = place
        self.checkpoint = Checkpoint(folder)
        self.layout = layout_of(self.checkpoint.config)
        self.vocabulary = read_vocabulary(folder, load_tokenizer(folder), self.layout.vocab)
        draw = np.random.default_rng(7)
        self.tensors = tensors_of(self.layout, self.checkpoint)
        self.importance = {
            tensor.module: np.exp(draw.standard_normal(tensor.shape[1])).astype(np.float32)
            for tensor in self.tensors
            if tensor.name.startswith("blk.") and len(tensor.shape) == 2
        }
        self.plain = self.ours("F32", {})

    def ours(self, file_type: str, importance: dict) -> Path:
        scratch = self.place / f"{file_type}-{bool(importance)}"
        scratch.mkdir()
        params = GgufParams(type=file_type)
        plan = plan_tensors(self.checkpoint, self.layout, file_type, importance)
        header = write_header(scratch / "header", self.layout, self.vocabulary, plan, params)
        source = Artifact("hf", self.checkpoint.folder, "0")
        job = Job(params=params, out=scratch, scratch=scratch, inputs=(source,), threads=2)
        stream(scratch / "model.gguf", header, plan, self.checkpoint, job)
        return scratch / "model.gguf"

    def theirs(self, file_type: str, importance: dict) -> Path:
        from export.tokenizers.probes import quiet_llama

        llama = quiet_llama()
        params = llama.llama_model_quantize_default_params()
        params.ftype, params.nthread = FILE_TYPES[file_type][0], 2
        if importance:
            matrices = [t for t in self.tensors if t.module in importance and len(t.shape) == 2]
            rows = [(t.name.encode(), importance[t.module]) for t in matrices]
            table = (llama.llama_model_imatrix_data * (len(rows) + 1))()
            for slot, (name, values) in zip(table, rows, strict=False):
                slot.name = name
                slot.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
                slot.size = values.size
            params.imatrix = table
        out = self.place / f"{file_type}-{bool(importance)}.theirs.gguf"
        assert llama.llama_model_quantize(str(self.plain).encode(), str(out).encode(), ctypes.byref(params)) == 0
        return out


def tensors(path: Path) -> dict:
    import gguf

    return {t.name: (t.tensor_type.name, t.data.tobytes()) for t in gguf.GGUFReader(path).tensors}


SHAPES = {
    "grouped": {"hidden": 256, "ffn": 256, "layers": 8, "heads": 8, "kv_heads": 2, "tied": True},
    "untied": {"hidden": 256, "ffn": 256, "layers": 8, "heads": 4, "kv_heads": 4, "tied": False},
    "deep": {"hidden": 256, "ffn": 256, "layers": 17, "heads": 4, "kv_heads": 1, "tied": False},
    "odd": {"hidden": 96, "ffn": 160, "layers": 2, "heads": 4, "kv_heads": 2, "tied": True},
    "odder": {"hidden": 48, "ffn": 72, "layers": 1, "heads": 3, "kv_heads": 1, "tied": False},
}
"""Widths that are multiples of 256, of 32 only, and of neither; heads per KV head 4 and 1; tied and not."""
WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 8, "num_attention_heads": 4}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"n_embd": 256, "n_inner": 256, "n_layer": 8}),
    "phi3": ("phi3", {**WIDE, "num_key_value_heads": 1}),
    "phi3-apart": ("phi3-fewer-heads", {**WIDE, "num_attention_heads": 2, "head_dim": 64}),
    "gemma3": ("gemma3", {**WIDE, "head_dim": 64, "num_key_value_heads": 4}),
    "gemma2": ("gemma2-uncapped", {**WIDE, "head_dim": 64, "num_key_value_heads": 1}),
    "qwen3": ("qwen3", {**WIDE, "num_key_value_heads": 4}),
    "gpt2-odd": ("gpt2-untied-narrow", {"n_embd": 48}),
    "phi3-odd": ("phi3-partial", {"hidden_size": 96}),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Source]:
    @cache
    def make(shape: str) -> Source:
        place = tmp_path_factory.mktemp(shape)
        if shape in SHAPES:
            return Source(write_model(place / "hf", **SHAPES[shape]), place)
        case, sizes = FAMILIES[shape]
        return Source(save_family(case, place / "hf", **sizes), place)

    return make


def same(source: Source, file_type: str, importance: dict) -> bool:
    return tensors(source.ours(file_type, importance)) == tensors(source.theirs(file_type, importance))


@pytest.mark.parametrize("file_type", spread(list(FILE_TYPES)[1:], COMMON))
def test_equal_on_whole_blocks(source: Callable[[str], Source], file_type: str) -> None:
    assert same(source("grouped"), file_type, source("grouped").importance)


@pytest.mark.parametrize("file_type", spread(list(FILE_TYPES)[1:], ("Q4_K_M", "Q5_K_M", "Q3_K_M", "Q8_0")))
@pytest.mark.parametrize("shape", ["odd", "odder"])
def test_equal_where_rows_are_no_whole_blocks(source: Callable[[str], Source], shape: str, file_type: str) -> None:
    assert same(source(shape), file_type, source(shape).importance)


@pytest.mark.parametrize("file_type", spread(WITHOUT, ("Q4_K_M", "IQ4_NL")))
def test_equal_without_importance(source: Callable[[str], Source], file_type: str) -> None:
    assert same(source("untied"), file_type, {})


@pytest.mark.parametrize("file_type", spread(list(FILE_TYPES)[1:], ("F16", "Q4_K_M", "Q3_K_M")))
@pytest.mark.parametrize("family", ["gemma3", "gpt2", "phi3"])
def test_equal_in_other_families(source: Callable[[str], Source], family: str, file_type: str) -> None:
    assert same(source(family), file_type, source(family).importance)


@pytest.mark.slow
@pytest.mark.parametrize("file_type", QUANTIZED)
@pytest.mark.parametrize("family", ["gemma2", "gpt2-odd", "phi3-apart", "phi3-odd", "qwen3"])
def test_equal_in_variants_of_families(source: Callable[[str], Source], family: str, file_type: str) -> None:
    assert same(source(family), file_type, source(family).importance)


@pytest.mark.slow
@pytest.mark.parametrize("file_type", WITHOUT)
@pytest.mark.parametrize("family", ["gpt2", "phi3"])
def test_equal_in_other_families_without_importance(
    source: Callable[[str], Source], family: str, file_type: str
) -> None:
    assert same(source(family), file_type, {})


@pytest.mark.slow
@pytest.mark.parametrize("file_type", QUANTIZED)
@pytest.mark.parametrize("shape", ["untied", "deep"])
def test_equal_on_other_shapes(source: Callable[[str], Source], shape: str, file_type: str) -> None:
    assert same(source(shape), file_type, source(shape).importance)


def test_plain_file_is_the_checkpoint(source: Callable[[str], Source]) -> None:
    import gguf

    odd = source("odd")
    stored = {t.name: t.data for t in gguf.GGUFReader(odd.plain).tensors}
    down = odd.checkpoint.rows("model.layers.1.mlp.down_proj.weight", 0, 96)
    assert (stored["blk.1.ffn_down.weight"] == down).all()
    query = odd.checkpoint.rows("model.layers.0.self_attn.q_proj.weight", 0, 96)
    head, half = 2, 5  # row 5 of a head's first half becomes row 10, row 5 of its second half row 11
    assert (stored["blk.0.attn_q.weight"][head * 24 + 10] == query[head * 24 + half]).all()
    assert (stored["blk.0.attn_q.weight"][head * 24 + 11] == query[head * 24 + 12 + half]).all()


@pytest.mark.parametrize("file_type", spread(QUANTIZED, ("Q8_0", "Q5_K_M", "Q4_K_M")))
def test_equal_on_a_trained_model(shared_data: Path, source_m7: Source, file_type: str) -> None:
    assert same(source_m7, file_type, source_m7.importance)


@pytest.fixture(scope="module")
def source_m7(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source(shared_data / "models/m7", tmp_path_factory.mktemp("m7"))
