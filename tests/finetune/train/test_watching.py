"""Validation, early stopping, divergence, and the history of a training."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from compress.artifact import LOGS, seal, sha256_file  # noqa: E402
from compress.errors import HoldfastError, UsageError  # noqa: E402
from compress.json_files import write_json  # noqa: E402
from compress.registry import load_stage  # noqa: E402
from compress.stage import Job  # noqa: E402
from finetune.train import hooks, objective, watching  # noqa: E402
from finetune.train.logs import Logs, flat  # noqa: E402
from finetune.train.logs import apart as numbers_apart  # noqa: E402
from finetune.train.rows import asked  # noqa: E402
from finetune.world import stage as world  # noqa: E402
from runtime.rules import load_rules  # noqa: E402


def hyper_parameters(file):
    """What one of TensorBoard's event files says that a run was asked for."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            if value.tag == metadata.SESSION_START_INFO_TAG:
                read = plugin_data_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)
                given = read.session_start_info.hparams
                return {name: getattr(one, one.WhichOneof("kind")) for name, one in given.items()}
    return {}


ROWS = [
    {"messages": [{"role": "user", "content": f"Question {i}?"}, {"role": "assistant", "content": "Yes."}],
     "rejected": "No, never."} for i in range(40)
]  # fmt: skip


def run(base, root, name="sft", progress=None, rows=ROWS, rules=None, **how):
    for part in ("out", "scratch", "data"):
        (root / part).mkdir(parents=True, exist_ok=True)
    (root / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = seal(root / "data", kind="data", stage="t", stage_version=1, params={}, inputs={}, facts={})
    stage = load_stage(f"finetune.{name}")
    given = {"steps": 12, "batch": 4, "checkpoint_every": 4, "rate": 1e-2, "rank": 4, "method": "lora", **how}
    more = {"progress": progress} if progress else {}
    job = Job(
        params=stage.Params(**given), out=root / "out", scratch=root / "scratch", inputs=(base,), data=data, seed=1,
        threads=1, rules=rules, **more,
    )  # fmt: skip
    return stage.run(job), json.loads((root / "out" / watching.HISTORY).read_text())


def test_a_part_of_the_data_is_only_measured(small_base, tmp_path):
    facts, history = run(small_base, tmp_path, validation={"share": 0.2, "every": 4})
    assert [entry[0] for entry in history["validation"]] == [4, 8, 12]
    assert [entry[3] for entry in history["validation"]] == [8, 8, 8]
    losses = [entry[1] for entry in history["validation"]]
    assert losses[0] > losses[-1] == facts["validation_loss"]
    assert len(history["loss"]) == len(history["learning_rate"]) == 12


@pytest.mark.slow
def test_agreement_is_measured_on_pairs(small_base, tmp_path):
    _, history = run(small_base, tmp_path, "dpo", validation={"share": 0.2, "every": 6})
    assert [entry[2] for entry in history["validation"]][-1] == 1.0


def test_training_stops_early_and_keeps_the_best(small_base, tmp_path, monkeypatch):
    values = iter([3.0, 1.0, 2.0, 2.5, 0.5])
    monkeypatch.setattr(watching, "measure", lambda *given: (next(values), None, 8, {}))
    kept = []
    save = watching.save_trained
    monkeypatch.setattr(watching, "save_trained", lambda trainer, place: (kept.append(1), save(trainer, place)))
    facts, history = run(small_base, tmp_path, validation={"share": 0.2, "every": 2, "patience": 2})
    assert facts["stopped"] == "no better validation loss in 2 measurements"
    assert (facts["best_step"], facts["validation_loss"], facts["steps"]) == (4, 1.0, 8)
    assert len(kept) == 2
    assert len(history["loss"]) == 8


def test_a_training_that_had_stopped_does_not_go_on(small_base, tmp_path, monkeypatch):
    how = {"validation": {"share": 0.2, "every": 2, "patience": 2}}
    losses = [3.0, 1.0, 2.0, 2.5, 0.5, 0.4]
    ran = []
    for root in ("whole", "killed"):
        values = iter(losses)
        monkeypatch.setattr(watching, "measure", lambda *given, values=values: (next(values), None, 8, {}))
        with monkeypatch.context() as patched:
            if root == "killed":
                patched.setattr(watching.Watch, "end", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
                with pytest.raises(KeyboardInterrupt):
                    run(small_base, tmp_path / root, **how)
        ran.append(run(small_base, tmp_path / root, **how))
    assert ran[0] == ran[1]
    assert ran[1][0]["stopped"] == "no better validation loss in 2 measurements"
    files = [tmp_path / root / "out" / "model.safetensors" for root in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_loss_that_is_no_number_leaves_the_best_weights(small_base, tmp_path, monkeypatch):
    plain, seen = objective.Labels.loss, []

    def loss(self, model, inputs):
        seen.append(model.training)
        return plain(self, model, inputs) * (float("nan") if sum(seen) == 7 else 1)

    monkeypatch.setattr(objective.Labels, "loss", loss)
    how = {"validation": {"share": 0.2, "every": 4, "patience": 3}, "method": "full", "rate": 1e-4}
    facts, history = run(small_base, tmp_path, **how)
    assert facts["stopped"] == "the loss of step 7 is nan"
    assert (facts["best_step"], facts["steps"], len(history["loss"])) == (4, 7, 6)
    assert facts["loss"] == pytest.approx(sum(history["loss"]) / 6, abs=1e-4)


def test_the_model_that_is_kept_is_measured(small_base, tmp_path):
    facts, history = run(small_base, tmp_path, steps=6, validation={"share": 0.2, "every": 4})
    assert [entry[0] for entry in history["validation"]] == [4, 6]
    assert facts["validation_loss"] == history["validation"][-1][1]


def test_a_polynomial_schedule_takes_any_rate(small_base, tmp_path):
    _, history = run(small_base, tmp_path, steps=4, warmup=0, schedule="polynomial", rate=4e-8, method="full")
    assert history["learning_rate"] == pytest.approx([4e-8, 3e-8, 2e-8, 1e-8])


@pytest.mark.slow
def test_a_killed_run_with_validation_ends_with_the_same_bytes(small_base, tmp_path):
    how = {"validation": {"share": 0.2, "every": 2, "patience": 9}}
    whole = run(small_base, tmp_path / "whole", **how)

    def die(done, total, note=""):
        if done >= 10 and "loss" in note:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(small_base, tmp_path / "killed", progress=die, **how)
    assert run(small_base, tmp_path / "killed", **how) == whole
    files = [tmp_path / side / "out" / "model.safetensors" for side in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_loss_that_is_no_number_ends_the_training(small_base, tmp_path):
    with pytest.raises(HoldfastError, match=r"the loss of step \d+ is (nan|inf): training has diverged") as caught:
        run(small_base, tmp_path, rate=1e30, method="full")
    assert caught.value.next == "lower rate, or set validation: {patience: 3} to keep the best weights"
    how = {"rate": 1e30, "method": "full", "validation": {"share": 0.2, "every": 12, "patience": 2}}
    with pytest.raises(HoldfastError, match="training has diverged") as caught:
        run(small_base, tmp_path / "b", **how)
    assert caught.value.next == "lower rate, or validation.every: nothing had been measured that could be kept"


RULES = Path(__file__).parents[3] / "configs/rules/customer_service.yaml"


@pytest.mark.slow
def test_each_rule_has_its_margin(small_base, tmp_path):
    book = load_rules(RULES)
    rows = [world.plain_row(row) for row in world.make_rows(book, Random(1), world.TRAINING_MIX, 60, evaluation=False)]
    how = {"pairs": "mutations", "augment": False, "steps": 4, "validation": {"share": 0.4, "every": 2}}
    _, history = run(small_base, tmp_path, "dpo", rows=rows, rules=RULES, **how)
    assert len(history["rules"]) >= 4
    for step, place in ((2, 0), (4, 1)):
        of_step = [entries[place] for entries in history["rules"].values()]
        assert {entry[0] for entry in of_step} == {step}
        agreed, n = history["validation"][place][2:]
        assert sum(entry[2] for entry in of_step) == n
        assert sum(entry[1] for entry in of_step) == round(agreed * n)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_other_programs_read_the_figures_of_every_step_once(small_base, tmp_path):
    pytest.importorskip("tensorboard")
    mlflow = pytest.importorskip("mlflow")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    how = {"validation": {"share": 0.2, "every": 4}}
    _, plain = run(small_base, tmp_path / "plain", **how)

    def die(done, total, note=""):
        if done >= 10 and "loss" in note:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(small_base, tmp_path / "b", log_to=["tensorboard", "mlflow"], progress=die, **how)
    facts, history = run(small_base, tmp_path / "b", log_to=["tensorboard", "mlflow"], **how)
    assert history == plain
    logs = tmp_path / "b" / "out" / LOGS
    events = EventAccumulator(str(logs / "tensorboard"))
    events.Reload()
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{logs / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("training").experiment_id])
    for name, wanted in (
        ("train/loss", list(enumerate(history["loss"], 1))),
        ("validation/loss", [(entry[0], entry[1]) for entry in history["validation"]]),
    ):
        for read in (events.Scalars(name), client.get_metric_history(found.info.run_id, name)):
            assert [entry.step for entry in read] == [step for step, _ in wanted]
            assert [entry.value for entry in read] == pytest.approx([value for _, value in wanted], rel=1e-4)
    (told,) = (file for file in sorted((logs / "tensorboard").iterdir()) if b"adapter.kind" in file.read_bytes())
    assert hyper_parameters(told).keys() == found.data.params.keys()
    assert found.data.params["adapter.kind"] == hyper_parameters(told)["adapter.kind"] == "lora"
    assert float(found.data.params["validation.every"]) == hyper_parameters(told)["validation.every"] == 4
    assert float(found.data.params["examples"]) == 32
    assert found.data.metrics["final/validation_loss"] == facts["validation_loss"]
    assert found.data.tags["final/method"] == facts["method"]
    assert events.Scalars("final/loss")[0].value == pytest.approx(facts["loss"])
    assert found.info.status == "FINISHED"
    whole = [seal(tmp_path / side / "out", kind="hf", stage="t", stage_version=1, params={}, inputs={}, facts={})
             for side in ("plain", "b")]  # fmt: skip
    assert whole[0].digest == whole[1].digest


def test_settings_go_by_one_name_each():
    given = {"rate": 1e-3, "freeze": ["*.norm.*"], "adapter": {"kind": "lora", "targets": []}, "search": None}
    found = {"rate": 1e-3, "freeze": '["*.norm.*"]', "adapter.kind": "lora", "adapter.targets": "[]"}
    assert flat(given) == found
    assert numbers_apart(found) == ({"rate": 1e-3}, {name: found[name] for name in list(found)[1:]})


def test_the_mark_of_the_last_step_is_whole_whenever_a_run_is_killed(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    logs = Logs(["tensorboard"], tmp_path)
    logs.write(1, {"train/loss": 2.0})
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            logs.write(2, {"train/loss": 1.0})
    assert Logs(["tensorboard"], tmp_path).last == 1


def test_shares_that_leave_nothing_are_refused():
    with pytest.raises(UsageError, match=r"validation\.share 0\.05 of 4 examples of 4 questions leaves nothing"):
        watching.part("abcd", 0.05, seed=1)
    with pytest.raises(UsageError, match="leaves nothing"):
        watching.part("aaaa", 0.5, seed=1)
    assert len(watching.part(range(40), 0.25, seed=1)) == 10


def test_answers_to_one_question_stay_together():
    groups = [i // 3 for i in range(60)]
    assert watching.part(groups, 0.3, seed=1) < set(groups)
    found = watching.parts(groups, 4, seed=1)
    assert sorted(group for part in found for group in part) == list(range(20))
    assert [len(part) for part in found] == [5] * 4
    with pytest.raises(UsageError, match="60 examples ask 20 questions, too few for 21 folds"):
        watching.parts(groups, 21, seed=1)
    twins = [{"messages": [{"role": "system", "content": s}, {"role": "user", "content": "Where?"},
                           {"role": "assistant", "content": "Here."}]} for s in ("A", "B")]  # fmt: skip
    assert asked(twins[0]) == asked(twins[1])


@pytest.mark.parametrize(("schedule", "last"), [("cosine", 0.0), ("constant", 1e-2), ("linear", 0.0)])
def test_schedules_end_where_they_should(small_base, tmp_path, schedule, last):
    _, history = run(small_base, tmp_path, schedule=schedule, warmup=0.25, steps=8)
    rates = history["learning_rate"]
    assert rates[0] < max(rates) == pytest.approx(1e-2)
    assert rates[-1] == pytest.approx(last, abs=4e-3)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adafactor", "sgd"])
def test_other_optimizers_learn(small_base, tmp_path, optimizer):
    _, history = run(small_base, tmp_path, optimizer=optimizer, rate=5e-2, steps=24)
    assert history["loss"][-1] < history["loss"][0]


def test_optimizers_that_cannot_work_are_refused(tmp_path, monkeypatch):
    stage = load_stage("finetune.sft")
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text("")
    sealed = seal(data, kind="data", stage="t", stage_version=1, params={}, inputs={}, facts={})
    job = Job(params=stage.Params(optimizer="adamw_8bit"), out=tmp_path, scratch=tmp_path, data=sealed)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="adamw_8bit needs a CUDA device"):
        stage.check(job)
    with pytest.raises(UsageError, match="sgd has no rate"):
        stage.check(replace(job, params=stage.Params(optimizer="sgd")))
    stage.check(replace(job, params=stage.Params(optimizer="sgd", rate=0.1)))
    with pytest.raises(ValueError, match="set warmup above 0"):
        stage.Params(schedule="inverse_sqrt", warmup=0)
    with pytest.raises(ValueError, match="go with optimizer: adamw, not sgd"):
        stage.Params(optimizer="sgd", freeze_blocks=1)


def test_a_training_shorter_than_the_interval_is_measured_at_its_end(small_base, tmp_path):
    facts, history = run(small_base, tmp_path, steps=2, validation={"share": 0.2, "every": 50})
    assert [entry[0] for entry in history["validation"]] == [2]
    assert facts["validation_loss"] == history["validation"][0][1]


def test_weights_that_are_no_numbers_are_never_kept(small_base, tmp_path, monkeypatch):
    """Finite losses all the way: the last update breaks the weights."""
    import torch

    update, steps = torch.optim.SGD.step, []

    def breaking(optimizer, *given, **named):
        found = update(optimizer, *given, **named)
        steps.append(len(steps))
        if len(steps) == 2:
            optimizer.param_groups[0]["params"][0].data[0] = float("inf")
        return found

    monkeypatch.setattr(torch.optim.SGD, "step", breaking)
    with pytest.raises(watching.Diverged, match="weights are no numbers"):
        run(small_base, tmp_path, method="full", rate=1e-3, steps=2, optimizer="sgd", schedule="constant")


def test_a_validation_loss_that_is_no_number_ends_the_run(small_base, tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "measure", lambda *given: (float("nan"), None, 8, {}))
    with pytest.raises(watching.Diverged, match="the validation loss of step 2 is nan"):
        run(small_base, tmp_path, steps=4, validation={"share": 0.2, "every": 2})


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, caplog):
    for step in (4, 8, 12):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "weights").write_text("x" * step)
        write_json(folder / hooks.WHOLE, {"weights": sha256_file(folder / "weights")})
    (tmp_path / "checkpoint-12" / hooks.WHOLE).unlink()
    (tmp_path / "checkpoint-8" / "weights").write_text("y" * 8)
    assert hooks.last_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert not (tmp_path / "checkpoint-8").exists()
    assert "checkpoint-8 is damaged" in caplog.text
