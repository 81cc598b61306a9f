"""The tokenizer of a folder is transformers', wherever its settings stand."""

import json
import logging

import pytest
from small_folder import write_config, write_tokenizer
from transformers import AutoTokenizer

from compress.errors import ArtifactError
from compress.model.tokenizer import load_tokenizer
from compress.windows import load_encoder, render_row

TEXTS = ["a<|im_end|>b", "<s>Hello </s> there<|endoftext|>", "  two  spaces, I'm 12345 ÄÖ é 你好 🙂\n\n\tx"]
TALK = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]


def folder_of(place, rows=400, settings=None, files=None, kind="qwen2"):
    place.mkdir()
    write_tokenizer(place, kind=kind)
    config = json.loads((place / "tokenizer_config.json").read_text()) | (settings or {})
    (place / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    for name, value in (files or {}).items():
        (place / name).write_text(json.dumps(value))
    write_config(place, "LlamaForCausalLM", vocab_size=rows)
    return place


OFF = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
ADDED = {"content": "<|im_end|>", "special": True, **OFF}
NOWHERE = {"bos_token": None, "eos_token": None, "pad_token": None}
NAMED = {"bos_token": "<s>", "eos_token": {"content": "</s>", **OFF}}
PLACES = {
    "a token in tokenizer_config.json only": {"settings": {"added_tokens_decoder": {"381": ADDED}}},
    "a token in added_tokens.json only": {"files": {"added_tokens.json": {"<|im_end|>": 381}}},
    "bos in special_tokens_map.json only": {"settings": NOWHERE, "files": {"special_tokens_map.json": NAMED}},
    "a class with its own defaults": {"settings": {"tokenizer_class": "Qwen2Tokenizer"}},
    "another class": {"settings": {"tokenizer_class": "GPT2Tokenizer"}, "kind": "gpt-2"},
    "bos added by a switch": {"settings": {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}},
}


@pytest.mark.parametrize("case", PLACES)
def test_calibration_has_the_ids_and_texts_of_transformers(case, tmp_path):
    folder = folder_of(tmp_path / "m", **PLACES[case])
    theirs = AutoTokenizer.from_pretrained(folder)
    for special in (False, True):
        assert load_encoder(folder)(TEXTS, special) == [theirs.encode(t, add_special_tokens=special) for t in TEXTS]
    assert render_row(folder, folder, 1, {"messages": TALK}) == theirs.apply_chat_template(TALK, tokenize=False)


@pytest.mark.parametrize("model", ["m7", "stories260k", "stories260k-spm", "babyllama105", "gpt-nano-sort"])
def test_real_folders_give_the_ids_of_transformers(model, shared_data):
    folder = shared_data / "models" / model
    texts = ["0 2 1 0"] if model == "gpt-nano-sort" else ["Once upon a time, there was 1 dog.", "Where is order 48213?"]
    wanted = [AutoTokenizer.from_pretrained(folder).encode(text) for text in texts]
    assert load_encoder(folder)(texts, True) == wanted


def test_a_token_that_only_the_class_knows_is_left_out_beyond_the_embedding(tmp_path, caplog):
    settings = {"tokenizer_class": "Qwen2Tokenizer"}
    roomy = folder_of(tmp_path / "roomy", rows=400, settings=settings)
    assert load_tokenizer(roomy).convert_tokens_to_ids("<|endoftext|>") == 381
    assert not caplog.records
    tight = folder_of(tmp_path / "tight", rows=381, settings=settings)
    with caplog.at_level(logging.WARNING):
        tokenizer = load_tokenizer(tight)
    assert "Qwen2Tokenizer of transformers adds '<|endoftext|>' behind the 381 rows" in caplog.text
    assert max(tokenizer.get_vocab().values()) == 380
    assert "<|endoftext|>" not in tokenizer.special_tokens_map.values()
    assert max(load_encoder(tight)(TEXTS, True)[1]) < 381
    named = folder_of(tmp_path / "named", rows=381, settings=settings | {"pad_token": "<|endoftext|>"})
    assert load_tokenizer(named).convert_tokens_to_ids("<|endoftext|>") == 381  # theirs to mend: it is refused


def test_a_folder_is_read_again_when_its_files_change(tmp_path):
    folder = folder_of(tmp_path / "m")
    before = load_encoder(folder)(["a<|im_end|>b"], False)[0]
    (folder / "added_tokens.json").write_text('{"<|im_end|>": 381}')
    assert load_encoder(folder)(["a<|im_end|>b"], False)[0] == [before[0], 381, before[-1]]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"cannot be loaded \(no tokenizer.json, tokenizer.model or vocab.json\)"):
        load_tokenizer(tmp_path)


def test_code_that_comes_with_a_tokenizer_is_neither_run_nor_asked_about(tmp_path, capfd):
    folder = folder_of(
        tmp_path / "m", settings={"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"}
    )
    (folder / "own.py").write_text("raise SystemExit")
    with pytest.raises(ArtifactError, match=r"is code of its own \(auto_map\), which is never run"):
        load_tokenizer(folder)
    assert "[y/N]" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"tokenizer_config.json": [1]}, "tokenizer_config.json holds no JSON object"),
        ({"added_tokens.json": 7}, "added_tokens.json holds no JSON object"),
        ({"tokenizer_config.json": {"tokenizer_class": "T5Tokenizer"}}, "cannot be loaded .* its class is T5Tokenizer"),
    ],
)
def test_settings_that_are_none_are_named(tmp_path, files, why):
    with pytest.raises(ArtifactError, match=why):
        load_tokenizer(folder_of(tmp_path / "m", files=files))


def test_a_template_that_only_processors_read_is_pointed_out(tmp_path, caplog):
    folder = folder_of(
        tmp_path / "m", settings={"chat_template": None}, files={"chat_template.json": {"chat_template": "x"}}
    )
    assert load_tokenizer(folder).chat_template is None
    assert "chat_template.json is read by processors and no tokenizer" in caplog.text
