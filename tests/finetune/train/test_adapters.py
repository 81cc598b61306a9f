"""Kinds of adapters: each trains, merges into what was trained, and starts where its paper says."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from pydantic import ValidationError  # noqa: E402
from tiny_families import save_tiny  # noqa: E402

from compress.artifact import seal  # noqa: E402
from compress.errors import ArtifactError, UsageError  # noqa: E402
from compress.stage import Job  # noqa: E402
from finetune.train import adapters, merge  # noqa: E402
from finetune.train.params import SftParams  # noqa: E402
from finetune.train.sft import Sft  # noqa: E402

KINDS = [("rslora", "qlora"), ("lora+", "qlora"), ("loftq", "qlora"), ("pissa", "lora"), ("dora", "lora")]


def run(base, root, **how):
    for part in ("out", "scratch", "data"):
        (root / part).mkdir(parents=True, exist_ok=True)
    rows = [[{"role": "user", "content": f"Question {i}?"}, {"role": "assistant", "content": "Yes."}] for i in range(8)]
    (root / "data" / "train.jsonl").write_text("".join(json.dumps({"messages": m}) + "\n" for m in rows))
    data = seal(root / "data", kind="data", stage="t", stage_version=1, params={}, inputs={}, facts={})
    params = SftParams(**{"steps": 12, "batch": 4, "checkpoint_every": 6, "rate": 3e-2, "rank": 4, **how})
    job = Job(params=params, out=root / "out", scratch=root / "scratch", inputs=(base,), data=data, seed=1, threads=1)
    return Sft().run(job)


@pytest.mark.parametrize(
    ("kind", "method"), [pytest.param(*case, marks=pytest.mark.slow) for case in KINDS[:3]] + KINDS[3:]
)
def test_each_kind_learns_and_merges(small_base, tmp_path, kind, method):
    facts = run(small_base, tmp_path, method=method, adapter={"kind": kind}, max_logit_gap=0.05)
    assert facts["loss"] < 5.5  # of ln 400 = 6 before training
    assert facts["merge_max_logit_gap"] <= 0.05
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()


def wrapped(base, **how):
    p = SftParams(rank=4, **how)
    model = merge.load_base(base.path, four_bit=p.method == "qlora", compute=torch.float32)
    return adapters.adapted(model, p, True, base.path)


def test_loftq_starts_nearer_to_the_weights_than_nf4(small_base):
    plain = merge.load_base(small_base.path, four_bit=False, compute=torch.float32).state_dict()
    nf4 = merge.dequantized(merge.load_base(small_base.path, four_bit=True, compute=torch.float32))
    model = wrapped(small_base, method="qlora", adapter={"kind": "loftq"})
    name = "model.layers.0.mlp.up_proj"
    layer = model.get_submodule(f"base_model.model.{name}")
    change = (layer.lora_B["default"].weight.detach() @ layer.lora_A["default"].weight.detach()) * layer.scaling[
        "default"
    ]
    want = plain[f"{name}.weight"]
    lost = [float((want - got).norm()) for got in (nf4[f"{name}.weight"], nf4[f"{name}.weight"] + change)]
    assert lost[1] < 0.95 * lost[0]


def test_pissa_starts_as_the_model_itself(small_base):
    model = wrapped(small_base, method="lora", adapter={"kind": "pissa"})
    plain = merge.load_base(small_base.path, four_bit=False, compute=torch.float32)
    probe = list(range(6, 40))
    assert torch.allclose(merge.logits(model, probe), merge.logits(plain, probe), atol=1e-3)
    layer = model.get_submodule("base_model.model.model.layers.0.mlp.up_proj")
    moved = plain.get_submodule("model.layers.0.mlp.up_proj").weight - layer.base_layer.weight
    assert float(moved.detach().norm()) > 0


def test_targets_by_name(small_base):
    model = wrapped(small_base, method="lora", adapter={"targets": ["q_proj", "v_proj"]})
    touched = {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in model.named_parameters() if "lora_A" in name}
    assert touched == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("target", "why"),
    [("qq_proj", "no linear"), ("lm_head", "more than"), ("embed_tokens", "more than"), ("norm", "more than")],
)
def test_a_target_that_is_no_linear_is_named(small_base, target, why):
    with pytest.raises(UsageError, match=rf"adapter\.targets: '{target}' matches {why}") as caught:
        wrapped(small_base, method="lora", adapter={"targets": ["q_proj", target]})
    assert "q_proj" in caught.value.next


@pytest.mark.parametrize(("kind", "method"), [("pissa", "qlora"), ("loftq", "lora")])
def test_kinds_that_need_another_base_are_refused(kind, method):
    with pytest.raises(ValidationError, match=f"adapter.kind {kind} needs method"):
        SftParams(method=method, adapter={"kind": kind})


@pytest.mark.slow
def test_a_killed_pissa_ends_with_the_same_bytes(small_base, tmp_path):
    how = {"method": "lora", "adapter": {"kind": "pissa"}, "max_logit_gap": 0.05}
    run(small_base, tmp_path / "whole", **how)
    original = adapters.save

    def die(*given):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapters, "save", die)
        with pytest.raises(KeyboardInterrupt):
            run(small_base, tmp_path / "killed", **how)
    assert adapters.save is original
    run(small_base, tmp_path / "killed", **how)
    files = [tmp_path / side / "out" / "model.safetensors" for side in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("kind", ["lora", "loftq"])
def test_an_adapter_on_nf4_of_gpt2_merges(tmp_path, kind):
    """GPT-2 stores its weights as [in, out], NF4 as [out, in]."""
    save_tiny("gpt2", tmp_path)
    p = SftParams(rank=4, method="qlora", adapter={"kind": kind})
    model = merge.load_base(tmp_path, four_bit=True, compute=torch.float32)
    model = adapters.adapted(model, p, True, tmp_path)
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            weight.data += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    adapters.save(model, tmp_path / "adapter", None)
    _, gap = merge.merge(tmp_path, tmp_path / "adapter", four_bit=True, probes=[[1, 2, 3, 4, 5, 6, 7]])
    assert gap < 1e-3


def test_weights_that_cannot_be_trained_are_refused(tmp_path):
    save_tiny("llama", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq", "bits": 4}}))
    with pytest.raises(ArtifactError, match=r"config\.json: the weights are quantized \(gptq\)"):
        merge.check_base(tmp_path)
    path.write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(ArtifactError, match=r"the weights hold no .*, which a BertLMHeadModel has"):
        merge.load_base(tmp_path, four_bit=False, compute=torch.float32)
