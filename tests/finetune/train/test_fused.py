"""Fused adapters compute what peft's do in full precision, and lose no small change."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from tiny_families import PLAIN, ids, save_tiny
from transformers import AutoModelForCausalLM

from finetune.train import adapters, merge
from finetune.train.fused import fuse
from finetune.train.loss import label_loss
from finetune.train.params import SftParams


def adapted(folder, *, four_bit, size, targets=()):
    """An adapter whose outputs are small beside the linears', on a float32 or NF4 base."""
    model = merge.load_base(folder, four_bit=four_bit, compute=torch.float32, attention="eager")
    torch.manual_seed(0)
    p = SftParams(method="qlora" if four_bit else "lora", rank=4, alpha=8, adapter={"targets": list(targets)})
    model = adapters.adapted(model, p, True, folder)
    merge.multiply_as_in_training(model)
    draw = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=draw) * size
    return model


def step(model, tokens):
    """Loss, gradients of the adapters."""
    base = model.get_base_model()
    loss = label_loss(base.base_model(input_ids=tokens).last_hidden_state, base.get_output_embeddings().weight, tokens)
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return float(loss.detach()), torch.cat([grads[name].flatten() for name in sorted(grads)])


FLOATS = [pytest.param(name, False, marks=[] if name in ("llama", "gpt2") else pytest.mark.slow) for name in PLAIN]


@pytest.mark.parametrize(("family", "four_bit"), [*FLOATS, *((name, True) for name in PLAIN)])
def test_loss_and_gradients_of_every_family(family, four_bit, tmp_path):
    save_tiny(family, tmp_path)
    plain, quick = (adapted(tmp_path, four_bit=four_bit, size=0.02) for _ in range(2))
    assert fuse(quick) > 0
    (wanted, slopes), (loss, found) = (step(model, ids()) for model in (plain, quick))
    assert loss == pytest.approx(wanted, rel=5e-3)
    assert float(torch.nn.functional.cosine_similarity(found, slopes, dim=0)) > 0.99
    assert float(found.norm()) == pytest.approx(float(slopes.norm()), rel=0.03)


@pytest.mark.parametrize(
    ("family", "target", "four_bit"), [("llama", "q_proj", False), ("llama", "up_proj", True), ("gpt2", "c_fc", False)]
)
def test_linears_without_an_adapter_are_multiplied_alike(family, target, four_bit, tmp_path):
    save_tiny(family, tmp_path)
    plain, quick = (adapted(tmp_path, four_bit=four_bit, size=0.02, targets=[target]) for _ in range(2))
    fuse(quick)
    (wanted, slopes), (loss, found) = (step(model, ids()) for model in (plain, quick))
    assert loss == pytest.approx(wanted, rel=5e-3)
    assert float(torch.nn.functional.cosine_similarity(found, slopes, dim=0)) > 0.99


def test_a_small_change_is_not_rounded_away():
    """Numbers of about 1 have steps of 2⁻⁸ in bfloat16, and the adapter's are a fifth of that."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 256, bias=False)
    rows = torch.randn(512, 64).bfloat16().float()
    layer.weight.data = (layer.weight / (rows @ layer.weight.T).std()).detach().bfloat16().float()
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["linear"])
    model = inject_adapter_in_model(config, torch.nn.ModuleDict({"linear": layer}))
    A, B = (getattr(model["linear"], name)["default"].weight for name in ("lora_A", "lora_B"))
    B.data.fill_(1e-3)
    change, without = rows @ A.T @ B.T, rows @ layer.weight.T
    assert float(change.detach().abs().mean()) < 2**-9
    fuse(model)
    found = model["linear"](rows).detach().float() - without
    kept = (found * change).sum() / change.square().sum()
    assert float(kept.detach()) == pytest.approx(1, abs=0.1)
    late = (without.bfloat16() + change.bfloat16()).float() - without.bfloat16().float()  # added to what is rounded
    assert float(((late * change).sum() / change.square().sum()).detach()) < 0.7


def test_the_residual_stream_stays_in_float32(tmp_path):
    save_tiny("llama", tmp_path)
    model = adapted(tmp_path, four_bit=True, size=0.02)
    fuse(model)
    states = model.get_base_model().base_model(input_ids=ids(), output_hidden_states=True).hidden_states
    assert {state.dtype for state in states} == {torch.float32}


def test_the_base_model_is_left_for_others(tmp_path):
    save_tiny("llama", tmp_path)
    before = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)(input_ids=ids()).logits
    fuse(adapted(tmp_path, four_bit=False, size=0.0))
    after = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)(input_ids=ids()).logits
    assert torch.equal(before, after)
