"""Every family and variant: llama.cpp's logits are Hugging Face's, also beyond a sliding window; others are refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_models import CASES, GELU, GEMMA, GPT2, LLAMA3, ODD_YARN, PLAIN, SIZES, WINDOW, YARN, save_family
from ggml_gelu import table_gelu
from gguf_export import export
from gguf_plain import write_plain
from llama_run import logits, logits_of

from compress.errors import ArtifactError, UnsupportedArchitecture
from compress.model.families import LAYOUTS
from export.checkpoint import Checkpoint
from export.gguf.arch import ARCHITECTURES
from export.gguf.layout import layout_of
from export.gguf.tensors import tensors_of

POSITIONS = 140


def reference(folder: Path, ids: list[int], *, table: bool = True) -> np.ndarray:
    """Hugging Face's logits in float32, with ggml's GELU if ``table``."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    if table:
        table_gelu(model)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def gap(folder: Path, path: Path, positions: int = POSITIONS, *, table: bool = True) -> float:
    """max |llama.cpp - Hugging Face| / max |Hugging Face| over the logits of random tokens."""
    ids = np.random.default_rng(1).integers(0, 300, positions).tolist()
    expected = reference(folder, ids, table=table)
    assert np.abs(expected).max() > 1
    return float(np.abs(logits(path, ids) - expected).max() / np.abs(expected).max())


QUICK = {*PLAIN, "llama-llama3", "llama-yarn-odd", "phi3-longrope-long", "qwen2-fewer-heads"}


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_logits_equal_hugging_face(tmp_path: Path, name: str) -> None:
    folder = save_family(name, tmp_path / "hf")
    path = export(folder, tmp_path)
    assert gap(folder, path) < 2e-4
    if name.startswith(GELU):
        assert gap(folder, path, table=False) < 1e-3


def config_of(kind: str, **more: Any) -> dict[str, Any]:
    return {"model_type": kind, "vocab_size": 300, **(GPT2 if kind == "gpt2" else SIZES), **more}


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "activation": ("llama", {"hidden_act": "gelu"}, "activation 'gelu'"),
    "exact gelu": ("gpt2", {"activation_function": "gelu"}, "activation 'gelu'"),
    "scaling": ("llama", {"rope_parameters": {"rope_type": "axial"}}, "rotary scaling 'axial'"),
    "divisors": ("qwen3", {"rope_parameters": LLAMA3}, "rotary scaling 'llama3'"),
    "odd yarn": ("gemma2", {**GEMMA, "rope_scaling": ODD_YARN}, "rotary scaling 'yarn'"),
    "local yarn": ("gemma3_text", {**GEMMA, "rope_parameters": {"sliding_attention": YARN}}, "blocks with a window"),
    "partial": ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
    "by kind": ("qwen3", {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "by kind of block"),
    "inverse index": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    "unscaled": ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights = False"),
    "crossed": ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
    "bias": ("gemma2", {**GEMMA, "attention_bias": True}, "attention_bias"),
    "qwen3 bias": ("qwen3", {"attention_bias": True}, "attention_bias"),
    "untied": ("gemma2", {**GEMMA, "tie_word_embeddings": False}, "an output head of its own"),
    "capped": ("gemma3_text", {**GEMMA, "attn_logit_softcapping": 20.0}, "attn_logit_softcapping"),
    "both ways": ("gemma3_text", {**GEMMA, "use_bidirectional_attention": True}, "use_bidirectional_attention"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_a_variant_that_no_graph_computes_is_refused_with_the_reason(name: str) -> None:
    kind, change, reason = REFUSED[name]
    with pytest.raises(UnsupportedArchitecture, match=f"does not compute this variant.*{reason}"):
        layout_of(config_of(kind, **change))
    layout_of(config_of(kind, **(GEMMA if kind.startswith("gemma") else {})))


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": "64"},
        {"num_attention_heads": 0},
        {"num_hidden_layers": -1},
        {"vocab_size": None},
        {"num_key_value_heads": 3},
        {"head_dim": 15},
        {"intermediate_size": 2.5},
        {"sliding_window": "wide", "use_sliding_window": True, "max_window_layers": 0},
        {"rope_scaling": {"type": "linear"}},
        {"rope_scaling": {"type": "yarn", "factor": "4x"}},
        {"rope_scaling": {"type": "llama3", "factor": 0}},
        {"rope_scaling": "linear"},
        {"rope_theta": "big"},
        {"rms_norm_eps": None},
        {"rope_parameters": {"rope_type": ["yarn"]}},
    ],
)
def test_sizes_that_make_no_model_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError) as caught:
        assert layout_of(config_of("qwen2", **change)).windows
    assert "complete config.json" in str(caught.value.next)


def context_of(kind: str, **more: Any) -> int:
    return layout_of(config_of(kind, **more)).context


def test_the_context_ends_where_a_window_begins_that_the_graph_has_not() -> None:
    assert context_of("mistral", sliding_window=64) == 64
    assert context_of("mistral", sliding_window=None) == 256
    assert context_of("phi3", sliding_window=64) == 64
    assert context_of("qwen2", **WINDOW) == 32
    assert context_of("qwen3", **{**WINDOW, "max_window_layers": 3}) == 256
    assert context_of("llama", sliding_window=64) == 256
    assert context_of("gemma2", **GEMMA) == 256


def test_both_tables_know_the_same_families(tmp_path: Path) -> None:
    rows = {row.model_type: row for row in ARCHITECTURES.values()}
    assert set(rows) == set(LAYOUTS)
    for kind, row in rows.items():
        config = config_of(kind)
        ours, theirs = layout_of(config), LAYOUTS[kind].settings(config)
        assert (ours.layers, ours.hidden, ours.heads) == tuple(
            theirs[key] for key in ("num_hidden_layers", "hidden_size", "num_attention_heads")
        )
        assert (ours.ffn, ours.head_dim, ours.kv_heads) == tuple(
            theirs[key] for key in ("intermediate_size", "head_dim", "num_key_value_heads")
        )
        assert ours.tied == theirs["tie_word_embeddings"]
        assert ours.windows == [kind == "sliding_attention" for kind in theirs["layer_types"]] or not row.ropes
        linears = {f"{name}.weight" for name in LAYOUTS[kind].linears()}
        assert linears <= {line.split()[0] for line in row.block.splitlines() if line}


def values(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor in two pieces, by GGUF name."""
    checkpoint = Checkpoint(folder)
    found = {}
    for tensor in tensors_of(layout_of(checkpoint.config), checkpoint):
        rows = tensor.shape[0] if len(tensor.shape) > 1 else 1
        cut = rows // 2 // tensor.head_dim * tensor.head_dim
        pieces = [tensor.values(checkpoint, 0, cut), tensor.values(checkpoint, cut, rows)]
        found[tensor.name] = np.concatenate(pieces) if cut else pieces[1]
    return found


@pytest.mark.parametrize("case", ["gpt2", "llama", "gemma2", "phi3-fewer-heads"])
def test_folders_without_the_prefix_and_in_shards_read_alike(tmp_path: Path, case: str) -> None:
    from safetensors.numpy import load_file, save_file

    folder = save_family(case, tmp_path / "hf")
    before = values(folder)
    weights = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer.").removeprefix("model."): value for name, value in weights.items()}
    assert not set(bare) & set(weights) - {"lm_head.weight"}
    (folder / "model.safetensors").unlink()
    for part in range(3):
        save_file({name: bare[name] for name in sorted(bare)[part::3]}, folder / f"model-{part}.safetensors")
    places = {name: f"model-{place % 3}.safetensors" for place, name in enumerate(sorted(bare))}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    after = values(folder)
    assert list(after) == list(before)
    for name, rows in after.items():
        assert np.array_equal(rows, before[name]), name


def test_fused_rows_and_transposes_come_from_the_right_place(tmp_path: Path) -> None:
    phi = Checkpoint(save_family("phi3-fewer-heads", tmp_path / "phi3"))
    found = {t.name: t for t in tensors_of(layout_of(phi.config), phi)}
    gate_up = phi.rows("model.layers.1.mlp.gate_up_proj.weight", 0, 192)
    assert np.array_equal(found["blk.1.ffn_up.weight"].values(phi, 3, 9), gate_up[99:105])
    qkv = phi.rows("model.layers.1.self_attn.qkv_proj.weight", 0, 64)
    assert np.array_equal(found["blk.1.attn_v.weight"].values(phi, 0, 16), qkv[48:])
    assert np.array_equal(found["blk.1.attn_k.weight"].values(phi, 0, 16)[:4], qkv[[32, 40, 33, 41]])
    gpt = Checkpoint(save_family("gpt2", tmp_path / "gpt2"))
    c_fc = gpt.rows("transformer.h.2.mlp.c_fc.weight", 0, 64)
    (up,) = [t for t in tensors_of(layout_of(gpt.config), gpt) if t.name == "blk.2.ffn_up.weight"]
    assert np.array_equal(up.values(gpt, 10, 20), c_fc.T[10:20])


@pytest.mark.parametrize("step", [20, pytest.param(1, marks=pytest.mark.slow)])
def test_a_trained_gpt2_sorts(shared_data: Path, tmp_path: Path, step: int) -> None:
    """Six digits in, six out; all 729 inputs, or every so many."""
    folder = shared_data / "models/gpt-nano-sort"
    path = write_plain(folder, tmp_path)
    inputs = [list(digits) for digits in itertools.product(range(3), repeat=6)][::step]
    rows = [list(row) for row in inputs]
    for _ in range(6):
        for row, found in zip(rows, logits_of(path, rows), strict=True):
            row.append(int(found[-1].argmax()))
    assert [row[6:] for row in rows] == [sorted(row) for row in inputs]
    ids = rows[-2][:11]
    expected, got = reference(folder, ids), logits(path, ids)
    assert np.abs(got - expected).max() < 2e-4 * np.abs(expected).max()
