"""What a model's files say about conversations: chat templates by name, special tokens by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, UsageError

DEFAULT = "default"
TEMPLATE_FILE, TEMPLATE_FOLDER = "chat_template.jinja", "additional_chat_templates"
"""Where a Hugging Face folder keeps the default template, and further ones as ``NAME.jinja``."""
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The names that transformers gives special tokens in every tokenizer."""
GGUF_TEMPLATE, GGUF_SPECIAL = "tokenizer.chat_template", "holdfast.special_tokens"
"""Keys of a GGUF file; the second is a JSON object, written where the token ids do not tell all."""
_GGUF_IDS = dict(zip(SPECIAL, ("bos", "eos", "unknown", "seperator", "padding", "cls", "mask"), strict=True))
_IMPLIED = {"llama": {"bos_token": 1, "eos_token": 2, "unk_token": 0}}
"""Ids that llama.cpp takes for granted where a file of that tokenizer does not name them."""


@dataclass(frozen=True)
class Chat:
    """Templates (name -> Jinja2; ``default`` is the one without a name) and special tokens (``bos_token`` -> text)."""

    templates: Mapping[str, str] = field(default_factory=dict)
    special: Mapping[str, str] = field(default_factory=dict)

    def template(self, name: str | None = None) -> str | None:
        """The template called ``name``; without one the default, None where the model has no template at all.

        Raises UsageError that lists the names when there is no such template, or several and no default.
        """
        if name is None and (DEFAULT in self.templates or not self.templates):
            return self.templates.get(DEFAULT)
        if name is not None and name in self.templates:
            return self.templates[name]
        names = ", ".join(sorted(self.templates)) or "none"
        what = "has several chat templates and no default" if name is None else f"has no chat template {name!r}"
        raise UsageError(f"the model {what}; there are: {names}", next="choose one with template: NAME")


def of_tokenizer(tokenizer: Any) -> Chat:
    """What a transformers tokenizer holds. Raises ArtifactError for a template that is no text."""
    return Chat(_by_name(tokenizer.chat_template, "the tokenizer"), dict(tokenizer.special_tokens_map))


def of_folder(folder: Path) -> Chat:
    """What the tokenizer files of a Hugging Face folder say, without transformers (whose classes may imply more).

    Raises ArtifactError when they are not a tokenizer's.
    """
    file = folder / "tokenizer_config.json"
    config = _object(file) if file.is_file() else {}
    legacy = folder / "special_tokens_map.json"
    if "added_tokens_decoder" not in config and legacy.is_file():
        config |= _object(legacy)
    own = {DEFAULT: folder / TEMPLATE_FILE} if (folder / TEMPLATE_FILE).is_file() else {}
    own |= {file.stem: file for file in sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))}
    files = {name: _text(path) for name, path in own.items()}
    return Chat(files or _by_name(config.get("chat_template"), str(file)), _named_tokens(config))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read ({error})", next="check that file") from None


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not JSON ({error})", next="copy that file again") from None
    if not isinstance(found, dict):
        raise ArtifactError(f"{path} holds no JSON object", next="copy that file again")
    return found


def of_gguf(metadata: Mapping[str, Any]) -> Chat:
    """What the header of a .gguf file says. Raises ArtifactError where a key is not of its kind."""
    found = {
        key[len(GGUF_TEMPLATE) + 1 :] or DEFAULT: value
        for key, value in metadata.items()
        if key == GGUF_TEMPLATE or key.startswith(f"{GGUF_TEMPLATE}.")
    }
    return Chat(_by_name(found, "the file"), _gguf_special(metadata))


def special_by_ids(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens of a .gguf header by its token ids alone."""
    tokens = metadata.get("tokenizer.ggml.tokens") or []
    implied = _IMPLIED.get(str(metadata.get("tokenizer.ggml.model")), {})
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id", implied.get(name)) for name, key in _GGUF_IDS.items()}
    return {name: tokens[i] for name, i in ids.items() if isinstance(i, int) and 0 <= i < len(tokens)}


def _gguf_special(metadata: Mapping[str, Any]) -> dict[str, str]:
    if GGUF_SPECIAL not in metadata:
        return special_by_ids(metadata)
    try:
        found = json.loads(metadata[GGUF_SPECIAL])
    except (TypeError, ValueError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise ArtifactError(f"{GGUF_SPECIAL} is no JSON object of texts", next="export the model again")
    return found


def _by_name(given: Any, where: str) -> dict[str, str]:
    """``chat_template`` in each of its forms: a text, a list of ``{"name", "template"}``, or an object."""
    if isinstance(given, list):
        pairs = [(entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (0, 0) for entry in given]
    elif isinstance(given, Mapping):
        pairs = list(given.items())
    else:
        pairs = [] if given is None else [(DEFAULT, given)]
    for name, text in pairs:
        if not isinstance(name, str) or not isinstance(text, str):
            raise ArtifactError(
                f"the chat template {name!r} of {where} is no text but {text!r:.80}",
                next="repair tokenizer_config.json",
            )
    return {str(name): str(text) for name, text in pairs}


def _named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by name: the usual ones, a model's own (any ``…_token``), and the named extra ones."""
    named = {name: value for name, value in config.items() if name.endswith("_token")}
    for group in ("extra_special_tokens", "model_specific_special_tokens"):
        extra = config.get(group)
        named |= extra if isinstance(extra, dict) else {}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in named.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}
