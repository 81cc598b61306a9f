"""SentencePiece-like tokenizers, trained here, against Hugging Face: spaces in front, merges, characters, unigrams."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from vocab_file import CHAT, config, differences, export, save, strings

from compress.errors import ArtifactError
from export.tokenizers.chats import chat_probes
from export.tokenizers.probes import check_vocabulary
from export.tokenizers.vocabulary import USER_DEFINED

SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>"]
BYTES = [f"<0x{value:02X}>" for value in range(256)]
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, REPLACE]}
GEMMA = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
BEGIN = {"SpecialToken": {"id": "<s>", "type_id": 0}}
POST = {
    "type": "TemplateProcessing",
    "single": [BEGIN, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [BEGIN, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
}


def metaspace(scheme: str, *, split: bool = False) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


def trained() -> dict[str, Any]:
    """A BPE with byte fallback as tokenizer.json, its tokens inside words."""
    return json.loads(_trained())


@cache
def _trained() -> str:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁*[^▁]+"), "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=SPECIAL + BYTES, show_progress=False, limit_alphabet=200
    )
    tokenizer.train_from_iterator((text.replace("\n", "") for text in strings(1500, [])), trainer)
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = data["added_tokens"][: len(SPECIAL)]
    return json.dumps(data)


def complete(model: dict[str, Any]) -> None:
    """Every way of making a token among the merges, in the tokens' order, as of a SentencePiece model."""
    made = ["".join(pair) for pair in model["merges"]]
    parts = {*made, *(text for text in model["vocab"] if len(text) == 1)}
    ways = [(text[:at], text[at:]) for text in made for at in range(1, len(text))]
    model["merges"] = [[left, right] for left, right in ways if left in parts and right in parts]


def folder(place: Path, data: dict[str, Any], *, chat: str | None = CHAT, **steps: Any) -> Path:
    from tokenizers import Tokenizer

    data |= {"normalizer": None, "pre_tokenizer": None, "post_processor": POST, "decoder": None} | steps
    return save(place, Tokenizer.from_str(json.dumps(data)), chat=chat, unk_token="<unk>")


KINDS: dict[str, tuple[dict[str, Any], bool, str, float]] = {
    "gemma, merges": ({"normalizer": REPLACE, "pre_tokenizer": GEMMA}, False, "sarvam-moe", 1),
    "gemma, sentencepiece": ({"normalizer": REPLACE, "pre_tokenizer": GEMMA}, True, "default", 1),
    "llama, prepend": ({"normalizer": PREPEND}, True, "default", 1),
    "trained, prepend": ({"normalizer": PREPEND}, False, "default", 1),
    "llama, always": ({"pre_tokenizer": metaspace("always")}, True, "default", 0.75),
    "llama, first": ({"pre_tokenizer": metaspace("first")}, True, "default", 0.1),
    "merges, first": ({"pre_tokenizer": metaspace("first")}, False, "sarvam-moe", 0.1),
    "merges, never": ({"pre_tokenizer": metaspace("never")}, False, "sarvam-moe", 1),
}
"""Name -> steps, whether the merges are complete, llama.cpp's pre-tokenizer, share of texts that it can follow."""


@pytest.mark.parametrize("kind", KINDS)
def test_byte_fallback_agrees_on_300_strings(tmp_path: Path, kind: str) -> None:
    byte_fallback(tmp_path, kind, 300)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_byte_fallback_agrees_on_2400_strings(tmp_path: Path, kind: str) -> None:
    byte_fallback(tmp_path, kind, 2400)


def byte_fallback(tmp_path: Path, kind: str, count: int) -> None:
    steps, whole, pre, share = KINDS[kind]
    data = trained()
    if whole:
        complete(data["model"])
    path, vocabulary, tokenizer = export(folder(tmp_path, data, **steps))
    assert vocabulary.pre == pre
    assert vocabulary.add_bos
    assert check_vocabulary(path, vocabulary, tokenizer) > 60
    found, compared = differences(path, vocabulary, tokenizer, strings(count, SPECIAL))
    assert not found
    assert compared >= share * count


@pytest.mark.parametrize(("scheme", "agrees"), [("never", True), ("always", False)])
def test_a_token_whose_parts_no_merge_joins_is_found_out(tmp_path: Path, scheme: str, agrees: bool) -> None:
    """Hugging Face leaves "qx" and "k" apart; scores would join them. Merges do not, but put no space in front."""
    data = trained()
    size = len(data["model"]["vocab"])
    data["model"]["vocab"] |= {"qx": size, "xk": size + 1, "qxk": size + 2}
    data["model"]["merges"] += [["q", "x"], ["x", "k"], ["q", "xk"]]
    path, vocabulary, tokenizer = export(folder(tmp_path, data, pre_tokenizer=metaspace(scheme)))
    if agrees:
        check_vocabulary(path, vocabulary, tokenizer)
        return
    with pytest.raises(ArtifactError, match="otherwise than Hugging Face"):
        check_vocabulary(path, vocabulary, tokenizer)


PADDED = "{% for m in messages %}<|user|>\n{{ m['content'] }}<|user|> {{ m['content'] }}</s>{% endfor %}"


@pytest.mark.parametrize("scheme", ["always", "first"])
@pytest.mark.parametrize("chat", [CHAT, PADDED, "Hello " + PADDED])
def test_chats_agree_whatever_the_messages_begin_with(tmp_path: Path, scheme: str, chat: str) -> None:
    """The file's chat template takes away or adds the space that llama.cpp adds or leaves out."""
    from runtime.engine.template import render

    data = trained()
    complete(data["model"])
    path, vocabulary, tokenizer = export(folder(tmp_path, data, chat=chat, pre_tokenizer=metaspace(scheme)))
    check_vocabulary(path, vocabulary, tokenizer)
    talk = [{"role": "user", "content": "  two"}, {"role": "assistant", "content": "x "}]
    text = tokenizer.apply_chat_template(
        talk, tokenize=False, add_generation_prompt=True, chat_template=vocabulary.chat_template
    )
    assert render(vocabulary.chat_template, talk, special={"bos_token": "<s>", "eos_token": "</s>"}) == text
    assert (text in chat_probes(tokenizer)) is False


@pytest.mark.parametrize(("fuse", "special"), [(False, 1), (True, 0)])
def test_characters_with_an_unknown_token_agree(tmp_path: Path, fuse: bool, special: int) -> None:
    chars = [*SPECIAL, "▁", *"abcdefghijklmnopqrstuvwxyzABC.,!<>|é€你🙂0123456789", "never"]
    model = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": fuse, "merges": []}
    model["vocab"] = {text: i for i, text in enumerate(chars)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": i, "content": text} | flags for i, text in enumerate(SPECIAL)]
    tab = {"type": "Replace", "pattern": {"String": "\t"}, "content": " "}
    steps = {"type": "Sequence", "normalizers": [tab, *PREPEND["normalizers"]]}
    data = {"version": "1.0", "added_tokens": added, "model": model}
    path, vocabulary, tokenizer = export(folder(tmp_path, data, normalizer=steps))
    assert (vocabulary.model, vocabulary.types[0]) == ("t5", USER_DEFINED)
    assert vocabulary.special["unk"] == special
    check_vocabulary(path, vocabulary, tokenizer)
    texts = ["ЖЖ a", "never", "a\tb", "<unk>", "[PAD55]", *strings(2400, SPECIAL)]
    found, compared = differences(path, vocabulary, tokenizer, texts)
    assert not found
    assert compared == 2405


@pytest.mark.parametrize("scheme", ["always", "never"])
def test_unigrams_agree(tmp_path: Path, scheme: str) -> None:
    """Scores without ties: where two ways of splitting score the same, rounding decides in either program."""
    pieces = [["<unk>", 0.0], ["<s>", 0.0], ["</s>", 0.0], ["<|user|>", 0.0], ["▁", -2.5]]
    words = [
        "the",
        "▁the",
        "▁cust",
        "omer",
        "▁order",
        "er",
        "th",
        "ing",
        "▁answer",
        "▁and",
        "12",
        "34",
        "é",
        "ü",
        "你好",
    ]
    pieces += [
        [text, -3.0 - 0.37 * at] for at, text in enumerate([*words, *"etaoinshrdlucmfwypvbgkjqxz0123456789.,!?"])
    ]
    data = json.loads(json.dumps({"version": "1.0", "added_tokens": trained()["added_tokens"]}))
    data["model"] = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False}
    path, vocabulary, tokenizer = export(folder(tmp_path, data, pre_tokenizer=metaspace(scheme, split=True)))
    assert vocabulary.model == "t5"
    check_vocabulary(path, vocabulary, tokenizer)
    found, compared = differences(path, vocabulary, tokenizer, strings(2400, SPECIAL))
    assert not found
    assert compared > 1800
    tokenizer_json = json.loads((tmp_path / "tokenizer.json").read_text())
    tokenizer_json["model"]["byte_fallback"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json))
    with pytest.raises(ArtifactError, match="Unigram with byte fallback"):
        export(tmp_path)


def test_words_between_spaces_agree(shared_data: Path, tmp_path: Path) -> None:
    from itertools import product

    from real_tokenizers import real_folder

    path, vocabulary, tokenizer = export(real_folder(shared_data, tmp_path, "gpt-nano-sort"))
    assert (vocabulary.model, vocabulary.eos_ids) == ("whitespace", [])
    check_vocabulary(path, vocabulary, tokenizer)
    texts = [between.join(word) for word in product("012", repeat=6) for between in (" ", "\n", "  ")]
    found, compared = differences(path, vocabulary, tokenizer, ["", *texts])
    assert not found
    assert compared == 2188
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["model"]["vocab"] = {"0": 0, "1": 1, "ten": 2}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match="words of several characters"):
        export(config(tmp_path, 3, None))
