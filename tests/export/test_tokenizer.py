"""Token ids of Hugging Face and llama.cpp on thousands of strings, and what the exporter refuses."""

from __future__ import annotations

import json
import random
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small_folder import SPECIAL, TEXT, write_config, write_tokenizer

from compress.errors import ArtifactError
from export.gguf import GgufParams
from export.gguf_layout import layout_of
from export.gguf_write import write_header
from export.probes import PROBES, check_vocabulary, llama_vocabulary
from export.tokenizer import load_tokenizer, read_vocabulary

POOLS = [
    "abcdefghijklmnopqrstuvwxyzABCXYZ",
    "0123456789",
    "  \t\n\r",
    "'’\".,;:!?()[]{}-_/\\@#$%^&*+=<>|`~",
    "éüñßçøåÅ",
    "你好世界日本語한국어",
    "🙂🚀👩‍👩‍👧🇩🇪❤️",
    "\u00a0\u2003\u3000\u200b\u0085\u1680\u2028",
    "٠١٢३४५½²Ⅳ①",
    "ก็ั์កាन्",
    "\x01\x1c\x1f\x7f",
]


def strings(count: int, special: list[str]) -> list[str]:
    """Mixtures of scripts, spaces, digits and symbols; words; one in six with special tokens in the text."""
    draw, found = random.Random(3), []
    for number in range(count):
        if number % 2:
            text = "".join(draw.choice(draw.choice(POOLS)) for _ in range(draw.randint(1, 30)))
        else:
            text = " ".join(draw.choice(TEXT + list(PROBES))[draw.randint(0, 40) :] for _ in range(2))
        if number % 6 == 0:
            text = f"{text}{draw.choice(special)}{text[:9]}{draw.choice(special)}\n"
        found.append(text)
    return found


RICH = [*strings(600, [" "]), *[f"{n} {n} ({n * 7919}) {n}'s" for n in range(100, 400)]]
"""Training text that leaves merges across digits, letters, marks and spaces where a pre-tokenizer allows them."""


def folder_of(place: Path, vocab: int) -> Path:
    write_config(
        place,
        "LlamaForCausalLM",
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        vocab_size=vocab,
        tie_word_embeddings=True,
    )
    return place


def export_vocabulary(folder: Path):
    """(file with the vocabulary alone, Vocabulary, Hugging Face tokenizer)."""
    layout = layout_of(json.loads((folder / "config.json").read_text()))
    tokenizer = load_tokenizer(folder)
    vocabulary = read_vocabulary(folder, tokenizer, layout.vocab)
    path = folder / "vocab.gguf"
    path.write_bytes(write_header(folder / "header", layout, vocabulary, [], GgufParams(type="F32")))
    return path, vocabulary, tokenizer


def first_difference(path: Path, tokenizer, texts: list[str]) -> str | None:
    with llama_vocabulary(path) as llama:
        for text in texts:
            for add in (False, True):
                if llama.encode(text, add_special=add) != tokenizer.encode(text, add_special_tokens=add):
                    return repr(text)
    return None


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-bpe", "smaug-bpe", "qwen2"])
def test_byte_level_families_agree_on_2400_strings(tmp_path: Path, kind: str) -> None:
    size = write_tokenizer(tmp_path, kind=kind, vocab=1500, texts=RICH)
    path, vocabulary, tokenizer = export_vocabulary(folder_of(tmp_path, size + 5))
    assert vocabulary.pre == kind
    assert vocabulary.add_bos == (kind == "llama-bpe")
    assert check_vocabulary(path, vocabulary, tokenizer) > len(PROBES)
    texts = strings(2400, SPECIAL)
    if kind == "qwen2":  # llama.cpp has no NFC step
        texts = [unicodedata.normalize("NFC", text) for text in texts]
    assert first_difference(path, tokenizer, texts) is None


@pytest.mark.parametrize(("kind", "wrong"), [("gpt-2", "smollm"), ("qwen2", "gpt-2"), ("llama-bpe", "qwen2")])
def test_the_wrong_pre_tokenizer_is_found_out(tmp_path: Path, kind: str, wrong: str) -> None:
    size = write_tokenizer(tmp_path, kind=kind, vocab=1500, texts=RICH)
    path, vocabulary, tokenizer = export_vocabulary(folder_of(tmp_path, size))
    bad = replace(vocabulary, pre=wrong)
    layout = layout_of(json.loads((tmp_path / "config.json").read_text()))
    path.write_bytes(write_header(tmp_path / "header", layout, bad, [], GgufParams(type="F32")))
    with pytest.raises(ArtifactError, match="otherwise than Hugging Face: at token"):
        check_vocabulary(path, bad, tokenizer)


def real(shared: Path, place: Path, name: str) -> Path:
    """A copy of a real tokenizer's folder, with a config.json where it has none."""
    source = shared / {"gpt2": "tokenizers/gpt2", "mistral": "tokenizers/mistral"}.get(name, f"models/{name}")
    for path in source.iterdir():
        if path.is_file() and path.suffix in (".json", ".jinja", ".txt", ".model"):
            shutil.copyfile(path, place / path.name)
    if name == "gpt2":
        folder_of(place, 50257)
        (place / "generation_config.json").write_text('{"eos_token_id": 50256}')
    if name == "mistral":
        shutil.copyfile(source / "tokenizer.model.v1", place / "tokenizer.model")
        settings = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_bos_token": True}
        settings |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        (place / "tokenizer_config.json").write_text(json.dumps(settings))
        folder_of(place, 32000)
    return place


@pytest.mark.parametrize(
    ("name", "special"),
    [("gpt2", ["<|endoftext|>"]), ("m7", ["<s>", "</s>", "<|user|>"]), ("stories260k", ["<s>", "</s>"])],
)
def test_real_tokenizers_agree(shared_data: Path, tmp_path: Path, name: str, special: list[str]) -> None:
    path, vocabulary, tokenizer = export_vocabulary(real(shared_data, tmp_path, name))
    check_vocabulary(path, vocabulary, tokenizer)
    assert first_difference(path, tokenizer, strings(2400, special)) is None


@pytest.mark.parametrize("name", ["stories260k-spm", "mistral"])
def test_sentencepiece_models_agree(shared_data: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("sentencepiece", reason="tokenizer.model is read with sentencepiece")
    path, vocabulary, tokenizer = export_vocabulary(real(shared_data, tmp_path, name))
    assert vocabulary.model == "llama"
    assert min(vocabulary.scores) < -100
    check_vocabulary(path, vocabulary, tokenizer)
    texts = [t.lstrip(" ") for t in strings(2400, ["x"])]  # Metaspace does not double a leading space
    assert first_difference(path, tokenizer, [t for t in texts if t]) is None


def change(folder: Path, edit: Callable[[dict], None]) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    edit(data)
    (folder / "tokenizer.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(normalizer={"type": "Lowercase"}), "normalizes text"),
        (lambda d: d.update(pre_tokenizer={"type": "Whitespace"}), "no row for its pre-tokenizer"),
        (lambda d: d["model"].update(ignore_merges=True), "no row for its pre-tokenizer"),
        (lambda d: d["added_tokens"][3].update(lstrip=True), "strips the space"),
    ],
)
def test_what_llama_cpp_cannot_do_is_refused(tmp_path: Path, edit: Callable[[dict], None], message: str) -> None:
    size = write_tokenizer(tmp_path)
    change(tmp_path, edit)
    with pytest.raises(ArtifactError, match=message) as caught:
        export_vocabulary(folder_of(tmp_path, size))
    assert caught.value.next


def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    size = write_tokenizer(tmp_path)
    with pytest.raises(ArtifactError, match=rf"token {size - 1} but the embedding only {size - 1} rows"):
        export_vocabulary(folder_of(tmp_path, size - 1))


def test_end_tokens(tmp_path: Path) -> None:
    size = write_tokenizer(tmp_path)
    folder = folder_of(tmp_path, size)
    (folder / "generation_config.json").write_text('{"eos_token_id": [4, 2]}')
    path, vocabulary, _ = export_vocabulary(folder)
    assert vocabulary.eos_ids == [2, 4]  # the tokenizer's own first
    with llama_vocabulary(path) as llama:
        assert [i for i in range(size) if llama.ends(i)] == [2, 4]
    (folder / "generation_config.json").write_text('{"eos_token_id": 99999}')
    with pytest.raises(ArtifactError, match="no valid end-of-sequence"):
        export_vocabulary(folder)
