"""Search: what is proposed, what ends early, and that a killed search ends as an undisturbed one. Cross-validation."""

from __future__ import annotations

import hashlib
import json
import math
import statistics

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")

from pydantic import ValidationError

from compress.artifact import seal
from compress.errors import HoldfastError, UsageError
from compress.registry import load_stage
from compress.stage import Job
from finetune.train import trials
from finetune.train.params import DpoParams, KtoParams, OrpoParams, Search, SftParams, SimpoParams, UlmaParams
from finetune.train.searching import STUDY, Pruned, Study, spread

OVER = {
    "rate": {"low": 1e-5, "high": 1e-1, "log": True},
    "rank": {"low": 4, "high": 32},
    "adapter.kind": {"of": ["lora", "rslora"]},
}
VALIDATION = {"share": 0.25, "every": 4}


def searched(how, place, until, loss):
    """Run a study on a function in place of trainings, up to so many trials."""
    study = Study(how, place, seed=7)
    while len(study.trials) < until:
        values = study.ask()
        try:
            for step in (4, 8):
                study.report(step, loss(values) + 1 / step)
        except Pruned:
            study.tell(values, "pruned")
        else:
            study.tell(values, "done", loss(values))
    return study


def loss(values):
    """Least at a rate of 0.01."""
    return abs(math.log10(values["rate"]) + 2) + 0.01 * values["rank"]


def test_a_search_finds_what_is_best_and_ends_what_is_not(tmp_path):
    pytest.importorskip("optuna")
    how = Search(over=OVER, trials=40, random=8)
    study = searched(how, tmp_path / "a.json", 40, loss)
    best = study.best()
    assert best.value == min(trial.value for trial in study.trials if trial.state == "done")
    assert best.value < statistics.median(loss(trial.values) for trial in study.trials[:8]) / 2
    ended = [trial for trial in study.trials if trial.state == "pruned"]
    assert len(ended) >= 5
    assert min(loss(trial.values) for trial in ended) > best.value
    assert not [trial for trial in study.trials[:8] if trial.state == "pruned"]
    for trial in study.trials:
        assert 1e-5 <= trial.values["rate"] <= 1e-1
        assert isinstance(trial.values["rank"], int)
        assert trial.values["adapter.kind"] in ("lora", "rslora")


def test_an_interrupted_study_proposes_what_it_would_have(tmp_path):
    pytest.importorskip("optuna")
    how = Search(over=OVER, trials=20, measure="loss")
    searched(how, tmp_path / "whole.json", 16, loss)
    for until in (1, 7, 11, 16):
        searched(how, tmp_path / "parts.json", until, loss)
    texts = [(tmp_path / name).read_text() for name in ("whole.json", "parts.json")]
    assert texts[0] == texts[1]


def test_a_search_over_other_values_is_named(tmp_path):
    pytest.importorskip("optuna")
    searched(Search(over=OVER, trials=2), tmp_path / "a.json", 2, loss)
    for over in ({**OVER, "rank": {"low": 64, "high": 65}}, {"rank": {"low": 4, "high": 32}}):
        with pytest.raises(UsageError, match=r"a\.json holds a search over other values: a trial had .*rank"):
            Study(Search(over=over), tmp_path / "a.json", seed=7).ask()


def test_lists_are_tried_as_they_are(tmp_path):
    pytest.importorskip("optuna")
    choices = [["q_proj"], ["q_proj", "v_proj"], []]
    study = Study(Search(over={"adapter.targets": {"of": choices}}, trials=9), tmp_path / STUDY, seed=1)
    for _ in range(9):
        values = study.ask()
        assert values["adapter.targets"] in choices
        study.tell(values, "done", len(values["adapter.targets"]))
    assert study.best().values == {"adapter.targets": []}


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"over": {"ratee": {"of": [1]}}}, r"search.over: there is no parameter ratee \(did you mean 'rate'\?\)"),
        ({"over": {"adapter.knd": {"of": ["lora"]}}}, r"no parameter adapter.knd \(did you mean 'adapter.kind'\?\)"),
        ({"over": {"rank": {"low": 0, "high": 8}}}, "search.over: rank cannot be 0"),
        ({"over": {"rank": {"low": 8, "high": 4}}}, "low must be below high"),
        ({"over": {"rank": {"low": 8}}}, "takes low and high, or of"),
        ({"over": {"augment": {"low": False, "high": True}}}, "write of:"),
        ({"over": {"rank.low": {"of": [4]}}}, "rank.low leads into rank, which has no parts"),
        (
            {"over": {"rank": {"low": 4.0, "high": 8.0}}},
            r"rank cannot be 5\.52786 \(rank: Input should be a valid integer",
        ),
        ({"over": {"rank": {"of": [4, 8], "log": True}}}, "log goes with low and high, not with of"),
        ({"over": {"adapter.kind": {"of": ["lora", "pissa"]}}}, "adapter.kind cannot be 'pissa'"),
        ({"over": {"validation.share": {"low": 0.1, "high": 0.2}}}, "validation.share must stay the same"),
        ({"over": {"max_length": {"of": [256, 512]}}}, "max_length must stay the same"),
        ({"over": {"loss_on": {"of": ["last", "all"]}}}, "loss_on must stay the same"),
        ({"over": {"rank": {"of": [4]}}, "measure": "held_out"}, "needs held_out"),
    ],
)
def test_a_search_that_cannot_work_is_refused(given, what):
    with pytest.raises(ValidationError, match=what):
        SftParams(search=given, validation=VALIDATION)
    with pytest.raises(ValidationError, match="needs validation"):
        SftParams(search={"over": {"rank": {"of": [4]}}})
    with pytest.raises(ValidationError, match="in a stage of its own"):
        SftParams(search={"over": {"rank": {"of": [4]}}}, validation=VALIDATION, cross_validation={"folds": 3})
    for how in ({"validation": VALIDATION}, {"cross_validation": {"folds": 3}}):
        with pytest.raises(ValidationError, match="no loss for a part of the data alone"):
            KtoParams(**how)
    assert DpoParams(search={"over": {"beta": {"low": 0.1, "high": 1}}, "measure": "held_out"}, held_out=8)


@pytest.mark.parametrize(
    ("params", "name", "of"),
    [(DpoParams, "beta", [0.1, 1]), (DpoParams, "loss", ["sigmoid", "ipo"]), (SimpoParams, "gamma", [0, 1]),
     (OrpoParams, "weight", [0.1, 1]), (UlmaParams, "log_z", [0, 1])],
)  # fmt: skip
def test_losses_of_several_kinds_are_not_compared(params, name, of):
    """The smaller β, the nearer to log 2 is DPO's loss, whatever was learnt."""
    how = {"over": {name: {"of": of}}}
    with pytest.raises(ValidationError, match=f"search.over: {name} is a part of the loss itself"):
        params(search=how, validation=VALIDATION)
    assert params(search=how | {"measure": "agreement"}, validation=VALIDATION).search
    graded = {"over": {"beta": {"of": [0.1, 1]}}}
    assert UlmaParams(labels="continuous", search=graded, validation=VALIDATION).search


def test_mean_and_deviation():
    values = [1.25, 2.5, 3.0, 10.0]
    assert spread(values) == {"mean": statistics.mean(values), "deviation": round(statistics.stdev(values), 6)}


ROWS = [
    {"messages": [{"role": "user", "content": f"Question {i // 2}?"}, {"role": "assistant", "content": "Yes."}],
     "rejected": "No, never."} for i in range(48)
]  # fmt: skip


def run(base, root, name="sft", progress=None, **how):
    for part in ("out", "scratch", "data"):
        (root / part).mkdir(parents=True, exist_ok=True)
    (root / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data = seal(root / "data", kind="data", stage="t", stage_version=1, params={}, inputs={}, facts={})
    stage = load_stage(f"finetune.{name}")
    given = {"steps": 8, "batch": 4, "checkpoint_every": 4, "rate": 1e-2, "rank": 4, "method": "lora", **how}
    more = {"progress": progress} if progress else {}
    job = Job(
        params=stage.Params(**given), out=root / "out", scratch=root / "scratch", inputs=(base,), data=data, seed=1,
        threads=1, **more,
    )  # fmt: skip
    stage.check(job)
    return stage.run(job)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_search_ends_with_the_same_bytes_and_the_best_model(small_base, tmp_path):
    pytest.importorskip("optuna")
    over = {"rate": {"low": 1e-6, "high": 3e-2, "log": True}}
    how = {"search": {"over": over, "trials": 4, "random": 2}, "validation": {"share": 0.25, "every": 2}}
    facts = run(small_base, tmp_path / "whole", **how)

    def die(done, total, note=""):
        if note.startswith("trial 3") and done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(small_base, tmp_path / "killed", progress=die, **how)
    assert json.loads((tmp_path / "killed" / "scratch" / STUDY).read_text())["trials"][1]
    assert run(small_base, tmp_path / "killed", **how) == facts
    sides = [tmp_path / side / "out" for side in ("whole", "killed")]
    for name in ("model.safetensors", STUDY, "training.json", "adapter/adapter_model.safetensors"):
        assert len({hashlib.sha256((side / name).read_bytes()).hexdigest() for side in sides}) == 1
    study = json.loads((sides[0] / STUDY).read_text())
    done = [trial["value"] for trial in study["trials"] if trial["state"] == "done"]
    assert facts["search"]["value"] == facts["validation_loss"] == min(done)
    assert max(done) > min(done)
    again = run(small_base, tmp_path / "alone", validation=how["validation"], **facts["search"]["values"])
    assert again["validation_loss"] == facts["validation_loss"]


@pytest.mark.slow
def test_trials_that_diverge_are_told_and_left(small_base, tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    over = {"rate": {"of": [1e-2, 1e30]}}
    how = {"search": {"over": over, "trials": 4}, "validation": VALIDATION, "method": "full"}
    facts = run(small_base, tmp_path, **how)
    assert facts["search"]["trials"].keys() == {"done", "diverged"}
    assert facts["search"]["values"] == {"rate": 1e-2}
    with pytest.raises(HoldfastError, match="none of 2 trials came to its end"):
        run(small_base, tmp_path / "all", **how | {"search": {"over": {"rate": {"of": [1e30]}}, "trials": 2}})


@pytest.mark.slow
def test_cross_validation_measures_every_part_once(small_base, tmp_path):
    facts = run(small_base, tmp_path / "a", "dpo", cross_validation={"folds": 3})
    found = facts["cross_validation"]
    assert [fold["n"] for fold in found["folds"]] == [16] * 3
    assert found["loss"] == spread([fold["loss"] for fold in found["folds"]])
    assert found["agreement"]["mean"] > 0.9
    assert not list((tmp_path / "a" / "scratch").glob("fold-*"))

    def die(done, total, note=""):
        if note.startswith("fold 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(small_base, tmp_path / "b", "dpo", progress=die, cross_validation={"folds": 3})
    assert len(json.loads((tmp_path / "b" / "scratch" / trials.FOLDS).read_text())) == 1
    assert run(small_base, tmp_path / "b", "dpo", cross_validation={"folds": 3}) == facts
    whole = run(small_base, tmp_path / "c", "dpo")
    assert {key: facts[key] for key in whole} == whole


def test_the_fold_that_diverges_is_named(small_base, tmp_path):
    with pytest.raises(HoldfastError, match=r"fold 1 of 3: .* training has diverged") as caught:
        run(small_base, tmp_path, cross_validation={"folds": 3}, method="full", rate=1e30, steps=4)
    assert caught.value.next == "lower rate"


def test_values_that_contradict_each_other_are_refused_before_the_search():
    over = {"method": {"of": ["lora", "qlora"]}, "adapter.kind": {"of": ["lora", "pissa"]}}
    with pytest.raises(ValidationError, match=r"method cannot be 'qlora' with adapter\.kind 'pissa'"):
        SftParams(method="lora", validation=VALIDATION, search={"over": over})


def test_agreement_is_nothing_that_a_method_without_pairs_measures():
    with pytest.raises(ValidationError, match="measure agreement is one of pairs"):
        SftParams(validation=VALIDATION, search={"over": OVER, "measure": "agreement"})
