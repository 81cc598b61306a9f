"""Rotary tables against the definition and transformers' frequencies; refusals. Whole models: test_decoder.py."""

import math

import pytest
import torch

from compress.errors import UnsupportedArchitecture
from compress.model.blocks import ModelFolder
from compress.model.rotary import Rope, rope_table, rotate

BASE = {"hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 64, "rope_theta": 100.0}


def test_rotation_equals_its_definition():
    rope = rope_table(BASE, 5)
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    expected = torch.empty_like(x)
    for row in range(2):
        for position in range(5):
            for i in range(8):
                angle = position * 100.0 ** (-2 * i / 16)
                a, b = float(x[row, position, i]), float(x[row, position, i + 8])
                expected[row, position, i] = a * math.cos(angle) - b * math.sin(angle)
                expected[row, position, i + 8] = b * math.cos(angle) + a * math.sin(angle)
    torch.testing.assert_close(rotate(x, rope), expected)


def test_a_partial_rotation_leaves_the_rest():
    rope = rope_table({**BASE, "partial_rotary_factor": 0.5}, 5)
    assert rope.cos.shape == rope.sin.shape == (5, 8)
    x = torch.randn(2, 5, 16)
    turned = rotate(x, rope)
    assert torch.equal(turned[..., 8:], x[..., 8:])
    torch.testing.assert_close(turned[..., :8], rotate(x[..., :8].contiguous(), rope))


SCALED = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 3.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 8, "beta_slow": 2},
    "longrope": {
        "short_factor": [1.0 + i / 10 for i in range(8)],
        "long_factor": [1.0 + i for i in range(8)],
        "original_max_position_embeddings": 32,
    },
}


@pytest.mark.parametrize("kind", SCALED)
@pytest.mark.parametrize("length", [16, 64, 100])
def test_tables_equal_transformers_frequencies(kind, length):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    given = {"rope_type": kind, "rope_theta": 100.0, **SCALED[kind]}
    config = LlamaConfig(**{**BASE, "rope_theta": None}, rope_parameters=dict(given))
    frequency, factor = ROPE_INIT_FUNCTIONS[kind](config, seq_len=length)
    angles = torch.arange(length)[:, None] * frequency
    rope = rope_table({**BASE, "rope_parameters": given}, length)
    torch.testing.assert_close(rope.cos[:, :8], angles.cos() * factor, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(rope.sin[:, 8:], angles.sin() * factor, rtol=1e-5, atol=2e-5)
    assert torch.equal(rope.sin[:, :8], -rope.sin[:, 8:])


def test_old_and_new_spellings_agree():
    old = rope_table({**BASE, "rope_scaling": {"type": "linear", "factor": 2.0}}, 9)
    new = {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0}
    assert same(old, rope_table({**BASE, "rope_theta": None, "rope_parameters": new}, 9))
    assert same(old, rope_table({**BASE, "rope_parameters": {"full_attention": new}}, 9))


@pytest.mark.parametrize("name", ["su", "yarn"])
def test_older_names_of_longrope_in_phi3(tmp_path, name):
    def table(kind):
        scaling = {**SCALED["longrope"], "type": kind}
        config = {**BASE, "model_type": "phi3", "vocab_size": 9, "intermediate_size": 8, "num_hidden_layers": 1}
        (tmp_path / "config.json").write_text(str({**config, "rope_scaling": scaling}).replace("'", '"'))
        (rope,) = ModelFolder(tmp_path).rope(9).values()
        return rope

    assert same(table(name), table("longrope"))


def same(a: Rope, b: Rope) -> bool:
    return torch.equal(a.cos, b.cos) and torch.equal(a.sin, b.sin)


def test_unknown_and_incomplete_scalings_are_refused():
    with pytest.raises(UnsupportedArchitecture, match=r"'spiral'") as caught:
        rope_table({**BASE, "rope_scaling": {"rope_type": "spiral"}}, 4)
    assert "known: default, dynamic, linear, llama3, longrope, yarn" in str(caught.value)
    with pytest.raises(UnsupportedArchitecture, match=r"'llama3' of config.json lacks 'low_freq_factor'"):
        rope_table({**BASE, "rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, 4)
