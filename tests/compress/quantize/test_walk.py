"""The walk through a model: damping of thin calibrations, resume after a kill at any place, tensors named in errors."""

import json

import pytest
from cutting import altered
from stages import run_stage

from compress.errors import ArtifactError
from compress.model.weights import Weights
from compress.quantize import walk
from compress.quantize.walk import damping

SMALL = {"calibration_tokens": 1024, "calibration_length": 64}
LINEARS_OF_A_BLOCK = 7


@pytest.fixture(scope="module", params=[False, True], ids=["shared", "upstream"])
def given(request, tiny_calibration, chat_jsonl):
    """Parameters of a run on the shared calibration pass, and of one with streams of its own."""
    own = {"upstream": True, "calibration": chat_jsonl, **SMALL}
    return {"bits": 3, **(own if request.param else {"upstream": False, "pass_": tiny_calibration})}


@pytest.fixture(scope="module")
def whole(tiny_llama, given, tmp_path_factory):
    """The run that nothing disturbed."""
    return run_stage("quantize.gptq", tiny_llama, tmp_path_factory.mktemp("whole") / "q", **given)


def test_thin_calibration_raises_the_damping_and_says_so(caplog):
    assert damping(0.01, 512, 256, "a.b") == 0.01
    assert not caplog.records
    assert damping(0.01, 128, 256, "a.b") == pytest.approx(0.04)
    (record,) = caplog.records
    assert record.getMessage() == (
        "a.b: 128 calibration tokens for 256 inputs are few (512 would be ample); damping raised from 0.01 to 0.04"
    )
    assert damping(0.5, 1, 256, "a.b") == 1.0


def test_raised_damping_reaches_the_solver_and_the_facts(tiny_llama, chat_jsonl, tmp_path, caplog):
    small = {"calibration": chat_jsonl, "calibration_tokens": 256, "calibration_length": 64, "upstream": True}
    out = run_stage("quantize.gptq", tiny_llama, tmp_path / "q", **small)
    assert out.facts["healed_damping"]["model.layers.0.mlp.down_proj"] == pytest.approx(0.04)
    assert out.facts["healed_damping"]["model.layers.1.self_attn.q_proj"] == pytest.approx(0.02)
    assert "256 calibration tokens for 512 inputs are few (1024 would be ample)" in caplog.text


class Killed(BaseException):
    """What no handler catches."""


def killed_at(call, monkeypatch):
    """Let the solver die at its ``call``-th problem; counts the rows it solved."""
    real, solved = walk.solve, []

    def solve(W, H, grid, plan, **rest):
        if len(solved) == call:
            raise Killed
        solved.append(W.shape)
        return real(W, H, grid, plan, **rest)

    monkeypatch.setattr(walk, "solve", solve)
    return solved


@pytest.mark.parametrize("call", [2, 7])
def test_a_killed_run_loses_one_block_at_most_and_ends_with_the_same_bytes(
    tiny_llama, given, whole, tmp_path, monkeypatch, call
):
    """A block asks for four problems, one per shared input."""
    scratch = tmp_path / "scratch"
    with monkeypatch.context() as patch:
        killed_at(call, patch)
        with pytest.raises(Killed):
            run_stage("quantize.gptq", tiny_llama, tmp_path / "a", scratch=scratch, **given)
    with monkeypatch.context() as patch:
        solved = killed_at(None, patch)
        again = run_stage("quantize.gptq", tiny_llama, tmp_path / "b", scratch=scratch, **given)
    assert len(solved) == 8 - call // 4 * 4
    assert again.digest == whole.digest


def test_killed_between_blocks_and_before_the_folder_is_written(tiny_llama, given, whole, tmp_path):
    for place in (1, 2):
        scratch, seen = tmp_path / f"scratch{place}", []

        def progress(done, total, note="", place=place, seen=seen):
            del total, note
            seen.append(done)
            if done == place and 0 in seen:  # not in the run that goes on behind block 0
                raise Killed

        with pytest.raises(Killed):
            run_stage("quantize.gptq", tiny_llama, tmp_path / f"a{place}", scratch=scratch, progress=progress, **given)
        assert (scratch / f"block-{place - 1:03d}.safetensors").is_file()
        del seen[:]
        again = run_stage(
            "quantize.gptq", tiny_llama, tmp_path / f"b{place}", scratch=scratch, progress=progress, **given
        )
        assert 0 not in seen
        assert again.digest == whole.digest


def test_states_of_finished_blocks_are_not_kept(tiny_llama, chat_jsonl, tmp_path):
    scratch = tmp_path / "s"
    run_stage(
        "quantize.gptq", tiny_llama, tmp_path / "q", scratch=scratch, upstream=True, calibration=chat_jsonl, **SMALL
    )
    states = {path.name for path in scratch.glob("*.bin")}
    assert "wanted-000.bin" not in states
    assert "wanted-001.bin" not in states
    report = json.loads((scratch / "block-001.json").read_text())
    assert len(report) == LINEARS_OF_A_BLOCK
    assert Weights(scratch / "block-001.safetensors").names() == sorted(
        f"{name}.{part}" for name in report for part in ("g_idx", "qweight", "qzeros", "scales")
    )


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_weight_that_is_not_finite_is_named(tiny_llama, given, tmp_path, value):
    def spoil(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value

    folder = altered(tiny_llama, tmp_path / "m", spoil)
    with pytest.raises(ArtifactError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        run_stage("quantize.gptq", folder, tmp_path / "q", **given)


def test_activations_that_overflow_name_their_linear(tiny_llama, chat_jsonl, tmp_path):
    def explode(tensors):
        for name in ("gate", "up"):
            tensors[f"model.layers.1.mlp.{name}_proj.weight"] *= 1e13

    folder = altered(tiny_llama, tmp_path / "m", explode)
    with pytest.raises(ArtifactError, match=r"inputs of model\.layers\.1\.mlp\.down_proj become NaN or Inf"):
        run_stage("quantize.gptq", folder, tmp_path / "q", upstream=True, calibration=chat_jsonl, **SMALL)
