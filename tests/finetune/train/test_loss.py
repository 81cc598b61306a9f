"""The loss at labelled positions against cross-entropy over everything."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_families import PLAIN, save_tiny
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from compress.errors import UnsupportedArchitecture
from compress.model import head_loss
from finetune.train import batches
from finetune.train.loss import IGNORED, label_loss, score_labels
from finetune.train.params import SftParams
from finetune.train.sft import Conversations


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("scores", [12 << 20, 20 * 50])
def test_value_and_gradients_are_those_of_cross_entropy(monkeypatch, cap, scores):
    monkeypatch.setattr(head_loss, "SCORES", scores)
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 31, 24, generator=draw).bfloat16().float().requires_grad_()
    head = torch.randn(50, 24, generator=draw).bfloat16().float().requires_grad_()
    labels = torch.randint(0, 50, (4, 31), generator=draw)
    labels[torch.rand(4, 31, generator=draw) < 0.4] = IGNORED
    loss = label_loss(hidden, head, labels, cap)
    found = torch.autograd.grad(loss, (hidden, head))

    wide, weight = hidden.double(), head.double()
    scored = wide[:, :-1] @ weight.T
    scored = cap * (scored / cap).tanh() if cap else scored
    whole = functional.cross_entropy(
        scored.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )
    assert float(loss.detach()) == pytest.approx(float(whole.detach()), rel=2e-3)
    for mine, theirs in zip(found, torch.autograd.grad(whole, (hidden, head)), strict=True):
        assert float((mine - theirs).norm() / theirs.norm()) < 1e-2


def test_no_label_no_loss():
    hidden = torch.randn(2, 5, 8, requires_grad=True)
    none = label_loss(hidden, torch.randn(9, 8), torch.full((2, 5), IGNORED))
    none.backward()
    assert float(none.detach()) == 0
    assert not hidden.grad.any()


def test_packed_rows_keep_every_token_once_and_no_label_of_a_first_one():
    rows = [{"input_ids": [n] * n, "labels": [n] * n} for n in (3, 9, 5, 2, 7)]
    batch = batches.pack(0)(rows)
    assert batch["input_ids"].tolist() == [[9] * 9 + [7] * 7, [5] * 5 + [3] * 3 + [2] * 2 + [0] * 6]
    assert batch["position_ids"].tolist()[1] == [*range(5), *range(3), *range(2), *range(6)]
    assert batch["labels"].tolist()[1] == [-100] + [5] * 4 + [-100] + [3] * 2 + [-100] + [2] + [-100] * 6


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_packed_rows_are_never_more_than_unpacked_ones(sizes):
    rows = [{"input_ids": [1] * n, "labels": [1] * n} for n in sizes]
    packed, plain = batches.pack(0)(rows)["input_ids"], batches.collate(0)(rows)["input_ids"]
    assert packed.shape[1] == plain.shape[1]
    assert packed.shape[0] <= plain.shape[0]
    assert packed.sum() == plain.sum() == sum(sizes)


SIZES = {"vocab_size": 90, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "bos_token_id": 1}
SIZES |= {"eos_token_id": 2, "pad_token_id": 0, "intermediate_size": 96}


def model_of(kind, **more):
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES, **more)).eval()
    for weight in model.parameters():
        weight.data.normal_(0, 0.2)
    return model


@pytest.mark.parametrize(
    ("kind", "more"),
    [("granite", {"logits_scaling": 6.0}), ("cohere", {"logit_scale": 0.25}), ("gpt_neox", {}), ("olmo2", {}),
     ("opt", {"ffn_dim": 96, "word_embed_proj_dim": 64})],
)  # fmt: skip
def test_the_loss_is_that_of_the_models_own_logits(kind, more):
    model = model_of(kind, **more)
    ids = torch.randint(3, 90, (3, 20), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
        wanted = functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum")
        before = torch.get_rng_state()
        score_labels(model)
        found = model(input_ids=ids, scored_labels=ids, use_cache=False).loss
    assert float(found) == pytest.approx(float(wanted), rel=2e-3)
    assert torch.get_rng_state().equal(before)
    assert not model.training


def test_a_head_that_adds_something_is_refused():
    with pytest.raises(UnsupportedArchitecture, match="the logits of a PhiForCausalLM are more than a product"):
        score_labels(model_of("phi"))


@pytest.mark.parametrize("family", PLAIN)
def test_packed_conversations_do_not_see_each_other(family, tmp_path):
    """The loss of a batch and its gradient are those of its conversations, each alone in the model."""
    save_tiny(family, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager", dtype=torch.float32).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    score_labels(model)
    draw = torch.Generator().manual_seed(2)
    rows = []
    for size in (5, 11, 8, 3, 14):
        ids = torch.randint(3, 90, (size,), generator=draw).tolist()
        rows.append({"input_ids": ids, "labels": [IGNORED] * 2 + ids[2:]})
    batch = batches.pack(0)(rows)
    assert len(batch["labels"]) == 3
    found = step(model, batch)
    alone = [step(model, batches.collate(0)([row])) for row in rows]
    assert found[0] == pytest.approx(sum(loss for loss, _ in alone), rel=2e-3)
    slopes = sum(slope for _, slope in alone)
    assert float((found[1] - slopes).norm() / slopes.norm()) < 2e-2


def step(model, batch):
    """Loss and gradient of every weight."""
    model.zero_grad()
    loss = Conversations([], SftParams()).loss(model, batch)
    loss.backward()
    return float(loss.detach()), torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])
