"""Every row of the table of pre-tokenizers against Hugging Face, and spellings of the same."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from gguf_export import export as export_model
from small_folder import write_model
from vocab_file import config, differences, export, save, strings

from compress.errors import ArtifactError, UsageError
from export.tokenizers.bpe import GPT4O, LLAMA3, PRE_TOKENIZERS, SHORT, Row
from export.tokenizers.probes import check_vocabulary

SPECIAL = ["<s>", "</s>", "<|user|>"]
CAPITALS = ["ÜBER die ÉCOLE und ŁÓDŹ", "ÄRGER, ÖDE, ÇA, ÑANDÚ"]
RICH = [*strings(1500, [" "]), *CAPITALS * 9, *[f"{n} {n} ({n * 7919}) {n}'s" for n in range(100, 400)]]
"""Training text that leaves merges across digits, letters, marks and spaces where a pre-tokenizer allows them."""


def definition(row: Row) -> dict:
    more = {"Split": {"invert": False}, "ByteLevel": {"trim_offsets": True}}
    steps = [dict(step) | more.get(step["type"], {}) for step in row.steps]
    return {"type": "Sequence", "pretokenizers": copy.deepcopy(steps)}


def byte_level(folder: Path, pre: dict, *, ignore_merges: bool = False, vocab: int = 2000) -> Path:
    """A folder with a byte-level BPE trained behind a pre-tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    empty = json.loads(Tokenizer(models.BPE(ignore_merges=ignore_merges)).to_str())
    tokenizer = Tokenizer.from_str(json.dumps(empty | {"pre_tokenizer": pre}))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(RICH, trainer)
    return save(folder, tokenizer)


def agree(folder: Path, row: Row, count: int) -> None:
    path, vocabulary, tokenizer = export(byte_level(folder, definition(row), ignore_merges=row.ignore_merges))
    assert (vocabulary.model, vocabulary.pre) == ("gpt2", row.name)
    if count > 200:
        assert check_vocabulary(path, vocabulary, tokenizer) > 300
    found, compared = differences(path, vocabulary, tokenizer, strings(count, SPECIAL))
    assert not found
    assert compared > count * (0.4 if row.limits else 0.99)


ROWS = [pytest.param(row, id=f"{row.name}-{len(row.steps)}") for row in PRE_TOKENIZERS]


@pytest.mark.parametrize("row", ROWS)
def test_each_row_agrees_on_200_strings(tmp_path: Path, row: Row) -> None:
    agree(tmp_path, row, 200)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_each_row_agrees_on_thousands_of_strings(tmp_path: Path, row: Row) -> None:
    agree(tmp_path, row, 5000 if row.limits else 2400)


@pytest.mark.parametrize("row", [row for row in PRE_TOKENIZERS if row.limits], ids=lambda row: row.name)
def test_limits_name_real_differences(tmp_path: Path, row: Row) -> None:
    from dataclasses import replace

    folder = byte_level(tmp_path, definition(row), ignore_merges=row.ignore_merges)
    path, vocabulary, tokenizer = export(folder)
    texts = [*CAPITALS, *strings(300, [])]
    for limit in row.limits:
        others = tuple(other for other in row.limits if other is not limit)
        assert differences(path, replace(vocabulary, limits=others), tokenizer, texts)[0], limit.what


def spelled(pre: dict, how: str) -> dict:
    split = pre["pretokenizers"][0]
    if how == "removed":
        split |= {"behavior": "Removed", "invert": True}
    if how == "nested":
        return {"type": "Sequence", "pretokenizers": [pre]}
    if how == "contractions":
        split["pattern"]["Regex"] = split["pattern"]["Regex"].replace(SHORT, "'(?i:[sdmt]|ll|ve|re)")
    return pre


@pytest.mark.parametrize("how", ["removed", "nested", "contractions"])
def test_spellings_of_the_same_agree(tmp_path: Path, how: str) -> None:
    row = next(row for row in PRE_TOKENIZERS if row.name == "smaug-bpe")
    path, vocabulary, tokenizer = export(byte_level(tmp_path, spelled(definition(row), how)))
    assert vocabulary.pre == "smaug-bpe"
    assert not differences(path, vocabulary, tokenizer, strings(400, SPECIAL))[0]


def change(folder: Path, **model: object) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    data["model"] |= model
    (folder / "tokenizer.json").write_text(json.dumps(data))


def test_ignore_merges_only_matters_for_tokens_out_of_reach(tmp_path: Path) -> None:
    """A trained BPE can make each of its tokens; one of tiktoken's too. A token put in by hand cannot be made."""
    row = next(row for row in PRE_TOKENIZERS if row.steps[0].get("pattern") == {"Regex": GPT4O})
    folder = byte_level(tmp_path, definition(row), ignore_merges=False)
    path, vocabulary, tokenizer = export(folder)
    assert not differences(path, vocabulary, tokenizer, strings(400, SPECIAL))[0]
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    change(folder, vocab=vocab | {"unreachable": len(vocab)})
    config(folder, len(vocab) + 1, 1)
    with pytest.raises(ArtifactError, match="its merges do not make 'unreachable'"):
        export(folder)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"dropout": 0.1}, "dropout is 0.1"),
        ({"end_of_word_suffix": "</w>"}, "end_of_word_suffix is '</w>'"),
        ({"continuing_subword_prefix": "##"}, "continuing_subword_prefix is '##'"),
    ],
)
def test_other_kinds_of_bpe_are_refused(tmp_path: Path, model: dict, message: str) -> None:
    from export.tokenizers.read import load_tokenizer, read_vocabulary

    folder = byte_level(tmp_path, definition(PRE_TOKENIZERS[0]))
    data = json.loads((folder / "tokenizer.json").read_text())
    data["model"] |= {"merges": []} | model
    (folder / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match=message):
        read_vocabulary(folder, load_tokenizer(folder), 4000)


def test_bytes_without_a_token_are_a_limit_or_refused(tmp_path: Path) -> None:
    folder = byte_level(tmp_path, definition(PRE_TOKENIZERS[0]))
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    vocab = {text: i for text, i in model["vocab"].items() if "ħ" not in text}  # byte 0x85
    change(folder, vocab=vocab, merges=[pair for pair in model["merges"] if "ħ" not in "".join(pair)])
    path, vocabulary, tokenizer = export(folder)
    assert not vocabulary.follows("a\x85b")
    check_vocabulary(path, vocabulary, tokenizer)
    found, compared = differences(path, vocabulary, tokenizer, strings(400, SPECIAL))
    assert not found
    assert 200 < compared < 400
    change(folder, unk_token="!")
    with pytest.raises(ArtifactError, match="1 bytes have no token and become !"):
        export(folder)


def test_the_table_holds_the_patterns_that_models_use() -> None:
    patterns = {step["pattern"]["Regex"] for row in PRE_TOKENIZERS for step in row.steps if step["type"] == "Split"}
    assert LLAMA3 in patterns
    assert all(not row.limits or all(limit.what for limit in row.limits) for row in PRE_TOKENIZERS)


@pytest.mark.parametrize(("name", "limited"), [("tekken", True), ("qwen2", False)])
def test_a_word_that_would_overflow_llamas_stack_is_refused(tmp_path: Path, name: str, limited: bool) -> None:
    from runtime.engine.backends.llama import LONGEST, LlamaBackend

    row = next(row for row in PRE_TOKENIZERS if row.name == name)
    folder = write_model(tmp_path / "hf", vocab=400)
    (tmp_path / "words").mkdir()
    words = byte_level(tmp_path / "words", definition(row), ignore_merges=row.ignore_merges, vocab=380)
    (folder / "tokenizer.json").write_bytes((words / "tokenizer.json").read_bytes())
    backend = LlamaBackend(export_model(folder, tmp_path), threads=1, slots=1, context=64)
    assert len(backend.encode("ab " * LONGEST)) > LONGEST
    for text in ("a" * (LONGEST + 1), "a" + "\n" * (LONGEST + 1)):
        if limited:
            with pytest.raises(UsageError, match="a word of more than 8192 characters"):
                backend.encode(text)
        else:
            assert backend.encode(text)
    assert backend.encode("a" * LONGEST)
