"""Ids that llama.cpp's own repository records for real vocabularies, and Phi-3's stripping tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from real_tokenizers import real_folder
from vocab_file import differences, export, strings, write_vocabulary

from export.tokenizers.probes import check_vocabulary, llama_vocabulary

END = "\n__ggml_vocab_test__\n"


@pytest.mark.parametrize(
    ("name", "golden"), [("gpt2", "gpt-2"), ("phi3", "phi-3"), pytest.param("falcon", "falcon", marks=pytest.mark.slow)]
)
def test_the_recorded_ids_come_out(shared_data: Path, tmp_path: Path, name: str, golden: str) -> None:
    path, _, _ = export(real_folder(shared_data, tmp_path, name))
    place = shared_data / "gguf_vocab" / f"ggml-vocab-{golden}.gguf"
    texts = place.with_suffix(".gguf.inp").read_bytes().decode().removesuffix(END).split(END)
    recorded = place.with_suffix(".gguf.out").read_text().splitlines()
    with llama_vocabulary(path) as llama:
        got = [llama.encode(text) for text in texts]
    assert got == [[int(i) for i in line.split()] for line in recorded[: len(texts)]]
    assert len(texts) > 45


def test_tokens_that_strip_spaces_as_in_phi_3_mini_agree(shared_data: Path, tmp_path: Path) -> None:
    """llama.cpp strips behind all special tokens but three, for models of that name and no others."""
    folder = real_folder(shared_data, tmp_path, "phi3")
    data = json.loads((folder / "tokenizer.json").read_text())
    for token in data["added_tokens"]:
        token["rstrip"] = token["content"] not in ("<unk>", "<s>", "<|endoftext|>")
    (folder / "tokenizer.json").write_text(json.dumps(data))
    path, vocabulary, tokenizer = export(folder)
    assert vocabulary.strips
    check_vocabulary(path, vocabulary, tokenizer)
    special = ["<|user|>", "<|end|>", "<|assistant|>", "<s>", "</s>"]
    texts = [f"{text} \n {special[i % 5]} \n\t{text}" for i, text in enumerate(strings(400, special))]
    found, compared = differences(path, vocabulary, tokenizer, texts)
    assert not found
    assert compared > 300
    write_vocabulary(path, replace(vocabulary, strips=False), name="phi3 mini")
    assert differences(path, vocabulary, tokenizer, texts)[0]


def test_words_come_back_with_spaces(shared_data: Path, tmp_path: Path) -> None:
    from gguf_export import export as export_model

    from runtime.engine.backends.llama import LlamaBackend

    path = export_model(shared_data / "models" / "gpt-nano-sort", tmp_path, type="F32")
    backend = LlamaBackend(path, threads=1, slots=1, context=None)
    try:
        assert backend.encode("2 0 1") == [2, 0, 1]
        assert b"".join(map(backend.piece, [0, 1, 2])) == b" 0 1 2"
        assert backend.stops == frozenset()
    finally:
        backend.close()
