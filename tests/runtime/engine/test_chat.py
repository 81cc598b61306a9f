"""Templates and special tokens from tokenizer files and GGUF headers, against what transformers reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_folder import write_tokenizer

from runtime.engine.chat import Chat, of_folder, of_gguf, of_tokenizer
from runtime.errors import ArtifactError, UsageError

ONE, TWO = "one {{ messages }}", "two {{ messages }}"
MAP = '{"unk_token": {"content": "<pad>"}, "bos_token": "</s>"}'
NAMED = [{"name": "default", "template": ONE}, {"name": "rag", "template": TWO}]


def write(folder: Path, files: dict[str, str], **settings: Any) -> Path:
    write_tokenizer(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text()) | settings
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "gone"}))
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "given"),
    [
        ({}, {"chat_template": ONE}),
        ({}, {"chat_template": NAMED}),
        ({}, {"chat_template": NAMED[1:]}),
        ({}, {"chat_template": "gone"}),
        ({"chat_template.jinja": TWO}, {"chat_template": NAMED}),
        ({"chat_template.jinja": ONE, "additional_chat_templates/rag.jinja": TWO}, {"chat_template": "x"}),
        ({"additional_chat_templates/rag.jinja": TWO}, {}),
        ({}, {"sep_token": "<s>", "cls_token": {"__type": "AddedToken", "content": "<pad>"}, "mask_token": None}),
        ({}, {"image_token": "<|user|>", "extra_special_tokens": {"box_token": "<|system|>"}}),
        ({}, {"extra_special_tokens": ["<|user|>", "<|system|>"]}),
        ({"special_tokens_map.json": MAP}, {"bos_token": "gone"}),
    ],
)
def test_a_folder_says_what_transformers_reads(tmp_path: Path, files: dict[str, str], given: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    folder = write(tmp_path, files, **given)
    assert of_folder(folder) == of_tokenizer(transformers.AutoTokenizer.from_pretrained(folder))


def test_a_saved_tokenizer_says_the_same(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "a").mkdir()
    folder = write(tmp_path / "a", {}, chat_template=NAMED, sep_token="<s>")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(tmp_path / "b")
    assert of_folder(tmp_path / "b") == of_tokenizer(tokenizer)


def test_one_of_several_templates_is_chosen_by_name() -> None:
    chat = Chat({"default": ONE, "rag": TWO})
    assert (chat.template(), chat.template("rag"), Chat().template()) == (ONE, TWO, None)
    with pytest.raises(UsageError, match=r"no chat template 'rug'; there are: default, rag"):
        chat.template("rug")
    with pytest.raises(UsageError, match=r"several chat templates and no default; there are: a, b"):
        Chat({"b": ONE, "a": TWO}).template()


def test_a_header_names_tokens_by_id_or_by_name() -> None:
    header = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a", "b", "c"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.seperator_token_id": 2,
        "tokenizer.ggml.mask_token_id": 9,
        "tokenizer.chat_template": ONE,
        "tokenizer.chat_template.rag": TWO,
        "tokenizer.chat_templates": ["rag"],
    }
    assert of_gguf(header) == Chat({"default": ONE, "rag": TWO}, {"bos_token": "b", "sep_token": "c"})
    assert of_gguf(header | {"tokenizer.ggml.model": "llama"}).special["unk_token"] == "a"
    named = {"holdfast.special_tokens": '{"eos_token": "c"}'}
    assert of_gguf(header | named).special == {"eos_token": "c"}
    for wrong in ("[", "[]", '{"a": 1}', 5):
        with pytest.raises(ArtifactError, match=r"holdfast\.special_tokens"):
            of_gguf(header | {"holdfast.special_tokens": wrong})
    with pytest.raises(ArtifactError, match="no text"):
        of_gguf({"tokenizer.chat_template": 5})


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, "\ud83d"])
def test_files_that_are_no_tokenizers_are_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tokenizer_config.json"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ArtifactError, match=r"tokenizer_config\.json (is not JSON|holds no|cannot be read)"):
        of_folder(tmp_path)
