"""Named types on rows that are no whole blocks: what is said, and that the better type named is better."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
from gguf_export import job_of
from small_folder import write_model

from export.gguf import ggml, mix
from export.gguf.fallback import fallback_of, rounding_error
from export.gguf.plan import Planned
from export.gguf.stage import ExportGguf
from export.gguf.tensors import Tensor

SMOL = mix.Model(layers=8, heads_per_kv=3, tied=True, importance=True)


def _plan(hidden: int, ffn: int, file_type: str, vocab: int = 4096) -> list[Planned]:
    shapes = {"token_embd": (vocab, hidden)}
    for block in range(8):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"blk.{block}.{part}"] = (hidden, hidden)
        shapes |= {f"blk.{block}.{part}": (ffn, hidden) for part in ("ffn_gate", "ffn_up")}
        shapes[f"blk.{block}.ffn_down"] = (hidden, ffn)
    weights = {size: np.ones(size, np.float32) for size in (hidden, ffn)}
    return [
        Planned(n, shape, mix.choose(n, shape, file_type, SMOL), Tensor(n, n, shape), None, weights[shape[1]])
        for n, shape in ((f"{part}.weight", shape) for part, shape in shapes.items())
    ]


def test_nothing_is_said_where_every_row_is_whole_blocks() -> None:
    for file_type in ("Q4_K_M", "Q3_K_M", "IQ3_M", "Q8_0"):
        assert fallback_of(_plan(512, 1536, file_type), file_type, SMOL) is None


def test_share_and_bits_follow_from_the_shapes() -> None:
    plan = _plan(576, 1536, "Q4_K_M")
    found = fallback_of(plan, "Q4_K_M", SMOL)
    assert found
    down, other = 8 * 576 * 1536, 8 * (4 * 576 * 576 + 2 * 576 * 1536) + 4096 * 576
    assert math.isclose(found.share, other / (down + other))
    assert math.isclose(sum(found.became.values()), found.share)
    assert set(found.became) == {"Q4_K > Q5_0", "Q6_K > Q8_0"}
    assert found.meant < found.bits
    whole = fallback_of(_plan(576, 1536, "Q5_0"), "Q5_0", SMOL)
    assert whole
    assert whole.share < 0.5  # the embedding alone, which llama.cpp wants in Q6_K
    assert whole.better is None


def test_the_better_type_fits_and_errs_less_on_other_weights() -> None:
    draw = np.random.default_rng(1).standard_t(9, (64, 768)).astype(np.float32)

    def error(plan: list[Planned]) -> float:
        kinds = {p.kind for p in plan}
        each = {k: np.square(ggml.dequantize(ggml.quantize(draw, k), k) - draw).sum(dtype=float) for k in kinds}
        return sum(math.prod(p.shape) * float(each[p.kind]) for p in plan)

    plan, other = _plan(576, 576, "Q3_K_S"), _plan(576, 576, "IQ4_NL")
    found = fallback_of(plan, "Q3_K_S", SMOL)
    assert found
    assert found.better
    assert found.better.name == "IQ4_NL"
    assert sum(p.nbytes for p in other) == found.better.nbytes <= sum(p.nbytes for p in plan)
    assert math.isclose(error(other) / error(plan), found.better.error, abs_tol=0.12)
    assert "type: IQ4_NL takes" in found.warning("Q3_K_S")


def test_less_error_on_average_is_no_advice_where_some_tensors_get_more() -> None:
    plan, other = _plan(576, 1536, "Q4_K_M"), _plan(576, 1536, "Q5_0")
    mean = [sum(math.prod(p.shape) * rounding_error(p.kind) for p in each) for each in (other, plan)]
    assert mean[0] < mean[1]
    assert sum(p.nbytes for p in other) <= sum(p.nbytes for p in plan)
    found = fallback_of(plan, "Q4_K_M", SMOL)
    assert found
    assert found.better is None


def test_a_type_that_falls_back_itself_is_not_the_better_one() -> None:
    found = fallback_of(_plan(576, 576, "Q3_K_S"), "Q3_K_S", SMOL)  # IQ3_S would be IQ4_NL throughout
    assert found
    assert found.share == 1
    assert found.better
    assert found.better.name == "IQ4_NL"


@pytest.mark.parametrize(("kind", "bits"), [("Q4_0", 4.5), ("IQ4_NL", 4.5), ("Q5_0", 5.5), ("Q6_K", 6.5625)])
def test_rounding_errors_lie_near_the_uniform_quantizers(kind: str, bits: float) -> None:
    """A bit more quarters the squared error; no type is better than the rate-distortion bound of a normal source."""
    assert 4.0**-bits < rounding_error(kind) < 8 * 4.0**-bits


def test_the_stage_warns_and_keeps_the_fact(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_model(tmp_path / "hf", hidden=96, ffn=256, heads=4)
    with caplog.at_level(logging.WARNING, "export.gguf.stage"):
        job = job_of(folder, tmp_path, type="Q3_K_S")
        facts = ExportGguf().run(job)
    (line,) = [r.getMessage() for r in caplog.records if "fell back" in r.getMessage()]
    assert "Q3_K to Q4_0" in line
    assert f"{facts['bits_per_weight']:.2f} bits per weight instead of" in line
    assert facts["fallback"]["types"]["Q3_K > Q4_0"] > 0.5
