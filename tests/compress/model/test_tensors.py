"""Which tensors make a model: as transformers decides it, or refused by name."""

import json
import shutil

import pytest
import torch
from family_models import CASES, GPT2, PLAIN, SIZES
from safetensors.torch import load_file, save_file

from compress.errors import ArtifactError, UnsupportedArchitecture
from compress.model.families import LAYOUTS
from compress.model.tensors import held
from export.checkpoint import open_checkpoint
from export.gguf.layout import layout_of
from export.gguf.tensors import tensors_of

FAMILIES = [("gpt2" if case == "gpt2" else CASES[case][0]) for case in PLAIN]


def save(kind, folder, shards=False, **config):
    """A random model of ``kind`` with a head of its own, and its tensors."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = {"vocab_size": 48, **(GPT2 if kind == "gpt2" else SIZES), "num_hidden_layers": 2, "n_layer": 2, **config}
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config, tie_word_embeddings=False))
    model.save_pretrained(folder, max_shard_size="60KB" if shards else "1GB")
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def rewrite(folder, tensors=None, **config):
    if tensors is not None:
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


def embedding_of(kind):
    return f"{LAYOUTS[kind].embed}.weight"


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_table_names_what_transformers_builds(kind, tmp_path):
    """With every switch on, with every switch off; the head tied and not."""
    from transformers import AutoConfig, AutoModelForCausalLM

    row = LAYOUTS[kind]
    for on in (False, True):
        switches = dict.fromkeys(("attention_bias", "mlp_bias"), on)
        given = {"vocab_size": 48, **(GPT2 if kind == "gpt2" else SIZES), **switches, "tie_word_embeddings": on}
        config = AutoConfig.for_model(kind, **given)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        wanted, biases = row.tensors(row.settings(config.to_dict()), tied=on)
        ours = {name: row.stored(name, size, packed=False) for name, size in (wanted | biases).items()}
        assert ours == {name: tuple(p.shape) for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_weights_decide_what_the_head_is(kind, tmp_path):
    """Every reader takes the head that transformers takes, whatever the flag says."""
    from transformers import AutoModelForCausalLM

    tensors = save(kind, tmp_path)
    embedding = embedding_of(kind)
    cases = {
        "own": tensors,
        "equal": tensors | {"lm_head.weight": tensors[embedding].clone()},
        "absent": {name: t for name, t in tensors.items() if name != "lm_head.weight"},
        "no embedding": {name: t for name, t in tensors.items() if name != embedding},
    }
    for case, kept in cases.items():
        rewrite(tmp_path, kept, tie_word_embeddings=True)
        model = AutoModelForCausalLM.from_pretrained(tmp_path)
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        found = held(tmp_path)
        assert ("lm_head.weight" in found.entries, found.config["tie_word_embeddings"]) == (not tied, tied), case
        checkpoint = open_checkpoint(tmp_path)
        assert checkpoint.names() == sorted(found.entries)
        assert torch.equal(torch.from_numpy(checkpoint.rows(embedding, 0, 48)), model.get_input_embeddings().weight)
        if kind != "gemma2" or tied:
            written = {t.name for t in tensors_of(layout_of(checkpoint.config), checkpoint)}
            assert ("output.weight" in written) == (not tied)
    rewrite(tmp_path, cases["absent"], tie_word_embeddings=False)
    with pytest.raises(ArtifactError, match=r"lm_head.weight is missing and config.json does not tie it"):
        held(tmp_path)


def test_a_head_equal_in_another_type_or_another_shard_is_tied(tmp_path):
    tensors = save("llama", tmp_path / "one")
    embedding = tensors["model.embed_tokens.weight"].bfloat16()
    wide = {"model.embed_tokens.weight": embedding.float(), "lm_head.weight": embedding}
    rewrite(tmp_path / "one", tensors | wide, tie_word_embeddings=True)
    assert "lm_head.weight" not in held(tmp_path / "one").entries
    rewrite(tmp_path / "one", tensors | {"lm_head.weight": tensors["lm_head.weight"].to(torch.int8)})
    with pytest.raises(ArtifactError, match=r"lm_head.weight in .* has type I8"):
        held(tmp_path / "one")
    save("llama", tmp_path / "many", shards=True)
    rewrite(tmp_path / "many", tie_word_embeddings=True)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    assert held(tmp_path / "many").config["tie_word_embeddings"] is False


Q = "model.layers.0.self_attn.q_proj"
STRAYS = {
    f"{Q}.bias": (64, "attention_bias is False"),
    "model.layers.1.mlp.up_proj.bias": (96, "mlp_bias is False"),
    "lm_head.bias": (48, "has no place in a llama model"),
    f"{Q}.lora_A.default.weight": (64, "merge adapters first"),
    "model.layers.2.input_layernorm.weight": (64, "counts 2 blocks"),
    "v_head.summary.weight": (64, "has no place in a llama model"),
}


@pytest.mark.parametrize("name", STRAYS)
def test_what_config_json_does_not_describe_is_named(name, tmp_path):
    size, words = STRAYS[name]
    rewrite(tmp_path, save("llama", tmp_path) | {name: torch.ones(size)})
    with pytest.raises(ArtifactError, match=words) as caught:
        held(tmp_path)
    assert name in str(caught.value)
    assert ("merge adapters" in str(caught.value)) == ("lora" in name)


def test_biases_of_zeros_that_are_switched_off_are_left_out(tmp_path):
    """As old GPTQ folders have them."""
    tensors = save("llama", tmp_path)
    rewrite(tmp_path, tensors | {f"{Q}.bias": torch.zeros(64), "lm_head.bias": torch.zeros(48)})
    assert sorted(held(tmp_path).entries) == sorted(tensors)


@pytest.mark.parametrize("wrapper", ["base_model.model.", "_orig_mod.", "module.", "language_model."])
def test_the_name_of_a_wrapper_is_named(wrapper, tmp_path):
    tensors = save("llama", tmp_path)
    rewrite(tmp_path, {wrapper + name: tensor for name, tensor in tensors.items()})
    with pytest.raises(ArtifactError, match=rf"{wrapper}model.embed_tokens.weight; '{wrapper}' belongs to a wrapper"):
        held(tmp_path)
    inner = {name.replace(".layers.1.", f".layers.1.{wrapper}"): tensor for name, tensor in tensors.items()}
    rewrite(tmp_path, inner)
    with pytest.raises(
        ArtifactError, match=wrapper if wrapper in ("_orig_mod.", "module.") else "hold no model.layers"
    ):
        held(tmp_path)


def test_every_tensor_has_its_size(tmp_path):
    tensors = save("llama", tmp_path)
    damage = {
        "lm_head.weight": lambda t: t[:-3],
        "model.norm.weight": lambda t: t[:-1],
        "model.layers.1.input_layernorm.weight": lambda t: t.new_zeros(()),
        f"{Q}.weight": lambda t: t.new_zeros(0),
    }
    for name, change in damage.items():
        rewrite(tmp_path, tensors | {name: change(tensors[name])})
        with pytest.raises(ArtifactError, match=rf"{name} has shape \[.*\]; config.json says \["):
            held(tmp_path)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2"])
def test_a_partial_rotation_is_refused_where_the_family_has_none(kind, tmp_path):
    save(kind, tmp_path)
    whole = (tmp_path / "config.json").read_text()
    nested = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}
    for given in ({"partial_rotary_factor": 0.5}, nested):
        (tmp_path / "config.json").write_text(whole)
        rewrite(tmp_path, **given)
        with pytest.raises(UnsupportedArchitecture, match=r"partial_rotary_factor is 0\.5"):
            held(tmp_path)
        with pytest.raises(UnsupportedArchitecture, match=r"partial_rotary_factor is 0\.5"):
            open_checkpoint(tmp_path)


def test_quantized_weights_need_their_settings_in_config_json(tmp_path):
    codes = {f"{Q}.{part}": torch.zeros(8, 64, dtype=torch.int32) for part in ("qweight", "qzeros", "scales", "g_idx")}
    tensors = save("llama", tmp_path)
    rewrite(tmp_path, {name: t for name, t in tensors.items() if not name.startswith(Q)} | codes)
    (tmp_path / "quantize_config.json").write_text('{"bits": 4}')
    with pytest.raises(ArtifactError, match=r"quantization_config; quantize_config.json.* has the settings"):
        held(tmp_path)


def test_two_sets_of_weights_must_be_one(tmp_path):
    """transformers reads model.safetensors; who reads the index must find the same."""
    save("llama", tmp_path, shards=True)
    files = sorted(tmp_path.glob("*.safetensors"))
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    rewrite(tmp_path, tensors)
    assert sorted(held(tmp_path).entries) == sorted(tensors)
    rewrite(tmp_path, tensors | {"model.norm.weight": tensors["model.norm.weight"] + 1})
    with pytest.raises(ArtifactError, match=r"holds two models: .* differ in model.norm.weight"):
        held(tmp_path)


def test_strangers_beside_the_weights_are_not_read(tmp_path):
    tensors = save("llama", tmp_path)
    rewrite(tmp_path, transformers_weights="other.safetensors")
    with pytest.raises(ArtifactError, match=r"transformers_weights is 'other.safetensors'"):
        held(tmp_path)
    rewrite(tmp_path, transformers_weights=None)
    for stranger in ("consolidated", "adapter_model", "model.fp16"):
        shutil.copy(tmp_path / "model.safetensors", tmp_path / f"{stranger}.safetensors")
    assert sorted(held(tmp_path).entries) == sorted(tensors)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"holds adapter_model.safetensors, .* and neither model.safetensors nor"):
        held(tmp_path)
    for name in ("consolidated", "model.fp16"):
        (tmp_path / f"{name}.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"holds an adapter \(adapter_model.safetensors\) and no model"):
        held(tmp_path)
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(ArtifactError, match=r"model.safetensors is a folder, not the file"):
        held(tmp_path)


def test_an_index_names_files_beside_it(tmp_path):
    save("llama", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "a.safetensors")
    index = {"weight_map": {"model.norm.weight": "a.safetensors", "lm_head.weight": "../a.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ArtifactError, match=r"names '../a.safetensors', which is no file beside it"):
        held(tmp_path)
