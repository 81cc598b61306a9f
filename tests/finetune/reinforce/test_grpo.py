"""GRPO's loss against a slow reference, the weights that answer, and the stage on a tiny model."""

from __future__ import annotations

import hashlib
import json
import math
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("llama_cpp")

from transformers import AutoTokenizer  # noqa: E402

from compress.artifact import seal  # noqa: E402
from compress.errors import UsageError  # noqa: E402
from compress.stage import Job  # noqa: E402
from export.gguf.snapshot import write_snapshot  # noqa: E402
from finetune.reinforce import grpo, policy, rewards, sampled  # noqa: E402
from finetune.reinforce.grpo_math import token_losses  # noqa: E402
from finetune.reinforce.params import ReinforceParams  # noqa: E402
from finetune.reinforce.stage import Reinforce  # noqa: E402
from finetune.train import adapters, merge  # noqa: E402
from finetune.train.fused import fuse  # noqa: E402
from runtime.rules import load_rules  # noqa: E402

LOGPS, OLD = [-0.1, -2.0, -0.7, -3.0, -0.2], [-0.4, -2.1, -0.7, -1.0, -0.9]
REFERENCE, WORTH = [-0.2, -2.5, -0.7, -2.0, -0.1], [1.5, 1.5, -0.5, -0.5, -0.5]
RULES = """
version: 1
rules:
  - id: no-e
    severity: hard
    text: Without that letter.
    must_not: {regex: 'e'}
    fixtures: {pass: [{user: Hi, reply: Good day.}], fail: [{user: Hi, reply: Hello.}]}
  - id: brief
    severity: hard
    text: In few words.
    must: {max_words: 6}
    fixtures: {pass: [{user: Hi, reply: Good day.}], fail: [{user: Hi, reply: A good day to you and all of us.}]}
"""
TUNE = {"steps": 6, "batch": 2, "samples": 4, "refresh": 2, "checkpoint_every": 2, "rank": 4, "max_tokens": 8}


class Killed(BaseException):
    """Stands for the end of the process."""


def test_the_loss_is_its_formula():
    def slow(p, old, ref, worth, clip, beta):
        ratio = math.exp(p - old)
        gain = min(ratio * worth, max(1 - clip, min(1 + clip, ratio)) * worth)
        return -gain + beta * (math.exp(ref - p) - (ref - p) - 1)

    given = [torch.tensor(v, dtype=torch.float64) for v in (LOGPS, OLD, REFERENCE, WORTH)]
    found = token_losses(*given, clip=0.2, beta=0.3)
    expected = [slow(*row, 0.2, 0.3) for row in zip(LOGPS, OLD, REFERENCE, WORTH, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_the_first_step_is_the_policy_gradient():
    """At the model that drew the replies and started the training, ∂/∂ log π = −A: clip and KL have no part in it."""
    logps = torch.tensor(LOGPS, requires_grad=True)
    old = logps.detach()
    token_losses(logps, old, old, torch.tensor(WORTH), clip=0.2, beta=0.5).sum().backward()
    assert logps.grad.tolist() == pytest.approx([-w for w in WORTH])


def test_nothing_pulls_further_beyond_the_clip():
    logps = torch.tensor([-0.1, -1.0], requires_grad=True)
    old = torch.tensor([-0.5, -0.5])  # ratios 1.49 and 0.61
    token_losses(logps, old, old, torch.tensor([1.0, -1.0]), clip=0.2, beta=0.0).sum().backward()
    assert logps.grad.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("method", "kind"), [("qlora", "lora"), ("lora", "rslora"), ("lora", "dora"), ("lora", "pissa"), ("full", "lora")]
)
def test_the_weights_that_answer_are_those_that_are_trained(small_base, method, kind):
    """Logits of the plain model with the merged weights, against the model in training."""
    torch.manual_seed(0)
    p = ReinforceParams(method=method, rank=4, adapter={"kind": kind})
    model = merge.load_base(small_base.path, four_bit=method == "qlora", compute=torch.float32)
    if method != "full":
        model = adapters.adapted(model, p, True, small_base.path)
    for name, weight in model.named_parameters():
        if "lora_" in name or method == "full":
            weight.data = weight.data.float() + 0.02 * torch.randn_like(weight, dtype=torch.float32)
    model.eval()
    if method == "qlora":
        merge.multiply_as_in_training(model)
    shell = merge.load_base(small_base.path, four_bit=False, compute=torch.float32)
    before = merge.logits(shell, range(6, 40))
    policy.put_merged(model, shell)
    wanted, found = merge.logits(model, range(6, 40)), merge.logits(shell.eval(), range(6, 40))
    assert (found - wanted).abs().max() < 2e-3
    assert (found - before).abs().max() > 0.1
    if (method, kind) == ("qlora", "lora"):
        fuse(model)  # what training does to the model must not change what answers
        policy.put_merged(model, shell)
        assert (merge.logits(shell, range(6, 40)) - wanted).abs().max() < 0.05


def test_a_snapshot_is_what_the_exporter_writes(small_base, tmp_path):
    from stages import run_stage

    vocabulary = write_snapshot(small_base.path, tmp_path / "a.gguf", "Q8_0")
    write_snapshot(small_base.path, tmp_path / "b.gguf", "Q8_0", vocabulary=vocabulary)
    whole = run_stage("export.gguf", small_base.path, tmp_path / "c", type="Q8_0", imatrix=False)
    assert digest(tmp_path / "a.gguf") == digest(tmp_path / "b.gguf") == digest(whole.path / "model.gguf")


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("data")
    rows = [
        {
            "id": f"t{i}",
            "messages": [{"role": "user", "content": f"Hi {i}"}, {"role": "assistant", "content": "Good day."}],
        }
        for i in range(40)
    ]
    (out / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (out / "rules.yaml").write_text(RULES)
    return seal(out, kind="data", stage="t", stage_version=1, params={}, inputs={}, facts={})


def reinforce(root, base, data, progress=None, **changes):
    for part in ("out", "scratch"):
        (root / part).mkdir(parents=True, exist_ok=True)
    extra = {"progress": progress} if progress else {}
    params = ReinforceParams(**{**TUNE, **changes})
    places = {"out": root / "out", "scratch": root / "scratch", "rules": data.path / "rules.yaml"}
    job = Job(params=params, inputs=(base,), data=data, seed=5, threads=1, **places, **extra)
    stage = Reinforce()
    stage.check(job)
    return root / "out", stage.run(job)


def digests(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "measurements.json")
    return {p.relative_to(folder).as_posix(): digest(p) for p in files}


def die_at(step):
    def progress(done, total, note=""):
        if done >= step and "loss" in note:
            raise Killed

    return progress


def die_while_answering(done, total, note=""):
    if note == "answering prompts":
        raise Killed


@pytest.mark.slow
def test_grpo_learns_from_what_the_rules_say(small_base, data, tmp_path, monkeypatch):
    from finetune.train import hooks

    monkeypatch.setattr(hooks, "INTERVAL", 1)
    whole, facts = reinforce(tmp_path / "whole", small_base, data, algorithm="grpo")
    assert facts["algorithm"] == "grpo"
    assert facts["steps"] == 6
    assert facts["replies"] == 6 * 2 * 4
    history = json.loads((whole / "training.json").read_text())
    assert [entry[0] for entry in history["replies"]] == [0, 2, 4]
    assert all(entry[2] == 16 and set(entry[3]) <= {"no-e", "brief"} for entry in history["replies"])
    assert any(history["loss"])
    assert (whole / "adapter" / "adapter_model.safetensors").is_file()
    root = tmp_path / "killed"
    with pytest.raises(Killed):
        reinforce(root, small_base, data, die_at(4), algorithm="grpo")
    assert (root / "scratch" / "checkpoint-2" / "whole.json").is_file()
    again, continued = reinforce(root, small_base, data, algorithm="grpo")
    assert digests(again) == digests(whole)
    assert continued == facts


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_grpo_with_other_methods(small_base, data, tmp_path, method):
    out, facts = reinforce(tmp_path, small_base, data, algorithm="grpo", method=method, steps=2)
    assert facts["method"] == method
    assert (out / "adapter").is_dir() == (method == "lora")


@pytest.mark.slow
def test_a_killed_rejection_sampling_ends_with_the_same_bytes(small_base, data, tmp_path, monkeypatch):
    monkeypatch.setattr(sampled, "TOGETHER", 8)
    how = {"prompts": 20, "easy": 1.0, "steps": 12}
    whole, facts = reinforce(tmp_path / "whole", small_base, data, **how)
    assert facts["prompts"] == 20
    assert facts["replies"] == 2 * facts["all_passed"] + 4 * (20 - facts["all_passed"])
    assert facts["kept"] + facts["demonstrations"] == 20
    (told,) = json.loads((whole / "training.json").read_text())["replies"]
    assert told[:3] == [0, facts["passed"], 2 * 20]
    root = tmp_path / "killed"
    for progress in (die_while_answering, die_while_answering, die_at(10)):
        with pytest.raises(Killed):
            reinforce(root, small_base, data, progress, **how)
    again, continued = reinforce(root, small_base, data, **how)
    assert digests(again) == digests(whole)
    assert continued == facts


def test_a_rule_that_every_reply_breaks_is_named_before_all_prompts_are_asked(small_base, data, tmp_path, monkeypatch):
    place = tmp_path / "data"
    place.mkdir()
    (place / "train.jsonl").write_bytes((data.path / "train.jsonl").read_bytes())
    rule = {"id": "secret", "severity": "hard", "text": "Say it.", "must": {"include_any": ["Good day. Zanzibar"]}}
    fixtures = {
        side: [{"user": "Hi", "reply": reply}] for side, reply in (("pass", "Good day. Zanzibar"), ("fail", "No"))
    }
    (place / "rules.yaml").write_text(json.dumps({"version": 1, "rules": [{**rule, "fixtures": fixtures}]}))
    text = (place / "train.jsonl").read_text().replace("Good day.", "Good day. Zanzibar")
    (place / "train.jsonl").write_text(text)
    other = seal(place, kind="data", stage="t", stage_version=1, params={}, inputs={}, facts={})
    monkeypatch.setattr(sampled, "TOGETHER", 3)
    with pytest.raises(UsageError, match=r"of 12 replies none keeps all rules.*always broken: secret \(12 replies\)"):
        reinforce(tmp_path / "r", small_base, other, prompts=6)
    with pytest.raises(UsageError, match=r"replies.*always broken: secret"):
        reinforce(tmp_path / "g", small_base, other, algorithm="grpo", answer_weight=0)


def test_only_prompts_with_a_failing_reply_are_asked_on(small_base, data, tmp_path):
    rows = [json.loads(line) for line in (data.path / "train.jsonl").read_text().splitlines()]
    book = load_rules(data.path / "rules.yaml")

    def replies(probes):
        params = ReinforceParams(**{**TUNE, "probes": probes})
        job = Job(params=params, inputs=(small_base,), out=tmp_path, scratch=tmp_path / str(probes), seed=5, threads=1)
        job.scratch.mkdir()
        tokenizer = AutoTokenizer.from_pretrained(small_base.path)
        return sampled.sampled(job, tokenizer, rows, rewards.Rewards.of(book, params))

    few, all_drawn = replies(1), replies(4)
    sizes = [4 if not rewards.passes(prompt.values[:1]).all() else 1 for prompt in all_drawn]
    assert [len(prompt.replies) for prompt in few] == sizes
    assert set(sizes) == {1, 4}
    for prompt, whole in zip(few, all_drawn, strict=True):  # each reply has a seed of its own
        assert prompt.replies == whole.replies[: len(prompt.replies)]


def test_prompts_and_ends_of_rows():
    row = {"input_ids": [5, 6, 7, 1, 9], "labels": [-100, -100, 7, 1, 9]}
    assert policy.prompt_of(row) == [5, 6]
    assert grpo._end(row, frozenset({1, 4})) == 1
    assert grpo._end(row, frozenset({2, 3})) == 2


def test_a_step_learns_from_prompts_that_tell_something():
    objective = object.__new__(grpo.Grpo)
    objective.p = ReinforceParams(samples=2, batch=2)
    objective.prompts = {i: {"input_ids": [i, 50, 60], "labels": [-100, -100, 60]} for i in range(4)}
    replies = [[100 + i] for i in range(8)]
    worth = torch.tensor([[0.0, 0.0], [1.0, -1.0], [0.0, 0.0], [0.0, 0.0]]).numpy()
    steps, rows = objective._rows([3, 2, 1, 0], replies, worth, rewards.informative(worth))
    assert [[rows[i]["input_ids"] for i in step] for step in steps] == [
        [[2, 50, 102], [2, 50, 103]],
        [[1, 50, 104], [1, 50, 105]],  # nothing to tell apart: the first alone
    ]
    assert [row["advantage"] for row in rows] == [1.0, -1.0, 0.0, 0.0]
    assert rows[0]["labels"] == [-100, -100, 102]
    labels = torch.tensor([[-100, -100, 102, 9], [-100, -100, 103, -100]])
    placed = grpo._placed(labels, [torch.tensor([1.0, 2.0]), torch.tensor([3.0])])
    assert placed.tolist() == [[0, 0, 1, 2], [0, 0, 3, 0]]


def test_the_model_before_training_is_only_lent():
    weight = torch.nn.Parameter(torch.ones(2))
    model = SimpleNamespace(named_parameters=lambda: [("w", weight)])
    objective = object.__new__(grpo.Grpo)
    objective.trainer = SimpleNamespace(model=model, learnable={})
    objective.first = {"w": torch.zeros(2)}
    with objective._before():
        assert weight.tolist() == [0, 0]
    assert weight.tolist() == [1, 1]
