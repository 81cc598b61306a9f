"""Rows, batches and which positions are learnt."""

import json

import pytest
import torch
from tokenizers import Tokenizer

from compress.errors import DataError
from compress.recover.rows import Example, collate, load_examples, plan_batches, split_held_out


def test_of_a_chat_the_last_reply_is_learnt(tiny_llama, tmp_path):
    path = tmp_path / "t.jsonl"
    turns = [("user", "hello"), ("assistant", "hi"), ("user", "bye"), ("assistant", "see you")]
    path.write_text(json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]}) + "\n")
    (example,) = load_examples(tiny_llama, path, 512)
    tokenizer = Tokenizer.from_file(str(tiny_llama / "tokenizer.json"))
    assert tokenizer.decode(example.ids[example.start :], skip_special_tokens=False) == "see you</s>"
    with pytest.raises(DataError, match="no row fits"):
        load_examples(tiny_llama, path, 3)
    path.write_text('{"messages": [{"role": "user", "content": "x"}]}\n')
    with pytest.raises(DataError, match=r":1: .*assistant"):
        load_examples(tiny_llama, path, 512)


def test_of_a_text_every_token_is_learnt_piece_by_piece(tiny_llama, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"text": "My order never arrived."}) + "\n")
    (whole,) = load_examples(tiny_llama, path, 512)
    assert whole.start == 1
    pieces = load_examples(tiny_llama, path, 4)
    assert [token for piece in pieces for token in piece.ids] == whole.ids[: 4 * len(pieces)]
    assert collate([whole]).targets.tolist() == list(range(len(whole.ids) - 1))
    assert collate([whole]).labels().tolist() == whole.ids[1:]


def test_batches_join_rows_of_like_length():
    plan = plan_batches([5, 9, 5, 9, 7], 2, 9, seed=1)
    assert len(plan) == 9
    assert sorted(i for step in plan[:3] for i in step) == [0, 1, 2, 3, 4]
    assert plan == plan_batches([5, 9, 5, 9, 7], 2, 9, seed=1)
    batch = collate([Example([4, 5, 6], 2), Example([7, 8, 9, 3], 1)])
    assert batch.ids.tolist() == [[4, 5, 6, 0], [7, 8, 9, 3]]
    assert batch.targets.tolist() == [1, 4, 5, 6]
    assert batch.labels().tolist() == [6, 8, 9, 3]


def test_held_out_rows_are_not_trained_on():
    rows = [Example([i, i], 1) for i in range(200)]
    held_out, rest = split_held_out(rows)
    assert len(held_out) == 20
    assert sorted(held_out + rest) == rows


def test_parts_of_a_batch_hold_its_rows_and_targets_once():
    batch = collate([Example(list(range(10 * i, 10 * i + 5 + i % 2)), 2) for i in range(7)])
    parts = batch.parts(13)
    assert [len(part.ids) for part in parts] == [2, 2, 2, 1]
    assert torch.equal(torch.cat([part.ids for part in parts]), batch.ids)
    assert torch.equal(torch.cat([part.labels() for part in parts]), batch.labels())
    assert [len(part.ids) for part in batch.parts(1)] == [1] * 7
    assert len(batch.parts(10_000)) == 1
