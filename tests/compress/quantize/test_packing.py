"""The bit stream of the AutoGPTQ format against a slow writer of bits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.errors import ArtifactError
from compress.quantize.gptq_math import solve
from compress.quantize.grids import IntGrid
from compress.quantize.packing import from_checkpoint, pack, read_quantization, to_checkpoint, unpack


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
    g = torch.Generator().manual_seed(bits)
    W = torch.randn(192, 64, generator=g)
    solution = solve(W, torch.eye(192), IntGrid(bits, symmetric), group)
    tensors = to_checkpoint(solution, bits)
    assert tensors["qzeros"].shape == (192 // group, 64 * bits // 32)
    assert tensors["g_idx"].tolist() == [i // group for i in range(192)]
    if symmetric and bits == 4:
        assert set(tensors["qzeros"].flatten().tolist()) == {0x77777777}
    assert torch.equal(from_checkpoint(tensors, bits), solution.weights().T)
    shuffled = torch.randperm(192, generator=g)
    moved = {**tensors, "qweight": pack(solution.codes[shuffled], bits), "g_idx": tensors["g_idx"][shuffled]}
    assert torch.equal(from_checkpoint(moved, bits), solution.weights()[shuffled].T)


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="not a GPTQ folder"):
        read_quantization(tmp_path)
    (tmp_path / "config.json").write_text(
        '{"quantization_config": {"quant_method": "gptq", "checkpoint_format": "gptq_v2", "bits": 4}}'
    )
    with pytest.raises(ArtifactError, match="version 1"):
        read_quantization(tmp_path)
