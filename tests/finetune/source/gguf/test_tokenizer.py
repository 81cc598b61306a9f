"""Vocabularies of .gguf files as tokenizer.json: the ids that llama.cpp gives with the very file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf_plain import rewrite
from real_tokenizers import FOLDERS, real_folder, real_lines
from vocab_file import export, strings, write_vocabulary

from compress.errors import ArtifactError
from export.tokenizers.bpe import PRE_TOKENIZERS, SAME, row_named
from export.tokenizers.probes import llama_vocabulary
from export.tokenizers.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Vocabulary
from finetune.source.gguf import tokenizer as gguf_tokenizer
from finetune.source.gguf.backend import backend, check
from finetune.source.gguf.parts import read_parts
from finetune.source.gguf.vocabulary import read_vocabulary
from runtime.engine.chat import Chat, of_gguf

END = "\n__ggml_vocab_test__\n"


def rebuilt(path: Path) -> Any:
    """The ``tokenizers.Tokenizer`` of a file's vocabulary."""
    from tokenizers import Tokenizer

    parts = read_parts(path)
    check(parts, len(parts.metadata["tokenizer.ggml.tokens"]))
    with llama_vocabulary(path) as llama:
        vocabulary = read_vocabulary(parts, llama)
    return Tokenizer.from_str(json.dumps(backend(parts, vocabulary)))


def agree(path: Path, texts: list[str]) -> None:
    ours = rebuilt(path)
    with llama_vocabulary(path) as llama:
        for text in texts:
            for add in (False, True):
                assert ours.encode(text, add_special_tokens=add).ids == llama.encode(text, add_special=add), text


@pytest.mark.parametrize("name", ["gpt-2", "phi-3", pytest.param("falcon", marks=pytest.mark.slow)])
def test_the_recorded_ids_come_out(shared_data: Path, name: str) -> None:
    path = shared_data / "gguf_vocab" / f"ggml-vocab-{name}.gguf"
    texts = path.with_suffix(".gguf.inp").read_bytes().decode().removesuffix(END).split(END)
    recorded = path.with_suffix(".gguf.out").read_text().splitlines()
    ours = rebuilt(path)
    got = [ours.encode(text, add_special_tokens=False).ids for text in texts]
    assert got == [[int(i) for i in line.split()] for line in recorded[: len(texts)]]
    assert len(texts) > 45


SMALL = ("stories260k", "m7")


@pytest.mark.parametrize("name", SMALL)
def test_real_vocabularies_agree(shared_data: Path, tmp_path: Path, name: str) -> None:
    path, vocabulary, _ = export(real_folder(shared_data, tmp_path, name))
    special = [vocabulary.tokens[i] for i in vocabulary.special.values()]
    agree(path, [*strings(300, special), *real_lines(shared_data, 60)])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FOLDERS if name != "babyllama105"])
def test_a_folders_tokenizer_agrees_and_is_proved(shared_data: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "hf").mkdir()
    path, _, tokenizer = export(real_folder(shared_data, tmp_path / "hf", name))
    parts = read_parts(path)
    rows = len(parts.metadata["tokenizer.ggml.tokens"])
    facts = gguf_tokenizer.write(parts, tmp_path, {"vocab_size": rows, "max_position_embeddings": 4096}, "float32")
    assert facts["probes_equal"] > 1000
    agree(path, [*strings(400, tokenizer.all_special_tokens), *real_lines(shared_data, 300)])


WORDS = [
    "the",
    "then",
    "there",
    "order",
    "orders",
    "▁the",
    "▁then",
    "▁order",
    "or",
    "der",
    "th",
    "en",
    "er",
    "▁t",
    "▁o",
]


def scored(*, prefix: bool, more: dict[str, tuple[float, int]] | None = None) -> Vocabulary:
    """A SentencePiece BPE of a few words; ``more``: text -> (score, type)."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"thenordsa,.XY"]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * 14]
    scores = [0.0] * 259 + [-1e3] * 14
    words = {word: (-len(word) / 8 - at / 100, NORMAL) for at, word in enumerate(WORDS)} | (more or {})
    for text, (score, kind) in words.items():
        tokens.append(text)
        scores.append(score)
        types.append(kind)
    special = {"bos": 1, "eos": 2, "unk": 0}
    return Vocabulary("llama", "default", tokens, types, special, [2], True, False, Chat(), scores, space_prefix=prefix)


TEXTS = [
    "the order",
    "then  there,   orders",
    " ▁the",
    "the<s>order</s> then",
    "XYZ ä <X> 🙂\n\n\n",
    "theththenorderer",
    "     ",
]


@pytest.mark.parametrize("prefix", [True, False])
def test_merges_come_from_scores(tmp_path: Path, prefix: bool) -> None:
    agree(write_vocabulary(tmp_path / "v.gguf", scored(prefix=prefix)), [*TEXTS, *strings(200, ["<s>"], TEXTS)])


def test_runs_of_equal_score_grow_from_the_left_as_in_gemma(tmp_path: Path) -> None:
    """Gemma's runs of spaces and newlines are user-defined tokens, all with the score 0."""
    runs = {"▁" * n: (0.0, USER_DEFINED) for n in range(2, 9)} | {"\n" * n: (0.0, USER_DEFINED) for n in range(1, 6)}
    more = runs | {"<unused1>": (0.0, USER_DEFINED), "[PAD300]": (-1e3, UNUSED), "<X>": (0.0, CONTROL)}
    path = write_vocabulary(tmp_path / "v.gguf", scored(prefix=False, more=more))
    spaces = ["the" + " " * n + "order" + "\n" * n + "<unused1> <X>" for n in range(30)]
    agree(path, [*spaces, *strings(200, ["<unused1>"], TEXTS)])
    assert rebuilt(path).token_to_id("[PAD300]") is None


def test_single_characters_between_spaces(tmp_path: Path) -> None:
    words = Vocabulary("whitespace", "whitespace", ["0", "1", "2"], [1, 1, 1], {}, [], False, False, Chat(),
                       merges=["\ue000 \ue000"])  # fmt: skip
    agree(write_vocabulary(tmp_path / "v.gguf", words), ["0 1 2 2 1", "", "2\n0\t 1"])


def test_names_of_one_pre_tokenizer_lead_to_one_row() -> None:
    rows = {row.name for row in PRE_TOKENIZERS}
    assert set(SAME.values()) <= rows
    assert not set(SAME) & rows
    assert row_named("llama3") is row_named("llama-bpe") is not None
    assert row_named("nobody's") is None


@pytest.mark.parametrize("name", ["llama3", *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(SAME))])
def test_llama_cpp_splits_alike_under_each_name(shared_data: Path, tmp_path: Path, name: str) -> None:
    """The row's definition over GPT-2's merges, whatever the name in the file."""
    source = shared_data / "gguf_vocab" / "ggml-vocab-gpt-2.gguf"
    (path,) = rewrite(source, tmp_path / "v.gguf", keys={"tokenizer.ggml.pre": name})
    agree(path, [*strings(60, ["<|endoftext|>"]), *real_lines(shared_data, 20)])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tokenizer.ggml.model": "none"}, "holds no tokenizer"),
        ({"tokenizer.ggml.tokens": None}, "holds no tokenizer"),
        ({"tokenizer.ggml.model": "t5"}, "a tokenizer of the kind 't5'; known: gpt2"),
        ({"tokenizer.ggml.pre": "kimi-k2"}, "the pre-tokenizer 'kimi-k2', of which no Hugging Face definition"),
        ({"tokenizer.ggml.merges": None}, "lacks tokenizer.ggml.merges"),
        ({"tokenizer.ggml.model": "whitespace"}, "a tokenizer of words"),
    ],
)
def test_files_without_a_tokenizer_that_is_known_are_refused(
    shared_data: Path, tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    source = shared_data / "gguf_vocab" / "ggml-vocab-gpt-2.gguf"
    (path,) = rewrite(source, tmp_path / "v.gguf", keys=keys)
    parts = read_parts(path)
    with pytest.raises(ArtifactError, match=message):
        check(parts, 50257)
    with pytest.raises(ArtifactError, match=r"50257 tokens and 50000 rows|holds no tokenizer"):
        check(parts, 50000)


def test_scores_are_not_done_without(tmp_path: Path) -> None:
    path = write_vocabulary(tmp_path / "v.gguf", scored(prefix=True))
    (bare,) = rewrite(path, tmp_path / "bare.gguf", keys={"tokenizer.ggml.scores": None})
    with pytest.raises(ArtifactError, match=r"lacks tokenizer.ggml.scores"):
        check(read_parts(bare), 400)


def test_templates_and_end_tokens(tmp_path: Path) -> None:
    """Named templates beside the default one; every token that ends a turn; none of those that fill gaps in code."""
    more = dict.fromkeys(("<|im_end|>", "<|fim_pad|>", "<|eom_id|>", "<pad>"), (-5.0, CONTROL))
    plain = write_vocabulary(tmp_path / "plain.gguf", scored(prefix=True, more=more))
    template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}\n"
    pad = len(scored(prefix=True, more=more).tokens) - 1
    keys = {"tokenizer.chat_template": template, "tokenizer.chat_template.tool-use": "{{ messages }}"}
    (path,) = rewrite(plain, tmp_path / "v.gguf", keys=keys | {"tokenizer.ggml.padding_token_id": pad})
    parts = read_parts(path)
    gguf_tokenizer._write_templates(of_gguf(parts.metadata), path, tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == template
    assert (tmp_path / "additional_chat_templates" / "tool-use.jinja").read_text() == "{{ messages }}"
    with llama_vocabulary(path) as llama:
        vocabulary = read_vocabulary(parts, llama)
    assert [vocabulary.tokens[token] for token in vocabulary.ends] == ["</s>", "<|im_end|>", "<|eom_id|>"]
    assert gguf_tokenizer._special_ids(vocabulary)["eos_token_id"] == list(vocabulary.ends)
    settings = gguf_tokenizer._settings(vocabulary, {"max_position_embeddings": 64})
    assert (settings["bos_token"], settings["pad_token"], settings["unk_token"]) == ("<s>", "<pad>", "<unk>")
    (odd,) = rewrite(plain, tmp_path / "odd.gguf", keys={"tokenizer.chat_template.../x": "{{ messages }}"})
    with pytest.raises(ArtifactError, match=r"chat template '../x' has no plain name"):
        gguf_tokenizer._write_templates(of_gguf(read_parts(odd).metadata), path, tmp_path)


def test_a_merge_of_what_is_no_token_is_refused(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "gguf_vocab" / "ggml-vocab-gpt-2.gguf"
    tokens = list(read_parts(source).metadata["tokenizer.ggml.merges"])
    (path,) = rewrite(source, tmp_path / "v.gguf", keys={"tokenizer.ggml.merges": [*tokens, "no token"]})
    with pytest.raises(ArtifactError, match="the merge 'no token' joins or makes what is no token"):
        rebuilt(path)


def test_a_tokenizer_that_splits_otherwise_ends_the_stage(tmp_path: Path) -> None:
    """transformers has one tokenizer for every Qwen 2, whatever pre-tokenizer the file names."""
    from small_folder import write_tokenizer

    (tmp_path / "hf").mkdir()
    rows = write_tokenizer(tmp_path / "hf", kind="gpt-2")
    (tmp_path / "hf" / "config.json").write_text(json.dumps({"vocab_size": rows, "eos_token_id": 2}))
    path, vocabulary, _ = export(tmp_path / "hf")
    assert vocabulary.pre == "gpt-2"
    config = {"model_type": "qwen2", "vocab_size": rows + 3, "max_position_embeddings": 64}
    with pytest.raises(ArtifactError, match=r"cannot be made one of Hugging Face: llama.cpp splits .* otherwise"):
        gguf_tokenizer.write(read_parts(path), tmp_path, config, "float32")
