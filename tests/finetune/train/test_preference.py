"""Losses of preference training against slow references, and the methods on a tiny model."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("trl")

from small_folder import write_tokenizer  # noqa: E402

from compress.artifact import seal  # noqa: E402
from compress.errors import DataError, UsageError  # noqa: E402
from compress.registry import load_stage  # noqa: E402
from compress.stage import Job  # noqa: E402
from finetune.data import augment  # noqa: E402
from finetune.train import dpo, kto, pairs, preference, simpo  # noqa: E402
from finetune.train.kto import crossed  # noqa: E402
from finetune.train.loss import IGNORED, reply_logps  # noqa: E402
from finetune.train.params import DpoParams, KtoParams, SimpoParams, UlmaParams  # noqa: E402
from finetune.train.preferring import without_dropout  # noqa: E402
from finetune.world import stage as world  # noqa: E402
from runtime.rules import load_rules  # noqa: E402

RULES = Path(__file__).parents[3] / "configs/rules/customer_service.yaml"

LOGPS = [-3.0, -7.5, -1.2, -0.4, -20.0, -18.0]
REFERENCE = [-4.0, -5.0, -1.0, -1.0, -19.0, -18.5]
LENGTHS = [4, 9, 2, 3, 11, 10]


def replies(good=(1, 0, 1, 0, 1, 0)):
    return preference.Replies(*(torch.tensor(v, dtype=torch.float64) for v in (LOGPS, LENGTHS, REFERENCE, good)))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def by_pairs(loss):
    """Loss of each pair by a loop over plain numbers: (logp, ratio, length) of the chosen and of the rejected."""
    said = [(p, p - r, n) for p, r, n in zip(LOGPS, REFERENCE, LENGTHS, strict=True)]
    return [loss(good, bad) for good, bad in zip(said[0::2], said[1::2], strict=True)]


B, E = 0.3, 0.1
DPO = {
    "sigmoid": lambda c, r: -(1 - E) * math.log(sigmoid(B * (c[1] - r[1]))) - E * math.log(sigmoid(-B * (c[1] - r[1]))),
    "robust": lambda c, r: (
        (-(1 - E) * math.log(sigmoid(B * (c[1] - r[1]))) + E * math.log(sigmoid(-B * (c[1] - r[1])))) / (1 - 2 * E)
    ),
    "hinge": lambda c, r: max(0, 1 - B * (c[1] - r[1])),
    "ipo": lambda c, r: (c[1] / c[2] - r[1] / r[2] - 1 / (2 * B)) ** 2,
    "apo_zero": lambda c, r: 1 - sigmoid(B * c[1]) + sigmoid(B * r[1]),
}


@pytest.mark.parametrize("kind", DPO)
def test_dpo_is_its_formula(kind):
    found = preference.dpo(replies(), beta=B, kind=kind, smoothing=E if kind in ("sigmoid", "robust") else 0)
    assert found.tolist() == pytest.approx(by_pairs(DPO[kind]), rel=1e-9)


@pytest.mark.parametrize(("given", "broken", "weight"), [(None, ["short"], 1), (None, [], 0), (0.3, [], 0.3)])
def test_the_chosen_replies_of_mutations_are_learnt_too(given, broken, weight):
    for kind, params, plain in (
        (dpo.Pairs, DpoParams(beta=B, sft_weight=given), lambda c, r: B * (c[1] - r[1])),
        (simpo.Margins, SimpoParams(sft_weight=given), lambda c, r: 2 * (c[0] / c[2] - r[0] / r[2]) - 1),
    ):
        objective = object.__new__(kind)
        objective.p, objective.rules = params, broken
        expected = by_pairs(lambda c, r, of=plain: -math.log(sigmoid(of(c, r))) - weight * c[0] / c[2])
        assert objective.losses(replies(), {}).tolist() == pytest.approx(expected, rel=1e-9)


def test_orpo_and_simpo_are_their_formulas():
    def odds(reply):
        p = math.exp(reply[0] / reply[2])
        return math.log(p / (1 - p))

    found = preference.orpo(replies(), weight=0.25)
    assert found.tolist() == pytest.approx(
        by_pairs(lambda c, r: -c[0] / c[2] - 0.25 * math.log(sigmoid(odds(c) - odds(r)))), rel=1e-9
    )
    found = preference.simpo(replies(), beta=2.0, gamma=0.5)
    assert found.tolist() == pytest.approx(
        by_pairs(lambda c, r: -math.log(sigmoid(2 * (c[0] / c[2] - r[0] / r[2]) - 0.5))), rel=1e-9
    )


def test_kto_is_its_formula():
    found = preference.kto(replies(), beta=B, kl=torch.tensor(0.7), wanted=1.5, unwanted=0.5)
    ratios = [p - r for p, r in zip(LOGPS, REFERENCE, strict=True)]
    wanted = [1.5 * (1 - sigmoid(B * (r - 0.7))) if i % 2 == 0 else 0.5 * (1 - sigmoid(B * (0.7 - r)))
              for i, r in enumerate(ratios)]  # fmt: skip
    assert found.tolist() == pytest.approx(wanted, rel=1e-6)


def test_ulma_is_its_formula():
    z = [1, 0, 0, 1, 0, 1]
    found = preference.ulma(replies(z), beta=B, log_z=0.4)
    wanted = []
    for logp, reference, length, label in zip(LOGPS, REFERENCE, LENGTHS, z, strict=True):
        ratio = (logp - reference) / length
        wanted.append(-logp / length if label else -math.log(1 - sigmoid(B * ratio + B * 0.4)))
    assert found.tolist() == pytest.approx(wanted, rel=1e-6)
    marks = [0.2, 0.9, 0.5, 0.0, 1.0, 0.7]
    found = preference.ulma_continuous(replies(marks), beta=B, offset=0.1)
    ratios = [(p - r) / n for p, r, n in zip(LOGPS, REFERENCE, LENGTHS, strict=True)]
    assert found.tolist() == pytest.approx([(z - B * r - 0.1) ** 2 for z, r in zip(marks, ratios, strict=True)])


@pytest.mark.parametrize("cap", [None, 4.0])
def test_log_probabilities_by_row_and_their_gradients(cap):
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 9, 16, generator=draw).bfloat16().float().requires_grad_()
    head = torch.randn(30, 16, generator=draw).bfloat16().float().requires_grad_()
    labels = torch.randint(0, 30, (4, 9), generator=draw)
    labels[torch.rand(4, 9, generator=draw) < 0.4] = IGNORED
    labels[2] = IGNORED
    weights = torch.tensor([0.5, -2.0, 3.0, 1.0])
    sums, counts = reply_logps(hidden, head, labels, cap)
    found = torch.autograd.grad((weights * sums).sum(), (hidden, head))
    scores = hidden.double() @ head.double().T
    scores = (cap * (scores / cap).tanh() if cap else scores)[:, :-1].log_softmax(-1)
    wanted = labels[:, 1:]
    picked = scores.gather(2, wanted.clamp(min=0)[..., None])[..., 0] * (wanted != IGNORED)
    assert counts.tolist() == (wanted != IGNORED).sum(1).tolist()
    assert sums.tolist() == pytest.approx(picked.sum(1).tolist(), rel=1e-2, abs=1e-2)
    slow = torch.autograd.grad((weights.double() * picked.sum(1)).sum(), (hidden, head))
    for mine, theirs in zip(found, slow, strict=True):
        assert float((mine - theirs).norm() / theirs.norm()) < 2e-2


@pytest.mark.filterwarnings("ignore::trl.import_utils.TRLExperimentalWarning")
def test_losses_equal_those_of_trl():
    """SimPO and ORPO as trl computes them from the same numbers."""
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    chosen, rejected = (torch.tensor(LOGPS[i::2]) / torch.tensor(LENGTHS[i::2]) for i in (0, 1))
    fake = type(
        "T", (), {"beta": 2.0, "loss_type": "simpo", "simpo_gamma": 0.5, "label_smoothing": 0.0, "alpha": 0.0}
    )()
    fake.accelerator = type("A", (), {"device": "cpu"})()
    theirs = CPOTrainer.cpo_loss(fake, chosen, rejected)[0]
    assert preference.simpo(replies(), beta=2.0, gamma=0.5).tolist() == pytest.approx(theirs.tolist(), rel=1e-5)
    fake.beta = 0.25
    ratio = ORPOTrainer.odds_ratio_loss(fake, chosen, rejected)[0]
    assert preference.orpo(replies(), weight=0.25).tolist() == pytest.approx((-chosen - ratio).tolist(), rel=1e-5)


def test_dropout_is_no_preference():
    config = transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.5, attn_pdrop=0.5)
    model = transformers.GPT2LMHeadModel(config).train()
    other = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, attention_dropout=0.5,
        )
    ).train()  # fmt: skip
    ids = torch.arange(12)[None]
    for it in (model, other):
        assert not torch.equal(it(ids).logits, it(ids).logits)
        without_dropout(it)
        assert torch.equal(it(ids).logits, it(ids).logits)


def test_a_crossed_row_is_one_prompt_with_another_reply():
    one = {"input_ids": [1, 2, 3, 4], "labels": [IGNORED, IGNORED, 3, 4]}
    two = {"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7]}
    assert crossed(one, two) == {"input_ids": [1, 2, 6, 7], "labels": [IGNORED, IGNORED, 6, 7]}


def row(number, reply, **more):
    said = [{"role": "user", "content": f"Question {number}?"}, {"role": "assistant", "content": reply}]
    return {"id": f"r{number}", "messages": said, **more}


def data_of(place, rows):
    place.mkdir(parents=True, exist_ok=True)
    (place / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return seal(place, kind="data", stage="t", stage_version=1, params={}, inputs={}, facts={})


def job_of(tmp_path, rows, params, **more):
    return Job(params=params, out=tmp_path, scratch=tmp_path, data=data_of(tmp_path / "data", rows), seed=3, **more)


def test_what_the_data_give_is_used(tmp_path):
    both = [row(i, "yes", rejected="no") for i in range(4)] + [row(9, "same", rejected="same")]
    made, counts = pairs.read_examples(job_of(tmp_path / "a", both, DpoParams()), pairwise=True)
    assert counts == {"pairs": 4, "equal_pairs": 1}
    assert {(g["messages"][-1]["content"], b["messages"][-1]["content"]) for (g, _), (b, _) in made} == {("yes", "no")}
    single = [row(i, "x", label=bool(i % 2)) for i in range(4)]
    made, counts = pairs.read_examples(job_of(tmp_path / "b", single, UlmaParams()), pairwise=False)
    assert counts == {"replies": 4, "wanted": 2, "unwanted": 2}
    assert sorted(label for ((_, label),) in made) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("good", "bad", "weights", "said"),
    [
        (60, 4, {}, "60 replies are wanted and 4 are not: by their weights one kind counts 15 times as much; unwanted"),
        (4, 20, {}, "one kind counts 5 times as much; wanted: 5"),
        (60, 4, {"unwanted": 15}, ""),
        (20, 12, {}, ""),
    ],
)
def test_uneven_labels_are_told_of(tmp_path, caplog, good, bad, weights, said):
    rows = [row(i, "yes", label=i < good) for i in range(good + bad)]
    points = kto.Points(job_of(tmp_path, rows, KtoParams(**weights)))
    write_tokenizer(tmp_path)
    points.examples(transformers.AutoTokenizer.from_pretrained(tmp_path))
    assert said in caplog.text if said else not caplog.text


@pytest.mark.parametrize(
    ("rows", "params", "pairwise", "what"),
    [
        ([row(1, "x")], DpoParams(), True, "no rejected replies in the data and no rule file"),
        ([row(1, "x")], DpoParams(pairs="given"), True, "no training row has a rejected reply"),
        ([row(1, "x", rejected="x")], DpoParams(), True, "chosen and rejected are the same"),
        ([row(1, "x", label=1), row(2, "y", label=1)], KtoParams(), False, "every reply has the label 1"),
        ([row(1, "x", label=2), row(2, "y", label=1)], KtoParams(), False, "row 'r1' has the label 2"),
        ([row(1, "x", label="good")], KtoParams(), False, "row 'r1' has the label 'good'"),
    ],
)
def test_data_that_teach_no_preference_are_refused(tmp_path, rows, params, pairwise, what):
    with pytest.raises((DataError, UsageError), match=what):
        pairs.read_examples(job_of(tmp_path, rows, params), pairwise=pairwise)


def test_labels_are_sent_to_the_methods_that_learn_them(tmp_path):
    with pytest.raises(UsageError, match="no rejected replies") as caught:
        pairs.read_examples(job_of(tmp_path, [row(1, "x", label=1), row(2, "y", label=0)], DpoParams()), pairwise=True)
    assert "replies with a label are learnt by finetune.kto and finetune.ulma" in caught.value.next


def test_what_is_held_out_shares_no_prompt_with_the_rest():
    prompts = [pairs.prompt_of(row(i // 3, f"a{i}")) for i in range(30)]
    assert len(pairs.held_apart(prompts, 7, seed=1)) == 3
    with pytest.raises(DataError, match="30 pairs of 10 prompts are too few to keep 40 out"):
        pairs.held_apart(prompts, 40, seed=1)


def test_pairs_that_the_template_writes_alike_are_left_out_and_counted(tmp_path, caplog):
    write_tokenizer(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.chat_template = tokenizer.chat_template.replace("m['content']", "m['content'] | trim")
    assert "trim" in tokenizer.chat_template
    rows = [row(i, "yes", rejected="no" if i % 4 else "yes ") for i in range(12)]
    made = dpo.Pairs(job_of(tmp_path, rows, DpoParams()))
    assert len(made.examples(tokenizer)) == 9
    assert made.facts["equal_pairs"] == 3
    assert "3 of 12 pairs are left out: the chat template writes both replies alike" in caplog.text
    with pytest.raises(DataError, match="writes chosen and rejected alike in every row"):
        dpo.Pairs(job_of(tmp_path, rows[::4], DpoParams())).examples(tokenizer)


def test_as_many_pairs_are_held_out_as_were_asked_for_where_some_are_too_long(small_base, tmp_path):
    stage = load_stage("finetune.dpo")
    long = [row(i, "Gladly, at once. " * 40, rejected="No, never at all.") for i in range(40, 80)]
    params = stage.Params(rank=4, steps=2, batch=4, held_out=12, method="lora", max_length=128)
    assert run(stage, params, small_base, [*CLEAR, *long], tmp_path)["held_out"]["n"] == 12


METHODS = {"dpo": {}, "kto": {}, "orpo": {}, "simpo": {}, "ulma": {}}
CLEAR = [row(i, "Gladly, at once.", rejected="No, never at all.") for i in range(40)]


@pytest.mark.parametrize("name", METHODS)
def test_each_method_learns_a_clear_preference(name, small_base, tmp_path):
    stage = load_stage(f"finetune.{name}")
    params = stage.Params(rank=4, steps=12, batch=4, checkpoint_every=6, held_out=8, rate=3e-3, method="lora")
    facts = run(stage, params, small_base, CLEAR, tmp_path)
    assert facts["held_out"]["n"] == 8
    assert facts["held_out"]["agrees"] >= 7
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), list(itertools.product(METHODS, ["qlora", "full"])))
def test_a_killed_run_ends_with_the_same_bytes(name, method, small_base, tmp_path):
    stage = load_stage(f"finetune.{name}")
    params = stage.Params(rank=4, steps=12, batch=4, checkpoint_every=4, held_out=8, method=method)
    whole = run(stage, params, small_base, CLEAR, tmp_path / "whole")

    def die(done, total, note=""):
        if done >= 10 and "loss" in note:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(stage, params, small_base, CLEAR, tmp_path / "killed", progress=die)
    (tmp_path / "killed" / "out").rmdir()
    assert run(stage, params, small_base, CLEAR, tmp_path / "killed") == whole
    names = [tmp_path / side / "out" / "model.safetensors" for side in ("whole", "killed")]
    assert names[0].read_bytes() == names[1].read_bytes()


def run(stage, params, base, rows, root, **more):
    root.mkdir(exist_ok=True)
    for part in ("out", "scratch"):
        (root / part).mkdir(exist_ok=True)
    data = data_of(root / "data", rows)
    job = Job(
        params=params, out=root / "out", scratch=root / "scratch", inputs=(base,), data=data, seed=5, threads=1, **more
    )
    stage.check(job)
    return stage.run(job)


def test_mutations_break_one_rule_each_and_teach_every_rule_that_can_be_broken(tmp_path):
    book = load_rules(RULES)
    rows = world.make_rows(book, random.Random(1), world.TRAINING_MIX, 40, evaluation=False)
    plain = [world.plain_row(row) for row in rows]
    job = job_of(tmp_path, plain, DpoParams(pairs="mutations", augment=False), rules=RULES)
    made, counts = pairs.read_examples(job, pairwise=True)
    assert counts["pairs"] == len(made) == sum(counts["pairs_by_rule"].values())
    for (good, _), (bad, _) in made:
        assert augment.broken(book, good) == []
        assert len(augment.broken(book, bad)) == 1
    assert len(counts["pairs_by_rule"]) >= 8
    assert max(counts["pairs_by_rule"].values()) <= 3 * len(made) / len(counts["pairs_by_rule"])
