from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import save_file
from small_folder import weights, write_config, write_tokenizer

from compress.chat_files import copy_named_templates
from compress.errors import ArtifactError, UsageError
from compress.model.weights import copy_side_files
from compress.stage import Job
from finetune.source.path import PathParams, PathSource
from finetune.source.template import make_default
from runtime.engine.chat import of_folder, of_tokenizer

NAMED = [{"name": "default", "template": "d"}, {"name": "rag", "template": "r"}, {"name": "tool_use", "template": "t"}]
BECOMES = {"default": "r", "rag": "r", "tool_use": "t", "former_default": "d"}


def folder_of(place: Path, templates: object) -> Path:
    place.mkdir()
    size = write_tokenizer(place)
    file = place / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": templates}))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = write_config(
        place, "LlamaForCausalLM", **sizes, num_key_value_heads=2, vocab_size=size, tie_word_embeddings=True
    )
    save_file(weights(config), place / "model.safetensors")
    return place


def test_the_chosen_template_is_the_default_from_here_on(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    out = tmp_path / "out"
    out.mkdir()
    job = Job(params=PathParams(path=folder_of(tmp_path / "hf", NAMED), template="rag"), out=out, scratch=tmp_path)
    PathSource().check(job)
    PathSource().run(job)
    assert of_folder(out).templates == BECOMES
    assert of_tokenizer(transformers.AutoTokenizer.from_pretrained(out)).templates == BECOMES
    for copy in (copy_side_files, copy_named_templates):
        place = tmp_path / copy.__name__
        place.mkdir()
        copy(out, place)
        assert of_folder(place).templates.keys() >= {"rag", "tool_use", "former_default"}


def test_an_unknown_name_is_refused_before_anything_is_copied(tmp_path: Path) -> None:
    job = Job(params=PathParams(path=folder_of(tmp_path / "hf", NAMED), template="rug"), out=tmp_path, scratch=tmp_path)
    with pytest.raises(UsageError, match="there are: default, rag, tool_use"):
        PathSource().check(job)


def test_the_default_may_be_named_and_nothing_changes(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "hf", NAMED)
    make_default(folder, "default")
    assert of_folder(folder).templates == {entry["name"]: entry["template"] for entry in NAMED}


def test_a_name_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "hf", [*NAMED, {"name": "../../x", "template": "x"}])
    with pytest.raises(ArtifactError, match="no name of a file"):
        make_default(folder, "rag")
