"""Every family: exported, taken back, the same model again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_models import CASES, GEMMA, PLAIN, save_family
from ggml_gelu import table_gelu
from gguf_export import export
from gguf_plain import rewrite, write_plain
from gguf_source import job_of, take, tensors, weights
from llama_run import logits

from compress.artifact import hash_files
from compress.errors import HoldfastError
from compress.model.weights import write_model
from finetune.source.gguf import folder as gguf_folder
from finetune.source.gguf.config import config_of
from finetune.source.gguf.parts import read_parts
from finetune.source.gguf.stage import GgufParams, GgufSource
from finetune.source.gguf.weights import load, origins

SCALED = ("gemma2-uncapped", "gemma2-pattern", "gemma2-46-blocks", "gemma3-nested", "gemma3-62-blocks")
"""Cases whose file holds queries multiplied by a factor: the folder has them so, under the scale of the graph."""
RENAMED = ("mistral", "phi3-fewer-heads", "qwen2-fewer-heads", "qwen2-llama3", "qwen2-yarn-odd")
"""Cases that llama.cpp stores as a Llama: the folder is one."""
LISTED = ("llama-yarn-odd", "qwen2-yarn-odd")
"""Cases whose divisors are nobody's formula: the folder lists them, and a file of it lists them twice."""


def taken(path: Path, folder: Path) -> Path:
    """What the stage writes but for the tokenizer, in float32."""
    parts = read_parts(path)
    config, layout = config_of(parts)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    found = {origin.name: origin for origin in origins(parts, layout)}
    specs = [origin.spec("F32") for origin in found.values()]
    write_model(folder, specs, lambda name: load(parts, found[name], torch.float32, 2))
    return folder


def reference(folder: Path, ids: list[int]) -> np.ndarray:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    table_gelu(model)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def same_logits(folder: Path, path: Path, within: float) -> None:
    """Relative to the largest logit; a GELU that is looked up in a table may jump from one entry to the next."""
    ids = np.random.default_rng(1).integers(0, 300, 140).tolist()
    expected = reference(folder, ids)
    off = np.abs(logits(path, ids) - expected) / np.abs(expected).max()
    assert off.max() < 5 * within
    assert np.quantile(off, 0.99) < within


def same_weights(name: str, before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> None:
    """Bit for bit; Gemma's norms lose what adding one and taking it off again costs in float32."""
    assert set(after) == set(before)
    for key, value in after.items():
        if name.startswith("gemma") and "norm" in key:
            assert np.abs(value - before[key]).max() < 3e-7, key
        else:
            assert np.array_equal(value, before[key]), key


def same_tensors(name: str, one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    """A file and a file of the folder made from it."""
    for key in set(one) & set(two):
        assert np.allclose(one[key], two[key], rtol=0, atol=2e-7 * name.startswith("gemma")), key
    more = {key for key in set(one) ^ set(two) if not (key.startswith("rope_") and name in LISTED)}
    assert all(key.endswith(".bias") and not two[key].any() for key in more)


QUICK = (*PLAIN, "llama-llama3", "llama-yarn-odd", "phi3-longrope-long", "gemma3-nested")


@pytest.mark.parametrize("name", QUICK)
def test_weights_and_settings_come_back(tmp_path: Path, name: str) -> None:
    folder = save_family(name, tmp_path / "hf")
    path = write_plain(folder, tmp_path)
    back = taken(path, tmp_path / "back")
    if not name.startswith(RENAMED[1:]) and name not in SCALED:
        same_weights(name, weights(folder), weights(back))
    same_logits(back, path, 2e-4)
    (tmp_path / "again").mkdir()
    same_tensors(name, tensors(path), tensors(write_plain(back, tmp_path / "again")))


EVERY = [(name, "F32") for name in CASES] + [(name, kind) for name in PLAIN for kind in ("Q8_0", "Q4_K_M")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_the_whole_way_and_back(tmp_path: Path, name: str, kind: str) -> None:
    folder = save_family(name, tmp_path / "hf")
    path = export(folder, tmp_path / "there", type=kind)
    back, facts = take(path, tmp_path / "back", dtype="float32")
    assert facts["tokenizer"]["probes_equal"] > 1000
    assert facts["from"]["rounded"] == (kind != "F32")
    again = export(back, tmp_path / "again")
    same_logits(back, again, 2e-4)
    same_tensors(name, tensors(path), tensors(again))
    if kind == "F32":
        same_logits(back, path, 2e-4)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M", "BF16", "F16"])
def test_weights_are_what_the_blocks_stand_for(tmp_path: Path, kind: str) -> None:
    """By gguf-py, another implementation; columns of 256 for K-quants."""
    import gguf

    folder = save_family("llama", tmp_path / "hf", hidden_size=256, intermediate_size=512)
    path = write_plain(folder, tmp_path, kind)
    back = weights(taken(path, tmp_path / "back"))
    reader = {t.name: t for t in gguf.GGUFReader(path).tensors}
    for ours, theirs in (("mlp.down_proj", "ffn_down"), ("self_attn.v_proj", "attn_v"), ("mlp.up_proj", "ffn_up")):
        stored = reader[f"blk.1.{theirs}.weight"]
        assert np.array_equal(
            back[f"model.layers.1.{ours}.weight"], gguf.quants.dequantize(stored.data, stored.tensor_type)
        )


def test_biases_that_only_some_linears_have_are_zeros_elsewhere(tmp_path: Path) -> None:
    folder = save_family("llama-wide-biases", tmp_path / "hf")
    path = write_plain(folder, tmp_path)
    lacking = ("blk.0.attn_output.bias", "blk.2.attn_q.bias")
    (fewer,) = rewrite(path, tmp_path / "fewer.gguf", tensors=lambda found: [found.pop(name) for name in lacking])
    back = weights(taken(fewer, tmp_path / "back"))
    before = weights(folder)
    assert not back["model.layers.0.self_attn.o_proj.bias"].any()
    assert not back["model.layers.2.self_attn.q_proj.bias"].any()
    assert np.array_equal(back["model.layers.1.mlp.up_proj.bias"], before["model.layers.1.mlp.up_proj.bias"])
    same_logits(tmp_path / "back", fewer, 2e-4)


def whole(path: Path) -> None:
    parts = read_parts(path)
    origins(parts, config_of(parts)[1])


def config_with(tmp_path: Path, case: str, keys: dict[str, Any], **more: Any) -> dict[str, Any]:
    path = write_plain(save_family(case, tmp_path / "hf", **more), tmp_path)
    (changed,) = rewrite(path, tmp_path / "changed.gguf", keys=keys)
    return config_of(read_parts(changed))[0]


def test_what_a_header_leaves_out_is_what_llama_cpp_takes(tmp_path: Path) -> None:
    left_out = ("attention.key_length", "attention.value_length", "rope.freq_base", "rope.dimension_count")
    config = config_with(tmp_path, "llama", {f"llama.{name}": None for name in (*left_out, "attention.head_count_kv")},
                         num_key_value_heads=4)  # fmt: skip
    assert (config["head_dim"], config["num_key_value_heads"], config["rope_theta"]) == (16, 4, 10000.0)
    assert config["tie_word_embeddings"]
    assert config["rms_norm_eps"] == 1e-6, "the decimal, not the float32 next to it"


def test_gemmas_defaults_and_patterns(tmp_path: Path) -> None:
    names = ("attn_logit_softcapping", "final_logit_softcapping", "attention.sliding_window")
    config = config_with(tmp_path, "gemma2", {f"gemma2.{name}": None for name in names})
    assert (config["attn_logit_softcapping"], config["final_logit_softcapping"]) == (50.0, 30.0)
    assert config["sliding_window"] == 4096
    assert config["layer_types"] == ["sliding_attention", "full_attention", "sliding_attention"]
    (tmp_path / "3").mkdir()
    config = config_with(tmp_path / "3", "gemma3", {"gemma3.attention.sliding_window_pattern": 3})
    assert [kind[:4] for kind in config["layer_types"]] == ["slid", "slid", "full"] * 2 + ["slid"]


def test_the_older_key_of_linear_scaling(tmp_path: Path) -> None:
    keys = {f"llama.rope.scaling.{name}": None for name in ("type", "factor")}
    config = config_with(tmp_path, "llama-linear", {**keys, "llama.rope.scale_linear": 4.0})
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}


@pytest.mark.parametrize(
    ("case", "keys", "message"),
    [
        ("llama", {"llama.attention.head_count": None}, "head_count is missing, not a number above 0"),
        ("llama", {"llama.attention.layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon is nan"),
        ("llama", {"llama.attention.value_length": 8}, "heads of different sizes"),
        ("llama", {"llama.expert_count": 8, "llama.expert_used_count": 2}, "has 8 experts"),
        ("llama", {"llama.rope.scaling.type": "axial"}, "rotary scaling 'axial' is not known"),
        ("llama-yarn", {"llama.rope.scaling.yarn_beta_fast": 8.0}, "YaRN with yarn_beta_fast of its own"),
        ("llama", {"general.architecture": "mamba"}, "is a 'mamba' model; known here: gemma2, gemma3, gpt2, llama"),
        ("llama", {"llama.embedding_length": 32}, "token_embd.weight has the shape [383, 64]; its header says [383, 3"),
        ("llama", {"llama.block_count": 4}, "lacks the tensor blk.3.attn_norm.weight"),
        ("llama", {"llama.block_count": 2}, "holds blk.2.attn_k.weight and 8 more, which 'llama' does not"),
        ("gemma3", {"gemma3.rope.scaling.attn_factor": 1.3}, "rotary scaling 'longrope'"),
        ("gemma3", {"gemma3.attention.sliding_window_pattern": 2.5}, "pattern is 2.5, neither a period nor a list"),
        ("llama", {"split.count": "3"}, "split.no and split.count are 0 and '3', not numbers"),
    ],
)  # fmt: skip
def test_files_that_are_no_model_here_are_refused(
    tmp_path: Path, case: str, keys: dict[str, Any], message: str
) -> None:
    path = write_plain(save_family(case, tmp_path / "hf"), tmp_path)
    (changed,) = rewrite(path, tmp_path / "changed.gguf", keys=keys)
    with pytest.raises(HoldfastError) as caught:
        whole(changed)
    assert message in caught.value.what
    assert caught.value.next


def test_a_file_without_a_tokenizer_is_named_when_it_is_planned(tmp_path: Path) -> None:
    path = write_plain(save_family("llama", tmp_path / "hf"), tmp_path)
    with pytest.raises(HoldfastError, match="holds no tokenizer"):
        gguf_folder.outline(path, GgufParams(gguf=path))


def test_a_window_of_gemma_needs_its_blocks(tmp_path: Path) -> None:
    path = write_plain(save_family("gemma2", tmp_path / "hf", **GEMMA), tmp_path)
    (changed,) = rewrite(path, tmp_path / "c.gguf", keys={"gemma2.attention.sliding_window_pattern": None})
    assert config_of(read_parts(changed))[0]["layer_types"].count("full_attention") == 1


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen 3 in float32 with a tokenizer."""
    place = tmp_path_factory.mktemp("exported")
    return export(save_family("qwen3", place / "hf"), place)


@pytest.fixture(scope="module")
def folder(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return take(exported, tmp_path_factory.mktemp("taken"))


def test_the_stage_writes_a_whole_folder(folder: tuple[Path, dict[str, Any]], exported: Path) -> None:
    place, facts = folder
    assert sorted(path.name for path in place.iterdir()) == [
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    assert facts["architecture"] == "Qwen3ForCausalLM"
    assert facts["dtype"] == "float32"
    assert facts["from"]["files"] == [exported.name]
    assert facts["from"]["tensor_types"] == {"F32": 35}
    assert facts["from"]["rounded"] is False
    assert facts["tokenizer"] == {"model": "gpt2", "pre": "smollm", "probes_equal": 1405}
    ids = json.loads((place / "generation_config.json").read_text())
    assert ids == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    settings = json.loads((place / "tokenizer_config.json").read_text())
    assert (settings["bos_token"], settings["eos_token"], settings["pad_token"]) == ("<s>", "</s>", "<pad>")


def test_parts_make_the_same_weights_and_a_killed_run_goes_on(
    folder: tuple[Path, dict[str, Any]], exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In shards, the tokenizer left aside; the second run makes only the one that is not there."""
    parts = rewrite(exported, tmp_path / "m.gguf", parts=3)
    assert [part.name for part in parts] == [f"m-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    made = list[str]()
    monkeypatch.setattr(gguf_folder, "load", lambda *given: made.append(given[1].name) or load(*given))
    monkeypatch.setattr(gguf_folder.tokenizer, "write", lambda *_: {})
    monkeypatch.setattr(gguf_folder, "write_model", lambda f, s, r, **k: write_model(f, s, r, 90_000, **k))
    out, _ = take(parts[1], tmp_path)
    assert len(made) == 35
    once = weights(out)
    assert all(np.array_equal(value, once[name]) for name, value in weights(folder[0]).items())
    before, shards = hash_files(out), sorted(out.glob("*.safetensors"))
    assert len(shards) > 3
    for path in [shards[0], *shards[2:]]:
        os.replace(path, tmp_path / "scratch" / "folder" / path.name)
    made.clear()
    take(parts[2], tmp_path)
    assert 0 < len(made) < 35
    assert hash_files(out) == before


def test_a_part_that_is_missing_or_foreign_is_named(exported: Path, tmp_path: Path) -> None:
    parts = rewrite(exported, tmp_path / "m.gguf", parts=3)
    read_parts(parts[2])
    alone = tmp_path / "alone.gguf"
    os.link(parts[0], alone)
    with pytest.raises(HoldfastError, match=r"alone.gguf is part 1 of 3 and its name does not say so"):
        read_parts(alone)
    parts[1].rename(tmp_path / "aside")
    with pytest.raises(HoldfastError, match=r"is one of 3 parts; missing beside it: m-00002-of-00003.gguf"):
        read_parts(parts[0])
    many = tmp_path / "m-00001-of-90000.gguf"
    os.link(parts[0], many)
    with pytest.raises(HoldfastError, match=r"missing beside it: m-00002-of-90000.gguf, .* and 89995 more\n"):
        read_parts(many)
    os.link(parts[0], parts[1])
    with pytest.raises(HoldfastError, match=r"m-00002-of-00003.gguf says that it is part 1 of 3"):
        read_parts(parts[0])


def test_values_that_are_not_finite_end_before_anything_is_written(exported: Path, tmp_path: Path) -> None:
    from broken_gguf import copy, tensor

    path = tensor(copy(exported, tmp_path / "broken"), "blk.1.ffn_up.weight", lambda rows: rows * np.nan, np.float32)
    job = job_of(path, tmp_path)
    GgufSource().check(job)
    with pytest.raises(HoldfastError, match=r"blk.1.ffn_up.weight holds NaN or infinity"):
        GgufSource().run(job)
    assert not list(job.out.iterdir())
    assert not list((job.scratch / "folder").iterdir())


@pytest.mark.parametrize(
    ("kind", "rounds", "wanted", "stored"),
    [
        ("F32", True, "auto", "float32"),
        ("F32", False, "auto", "bfloat16"),
        ("F16", True, "auto", "float32"),
        ("BF16", True, "auto", "bfloat16"),
        ("Q8_0", True, "auto", "bfloat16"),
        ("Q8_0", True, "float32", "float32"),
        ("F32", True, "bfloat16", "bfloat16"),
    ],
)
def test_the_type_that_weights_get(tmp_path: Path, kind: str, rounds: bool, wanted: str, stored: str) -> None:
    import dataclasses

    folder = save_family("llama", tmp_path / "hf", num_hidden_layers=1)
    if not rounds:
        from safetensors.torch import load_file, save_file

        found = load_file(folder / "model.safetensors")
        save_file({name: value.bfloat16() for name, value in found.items()}, folder / "model.safetensors")
    parts = read_parts(write_plain(folder, tmp_path, kind))
    config, layout = config_of(parts)
    model = gguf_folder.GgufModel(parts, config, layout, origins(parts, layout))
    job = dataclasses.replace(job_of(parts.path, tmp_path, dtype=wanted), threads=1)
    assert gguf_folder.survey(model, job) == stored
