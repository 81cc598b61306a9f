"""A folder's parts, names, sizes and narrowed configs against transformers' modules."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_families import CASES, PLAIN, ids, save_tiny

from compress.errors import ArtifactError, UnsupportedArchitecture, UsageError
from compress.model.blocks import ModelFolder
from compress.model.decoder import run_block
from compress.model.families import LAYOUTS
from compress.model.layout import Part
from compress.outline import Shape


def matrix(module):
    """[out, in] of a Linear or Conv1D."""
    return module.weight.detach().T if type(module).__name__ == "Conv1D" else module.weight.detach()


def edit(path, change):
    """Let ``change`` alter the dict of stored tensors."""
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "model.safetensors")


def test_every_family_has_a_case():
    assert {CASES[name][0] for name in PLAIN} == set(LAYOUTS)


@pytest.mark.parametrize("name", PLAIN)
def test_parts_and_weights_equal_transformers(tmp_path, name):
    model = save_tiny(name, tmp_path)
    folder, shape = ModelFolder(tmp_path), ModelFolder(tmp_path).shape
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    for linear in folder.linears():
        W = matrix(model.get_submodule(linear))
        assert torch.equal(folder.weight(linear), W)
        assert torch.equal(folder.stored(linear, W), folder.weights.load(f"{linear}.weight"))
    sizes = {"q": q, "k": kv, "v": kv, "up": shape.ffn, **({"gate": shape.ffn} if folder.has_gate else {})}
    for role, size in sizes.items():
        part = folder.part(1, role)
        assert part.stop - part.start == size
        assert part.name in folder.linears()
    attention = [folder.part(1, role) for role in "qkv"]
    owners = {part.name: matrix(model.get_submodule(part.name)) for part in attention}
    assert sum(len(W) for W in owners.values()) == q + 2 * kv  # the three cover their linears
    assert matrix(model.get_submodule(folder.out_name(1))).shape == (shape.hidden, q)
    assert matrix(model.get_submodule(folder.down_name(1))).shape == (shape.hidden, shape.ffn)


def test_fused_parts_are_in_the_order_of_the_family(tmp_path):
    save_tiny("phi3", tmp_path)
    phi = ModelFolder(tmp_path)
    qkv, ffn = "model.layers.2.self_attn.qkv_proj", "model.layers.2.mlp.gate_up_proj"
    expected = {"q": (qkv, 0, 64), "k": (qkv, 64, 96), "v": (qkv, 96, 128), "gate": (ffn, 0, 96), "up": (ffn, 96, 192)}
    assert {role: phi.part(2, role) for role in expected} == {r: Part(*p) for r, p in expected.items()}


def test_an_ffn_without_a_gate(tmp_path):
    save_tiny("gpt2", tmp_path)
    folder = ModelFolder(tmp_path)
    assert not folder.has_gate
    assert folder.part(0, "up") == Part("transformer.h.0.mlp.c_fc", 0, 256)
    assert folder.part(0, "k") == Part("transformer.h.0.attn.c_attn", 64, 128)
    with pytest.raises(KeyError, match="gate"):
        folder.part(0, "gate")


def test_shapes_and_heads(tmp_path):
    save_tiny("gpt2", tmp_path)
    folder = ModelFolder(tmp_path)
    assert folder.shape == Shape(blocks=3, hidden=64, ffn=256, heads=4, kv_heads=4, head_dim=16, vocab=90)
    assert (folder.head_name, folder.head_weight) == ("lm_head", "transformer.wte.weight")
    assert torch.equal(folder.weight("lm_head"), folder.weights.load("transformer.wte.weight"))
    save_tiny("qwen3", tmp_path)
    folder = ModelFolder(tmp_path)
    assert folder.shape == Shape(blocks=3, hidden=64, ffn=96, heads=4, kv_heads=2, head_dim=32, vocab=90)
    assert folder.head_weight == "lm_head.weight"
    edit(tmp_path, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(ArtifactError, match=r"lm_head.weight is missing"):
        _ = ModelFolder(tmp_path).head_weight


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_names_with_and_without_the_prefix(tmp_path, name):
    model = save_tiny(name, tmp_path)
    prefix = LAYOUTS[name].prefix

    def strip(tensors):
        for key in list(tensors):
            tensors[key.removeprefix(prefix)] = tensors.pop(key)
        if name == "gpt2":
            tensors["h.0.attn.bias"] = torch.ones(1, 1, 32, 32).tril()
            tensors["h.0.attn.masked_bias"] = torch.tensor(float("-inf"))

    edit(tmp_path, strip)
    folder = ModelFolder(tmp_path)
    assert all(not linear.startswith(prefix) for linear in folder.linears())
    x = folder.embed(ids())
    for block in range(folder.blocks):
        x = run_block(folder, block, folder.block_tensors(block), x, folder.rope(24), lambda *_: None)
    with torch.no_grad():
        expected = model(input_ids=ids()).logits
    torch.testing.assert_close(folder.logits(folder.final_norm(x)), expected, rtol=1e-4, atol=1e-4)


def test_block_tensors_are_checked_and_converted(tmp_path):
    save_tiny("gpt2", tmp_path)
    tensors = ModelFolder(tmp_path).block_tensors(1, torch.bfloat16)
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    assert tensors["mlp.c_fc.weight"].shape == (256, 64)
    edit(tmp_path, lambda t: t["transformer.h.1.mlp.c_fc.weight"].view(-1)[5].fill_(float("nan")))
    with pytest.raises(ArtifactError, match=r"transformer.h.1.mlp.c_fc.weight.*NaN"):
        ModelFolder(tmp_path).block_tensors(1)
    edit(tmp_path, lambda t: t.pop("transformer.h.2.ln_1.weight"))
    with pytest.raises(ArtifactError, match=r"hold no transformer.h.2.ln_1.weight"):
        ModelFolder(tmp_path).block_tensors(2)


def test_the_embedding_is_loaded_once(tmp_path):
    save_tiny("gemma2", tmp_path)
    folder = ModelFolder(tmp_path)
    first = folder.embed(ids())
    (tmp_path / "model.safetensors").unlink()
    assert torch.equal(folder.embed(ids()), first)
    folder.forget()
    with pytest.raises(FileNotFoundError):
        folder.embed(ids())


def test_more_tokens_than_learned_positions(tmp_path):
    save_tiny("gpt2", tmp_path)
    with pytest.raises(UsageError, match="33 tokens exceed the 32 positions"):
        ModelFolder(tmp_path).embed(ids(1, 33))


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("gpt2", {"add_cross_attention": True}),
        ("gemma2", {"use_bidirectional_attention": True}),
        ("gemma3", {"attn_logit_softcapping": 50.0}),
    ],
)
def test_options_that_change_the_computation_are_refused(tmp_path, name, option):
    save_tiny(name, tmp_path)
    write_config(tmp_path, {**ModelFolder(tmp_path).config, **option})
    with pytest.raises(UnsupportedArchitecture, match=next(iter(option))):
        ModelFolder(tmp_path)


def test_an_incomplete_config_names_the_key(tmp_path):
    write_config(tmp_path, {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "vocab_size": 3})
    with pytest.raises(ArtifactError, match="lacks a valid size: n_head is None"):
        ModelFolder(tmp_path)
    write_config(tmp_path, {"model_type": "mamba"})
    with pytest.raises(UnsupportedArchitecture, match=r"'mamba' has no row.*LAYOUTS.*known: gemma2,"):
        ModelFolder(tmp_path)


def write_config(path, config):
    (path / "config.json").write_text(json.dumps(config))


def kept_rows(folder, block, channels, groups):
    """Linear -> kept output rows, by the folder's parts."""
    shape = folder.shape
    per, wide = shape.heads // shape.kv_heads, torch.arange(shape.head_dim)
    kv = torch.cat([group * shape.head_dim + wide for group in groups])
    q = torch.cat([(group * per + i) * shape.head_dim + wide for group in groups for i in range(per)])
    keep = {"q": q, "k": kv, "v": kv, "gate": channels, "up": channels}
    rows = {}
    for role in ("q", "k", "v", "gate", "up") if folder.has_gate else ("q", "k", "v", "up"):
        part = folder.part(block, role)
        rows.setdefault(part.name, []).append(part.start + keep[role])
    return {name: torch.cat(parts) for name, parts in rows.items()}, q


def cut(folder, out, channels, groups, config):
    """Write ``folder`` with only these FFN channels and KV groups."""
    tensors = {name: folder.weights.load(name) for name in folder.weights.names()}
    for block in range(folder.blocks):
        rows, q = kept_rows(folder, block, channels, groups)
        for name, index in rows.items():
            tensors[f"{name}.weight"] = folder.stored(name, folder.weight(name)[index])
            if f"{name}.bias" in tensors:
                tensors[f"{name}.bias"] = tensors[f"{name}.bias"][index]
        for name, index in ((folder.out_name(block), q), (folder.down_name(block), channels)):
            tensors[f"{name}.weight"] = folder.stored(name, folder.weight(name)[:, index])
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    write_config(out, config)


def load(path):
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    assert not {kind: keys for kind, keys in info.items() if keys}
    return model.eval()


def silence(model, folder, channels, q):
    """Zero the columns that read what was cut."""
    for block in range(folder.blocks):
        for name, kept in ((folder.out_name(block), q), (folder.down_name(block), channels)):
            W = matrix(model.get_submodule(name))
            gone = torch.ones(W.shape[1], dtype=torch.bool)
            gone[kept] = False
            W[:, gone] = 0


@pytest.mark.parametrize("name", PLAIN)
def test_a_narrowed_folder_loads_and_equals_the_silenced_model(tmp_path, name):
    model = save_tiny(name, tmp_path)
    folder = ModelFolder(tmp_path)
    shape = folder.shape
    channels = torch.randperm(shape.ffn, generator=torch.Generator().manual_seed(2))[: shape.ffn // 2].sort().values
    groups = [1] if shape.kv_heads == 2 else list(range(shape.kv_heads))  # GPT-2's config cannot hold fewer heads
    sizes = {"heads": shape.heads * len(groups) // shape.kv_heads, "kv_heads": len(groups)}
    config = folder.narrowed_config(ffn=len(channels), **sizes)
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    cut(folder, narrow, channels, groups, config)
    assert ModelFolder(narrow).shape.head_dim == shape.head_dim
    with torch.no_grad():
        silence(model, folder, channels, kept_rows(folder, 0, channels, groups)[1])
        torch.testing.assert_close(
            load(narrow)(input_ids=ids()).logits, model(input_ids=ids()).logits, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("name", PLAIN)
def test_a_folder_without_a_block_equals_skipping_it(tmp_path, name):
    save_tiny(name, tmp_path)
    folder = ModelFolder(tmp_path)
    x = folder.embed(ids())
    for block in (0, 2):
        x = run_block(folder, block, folder.block_tensors(block), x, folder.rope(24), lambda *_: None)
    short = tmp_path / "short"
    short.mkdir()
    gone, last, place = folder.name(1, ""), folder.name(2, ""), folder.name(1, "")
    tensors = {n: folder.weights.load(n) for n in folder.weights.names() if not n.startswith(gone)}
    tensors = {place + n.removeprefix(last) if n.startswith(last) else n: t for n, t in tensors.items()}
    save_file(tensors, short / "model.safetensors", metadata={"format": "pt"})
    write_config(short, folder.narrowed_config(blocks=[0, 2]))
    with torch.no_grad():
        expected = load(short)(input_ids=ids()).logits
    torch.testing.assert_close(folder.logits(folder.final_norm(x)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "sizes", "match"),
    [
        ("llama", {"heads": 3, "kv_heads": 1}, "divide the hidden size 64"),
        ("llama", {"heads": 4, "kv_heads": 3}, "3 KV heads do not divide 4"),
        ("gpt2", {"heads": 2, "kv_heads": 2}, "gpt2 config cannot hold"),
        ("phi3-longrope-short", {"heads": 2, "kv_heads": 1}, "phi3 config cannot hold"),
        ("gpt2-untied", {"blocks": [0, 2]}, "scale_attn_by_inverse_layer_idx"),
    ],
)
def test_what_a_config_cannot_say_is_refused(tmp_path, name, sizes, match):
    save_tiny(name, tmp_path)
    with pytest.raises(UsageError, match=match):
        ModelFolder(tmp_path).narrowed_config(**sizes)


def test_narrowing_leaves_the_rest_of_the_config(tmp_path):
    save_tiny("gpt2-untied", tmp_path)
    folder = ModelFolder(tmp_path)
    assert folder.narrowed_config() == folder.config
    assert folder.narrowed_config(ffn=40, blocks=[0, 1]) == {**folder.config, "n_inner": 40, "n_layer": 2}


def test_a_mistral_that_transformers_takes_for_another_is_refused(tmp_path):
    save_tiny("mistral", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"layer_types": ["full_attention"] * 3}))
    with pytest.raises(UnsupportedArchitecture, match="with layer_types transformers takes a mistral for a ministral"):
        ModelFolder(tmp_path)
