"""Bits per linear: shell patterns, and what the checkpoint's ``dynamic`` says to those who read it."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.errors import UsageError
from compress.model.coded import FLOAT, bits_in
from compress.quantize.recipe import Recipe, special_bits

KINDS = ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"]
NAMES = [f"model.layers.{block}.{kind}" for block in range(12) for kind in KINDS]


def gptqmodel_bits(config, name):
    """As GPTQModel matches: the first pattern that fits the name's beginning."""
    for pattern, override in config.get("dynamic", {}).items():
        if pattern.startswith("-:"):
            if re.match(pattern.removeprefix("-:"), name):
                return FLOAT
        elif re.match(pattern.removeprefix("+:"), name):
            return override["bits"]
    return config["bits"]


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.sampled_from([*NAMES, "lm_head"]), st.sampled_from([0, 2, 3, 4, 8])), st.sampled_from([2, 4]))
def test_every_reader_finds_the_bits_of_every_linear(special, bits):
    recipe = Recipe(bits, 128, True, special=special)
    config = recipe.config()
    for name in [*NAMES, "lm_head"]:
        assert bits_in(config, name) == gptqmodel_bits(config, name) == recipe.bits_of(name)
    assert ("dynamic" in config) == any(value != bits for value in special.values())


def test_a_dot_is_a_dot_and_names_end():
    config = Recipe(4, 128, True, special={"model.layers.1.mlp.up_proj": 8}).config()
    assert config["dynamic"] == {r"+:^model\.layers\.1\.mlp\.up_proj$": {"bits": 8}}
    assert bits_in(config, "model.layers.1.mlp.up_proj") == 8
    for other in ("model.layers.11.mlp.up_proj", "model.layers.1xmlp.up_proj", "model.layers.1.mlp.up_proj.x"):
        assert bits_in(config, other) == 4


def test_config_says_what_loaders_ask_for():
    config = Recipe(3, 64, False, desc_act=True, damp=0.05, lm_head=True, special={"a": 0, "b": 3}).config()
    assert config == {
        "bits": 3,
        "checkpoint_format": "gptq",
        "damp_percent": 0.05,
        "desc_act": True,
        "dynamic": {"-:^a$": {}},
        "group_size": 64,
        "lm_head": True,
        "quant_method": "gptq",
        "sym": False,
    }


def test_patterns_are_shell_patterns_and_the_last_one_counts():
    chosen = special_bits({"*.down_proj": 8, "model.layers.0.*": 3, "*.layers.1[01].mlp.up_proj": 0}, NAMES)
    assert chosen["model.layers.5.mlp.down_proj"] == 8
    assert chosen["model.layers.0.mlp.down_proj"] == 3
    assert chosen["model.layers.11.mlp.up_proj"] == FLOAT
    assert "model.layers.1.mlp.up_proj" not in chosen
    assert special_bits({}, NAMES) == {}


def test_a_pattern_that_fits_nothing_is_an_error():
    with pytest.raises(UsageError, match=r"'\*\.gate'") as caught:
        special_bits({"*.down_proj": 8, "*.gate": 3}, NAMES)
    assert NAMES[0] in caught.value.next


def test_a_pattern_without_bits_of_its_own_has_the_folders():
    assert bits_in({"bits": 4, "dynamic": {r"+:.*k_proj": {"bits": None}}}, "a.k_proj") == 4
