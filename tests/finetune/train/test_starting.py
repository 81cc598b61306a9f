"""Bad input is named before anything is trained."""

from __future__ import annotations

import json
import logging

import pytest

pytest.importorskip("transformers")
pytest.importorskip("torch")

from pydantic import ValidationError

from compress.artifact import Artifact, seal
from compress.errors import ArtifactError, DataError, UsageError
from compress.stage import Job
from finetune.train import batches, starting, training
from finetune.train.pairs import read_examples
from finetune.train.params import DpoParams, KtoParams, SftParams, UlmaParams
from finetune.train.rows import tokenise, training_rows

SAID = [{"role": "user", "content": "My order 4821 never arrived."}, {"role": "assistant", "content": "I am sorry."}]


@pytest.fixture
def tokenizer(tiny_llama):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


def job_of(place, rows, params, **more):
    for part in ("data", "scratch"):
        (place / part).mkdir(parents=True, exist_ok=True)
    (place / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = seal(place / "data", kind="data", stage="t", stage_version=1, params={}, inputs={}, facts={})
    model = Artifact("hf", place, "a model")
    given = {"seed": 1, "inputs": (model,), **more}
    return Job(params=params, out=place, scratch=place / "scratch", data=data, **given)


def test_a_model_without_a_template_is_named(tiny_llama, tokenizer):
    starting.require_template(tiny_llama, tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(ArtifactError, match="tiny-llama has no chat template"):
        starting.require_template(tiny_llama, tokenizer)


@pytest.mark.parametrize("params", [SftParams(), DpoParams()])
@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([], r"train\.jsonl has no rows|train\.jsonl: has no rows"),
        ([{"messages": SAID}, {"messages": SAID[:1]}], r"train\.jsonl:2: .*must end with an assistant message"),
        ([{"messages": []}], r"train\.jsonl:1: .*must end with an assistant message"),
    ],
)
def test_rows_that_teach_nothing_are_named(tmp_path, rows, what, params):
    job = job_of(tmp_path, rows, params)
    with pytest.raises(DataError, match=what):
        read_examples(job, pairwise=True) if isinstance(params, DpoParams) else training_rows(job)


def test_the_end_is_learnt_though_it_pads(tiny_llama, tokenizer, caplog):
    """Labels go by place: a padding token that is the end token takes no label away."""
    tokenizer.pad_token = tokenizer.eos_token
    examples = tokenise(tokenizer, [{"messages": SAID}], 64)
    assert examples[0][0]["labels"][-1] == tokenizer.eos_token_id
    with caplog.at_level(logging.WARNING):
        starting.require_ends(tiny_llama, tokenizer, examples)
        assert not caplog.messages
        tokenizer.chat_template = tokenizer.chat_template.replace("</s>", "")
        starting.require_ends(tiny_llama, tokenizer, tokenise(tokenizer, [{"messages": SAID}], 64))
    assert caplog.messages == ["no reply ends with an end token ('</s>'): the model does not learn to stop"]


def test_a_scratch_folder_of_another_training_is_refused(tmp_path):
    job = job_of(tmp_path, [{"messages": SAID}], SftParams(rate=0.01))
    starting.require_same(job)
    starting.require_same(job)
    for other, what in (
        (job_of(tmp_path, [{"messages": SAID}], SftParams(rate=0.02)), r"rate was 0\.01, is 0\.02"),
        (job_of(tmp_path, [{"messages": SAID}], SftParams(rate=0.01), seed=2), "seed was 1, is 2"),
        (job_of(tmp_path, [{"messages": SAID}] * 2, SftParams(rate=0.01)), "data was"),
    ):
        with pytest.raises(UsageError, match=what):
            starting.require_same(other)


@pytest.mark.parametrize("name", ["max_position_embeddings", "n_positions"])
def test_a_row_longer_than_the_model_has_positions_is_refused(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", name: 8}))
    starting.require_room(tmp_path, [[{"input_ids": [1] * 8}]])
    with pytest.raises(DataError, match="a row has 9 tokens, and the model 8 positions") as caught:
        starting.require_room(tmp_path, [[{"input_ids": [1] * 9}]])
    assert "max_length to 8" in caught.value.next


def test_rows_that_a_preference_method_cannot_use_are_counted(tmp_path, caplog):
    rows = [{"messages": SAID, "rejected": "No."}, {"messages": SAID}, {"messages": SAID, "rejected": "I am sorry."}]
    made, _ = read_examples(job_of(tmp_path, rows, DpoParams()), pairwise=True)
    assert len(made) == 1
    assert [text.partition(": ")[2] for text in caplog.messages] == [
        "they have no rejected reply", "they have the same reply as chosen and as rejected"
    ]  # fmt: skip


@pytest.mark.parametrize("params", [KtoParams(), UlmaParams()])
def test_labels_in_between_are_for_a_loss_that_knows_them(tmp_path, params):
    rows = [{"id": "a", "messages": SAID, "label": 0.3}, {"id": "b", "messages": SAID, "label": 1}]
    with pytest.raises(DataError, match=r"row 'a' has the label 0\.3, and this method"):
        read_examples(job_of(tmp_path, rows, params), pairwise=False)
    graded = job_of(tmp_path, rows, UlmaParams(labels="continuous"))
    assert len(read_examples(graded, pairwise=False)[0]) == 2


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"rate": float("inf")}, "finite"),
        ({"epochs": float("inf")}, "finite"),
        ({"method": "full", "adapter": {"kind": "dora"}}, "has no adapter"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing goes with"),
    ],
)
def test_settings_that_contradict_are_refused(settings, why):
    with pytest.raises(ValidationError, match=why):
        DpoParams(**settings)


@pytest.mark.parametrize(
    ("steps", "warmup", "wanted"), [(1, 0.05, 0), (1, 0.9, 0), (2, 0.9, 1), (100, 0.05, 5), (30, 0.05, 2)]
)
def test_some_step_of_a_short_training_is_behind_the_warm_up(steps, warmup, wanted):
    assert training.warmup_steps(warmup, steps) == wanted


@pytest.mark.parametrize(("rows", "batch"), [(7, 4), (10, 4), (15, 4), (5, 16), (100, 8)])
def test_an_epoch_reads_every_row(rows, batch):
    steps = training.steps_of(SftParams(batch=batch), rows)
    plan = batches.plan_batches([i * 37 % 50 for i in range(rows)], steps, batch, seed=1, fill=True)
    assert {len(part) for part in plan} == {batch}
    assert {i for part in plan for i in part} == set(range(rows))
