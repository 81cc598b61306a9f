"""Two processes train what one does: the same losses at the same batch, and a checkpoint that one goes on from."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")

from numpy.linalg import norm
from ranks import train
from safetensors.numpy import load_file

from compress.artifact import seal
from compress.errors import UsageError
from compress.launch import Place, place
from finetune.train import together

ROWS = [
    {"messages": [{"role": "user", "content": f"Question {i}" + " please" * (i % 7) + "?"},
                  {"role": "assistant", "content": "Yes, " * (1 + i % 3) + "it is."}], "rejected": "No, never."}
    for i in range(60)
]  # fmt: skip
HOW = {"steps": 12, "batch": 8, "rate": 1e-2, "rank": 4, "checkpoint_every": 4}
KINDS = {
    "lora": ("finetune.sft", {"method": "lora", "validation": {"share": 0.2, "every": 4, "patience": 3}}),
    "qlora": ("finetune.sft", {"method": "qlora"}),
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_have_the_losses_of_one(kind, small_base, data, tmp_path):
    use, how = KINDS[kind]
    one, two = (train(n, use, small_base.path, data, tmp_path / str(n), **(HOW | how)) for n in (1, 2))
    found, wanted = curve(two), curve(one)
    assert len(found["loss"]) == 12
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-3)
    for measured, expected in zip(found["validation"], wanted["validation"], strict=True):
        assert [value or 0 for value in measured] == pytest.approx([value or 0 for value in expected], rel=2e-3)
    facts = [json.loads((out / "facts.json").read_text()) for out in (one, two)]
    assert facts[0].keys() == facts[1].keys()
    assert facts[0].get("held_out") == facts[1].get("held_out")
    after, before = load_file(two / "model.safetensors"), load_file(small_base.path / "model.safetensors")
    for name, weight in load_file(one / "model.safetensors").items():
        moved = norm(weight - before[name])
        assert norm(weight - after[name]) <= 0.1 * moved
    assert not list((tmp_path / "2" / "out-1").glob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_checkpoint_serves_another_number_of_processes(before, after, small_base, data, tmp_path):
    how = HOW | {"method": "lora"}
    whole = curve(train(1, "finetune.sft", small_base.path, data, tmp_path / "whole", **how))
    train(before, "finetune.sft", small_base.path, data, tmp_path / "cut", die=10, **how)
    assert list((tmp_path / "cut" / "scratch").glob("checkpoint-8/whole.json"))
    found = curve(train(after, "finetune.sft", small_base.path, data, tmp_path / "cut", **how))
    assert found["loss"] == pytest.approx(whole["loss"], rel=1e-3)


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
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UsageError, match="the launcher asks for FSDP"):
        together.join("here", on_cpu=True)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UsageError, match="MASTER_ADDR does not say where they meet"):
        together.join("here", on_cpu=True)
