"""Words as tokens: what spells them, where their rows start, and that exports carry them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from stages import run_stage

pytest.importorskip("torch")
pytest.importorskip("transformers")

from gguf_export import export
from onnx_export import export_onnx
from parity_job import checks_of, job_of
from safetensors.numpy import load_file

from compress.artifact import open_artifact
from compress.errors import ArtifactError, DataError, UsageError
from compress.model.tokenizer import load_tokenizer
from compress.stage import JobOutline
from export.parity.stage import ExportParity
from finetune.train.vocabulary import Vocabulary, VocabularyParams, words_of

WORDS = ["Kilowattstunde", "order-4821", "<route>"]


def rows_of(folder):
    (table,) = (
        tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
        if name.endswith("embed_tokens.weight")
    )
    return table.astype(np.float32)


@pytest.fixture(scope="module")
def grown(tiny_llama, tmp_path_factory):
    return run_stage("finetune.vocabulary", tiny_llama, tmp_path_factory.mktemp("words") / "out", tokens=WORDS)


def test_each_word_is_one_token_that_starts_as_the_mean_of_its_pieces(tiny_llama, grown):
    before, after = load_tokenizer(tiny_llama), load_tokenizer(grown.path)
    old, new = rows_of(tiny_llama), rows_of(grown.path)
    assert new.shape == (old.shape[0] + 3, old.shape[1])
    assert (new[: len(old)] == old).all()
    text = "My Kilowattstunde, please: <route>order-4821 and 4821"
    ids = after(text, add_special_tokens=False)["input_ids"]
    assert after.decode(ids) == text
    for word in WORDS:
        number = after.convert_tokens_to_ids(word)
        assert ids.count(number) == 1
        pieces = before(word, add_special_tokens=False)["input_ids"]
        assert len(pieces) > 1
        np.testing.assert_allclose(new[number], old[pieces].mean(0), rtol=1e-6, atol=1e-7)
    assert json.loads((grown.path / "config.json").read_text())["vocab_size"] == len(new)
    assert grown.facts["added"] == 3
    assert grown.facts["vocabulary"] == len(new)
    assert before.chat_template == after.chat_template


def test_other_text_reads_as_before(tiny_llama, grown):
    before, after = load_tokenizer(tiny_llama), load_tokenizer(grown.path)
    for text in ("My order 4821 never arrived.", " two  spaces\n", "<|user|>Hello</s>"):
        assert before(text)["input_ids"] == after(text)["input_ids"]


def test_the_outline_is_what_comes(tiny_llama, grown):
    from compress.model.outline import folder_outline

    job = JobOutline(params=VocabularyParams(tokens=WORDS), inputs=(folder_outline(tiny_llama),))
    said, found = Vocabulary().outline(job), folder_outline(grown.path)
    assert said.model.shape == found.model.shape
    assert said.disk_bytes == pytest.approx(found.disk_bytes, rel=0.02)


def test_sentencepiece_folders_too(shared_data, tmp_path):
    base = shared_data / "models" / "stories260k-spm"
    made = run_stage("finetune.vocabulary", base, tmp_path / "out", tokens=["Tyrannosaurus"])
    before, after = load_tokenizer(base), load_tokenizer(made.path)
    text = "Lily saw a Tyrannosaurus in the park."
    ids = after(text, add_special_tokens=False)["input_ids"]
    assert ids.count(after.convert_tokens_to_ids("Tyrannosaurus")) == 1
    assert after.decode(ids) == before.decode(before(text, add_special_tokens=False)["input_ids"])
    pieces = before("Tyrannosaurus", add_special_tokens=False)["input_ids"]
    np.testing.assert_allclose(rows_of(made.path)[-1], rows_of(base)[pieces].mean(0), rtol=1e-5, atol=1e-6)


def test_words_that_cannot_be_tokens_are_named(tiny_llama, tmp_path):
    (tmp_path / "words.txt").write_text("parcel\n\nbad \n")
    with pytest.raises(DataError, match=r"words\.txt:3: 'bad ' cannot be a token"):
        words_of(VocabularyParams(file=tmp_path / "words.txt"))
    with pytest.raises(UsageError, match="has no words"):
        words_of(VocabularyParams())
    with pytest.raises(UsageError, match="every word is a token of the model already"):
        run_stage("finetune.vocabulary", tiny_llama, tmp_path / "out", tokens=["<pad>"])
    with pytest.raises(ArtifactError, match="writes a new token by bytes: 'Rückgabe' would come out as"):
        run_stage("finetune.vocabulary", tiny_llama, tmp_path / "umlaut", tokens=["Rückgabe"])
    assert words_of(VocabularyParams(tokens=["a", "b", "a"])) == ["a", "b"]


@pytest.mark.slow
def test_gguf_and_onnx_carry_the_words(grown, tmp_path):
    """Both runtimes read prompts with the words as the model does, and answer as it does."""
    talks = [
        [{"role": "user", "content": f"Is {word} number {n} fine, or {word}?"}] for n in range(4) for word in WORDS
    ]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    exports = [export(grown.path, tmp_path / "gguf", type="Q8_0").parent, export_onnx(grown.path, tmp_path / "onnx")]
    for place, folder in zip(("a", "b"), exports, strict=True):
        job = job_of(tmp_path / place, grown.path, folder, prompts_file=prompts, tokens=4, noise_prompts=8)
        ExportParity().check(job)
        ExportParity().run(job)
        assert {"template", "token ids", "logits"} <= checks_of(job).keys()
        assert open_artifact(folder)
