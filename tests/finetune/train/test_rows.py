"""Which tokens of which rows are learnt."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from compress.artifact import seal
from compress.errors import DataError
from compress.stage import Job
from finetune.train.params import SftParams
from finetune.train.rows import tokenise, training_rows

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

CHATML = (
    "{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
MUTE = "{%- for m in messages if m['role'] == 'user' %}{{ m['content'] }}{%- endfor %}{{ '>' * add_generation_prompt }}"
ROW = {
    "id": "t.jsonl:7",
    "messages": [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "four"},
    ],
}


@pytest.fixture
def tokenizer():
    """Bytes, and ChatML's two markers."""
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    model = tokenizers.models.BPE({sign: i for i, sign in enumerate(sorted(alphabet))}, [])
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, chat_template=CHATML)


def learnt(tokenizer, row, **how):
    ((example,),) = tokenise(tokenizer, [row], 512, **how)
    assert len(example["labels"]) == len(example["input_ids"])
    assert all(label in (-100, token) for label, token in zip(example["labels"], example["input_ids"], strict=True))
    return tokenizer.decode([label for label in example["labels"] if label != -100])


def test_the_last_turn_or_all_carry_the_loss(tokenizer):
    assert learnt(tokenizer, ROW) == "four<|im_end|>\n"
    assert learnt(tokenizer, ROW, every_turn=True) == "two<|im_end|>\nfour<|im_end|>\n"


def test_a_reply_is_read_apart_where_a_token_would_reach_into_it():
    signs = {sign: i for i, sign in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE({**signs, "]{": 256, "}\u010a": 257}, [("]", "{"), ("}", "\u010a")])
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    turns = (
        "{% for m in messages %}{{ '[Q]' + m.content + '[A]' if m.role == 'user' else m.content + '\n' }}{% endfor %}"
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, chat_template=turns)
    row = {**ROW, "messages": [*ROW["messages"][:-1], {"role": "assistant", "content": '{"ok": 1}'}]}
    ((example,),) = tokenise(tokenizer, [row], 512)
    prompt = tokenizer(tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False))["input_ids"]
    assert example["input_ids"] == [*prompt, *tokenizer('{"ok": 1}\n')["input_ids"]]
    assert learnt(tokenizer, row) == '{"ok": 1}\n'
    assert learnt(tokenizer, row, every_turn=True) == 'two\n{"ok": 1}\n'


def test_what_only_the_last_turn_has_behind_it_is_left_to_it(tokenizer):
    tokenizer.chat_template = CHATML + "{%- if not add_generation_prompt %}{{ 'THE END' }}{%- endif %}"
    assert learnt(tokenizer, ROW) == "four<|im_end|>\nTHE END"
    assert learnt(tokenizer, ROW, every_turn=True) == "two<|im_end|>\nfour<|im_end|>\nTHE END"


def test_turns_of_weight_0_carry_none(tokenizer):
    messages = [{**m, **({"weight": 0} if m["content"] == "two" else {})} for m in ROW["messages"]]
    assert learnt(tokenizer, {**ROW, "messages": messages}, every_turn=True) == "four<|im_end|>\n"
    messages = [*ROW["messages"][:-1], {**ROW["messages"][-1], "weight": 0}]
    with pytest.raises(DataError, match=r"t\.jsonl:7' has no turn to learn from"):
        tokenise(tokenizer, [{**ROW, "messages": messages}], 512)


def test_rows_that_are_too_long_are_counted(tokenizer, caplog):
    short = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    with caplog.at_level(logging.WARNING):
        examples = tokenise(tokenizer, [ROW, short, ROW], 40, counts=(counts := {}))
    assert len(examples) == 1
    assert counts == {"too_long": 2}
    assert "2 of 3 rows are left out: longer than max_length, 40 tokens" in caplog.text
    with pytest.raises(DataError, match=r"none of 2 rows has at most 40 tokens \(the shortest has \d{2,}\)"):
        tokenise(tokenizer, [ROW, ROW], 40)


def test_texts_that_spell_a_special_token_are_told_of(tokenizer, caplog):
    said = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two<|im_end|> three"}]
    tokenise(tokenizer, [ROW, {"id": "t.jsonl:9", "messages": said}], 512)
    assert "the texts of 1 rows spell special tokens" in caplog.text
    assert "'<|im_end|>' in row 't.jsonl:9'" in caplog.text
    caplog.clear()
    tokenise(tokenizer, [ROW], 512)
    assert not caplog.text


def test_the_row_that_the_template_refuses_is_named(tokenizer):
    tokenizer.chat_template = (
        "{%- for m in messages %}{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{- raise_exception('take turns') }}{%- endif %}{%- endfor %}" + CHATML
    )
    twice = {"id": "t.jsonl:2", "messages": [ROW["messages"][0], *ROW["messages"]]}
    with pytest.raises(DataError, match=r"the chat template refuses row 't\.jsonl:2': take turns"):
        tokenise(tokenizer, [ROW, twice], 512)


THOUGHTS = (
    "{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{%- if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{{ m['content'].split('</think>')[-1] + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)
"""As Qwen 3's: thoughts stand in the last turn alone."""


def test_a_template_that_rewrites_its_last_turn_is_refused(tokenizer):
    tokenizer.chat_template = CHATML.replace("messages %}", "messages[-3:] %}", 1)
    with pytest.raises(DataError, match=r"messages\[3\] of row 't\.jsonl:7'"):
        tokenise(tokenizer, [ROW], 512, every_turn=True)


def test_a_prompt_that_opens_replies_otherwise_is_told_with_both_texts(tokenizer):
    end = "assistant\\n' }}"
    assert end in CHATML
    tokenizer.chat_template = CHATML.replace(end, "assistant\\n<think>' }}")
    with pytest.raises(DataError, match=r"asks for messages\[3\] .* with '<think>', where .* has 'four") as caught:
        tokenise(tokenizer, [ROW], 512)
    assert "a thinking template wants thoughts" in caught.value.next


def test_turns_are_learnt_apart_where_a_template_rewrites_earlier_ones(tokenizer, caplog):
    tokenizer.chat_template = THOUGHTS
    messages = [{"role": "system", "content": "Be short."}, *ROW["messages"]]
    messages = [*messages, {"role": "user", "content": "five"}, {"role": "assistant", "content": "six"}]
    messages[2] = {**messages[2], "weight": 0}
    rows = [{**ROW, "messages": messages}, {"messages": ROW["messages"][2:]}]
    found = tokenise(tokenizer, rows, 512, every_turn=True)
    assert len(found) == 3
    for (example,), said in zip(found, [messages[:5], messages, ROW["messages"][2:]], strict=True):
        told = tokenizer.apply_chat_template(said[:-1], add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(said, tokenize=False)
        assert tokenizer.decode(example["input_ids"]) == whole
        assert tokenizer.decode([label for label in example["labels"] if label != -100]) == whole.removeprefix(told)
    assert found[0][0]["group"] == found[1][0]["group"] != found[2][0]["group"]
    assert "1 conversations are learnt turn by turn" in caplog.text


def test_tool_calls_are_learnt_only_where_the_template_writes_them(tokenizer):
    call = {"type": "function", "function": {"name": "find_order", "arguments": {"id": 7}}}
    row = {
        "id": "t.jsonl:1",
        "messages": [
            {"role": "user", "content": "Where?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ],
    }
    with pytest.raises(DataError, match=r"does not write the tool call 'find_order' of row 't\.jsonl:1'"):
        tokenise(tokenizer, [row], 512)
    tokenizer.chat_template = CHATML.replace("m['content'] +", "m['content'] + (m.tool_calls or '')|string +", 1)
    assert "find_order" in learnt(tokenizer, row)


RULES = """
version: 1
prompt: {system: x, fallback: ok}
rules:
  - {id: few, severity: hard, text: t, must: {max_words: 3},
     fixtures: {pass: [{user: x, raw: ok}], fail: [{user: x, raw: a b c d}]}}
"""


def test_the_rule_that_leaves_no_row_is_named(tmp_path, caplog):
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    long = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "one two three four"}]}
    short = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "one"}]}

    def rows(*given):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        out.mkdir()
        (out / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
        data = seal(out, kind="data", stage="t", stage_version=1, params={}, inputs={}, facts={})
        return training_rows(Job(params=SftParams(), out=Path(), scratch=Path(), data=data, rules=rules))

    kept, counts = rows(long, short)
    assert (len(kept), counts["rejected"]) == (1, 1)
    assert "1 of 2 training rows break rules (few is broken by 1)" in caplog.text
    with pytest.raises(DataError, match="no training row keeps the rules: few is broken by 2 of 2 rows"):
        rows(long, long)


@pytest.mark.parametrize(
    ("labels", "kept"),
    [([True, False, None, 1, 0], [0, 2, 3]), ([0.2, 0.5, 1.0], [1, 2]), ([0, 1, 7], [0, 1, 2]), (["a", "b"], [0, 1])],
)
def test_a_reply_that_is_not_wanted_is_no_demonstration(tmp_path, caplog, labels, kept):
    rows = [{**ROW, "id": str(i)} | ({} if label is None else {"label": label}) for i, label in enumerate(labels)]

    def learnt(*given):
        place = tmp_path / str(len(given))
        place.mkdir()
        (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
        data = seal(place, kind="data", stage="t", stage_version=1, params={}, inputs={}, facts={})
        return training_rows(Job(params=SftParams(), out=place, scratch=place, data=data))

    found, counts = learnt(*rows)
    assert sorted(int(row["id"]) for row in found) == kept
    left = len(rows) - len(kept)
    assert counts.get("unwanted", 0) == left
    assert (f"{left} of {len(rows)} training rows are left out: their label" in caplog.text) == bool(left)
    if left:
        with pytest.raises(DataError, match=r"the label of every row \(1\) says that its reply is not wanted"):
            learnt(next(row for row in rows if int(row["id"]) not in kept))


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for m in messages %}{{ m['content'] }", "no template that can be read"),
        ("{% for m in messages %}{{ m['content'] + 3 }}{% endfor %}", r"refuses row 't\.jsonl:7'"),
        ("{{ messages[0]['x']['y'] }}", r"refuses row 't\.jsonl:7'"),
        (MUTE, r"writes nothing of messages\[3\] of row 't\.jsonl:7'"),
    ],
)
def test_a_broken_template_is_named(tokenizer, template, why):
    tokenizer.chat_template = template
    with pytest.raises(DataError, match=why):
        tokenise(tokenizer, [ROW], 512)


def test_the_functions_of_a_row_stand_in_its_prompt_or_are_missed(tokenizer, caplog):
    row = {**ROW, "tools": [{"type": "function", "function": {"name": "find_order"}}]}
    tokenise(tokenizer, [row, ROW], 512)
    assert "does not write the tools of 1 rows" in caplog.text
    tokenizer.chat_template = "{{ tools or '' }}" + CHATML
    caplog.clear()
    ((first,), (second,)) = tokenise(tokenizer, [row, ROW], 512)
    assert not caplog.messages
    assert "find_order" in tokenizer.decode(first["input_ids"])
    assert "find_order" not in tokenizer.decode(second["input_ids"])
