"""Stage ``finetune.vocabulary``: words of a task as tokens of their own.

Every new token's row of the embedding, and of a head of its own, starts as the mean of the rows of the pieces that
spelled the word so far (subword-based initialization, Sachidananda et al. 2021, "Efficient Domain Adaptation of
Language Models via Adaptive Tokenization"), so the model reads it as something near before any training.
"""

from __future__ import annotations

import copy
import re
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from compress.costs import WORKER, Work
from compress.errors import ArtifactError, DataError, UsageError
from compress.json_files import read_json, write_json
from compress.model.blocks import layout_of
from compress.model.config import read_config
from compress.model.tensors import held
from compress.model.tokenizer import load_tokenizer
from compress.model.weights import Weights, copy_side_files, write_model
from compress.outline import Outline
from compress.rows import unreadable
from compress.stage import Job, JobOutline, Needs, Params, Stage

OTHERS = ("tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json")
"""Files that say the same as tokenizer.json and do not know the new tokens."""
PROBE = "Where is {}? ({}) 12 {}, naïve\n{}."
GENERAL = "TokenizersBackend"
"""transformers' class of a tokenizer that is what its tokenizer.json says."""
NO_TEXT = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode's categories of control signs, halves of characters and ends of lines."""
MOVED = 60
"""Bytes moved for one of the result: read, written and hashed."""


class VocabularyParams(Params):
    tokens: list[str] = Field(default_factory=list)
    """Words, each of which becomes one token wherever it stands; part of a longer word, too."""
    file: Path | None = None
    """More of them, one a line, UTF-8."""


class Vocabulary(Stage[VocabularyParams]):
    """Adds tokens to the tokenizer and rows to the embedding."""

    Params = VocabularyParams
    accepts = frozenset({"hf"})
    produces = "hf"
    modules = frozenset({"torch", "transformers"})
    libraries = frozenset({"transformers"})

    def outline(self, job: JobOutline[VocabularyParams]) -> Outline:
        found, more = job.inputs[0], len(words_of(job.params))
        model = job.input.sizes
        grown = replace(model, shape=replace(model.shape, vocab=model.shape.vocab + more))
        rows = (1 if model.tied else 2) * more * model.shape.hidden
        return replace(found, model=grown, disk_bytes=found.disk_bytes + int(rows * model.weight_bytes))

    def needs(self, job: JobOutline[VocabularyParams]) -> Needs:
        """The embedding in float32 beside its copy; everything is copied."""
        size = self.outline(job).disk_bytes
        table = job.input.sizes.head
        return Needs(size, WORKER + 8 * table, Work(moved=MOVED * size, python=1.0))

    def check(self, job: Job[VocabularyParams]) -> None:
        words_of(job.params)

    def run(self, job: Job[VocabularyParams]) -> Mapping[str, Any]:
        folder, words = job.input.path, words_of(job.params)
        tokenizer = load_tokenizer(folder)
        vocabulary = tokenizer.get_vocab()
        pieces = {word: spelled(tokenizer, vocabulary.get(word), word) for word in words}
        known = [word for word, ids in pieces.items() if ids is None]
        fresh = {word: ids for word, ids in pieces.items() if ids is not None}
        if not fresh:
            raise UsageError("every word is a token of the model already", next="remove this stage")
        job.progress(1, 3, "tokenizer")
        numbers = _write_tokenizer(folder, job.out, tokenizer, fresh)
        job.progress(2, 3, "weights")
        rows = _write_weights(folder, job.out, {numbers[word]: ids for word, ids in fresh.items()})
        mean = sum(map(len, fresh.values())) / len(fresh)
        return {"added": len(fresh), "known": sorted(known), "vocabulary": rows, "pieces_per_word": round(mean, 2)}


def words_of(p: VocabularyParams) -> list[str]:
    """The words in their order, each once. Raises UsageError or DataError for what cannot be a token."""
    given = [(word, None) for word in p.tokens]
    if p.file is not None:
        try:
            lines = p.file.read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise unreadable(p.file, error) from None
        except UnicodeDecodeError:
            raise DataError(p.file, None, "is not UTF-8 text", next="save it as UTF-8") from None
        given += [(line, number) for number, line in enumerate(lines, 1) if line.strip()]  # type: ignore[misc]
    if not given:
        raise UsageError("finetune.vocabulary has no words", next="give tokens: [WORD, …] or file: WORDS.txt")
    for word, line in given:
        if word != word.strip() or not word or not NO_TEXT.isdisjoint(map(unicodedata.category, word)):
            what = f"{word!r} cannot be a token: it is empty, or begins or ends with a space, or holds a control sign"
            if line is None:
                raise UsageError(what, next="write it without")
            raise DataError(p.file, line, what, next="write it without")
    return list(dict.fromkeys(word for word, _ in given))


def spelled(tokenizer: Any, own: int | None, word: str) -> list[int] | None:
    """The tokens that spell ``word`` so far; None where it is one already. ``own``: the token that is written like it,
    which may stand for other text (``ü`` in a byte-level vocabulary). Raises UsageError where none can."""
    try:
        ids: list[int] = tokenizer(word, add_special_tokens=False)["input_ids"]
    except Exception:  # tokenizers' own: a word-level vocabulary without a token for what it does not know
        ids = []
    if own is not None and own in ids:
        return None
    if not ids or (tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids):
        what = f"the tokenizer has no pieces for {word!r}"
        raise UsageError(what, next="its embedding would start from nothing; leave it out")
    if len(ids) == 1 and tokenizer.decode(ids).strip() == word:
        return None
    if own is not None:
        raise UsageError(f"the tokenizer spells something else with {word!r}", next="leave it out")
    return ids


def _write_tokenizer(folder: Path, out: Path, tokenizer: Any, words: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The folder's side files with a tokenizer that knows ``words``; their ids.

    Raises ArtifactError if what was written does not read each word as one token and all else as before.
    """
    from transformers import AddedToken

    more = copy.deepcopy(tokenizer)
    more.add_tokens([AddedToken(word, normalized=False, special=False) for word in words])
    pieces = {word: "".join(tokenizer.convert_ids_to_tokens(ids)).removeprefix("Ġ") for word, ids in words.items()}
    taught = _spell_by_bytes(more.backend_tokenizer, pieces)
    copy_side_files(folder, out)
    settings = out / "tokenizer_config.json"
    with tempfile.TemporaryDirectory() as place:
        more.save_pretrained(place)
        (out / "tokenizer.json").write_bytes((Path(place) / "tokenizer.json").read_bytes())
        if taught and type(tokenizer).__name__ != GENERAL:  # a class of its own would make its decoder anew
            full = read_json(Path(place) / settings.name) | (read_json(settings) if settings.is_file() else {})
            write_json(settings, full | {"tokenizer_class": "PreTrainedTokenizerFast"})
    _name_in_settings(settings, more, list(words))
    for name in OTHERS:
        (out / name).unlink(missing_ok=True)
    write_json(out / "config.json", read_config(folder))
    again = load_tokenizer(out)
    numbers = {word: again.convert_tokens_to_ids(word) for word in words}
    taken = set(tokenizer.get_vocab().values())
    for word, number in numbers.items():
        if number is None or number in taken or number not in again(f"x {word} y")["input_ids"]:
            raise ArtifactError(f"{folder}: its tokenizer does not take {word!r} as a new token", next="leave it out")
        if again.decode([number]) != word:
            what = f"its tokenizer would write the new token {word!r} as {again.decode([number])!r}"
            raise ArtifactError(f"{folder}: {what}", next="leave it out")
    plain = PROBE.format("parcel 77", "yes", "no", "end")
    if tokenizer(plain)["input_ids"] != again(plain)["input_ids"] and not any(word in plain for word in words):
        raise ArtifactError(f"{folder}: with new tokens its tokenizer reads old text otherwise", next="report this")
    return numbers


def _spell_by_bytes(backend: Any, spelling: Mapping[str, str]) -> bool:
    """Teach a byte-level decoder the words that it would take for bytes (``ü`` is also its sign for the byte FC): each
    is first replaced by the pieces that spelled it. Whether there are any."""
    from tokenizers import Regex, decoders

    if "ByteLevel" not in repr(backend.decoder):
        return False
    odd = [word for word in spelling if backend.decoder.decode([word]) != word]
    steps = [decoders.Replace(Regex(rf"\A{re.escape(word)}\z"), spelling[word]) for word in odd]
    if steps:
        backend.decoder = decoders.Sequence([*steps, backend.decoder])
    return bool(steps)


def _name_in_settings(path: Path, tokenizer: Any, words: Sequence[str]) -> None:
    """The new tokens beside the old ones in a file of settings that lists them."""
    settings = read_json(path) if path.is_file() else {}
    if "added_tokens_decoder" in settings:
        plain = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word", "special"), False)
        added = {str(tokenizer.convert_tokens_to_ids(word)): {"content": word, **plain} for word in words}
        write_json(path, settings | {"added_tokens_decoder": settings["added_tokens_decoder"] | added})


def _write_weights(folder: Path, out: Path, spelling: Mapping[int, Sequence[int]]) -> int:
    """The weights with rows for the ids of ``spelling``, each the mean of the rows that it lists; rows in all."""
    import torch

    found, config = held(folder), read_config(folder)
    weights, layout = Weights(folder, found.entries), layout_of(config, folder)
    layout = layout.spelled(weights.names())
    tables = [name for name in (f"{layout.embed}.weight", f"{layout.head}.weight") if name in weights]
    before = weights.spec(tables[0]).shape[0]
    rows = max(before, max(spelling) + 1)

    def load(name: str) -> torch.Tensor:
        tensor = weights.load_sound(name)
        if name not in tables:
            return tensor
        grown = torch.zeros(rows, tensor.shape[1], dtype=tensor.dtype)
        grown[:before] = tensor
        for number, pieces in spelling.items():
            grown[number] = tensor[list(pieces)].float().mean(0).to(tensor.dtype)
        return grown

    specs = [
        replace(spec, shape=(rows, *spec.shape[1:])) if spec.name in tables else spec
        for spec in map(weights.spec, weights.names())
    ]
    write_model(out, specs, load)
    write_json(out / "config.json", {**config, "vocab_size": rows})
    return rows
