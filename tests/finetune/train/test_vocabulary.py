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
from vocab_file import export as export_vocabulary

from compress.artifact import open_artifact
from compress.errors import DataError, UsageError
from compress.model.tokenizer import load_tokenizer
from compress.stage import JobOutline
from export.parity.stage import ExportParity
from export.tokenizers.probes import llama_vocabulary
from finetune.train.vocabulary import Vocabulary, VocabularyParams, words_of
from runtime.engine.backends.pieces import Vocabulary as PieceVocabulary
from runtime.engine.template import render

WORDS = ["Kilowattstunde", "order-4821", "<route>", "Rückgabe", "naïve café", "日本語", "👩‍👩‍👧"]


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
    assert new.shape == (old.shape[0] + len(WORDS), old.shape[1])
    assert (new[: len(old)] == old).all()
    text = "My Kilowattstunde, please: <route>order-4821 and 4821, Rückgabe im naïve café 日本語👩‍👩‍👧 ü"
    ids = after(text, add_special_tokens=False)["input_ids"]
    assert after.decode(ids) == text
    for word in WORDS:
        number = after.convert_tokens_to_ids(word)
        assert ids.count(number) == 1
        pieces = before(word, add_special_tokens=False)["input_ids"]
        assert len(pieces) > 1
        np.testing.assert_allclose(new[number], old[pieces].mean(0), rtol=1e-6, atol=1e-7)
    assert json.loads((grown.path / "config.json").read_text())["vocab_size"] == len(new)
    assert grown.facts["added"] == len(WORDS)
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


def test_gpt2_keeps_letters_beyond_ascii(shared_data, tmp_path):
    """Its class makes a decoder of its own, which would take the word for bytes."""
    from transformers import GPT2Config, GPT2LMHeadModel

    for path in (shared_data / "tokenizers" / "gpt2").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 16}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path)
    made = run_stage("finetune.vocabulary", tmp_path, tmp_path / "out", tokens=["größer", "order"])
    before, after = load_tokenizer(tmp_path), load_tokenizer(made.path)
    text = "größer ü größer"
    assert len(after(text)["input_ids"]) < len(before(text)["input_ids"])
    assert after.decode(after(text)["input_ids"]) == text
    assert after.special_tokens_map == before.special_tokens_map
    assert made.facts["known"] == ["order"]


def test_words_that_cannot_be_tokens_are_named(tiny_llama, tmp_path):
    (tmp_path / "words.txt").write_text("parcel\n\nbad \n")
    with pytest.raises(DataError, match=r"words\.txt:3: 'bad ' cannot be a token"):
        words_of(VocabularyParams(file=tmp_path / "words.txt"))
    with pytest.raises(UsageError, match="has no words"):
        words_of(VocabularyParams())
    with pytest.raises(UsageError, match="every word is a token of the model already"):
        run_stage("finetune.vocabulary", tiny_llama, tmp_path / "out", tokens=["<pad>"])
    with pytest.raises(UsageError, match="spells something else with 'ü'"):
        run_stage("finetune.vocabulary", tiny_llama, tmp_path / "byte", tokens=["ü"])
    assert words_of(VocabularyParams(tokens=["a", "b", "a"])) == ["a", "b"]


def test_runtimes_write_a_word_as_it_is(grown):
    words = PieceVocabulary.read(grown.path)
    number = {text: at for at, text in words.texts.items()}
    assert [words.piece(number[word]).decode() for word in WORDS] == WORDS


def test_llama_cpp_reads_words_in_messages_where_it_adds_spaces(shared_data, tmp_path):
    """It puts a space behind every added token, also one that a message brings."""
    base = shared_data / "models" / "stories260k-spm"
    made = run_stage("finetune.vocabulary", base, tmp_path / "out", tokens=["Tyrannosaurus"])
    file, vocabulary, tokenizer = export_vocabulary(made.path)
    talk = [{"role": "user", "content": "A Tyrannosaurus ate  Tyrannosaurus."}]
    with llama_vocabulary(file) as llama:
        got = llama.encode(render(vocabulary.chat_template, talk, special=vocabulary.chat.special))
    assert got == tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)


@pytest.mark.parametrize(("words", "text"), [(["foobar", "barlong"], "a foobarlong"), (["abcd", "cdxy"], "abcdxy")])
def test_texts_in_which_added_tokens_overlap_are_a_limit(tiny_llama, tmp_path, words, text):
    made = run_stage("finetune.vocabulary", tiny_llama, tmp_path / "out", tokens=[*words, "bar"])
    _, vocabulary, _ = export_vocabulary(made.path)
    assert not vocabulary.follows(text)
    assert vocabulary.follows(" ".join([*words, "bar", words[0] * 2]))


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
