"""The bit stream of the AutoGPTQ format against a slow writer of bits; zeros and orders on their way through it."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import error, problem

from compress.errors import ArtifactError
from compress.quantize.gptq_math import solve
from compress.quantize.grids import IntGrid
from compress.quantize.packing import from_checkpoint, pack, read_quantization, to_checkpoint, unpack
from compress.quantize.problem import Plan


def slow_pack(column, bits):
    """All codes of a column as one big number, cut into signed 32-bit words."""
    number = sum(int(code) << (i * bits) for i, code in enumerate(column))
    words = [(number >> (32 * k)) & 0xFFFFFFFF for k in range(len(column) * bits // 32)]
    return [word - (1 << 32) if word >> 31 else word for word in words]


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([2, 3, 4, 8]), st.integers(1, 4), st.integers(1, 5), st.integers(0, 1000))
def test_pack_is_a_bit_stream_and_unpacks_exactly(bits, periods, columns, seed):
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (32 * periods, columns), generator=g, dtype=torch.uint8)
    words = pack(codes, bits)
    assert words.dtype == torch.int32
    assert words.shape == (periods * bits, columns)
    assert words.T.tolist() == [slow_pack(column, bits) for column in codes.T]
    assert torch.equal(unpack(words, bits), codes)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [32, 64, 192])
def test_checkpoint_stores_zero_minus_one_and_reads_back(bits, symmetric, group):
    W = torch.randn(192, 64, generator=torch.Generator().manual_seed(bits))
    solution = solve(W, torch.eye(192), IntGrid(bits, symmetric, period=group))
    tensors = to_checkpoint(solution)
    assert tensors["qzeros"].shape == (192 // group, 64 * bits // 32)
    assert (tensors["scales"].dtype, tensors["g_idx"].dtype) == (torch.float16, torch.int32)
    assert tensors["g_idx"].tolist() == [i // group for i in range(192)]
    if symmetric and bits == 4:
        assert set(tensors["qzeros"].flatten().tolist()) == {0x77777777}
    assert torch.equal(from_checkpoint(tensors, bits), solution.weights().T)


@settings(deadline=None, max_examples=15)
@given(st.sampled_from([2, 3, 4, 8]), st.sampled_from([32, 64]), st.booleans(), st.integers(0, 99))
def test_g_idx_says_which_group_an_input_of_desc_act_belongs_to(bits, group, symmetric, seed):
    W, H = problem(128, 32, seed=seed)
    tensors = to_checkpoint(solution := solve(W, H, IntGrid(bits, symmetric, period=group), Plan(order="inputs")))
    g_idx = tensors["g_idx"].long()
    by_importance = torch.argsort(H.diagonal(), descending=True, stable=True)
    assert g_idx[by_importance].tolist() == [i // group for i in range(128)]
    codes, zeros = unpack(tensors["qweight"], bits), unpack(tensors["qzeros"].T.contiguous(), bits).T + 1
    for i in range(0, 128, 17):
        row = tensors["scales"][g_idx[i]].float() * (codes[i].float() - zeros[g_idx[i]].float())
        assert torch.equal(row, from_checkpoint(tensors, bits)[:, i])
    torch.testing.assert_close(from_checkpoint(tensors, bits), solution.weights().T, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("sparsity", "zeros", "of"), [("2:4", 2, 4), ("4:8", 4, 8), (0.5, 64, 128)])
@pytest.mark.parametrize(("sweeps", "share"), [(0, 1.0), (2, 0.8)])
def test_zeros_chosen_with_the_codes_are_exact_and_beat_magnitude(sparsity, zeros, of, sweeps, share, symmetric):
    W, H = problem(128, 64, seed=6)
    grid = IntGrid(4, symmetric, period=32)
    solution = solve(W, H, grid, Plan(sparsity=sparsity, sweeps=sweeps))
    packed = from_checkpoint(to_checkpoint(solution), 4)
    count = (packed == 0).view(-1, of).sum(1)
    assert int((packed == 0).sum()) >= W.numel() * zeros / of
    if isinstance(sparsity, str):
        assert int(count.min()) >= zeros
    grouped = W.T.reshape(-1, of)
    small = grouped.abs().argsort(1)[:, :zeros]
    thin = grouped.scatter(1, small, 0.0).view(64, 128).T.contiguous()
    magnitude = solve(thin, H, grid, Plan(sweeps=sweeps)).weights()
    assert error(W, packed.T, H) < share * error(W, magnitude, H)
    assert error(W, packed.T, H) > error(W, solve(W, H, grid).weights(), H)


@pytest.mark.parametrize("said", [{}, {"quant_method": "awq"}, {"quant_method": "gptq", "checkpoint_format": "marlin"}])
def test_other_formats_are_refused(tmp_path, said):
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"bits": 4, **said}}))
    with pytest.raises(ArtifactError, match="version 1"):
        read_quantization(tmp_path)


def test_a_folder_that_is_not_quantized_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="not a GPTQ folder"):
        read_quantization(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="not a GPTQ folder"):
        read_quantization(tmp_path)
