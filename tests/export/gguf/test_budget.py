"""Tensor types by measured cost: the budget is kept, and the bytes are better spent than in the named mix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from stages import run_stage

from compress.errors import UsageError
from export.gguf import ggml
from export.gguf.budget import rounded
from export.gguf.params import GgufParams

SMALL = {"calibration_tokens": 2048, "calibration_length": 64}


@pytest.fixture(scope="module")
def passed(tiny_llama, chat_jsonl, tmp_path_factory):
    return run_stage("calibrate", tiny_llama, tmp_path_factory.mktemp("budget") / "c", calibration=chat_jsonl, **SMALL)


@pytest.fixture(scope="module")
def export(tiny_llama, chat_jsonl, passed, tmp_path_factory):
    def run(**params):
        given = {"calibration": chat_jsonl, "pass_": passed, "feedback": "off", **SMALL, **params}
        return run_stage("export.gguf", tiny_llama, tmp_path_factory.mktemp("x") / "g", **given)

    return run


def kinds(artifact):
    import gguf

    tensors = gguf.GGUFReader(artifact.path / "model.gguf").tensors
    return {t.name: t.tensor_type.name for t in tensors if t.name.startswith("blk.") and len(t.shape) == 2}


def test_measured_types_take_no_more_bytes_than_the_named_mix(export):
    named, measured = export(type="Q3_K_M"), export(type="Q3_K_M", mix="measured")
    assert measured.size_bytes() <= named.size_bytes()
    assert kinds(measured).keys() == kinds(named).keys()
    assert kinds(measured) != kinds(named)
    assert measured.facts["mix"] == "measured"
    again = export(type="Q3_K_M", mix="measured")
    assert again.digest == measured.digest


def test_a_file_keeps_its_budget_and_more_budget_is_used(export):
    largest = export(type="Q8_0", mix="named").size_bytes()
    sizes = []
    for share in (0.6, 0.8):
        budget = round(share * largest / 1e6, 4)
        made = export(type="Q4_K_M", mix="measured", budget_mb=budget)
        sizes.append((made.path / "model.gguf").stat().st_size)
        assert 0.9 * budget * 1e6 < sizes[-1] <= budget * 1e6
    assert sizes[0] < sizes[1]


def test_bits_per_weight_are_those_of_the_linears(export):
    made = export(type="Q4_K_M", mix="measured", bits_per_weight=3.9, choose=("Q3_K", "Q4_K"))
    found = kinds(made)
    assert set(found.values()) == {"Q3_K", "Q4_K"}
    bits = {"Q3_K": 3.4375, "Q4_K": 4.5}
    import gguf

    sizes = {t.name: int(np.prod(t.shape)) for t in gguf.GGUFReader(made.path / "model.gguf").tensors}
    mean = sum(bits[kind] * sizes[name] for name, kind in found.items()) / sum(sizes[name] for name in found)
    assert 3.5 < mean <= 3.9


def test_a_budget_that_nothing_fits_is_refused(export):
    with pytest.raises(UsageError, match="too small"):
        export(type="Q4_K_M", mix="measured", bits_per_weight=2.0)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"budget_mb": 3.0}, "need mix: measured"),
        ({"mix": "measured", "budget_mb": 3.0, "bits_per_weight": 4.0}, "not both"),
        ({"mix": "measured", "imatrix": False}, "needs imatrix: true"),
        ({"mix": "measured", "type": "F16"}, "a quantized type"),
        ({"choose": ("Q4_K_M",)}, "unknown tensor type"),
        ({"choose": ()}, "unknown tensor type"),
    ],
)
def test_parameters_that_do_not_go_together(params, message):
    with pytest.raises(ValidationError, match=message):
        GgufParams(**params)


def test_rounded_is_what_the_file_would_hold():
    draw = np.random.default_rng(0)
    W, h = (draw.standard_normal(shape).astype(np.float32) for shape in ((40, 256), (256,)))
    h = np.exp(h)
    from gguf import GGMLQuantizationType, quants

    blocks = ggml.quantize(W, "Q4_K", h)
    expected = quants.dequantize(blocks, GGMLQuantizationType.Q4_K).reshape(W.shape)
    got = rounded(torch.from_numpy(W), torch.from_numpy(h), kind="Q4_K", threads=1)
    assert np.array_equal(got.numpy(), expected)
