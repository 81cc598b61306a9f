"""Configuration, tokenizer and chat templates of a GGUF file as the files of a folder, proved against llama.cpp."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.errors import ArtifactError
from compress.json_files import write_json
from export.tokenizers.probes import check_probes, llama_vocabulary
from export.tokenizers.translation import translate
from finetune.source.gguf.backend import backend
from finetune.source.gguf.parts import GgufParts
from finetune.source.gguf.vocabulary import GgufVocabulary, read_vocabulary
from runtime.engine.chat import DEFAULT, TEMPLATE_FILE, TEMPLATE_FOLDER, Chat, of_gguf

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def write(parts: GgufParts, folder: Path, config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Write all but the weights into ``folder``; returns the tokenizer's facts.

    Raises ArtifactError unless the folder's AutoTokenizer gives llama.cpp's ids on every probe.
    """
    with llama_vocabulary(parts.path) as llama:
        vocabulary = read_vocabulary(parts, llama)
    ids = _special_ids(vocabulary)
    write_json(folder / "config.json", {**config, **ids, "dtype": dtype})
    write_json(folder / "generation_config.json", ids)
    write_json(folder / "tokenizer.json", backend(parts, vocabulary))
    write_json(folder / "tokenizer_config.json", _settings(vocabulary, config))
    _write_templates(of_gguf(parts.metadata), parts.path, folder)
    try:
        again, probes = translate(folder, config["vocab_size"])
        equal = check_probes(parts.path, again, probes)
    except ArtifactError as error:
        raise ArtifactError(
            f"the tokenizer of {parts.path} cannot be made one of Hugging Face: {error.what}",
            next="start from the Hugging Face folder of this model (source.hf, source.path)",
        ) from None
    return {"model": vocabulary.model, "pre": parts.metadata.get("tokenizer.ggml.pre"), "probes_equal": equal}


def _special_ids(vocabulary: GgufVocabulary) -> dict[str, Any]:
    ends = list(vocabulary.ends)
    ids: dict[str, Any] = {"eos_token_id": ends[0] if len(ends) == 1 else ends} if ends else {}
    return ids | {f"{name}_token_id": vocabulary.special[name] for name in ("bos", "pad") if name in vocabulary.special}


def _settings(vocabulary: GgufVocabulary, config: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json. A token that text is not searched for must not be named: it would be from then on."""
    names = {
        f"{name}_token": vocabulary.tokens[token]
        for name, token in vocabulary.special.items()
        if vocabulary.parsed(token)
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.get("max_position_embeddings") or config["n_positions"],
        **names,
    }


def _write_templates(chat: Chat, path: Path, folder: Path) -> None:
    """The default chat template and named ones, where the file has any."""
    for name, text in chat.templates.items():
        if name != DEFAULT and not _NAME.fullmatch(name):
            raise ArtifactError(
                f"{path}: chat template {name!r} has no plain name", next="take another file of this model"
            )
        place = folder / TEMPLATE_FILE if name == DEFAULT else folder / TEMPLATE_FOLDER / f"{name}.jinja"
        place.parent.mkdir(exist_ok=True)
        place.write_text(text, encoding="utf-8", newline="")
