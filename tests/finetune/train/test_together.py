"""Two processes train what one does: the same losses at the same batch, and a checkpoint that one goes on from."""

from __future__ import annotations

import functools
import json
import os

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")

from numpy.linalg import norm
from ranks import train
from safetensors.numpy import load_file

from compress.artifact import seal
from compress.errors import UsageError
from compress.launch import Place, place
from finetune.train import sharding, together
from finetune.train.params import SftParams

ROWS = [
    {"messages": [{"role": "user", "content": f"Question {i}" + " please" * (i % 7) + "?"},
                  {"role": "assistant", "content": "Yes, " * (1 + i % 3) + "it is."}], "rejected": "No, never."}
    for i in range(60)
]  # fmt: skip
HOW = {"steps": 12, "batch": 8, "rate": 1e-2, "rank": 4, "checkpoint_every": 4}
NOT_CUT = ("qlora", True)
KINDS = {
    "plain": ("finetune.sft", {"method": "lora"}),
    "lora": ("finetune.sft", {"method": "lora", "validation": {"share": 0.2, "every": 4, "patience": 3}}),
    "qlora": ("finetune.sft", {"method": "qlora"}),
    "packed": ("finetune.sft", {"method": "lora", "packing": True}),
    "full": ("finetune.sft", {"method": "full", "rate": 1e-3, "validation": {"share": 0.2, "every": 4, "patience": 3}}),
    "folds": ("finetune.sft", {"method": "full", "rate": 1e-3, "cross_validation": {"folds": 2}}),
    "unfreezing": ("finetune.sft", {"method": "full", "rate": 1e-3, "unfreeze": {"every": 3}}),
    "dpo": ("finetune.dpo", {"method": "lora", "held_out": 9, "validation": {"share": 0.2, "every": 6}}),
    "kto": ("finetune.kto", {"method": "lora"}),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    place = tmp_path_factory.mktemp("data")
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return seal(place, kind="data", stage="t", stage_version=1, params={}, inputs={}, facts={}).path


def curve(out):
    return json.loads((out / "training.json").read_text())


@pytest.fixture(scope="module")
def alone(small_base, data, tmp_path_factory):
    """What one process makes of each kind."""

    @functools.cache
    def made(kind):
        use, how = KINDS[kind]
        return train(1, use, small_base.path, data, tmp_path_factory.mktemp(kind), **(HOW | how))

    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "cut"), [(kind, cut) for kind in KINDS for cut in (False, True) if (kind, cut) != NOT_CUT]
)
def test_two_processes_have_the_losses_of_one(kind, cut, alone, small_base, data, tmp_path):
    use, how = KINDS[kind]
    one, two = alone(kind), train(2, use, small_base.path, data, tmp_path, cut=cut, **(HOW | how))
    found, wanted = curve(two), curve(one)
    assert len(found["loss"]) == 12
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-3)
    for measured, expected in zip(found["validation"], wanted["validation"], strict=True):
        assert [value or 0 for value in measured] == pytest.approx([value or 0 for value in expected], rel=2e-3)
    facts = [json.loads((out / "facts.json").read_text()) for out in (one, two)]
    assert facts[0].keys() == facts[1].keys()
    assert facts[0].get("held_out") == facts[1].get("held_out")
    assert (two / "config.json").read_bytes() == (one / "config.json").read_bytes()
    after, before = load_file(two / "model.safetensors"), load_file(small_base.path / "model.safetensors")
    assert after.keys() == load_file(one / "model.safetensors").keys()
    for name, weight in load_file(one / "model.safetensors").items():
        moved = norm(weight - before[name])
        assert norm(weight - after[name]) <= 0.1 * moved
    assert not list((tmp_path / "out-1").glob("*.safetensors"))
    held = [json.loads(path.read_text()) for path in tmp_path.glob("out-*/held.json")]
    assert held == pytest.approx([0.5, 0.5] if cut else [], abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("plain", (2, False), (1, False)),
        ("plain", (1, False), (2, False)),
        ("plain", (2, True), (1, False)),
        ("full", (2, True), (1, False)),
        ("full", (1, False), (2, True)),
        ("full", (2, True), (2, True)),
    ],
)
def test_a_checkpoint_serves_another_number_of_processes(kind, before, after, alone, small_base, data, tmp_path):
    use, how = KINDS[kind]
    (one, cut), (other, cut_again) = before, after
    train(one, use, small_base.path, data, tmp_path, die=10, cut=cut, **(HOW | how))
    assert list((tmp_path / "scratch").glob("checkpoint-8/whole.json"))
    found = curve(train(other, use, small_base.path, data, tmp_path, cut=cut_again, **(HOW | how)))
    assert found["loss"] == pytest.approx(curve(alone(kind))["loss"], rel=1e-3)


def test_a_launcher_says_who_takes_part(monkeypatch):
    assert place() == Place()
    for name, value in {"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    assert place() == Place(3, 4, 1, 2)
    assert not place().leads
    assert together.share(8) == 2
    assert together.mine([0, 1, 2, 3, 4, 5, 6, 7]) == [3, 7]
    with pytest.raises(UsageError, match="batch is 6: 4 processes"):
        together.share(6)
    assert not together.cut()
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UsageError, match="the launcher asks for DeepSpeed"):
        together.join("here", on_cpu=True)
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UsageError, match="MASTER_ADDR does not say where they meet"):
        together.join("here", on_cpu=True)


def test_a_launcher_asks_for_a_model_that_is_cut(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.delenv("HOLDFAST_FSDP", raising=False)
    assert not together.cut()  # there is one process
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert together.cut()
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UsageError, match="MASTER_ADDR"):
        together.join("here", on_cpu=True)
    assert "ACCELERATE_USE_FSDP" not in os.environ  # accelerate does not cut it, too
    assert together.cut()
    del os.environ["HOLDFAST_FSDP"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"method": "qlora"}, "method: qlora cannot be cut"),
        ({"method": "lora", "adapter": {"kind": "dora"}}, "adapter.kind: dora cannot be cut"),
        ({"method": "full", "optimizer": "adafactor"}, "optimizer: adafactor cannot be cut"),
    ],
)
def test_what_cannot_be_cut_is_named(given, named):
    with pytest.raises(UsageError, match=named):
        sharding.require(SftParams(**given))
    sharding.require(SftParams(method="full", optimizer="sgd"))
    sharding.require(SftParams(method="lora", adapter={"kind": "lora+"}))
