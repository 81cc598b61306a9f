"""Graphs of every family against transformers in float32: whole prompts, and token by token over the cache."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_gptq import quantize

from compress.errors import HoldfastError
from compress.model.config import read_config, read_settings
from export.checkpoint import open_checkpoint
from export.onnx.check import compare_weights
from export.onnx.decoder import Decoder
from export.onnx.family import FAMILIES, family_of, rope_tables, spec_of
from export.onnx.graph import Graph
from export.onnx.levels import logits
from export.onnx.linears import Precision

pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
TINY = Path(__file__).parents[2] / "helpers" / "tiny_families.py"
EXACT = 1e-5
"""Largest difference of a logit, in standard deviations of the logits."""
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-head-8": ("llama", {"head_dim": 8}),
    "llama-head-80-of-one-group": ("llama", {"head_dim": 80, "num_key_value_heads": 1, "intermediate_size": 88}),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3-head-40": ("qwen3", {"head_dim": 40, "tie_word_embeddings": True}),
    "phi3-narrow": ("phi3", {"num_key_value_heads": 4, "sliding_window": None, "partial_rotary_factor": 0.75}),
    "mistral-wide": ("mistral", {"sliding_window": 64, "head_dim": 32}),
}


def tiny() -> ModuleType:
    """tests/helpers/tiny_families.py, whichever tests run."""
    spec = spec_from_file_location("tiny_families_of_compress", TINY)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.CASES.update(MORE)
    return module


FAMILY_CASES = tiny()


def save(name: str, folder: Path) -> Any:
    folder.mkdir()
    model = FAMILY_CASES.save_tiny(name, folder)
    config = read_config(folder) | {"architectures": [type(model).__name__]}
    (folder / "config.json").write_text(json.dumps(config))
    return model


def write(folder: Path, out: Path, precision: Precision | None = None) -> dict[str, list[str]]:
    """The graph of ``folder``, without tokenizer and settings."""
    out.mkdir()
    checkpoint, settings = open_checkpoint(folder), read_settings(folder)
    family = family_of(checkpoint.config).found_in(checkpoint.names())
    spec = spec_of(family, settings)
    ropes = rope_tables(family, settings, spec.kinds)
    with Graph(out / "model.onnx", np.float32) as graph:
        decoder = Decoder(graph, spec, checkpoint, ropes, precision or Precision(None, None, 32, 0))
        decoder.build()
        graph.save("test")
    return decoder.linears.products


def session(out: Path) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return ort.InferenceSession(str(out / "model.onnx"), options)


def cached_logits(run: Any, ids: np.ndarray, first: int) -> np.ndarray:
    """Logits of the prompt ``ids[:first]``, then of each further token over the cache."""
    names = [given.name for given in run.get_inputs()]
    kept = {g.name: np.zeros((1, g.shape[1], 0, g.shape[3]), np.float32) for g in run.get_inputs() if "past" in g.name}
    outputs, rows = ["logits", *[name.replace("past_key_values", "present") for name in kept]], []
    at = 0
    while at < len(ids):
        step = first if at == 0 else 1
        feeds = {"input_ids": ids[None, at : at + step], "attention_mask": np.ones((1, at + step), np.int64)}
        feeds["position_ids"] = np.arange(at, at + step)[None]
        found = run.run(outputs, {name: value for name, value in feeds.items() if name in names} | kept)
        kept = dict(zip(kept, found[1:], strict=True))
        rows.append(found[0][0])
        at += step
    return np.concatenate(rows)


def expected_of(model: Any, ids: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(ids[None])).logits[0].numpy()


def off(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference in standard deviations."""
    return float(np.abs(got - expected).max() / expected.std())


@pytest.mark.parametrize("name", sorted(FAMILY_CASES.CASES))
def test_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    """24 positions: three windows of 8, and beyond the original context of the scaled ones."""
    model = save(name, tmp_path / "hf")
    linears = write(tmp_path / "hf", tmp_path / "onnx")
    ids = FAMILY_CASES.ids(1)[0].numpy()[: model.config.max_position_embeddings]
    expected, run = expected_of(model, ids), session(tmp_path / "onnx")
    assert off(logits(run, ids), expected) < EXACT
    switches = name == "phi3-longrope-long"  # past its original context transformers computes the cache anew
    assert off(cached_logits(run, ids, 17 if switches else 7), expected) < EXACT
    counts = compare_weights(tmp_path / "onnx" / "model.onnx", tmp_path / "hf", linears)
    assert counts == {"weights_equal": sum(map(len, linears.values())), "weights_rounded": 0}


def test_every_family_has_a_case() -> None:
    kinds = {kind.removesuffix("_text") for kind, _ in FAMILY_CASES.CASES.values()}
    assert kinds == {family.module for family in FAMILIES.values()}


def to_gptq(folder: Path, group: int, *, symmetric: bool, conv1d: bool) -> dict[str, np.ndarray]:
    """Quantize every block linear in place; returns the weights that the folder stands for."""
    tensors = load_file(folder / "model.safetensors")
    stored, plain = {}, {}
    for name, value in tensors.items():
        inside = (".layers." in name or ".h." in name) and value.ndim == 2 and name.endswith(".weight")
        if not inside:
            stored[name] = plain[name] = value
            continue
        packed, weight = quantize(value.T if conv1d else value, 4, group, symmetric)
        plain[name] = np.ascontiguousarray(weight.T) if conv1d else weight
        stored |= {name.removesuffix("weight") + part: tensor for part, tensor in packed.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    settings = {"quant_method": "gptq", "bits": 4, "group_size": group, "sym": symmetric, "desc_act": False}
    config = read_config(folder) | {"quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(config))
    return plain


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("name", "group"), [*((n, 32) for n in FAMILY_CASES.PLAIN), ("phi3", 16), ("mistral-wide", 32)]
)
def test_gptq_codes_of_every_family(name: str, group: int, symmetric: bool, tmp_path: Path) -> None:
    """The graph multiplies with exactly the folder's weights: transformers answers the same with those."""
    import torch

    model = save(name, tmp_path / "hf")
    if name == "gpt2":  # hidden 64, FFN 4 * 64; the odd sizes of the others are multiples of 32 too
        assert model.config.n_embd % group == 0
    plain = to_gptq(tmp_path / "hf", group, symmetric=symmetric, conv1d=name == "gpt2")
    model.load_state_dict({n: torch.from_numpy(value) for n, value in plain.items()}, strict=False)
    linears = write(tmp_path / "hf", tmp_path / "onnx")
    counts = compare_weights(tmp_path / "onnx" / "model.onnx", tmp_path / "hf", linears)
    assert counts == {"weights_equal": sum(map(len, linears.values())), "weights_rounded": 0}
    ids = FAMILY_CASES.ids(1)[0].numpy()
    assert off(logits(session(tmp_path / "onnx"), ids), expected_of(model, ids)) < EXACT


@pytest.mark.parametrize("head", [4, 8])
@pytest.mark.parametrize("name", ["gemma3", "gpt2", "gpt2-untied", "llama-head-80-of-one-group", "phi3"])
def test_rounded_weights_and_embeddings_are_what_the_graph_computes_with(name: str, head: int, tmp_path: Path) -> None:
    """Rounding in blocks that rows do not fill, read back from the graph and given to transformers."""
    import torch

    from export.onnx.check import GraphWeights

    model = save(name, tmp_path / "hf")
    linears = write(tmp_path / "hf", tmp_path / "onnx", Precision(4, head, 64, 1))
    graph, state = GraphWeights(tmp_path / "onnx" / "model.onnx"), model.state_dict()
    for product, modules in linears.items():
        weight, at = graph.product(product)[0][:, : None if "mlp" in product or "attn" in product else 64], 0
        for module in modules:
            turned = name.startswith("gpt2") and ".h." in module
            rows = state[f"{module}.weight"].shape[1 if turned else 0]
            part = torch.from_numpy(weight[at : at + rows].copy())
            state[f"{module}.weight"], at = part.T if turned else part, at + rows
    model.load_state_dict(state)
    ids = FAMILY_CASES.ids(1)[0].numpy()
    assert off(logits(session(tmp_path / "onnx"), ids), expected_of(model, ids)) < EXACT


def test_a_body_saved_without_its_prefix(tmp_path: Path) -> None:
    model = save("gpt2", tmp_path / "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    bare = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    bare |= {f"h.{i}.attn.bias": np.ones((1, 1, 32, 32), np.float32) for i in range(3)}
    save_file(bare, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    write(tmp_path / "hf", tmp_path / "onnx")
    ids = FAMILY_CASES.ids(1)[0].numpy()
    assert off(logits(session(tmp_path / "onnx"), ids), expected_of(model, ids)) < EXACT


@pytest.mark.slow
def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    """An embedding of 2.1 GiB, and a block behind it: protobuf could hold neither."""
    save("llama-head-8", tmp_path / "hf")
    tensors, vocab = load_file(tmp_path / "hf" / "model.safetensors"), 8_800_000
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors.pop(name, None)
    tile = np.random.default_rng(0).standard_normal((1000, 64)).astype(np.float16)
    tensors["model.embed_tokens.weight"] = np.tile(tile, (vocab // 1000, 1))
    save_file(tensors, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    config = read_config(tmp_path / "hf") | {"vocab_size": vocab, "tie_word_embeddings": True}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    linears = write(tmp_path / "hf", tmp_path / "onnx")
    assert (tmp_path / "onnx" / "model.onnx").stat().st_size < 1_000_000
    assert (tmp_path / "onnx" / "model.onnx.data").stat().st_size > 2**31
    compared = {n: m for n, m in linears.items() if "layers.2" in n}  # the last bytes of the file
    assert compare_weights(tmp_path / "onnx" / "model.onnx", tmp_path / "hf", compared)["weights_equal"] == 7
    rows = logits(session(tmp_path / "onnx"), np.asarray([vocab - 1, 999, 5], np.int64))
    assert np.array_equal(rows[:, :1000], rows[:, -1000:])
    assert np.allclose(rows[0], logits(session(tmp_path / "onnx"), np.asarray([999], np.int64))[0], atol=1e-4)


def test_a_config_without_architectures_is_known_by_its_type() -> None:
    from compress.model.families import LAYOUTS
    from export.gguf.arch import ARCHITECTURES, architecture_of

    for kind in LAYOUTS:
        row = architecture_of({"model_type": kind})
        (name,) = [name for name, other in ARCHITECTURES.items() if other is row]
        for given in ({}, {"architectures": None}, {"architectures": []}):
            assert family_of({"model_type": kind, **given}) is FAMILIES[name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": {"rope_type": "mrope", "rope_theta": 1e4}}, "cannot compute the rotary settings"),
        ({"max_position_embeddings": 2**31 - 1}, "a rotary table of 2097152 positions at most"),
    ],
)
def test_rotary_settings_that_nobody_computes_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = tmp_path / "m"
    save("llama-head-8", folder)
    settings = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(HoldfastError, match=message):
        write(folder, tmp_path / "out")
