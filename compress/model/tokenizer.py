"""A folder's tokenizer as transformers makes it, for every stage alike.

What a tokenizer does stands in up to six files and, beyond them, in the defaults of its class, so ``AutoTokenizer``
alone says which ids a text has. It costs about a second and 100 MB once per process.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from compress.chat_files import TEMPLATE_FILES
from compress.errors import ArtifactError
from compress.extras import LOCAL, need
from compress.json_files import read_json
from compress.model.config import read_config, read_settings

log = logging.getLogger(__name__)
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
PROCESSORS, _JINJA = "chat_template.json", "chat_template.jinja"
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_NAMING = (*_SETTINGS, _JINJA)


def load_tokenizer(folder: Path) -> Any:
    """The folder's ``AutoTokenizer``, from local files only, less tokens that its class invents beyond the embedding.

    Loaded once for the same files. Raises ArtifactError when transformers cannot load it.
    """
    files = [folder / name for name in (*VOCABULARIES, *_NAMING, "merges.txt", "config.json")]
    files += sorted(folder.glob(TEMPLATE_FILES))
    stamps = [(path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None for path in files]
    return _loaded(folder, tuple(stamps))


@lru_cache(maxsize=4)
def _loaded(folder: Path, stamps: Any) -> Any:
    del stamps
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise _unreadable(folder, f"no {', '.join(VOCABULARIES[:2])} or {VOCABULARIES[2]}")
    transformers = need("transformers")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **LOCAL)
        tokenizer.backend_tokenizer.to_str()
    except Exception as error:  # any of a dozen libraries' own errors: all mean an unreadable tokenizer
        if (folder / "config.json").is_file():
            read_settings(folder)  # which transformers reads first
        said = _said(folder)
        if said.get("auto_map"):
            raise ArtifactError(
                f"the tokenizer of {folder} is code of its own (auto_map), which is never run",
                next="load it where you trust that code, and save it as tokenizer.json (a PreTrainedTokenizerFast)",
            ) from error
        kind = said.get("tokenizer_class")
        raise _unreadable(folder, str(error).partition("\n")[0] + (f"; its class is {kind}" if kind else "")) from error
    if tokenizer.chat_template is None and (folder / PROCESSORS).is_file():
        log.warning("%s is read by processors and no tokenizer: put its template into %s", folder / PROCESSORS, _JINJA)
    rows = read_config(folder).get("vocab_size") if (folder / "config.json").is_file() else None
    beyond = [
        token.content for number, token in tokenizer.added_tokens_decoder.items() if number >= (rows or number + 1)
    ]
    invented = [text for text in beyond if not _is_named(folder, text)]
    if invented:
        log.warning(
            "%s: %s of transformers adds %s behind the %d rows of the embedding, and no file names it; it is left out",
            folder, type(tokenizer).__name__, ", ".join(map(repr, invented)), rows,
        )  # fmt: skip
        _leave_out(tokenizer, invented)
    return tokenizer


def _said(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, once all settings are JSON objects. Raises ArtifactError naming the one that is none."""
    found = {path.name: read_json(path) for name in _SETTINGS if (path := folder / name).is_file()}
    return found.get(_SETTINGS[0], {})


def _unreadable(folder: Path, what: str) -> ArtifactError:
    return ArtifactError(
        f"the tokenizer of {folder} cannot be loaded ({what})",
        next="the folder needs tokenizer.json, or tokenizer.model and tokenizer_config.json",
    )


def _is_named(folder: Path, text: str) -> bool:
    """Whether a file of the folder holds the token."""
    spellings = (text, json.dumps(text)[1:-1])
    for name in _NAMING:
        path = folder / name
        if path.is_file() and any(spelling in path.read_text(encoding="utf-8") for spelling in spellings):
            return True
    quoted = {f'"{spelling}"' for spelling in spellings}
    paths = [folder / name for name in ("tokenizer.json", "vocab.json") if (folder / name).is_file()]
    return any(word in path.read_text(encoding="utf-8") for path in paths for word in quoted)


def _leave_out(tokenizer: Any, invented: Sequence[str]) -> None:
    """The tokenizer as if its class had not invented them."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["added_tokens"] = [token for token in backend["added_tokens"] if token["content"] not in invented]
    tokenizer._tokenizer = need("tokenizers").Tokenizer.from_str(json.dumps(backend))
    for role, text in list(tokenizer.special_tokens_map.items()):
        if text in invented:
            setattr(tokenizer, role, None)
