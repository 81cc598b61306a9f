"""What learns when: plans by name, and that frozen weights keep their bytes."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("trl")

from safetensors.numpy import load_file  # noqa: E402

from compress.artifact import Artifact, seal  # noqa: E402
from compress.errors import UsageError  # noqa: E402
from compress.stage import Job  # noqa: E402
from finetune.train import freezing  # noqa: E402
from finetune.train.params import SftParams, Unfreeze  # noqa: E402
from finetune.train.sft import Sft  # noqa: E402

NAMES = ["model.embed_tokens.weight", *(f"model.layers.{i}.mlp.up.weight" for i in range(4)), "model.norm.weight"]
NAMED = {name: [frozenset({name})] for name in NAMES}
NOTHING = {"steps": 100, "epoch": 50, "freeze": [], "freeze_blocks": 0, "unfreeze": None, "decay": 1.0}


def test_blocks_join_from_the_last_to_the_first():
    found = freezing.plan(NAMED, 4, **{**NOTHING, "unfreeze": Unfreeze(every=30, first=2)})
    assert found.starts == {
        "model.norm.weight": 0,
        "model.layers.3.mlp.up.weight": 0,
        "model.layers.2.mlp.up.weight": 0,
        "model.layers.1.mlp.up.weight": 30,
        "model.layers.0.mlp.up.weight": 60,
        "model.embed_tokens.weight": 90,
    }
    assert not found.learns("model.layers.1.mlp.up.weight", 29)
    assert found.learns("model.layers.1.mlp.up.weight", 30)
    by_epoch = freezing.plan(NAMED, 4, **{**NOTHING, "unfreeze": Unfreeze(every_epoch=0.5)})
    assert by_epoch.starts["model.layers.2.mlp.up.weight"] == 25
    assert "model.embed_tokens.weight" not in by_epoch.starts  # its turn would come after the last step


def test_names_and_counts_freeze_and_lower_blocks_learn_more_slowly():
    found = freezing.plan(NAMED, 4, **{**NOTHING, "freeze": ["*.norm.*"], "freeze_blocks": 2, "decay": 0.5})
    assert sorted(found.starts) == ["model.layers.2.mlp.up.weight", "model.layers.3.mlp.up.weight"]
    assert found.factors["model.layers.3.mlp.up.weight"] == 1
    assert found.factors["model.layers.2.mlp.up.weight"] == 0.5
    assert found.factors["model.embed_tokens.weight"] == 0.5**4
    rates = freezing.groups({name: name for name in NAMES}, found, 0.1)
    assert [(group["lr"], group["params"]) for group in rates] == [
        (0.1, ["model.layers.3.mlp.up.weight"]),
        (0.05, ["model.layers.2.mlp.up.weight"]),
    ]


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ({"freeze": ["*.attn.*"]}, r"freeze: '\*\.attn\.\*' matches no weight"),
        ({"freeze_blocks": 5}, "the model has 4 blocks"),
        ({"freeze": ["*"]}, "every weight is frozen"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(how, what):
    with pytest.raises(UsageError, match=what):
        freezing.plan(NAMED, 4, **{**NOTHING, **how})


def test_weights_that_would_never_join_are_told_of(caplog):
    freezing.plan(NAMED, 4, **{**NOTHING, "unfreeze": Unfreeze(every=25)})
    assert "unfreeze: the lowest weights would join at step 100 of 100" in caplog.text
    caplog.clear()
    freezing.plan(NAMED, 4, **{**NOTHING, "unfreeze": Unfreeze(every=24)})
    assert not caplog.text


def model_of(kind, **more):
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.AutoConfig.for_model(kind, vocab_size=90, **sizes, **more)
    return transformers.AutoModelForCausalLM.from_config(config)


def frozen(model, pattern, files=()):
    """Names of the weights that a pattern freezes, in the order of the model."""
    names, others = freezing.known_names(model, files)
    found = freezing.plan(names, 2, **{**NOTHING, "freeze": [pattern]}, others=others)
    return [name for name in names if name not in found.starts]


def test_a_pattern_means_a_weight_by_its_name_in_memory_and_in_the_file(tmp_path):
    model = model_of("gpt_neox")
    model.save_pretrained(tmp_path)
    assert "embed_out.weight" in load_file(tmp_path / "model.safetensors")
    for pattern in ("embed_out.weight", "lm_head.*"):
        assert frozen(model, pattern) == ["lm_head.weight"]
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert frozen(loaded, "embed_out*") == ["lm_head.weight"]
    tied = model_of("llama", tie_word_embeddings=True)
    assert frozen(tied, "lm_head.weight") == ["model.embed_tokens.weight"]
    short = model_of("gpt2", n_embd=32, n_layer=2, n_head=2)
    files = [name.removeprefix("transformer.") for name in short.state_dict()]
    assert frozen(short, "h.0.attn.*", files) == [
        f"transformer.{name}" for name in files if name.startswith("h.0.attn")
    ]


def test_experts_that_are_one_weight_in_training_freeze_together():
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 16}
    model = model_of("qwen3_moe", num_key_value_heads=2, **experts)
    fused = [f"model.layers.0.mlp.experts.{name}" for name in ("gate_up_proj", "down_proj")]
    assert frozen(model, "model.layers.0.mlp.experts.*") == fused
    assert frozen(model, "model.layers.0.mlp.experts.*.down_proj.weight") == fused[1:]
    with pytest.raises(UsageError, match=r"experts\.2\.\w+\.weight and not .* one weight in training"):
        frozen(model, "model.layers.0.mlp.experts.2.*")


def test_a_pattern_means_an_adapter_by_the_name_of_what_it_stands_in():
    from peft import LoraConfig, get_peft_model

    how = LoraConfig(r=2, target_modules=["dense", "dense_h_to_4h"], task_type="CAUSAL_LM")
    model = get_peft_model(model_of("gpt_neox"), how)
    inside = "base_model.model.gpt_neox.layers.0.attention.dense.lora_{}.default.weight"
    for pattern in (
        "gpt_neox.layers.0.attention.*", "*.layers.0.attention.*", "base_model.model.gpt_neox.layers.0.attention.*",
        "gpt_neox.layers.0.attention.dense.weight",
    ):  # fmt: skip
        assert frozen(model, pattern) == [inside.format(part) for part in "AB"]
    with pytest.raises(UsageError, match="matches no weight") as caught:
        frozen(model, "layers.0.atention.*")
    assert caught.value.next.startswith("near it are gpt_neox.layers.*.attention.dense.")
    for pattern, name in (
        ("*.final_layer_norm.*", "gpt_neox.final_layer_norm.weight"),
        ("embed_out.*", "lm_head.weight"),
    ):
        with pytest.raises(UsageError, match=rf"{name} stays as it is anyway"):
            frozen(model, pattern)


def test_gpt2_is_read_by_its_own_names():
    names = [
        "transformer.wte.weight",
        "transformer.wpe.weight",
        "transformer.h.1.mlp.c_fc.weight",
        "transformer.ln_f.bias",
    ]
    assert [freezing.depth(name, 2) for name in names] == [0, 0, 2, 3]
    assert freezing.depth("base_model.model.model.layers.1.mlp.up_proj.lora_A.default.weight", 2) == 2


def tuned(base, root, **how):
    for part in ("out", "scratch", "data"):
        (root / part).mkdir(parents=True)
    rows = [[{"role": "user", "content": f"Question {i}?"}, {"role": "assistant", "content": "Yes."}] for i in range(8)]
    (root / "data" / "train.jsonl").write_text("".join(json.dumps({"messages": m}) + "\n" for m in rows))
    data = seal(root / "data", kind="data", stage="t", stage_version=1, params={}, inputs={}, facts={})
    params = SftParams(steps=6, batch=4, checkpoint_every=3, rate=1e-2, rank=4, **how)
    job = Job(params=params, out=root / "out", scratch=root / "scratch", inputs=(base,), data=data, seed=1, threads=1)
    return Sft().run(job), load_file(root / "out" / "model.safetensors")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_frozen_weights_keep_their_values(small_base, tmp_path, method):
    before = load_file(small_base.path / "model.safetensors")
    facts, after = tuned(small_base, tmp_path, method=method, freeze_blocks=1)
    assert facts["learning_share"] < 1
    moved = {name for name in before if (before[name] != after[name]).any()}
    assert not [name for name in moved if ".layers.0." in name or "embed" in name]
    assert [name for name in moved if ".layers.1." in name]


def test_unfreezing_says_when_and_decay_slows_lower_blocks(small_base, tmp_path):
    before = load_file(small_base.path / "model.safetensors")
    late, one = tuned(small_base, tmp_path / "a", method="full", unfreeze={"every": 4})
    assert late["unfrozen_at"] == {"0": 4}
    _, two = tuned(small_base, tmp_path / "b", method="full", layer_decay=0.1)
    name = "model.layers.{}.mlp.up_proj.weight"

    def change(weights, block):
        return abs(weights[name.format(block)].astype(float) - before[name.format(block)].astype(float)).mean()

    assert 0 < change(one, 0) < change(one, 1)
    assert change(two, 0) < 0.5 * change(two, 1)


@pytest.mark.slow
def test_gpt2_unfreezes_too(small_base, tmp_path):
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(small_base.path)
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 64, "vocab_size": len(tokenizer)}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=1, pad_token_id=5))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    facts, _ = tuned(Artifact("hf", tmp_path / "model", ""), tmp_path / "run", method="full", unfreeze={"every": 2})
    assert facts["unfrozen_at"] == {"1": 2, "0": 4}
