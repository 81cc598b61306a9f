"""Token ids of Hugging Face and llama.cpp on thousands of strings, and what the exporter refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from real_tokenizers import FOLDERS, real_folder, real_lines
from small_folder import SPECIAL, write_tokenizer
from vocab_file import config, differences, export, strings, write_vocabulary

from compress.errors import ArtifactError
from export.tokenizers.probes import check_vocabulary, llama_vocabulary
from export.tokenizers.read import end_ids, load_tokenizer
from export.tokenizers.vocabulary import CONTROL, NORMAL, Vocabulary


def agree(shared: Path, place: Path, name: str, count: int) -> None:
    if name.startswith(("mistral", "stories260k-spm")):
        pytest.importorskip("sentencepiece", reason="tokenizer.model is read with sentencepiece")
    folder = real_folder(shared, place, name)
    path, vocabulary, tokenizer = export(folder)
    special = [token.content for token in tokenizer.added_tokens_decoder.values()]
    assert check_vocabulary(path, vocabulary, tokenizer) > 30
    texts = strings(count, special, real_lines(shared, count // 4))
    found, compared = differences(path, vocabulary, tokenizer, texts)
    assert not found
    assert compared > count * (0.75 if vocabulary.limits else 0.999)


@pytest.mark.parametrize("name", ["phi3", "mistral-v1", "m7", "stories260k", "stories260k-spm", "babyllama105"])
def test_real_tokenizers_agree_on_200_strings(shared_data: Path, tmp_path: Path, name: str) -> None:
    agree(shared_data, tmp_path, name, 200)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_real_tokenizers_agree_on_3000_strings(shared_data: Path, tmp_path: Path, name: str) -> None:
    agree(shared_data, tmp_path, name, 3000)


RICH = [*strings(800, [" "]), *[f"{n} {n} ({n * 7919}) {n}'s" for n in range(100, 400)]]
"""Training text that leaves merges across digits, letters, marks and spaces."""


def small(folder: Path, *, rows: int = 5, **kind: Any) -> Path:
    return config(folder, write_tokenizer(folder, **kind) + rows, 2)


def change(folder: Path, edit: Callable[[dict], None]) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    edit(data)
    (folder / "tokenizer.json").write_text(json.dumps(data))


def swap_merges(vocabulary: Vocabulary) -> Vocabulary:
    """A pair of letters before the pair that wins over it: " the" without its " t"."""
    merges = list(vocabulary.merges or [])
    at, other = merges.index("\u0120 t"), next(i for i, pair in enumerate(merges) if pair.startswith("t "))
    merges[at], merges[other] = merges[other], merges[at]
    return replace(vocabulary, merges=merges)


def unmark(vocabulary: Vocabulary) -> Vocabulary:
    """A special token among the ordinary ones."""
    types = list(vocabulary.types)
    types[vocabulary.tokens.index("<|system|>")] = NORMAL
    return replace(vocabulary, types=types)


def swap_tokens(vocabulary: Vocabulary) -> Vocabulary:
    tokens = list(vocabulary.tokens)
    tokens[300], tokens[320] = tokens[320], tokens[300]
    return replace(vocabulary, tokens=tokens)


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Vocabulary, Any]:
    found = export(small(tmp_path_factory.mktemp("rich"), kind="gpt-2", vocab=1500, texts=RICH))
    assert check_vocabulary(*found) > 300
    return found


@pytest.mark.parametrize(
    "spoil",
    [
        swap_merges,
        unmark,
        swap_tokens,
        lambda v: replace(v, merges=[*v.merges[:40], *v.merges[41:]]),
        lambda v: replace(v, pre="smollm"),
        lambda v: replace(v, pre="qwen2"),
        lambda v: replace(v, add_bos=True),
        lambda v: replace(v, special=v.special | {"eos": 300}),
    ],
    ids=["merges", "special", "tokens", "merge", "digits", "pre", "bos", "eos"],
)
def test_a_wrong_vocabulary_is_found_out(
    rich: tuple[Path, Vocabulary, Any], tmp_path: Path, spoil: Callable[[Vocabulary], Vocabulary]
) -> None:
    _, vocabulary, tokenizer = rich
    path = write_vocabulary(tmp_path / "spoilt.gguf", spoil(vocabulary))
    with pytest.raises(ArtifactError, match=r"otherwise than Hugging Face: at token|llama.cpp would"):
        check_vocabulary(path, vocabulary, tokenizer)


@pytest.mark.slow
def test_every_swap_of_two_merges_that_matters_is_found_out(tmp_path: Path) -> None:
    """Of 60 swaps those that change ids of any of 600 other texts must change ids of a probe."""
    path, vocabulary, tokenizer = export(small(tmp_path, kind="gpt-2", vocab=1500, texts=RICH))
    texts, missed, caught = strings(600, SPECIAL), [], 0
    merges = list(vocabulary.merges)
    for at in range(0, len(merges) // 2, len(merges) // 120):
        other = list(merges)
        other[at], other[-1 - at] = merges[-1 - at], merges[at]
        write_vocabulary(path, replace(vocabulary, merges=other))
        try:
            check_vocabulary(path, vocabulary, tokenizer)
        except ArtifactError:
            caught += 1
            continue
        if differences(path, vocabulary, tokenizer, texts)[0]:
            missed.append(at)
    assert caught > 10
    assert not missed


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(normalizer={"type": "Lowercase"}), "normalizes text"),
        (lambda d: d.update(pre_tokenizer={"type": "Whitespace"}), "no row for its pre-tokenizer"),
        (lambda d: d["added_tokens"][3].update(lstrip=True), "strips the space"),
        (lambda d: d["added_tokens"][3].update(single_word=True), "matches whole words only"),
    ],
)
def test_what_llama_cpp_cannot_do_is_refused(tmp_path: Path, edit: Callable[[dict], None], message: str) -> None:
    small(tmp_path)
    change(tmp_path, edit)
    with pytest.raises(ArtifactError, match=message) as caught:
        export(tmp_path)
    assert caught.value.next


def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    size = write_tokenizer(tmp_path)
    with pytest.raises(ArtifactError, match=rf"token {size - 1} but the embedding only {size - 1} rows"):
        export(config(tmp_path, size - 1, 2))


def test_padding_does_not_take_the_name_of_a_token(tmp_path: Path) -> None:
    """llama.cpp aborts where two tokens have one text."""
    size = write_tokenizer(tmp_path)
    name = f"[PAD{size + 2}]"
    added = {"content": name, "special": False, "single_word": False, "lstrip": False, "rstrip": False}
    change(tmp_path, lambda d: d["added_tokens"].append(added | {"id": size, "normalized": False}))
    path, vocabulary, tokenizer = export(config(tmp_path, size + 4, 2))
    assert vocabulary.tokens[size + 2] == f"[{name}]"
    check_vocabulary(path, vocabulary, tokenizer)


def test_end_tokens(tmp_path: Path) -> None:
    folder = small(tmp_path)
    (folder / "generation_config.json").write_text('{"eos_token_id": [4, 2]}')
    path, vocabulary, _ = export(folder)
    assert vocabulary.eos_ids == [2, 4]  # the tokenizer's own first
    with llama_vocabulary(path) as llama:
        assert [i for i in range(len(vocabulary.tokens)) if llama.ends(i)] == [2, 4]
    (folder / "generation_config.json").write_text('{"eos_token_id": 99999}')
    with pytest.raises(ArtifactError, match="no valid end-of-sequence"):
        export(folder)


def test_a_model_without_end_token_exports_where_llama_cpp_does_not_invent_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = small(tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["eos_token"], settings["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config(folder, 500, None)
    with pytest.raises(ArtifactError, match="no valid end-of-sequence"):
        end_ids(folder, load_tokenizer(folder), 500)
    path, vocabulary, tokenizer = export(folder)
    assert vocabulary.eos_ids == []
    assert vocabulary.chat_template is None
    assert sum("no chat template" in record.message for record in caplog.records) == 1
    with pytest.raises(ArtifactError, match="would stop at token 11"):  # llama.cpp's default for byte-level BPE
        check_vocabulary(path, vocabulary, tokenizer)


def test_a_chat_template_that_fails_is_named(tmp_path: Path) -> None:
    folder = small(tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{{ raise_exception('no such role') }}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    path, vocabulary, tokenizer = export(folder)
    with pytest.raises(ArtifactError, match="the chat template refuses these messages: no such role"):
        check_vocabulary(path, vocabulary, tokenizer)


def test_special_tokens_have_their_types(tmp_path: Path) -> None:
    _, vocabulary, _ = export(small(tmp_path))
    assert [vocabulary.types[i] for i in range(len(SPECIAL))] == [CONTROL] * len(SPECIAL)
    assert vocabulary.special["bos"] == 1
