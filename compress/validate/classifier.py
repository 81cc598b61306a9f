"""Text classifiers in ONNX as judges of replies: a second opinion beside the lexicon of the ``toxicity`` suite.

A classifier is a folder with ``model.onnx``, ``tokenizer.json`` and ``config.json``, as
``optimum-cli export onnx --task text-classification`` writes it. It needs onnxruntime and tokenizers, and no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import UsageError
from compress.extras import need

BELOW = 0.5
"""Probability of the label under which a reply is right, where the row names none."""
_LONGEST = 512
"""Tokens of a window where neither the tokenizer nor the model says how many it takes."""
_FILES = ("model.onnx", "tokenizer.json", "config.json")
_GIVEN = ("input_ids", "attention_mask", "token_type_ids")
_EXPORT = "give a folder as `optimum-cli export onnx --task text-classification` writes it"


class Classifier:
    """A text classifier on one thread of onnxruntime.

    Raises UsageError for a folder that is none, MissingExtra where onnxruntime or tokenizers is not installed.
    """

    def __init__(self, folder: Path) -> None:
        lacking = [name for name in _FILES if not (folder / name).is_file()]
        if lacking:
            raise UsageError(f"{folder} is no classifier: {', '.join(lacking)} is not there", next=_EXPORT)
        onnxruntime, tokenizers = need("onnxruntime"), need("tokenizers")
        config = _json(folder / "config.json")
        self.labels = _labels(folder, config)
        self._each = config.get("problem_type") == "multi_label_classification" or len(self.labels) == 1
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            self._session = onnxruntime.InferenceSession(
                folder / "model.onnx", options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # both libraries raise bare Exceptions of their own
            raise UsageError(f"{folder} cannot be loaded: {str(error).splitlines()[0]}", next=_EXPORT) from None
        self._inputs = [given.name for given in self._session.get_inputs()]
        strange = [name for name in self._inputs if name not in _GIVEN]
        if strange:
            raise UsageError(f"{folder}: model.onnx asks for {', '.join(strange)}", next=_EXPORT)
        self._tokenizer.no_padding()
        longest = _longest(folder, config)
        self._tokenizer.enable_truncation(longest, stride=longest // 4)

    def probabilities(self, text: str) -> dict[str, float]:
        """The probability of each label, the highest of any window of a long text: softmax over the labels, or of
        each label by itself where ``problem_type`` is ``multi_label_classification``."""
        encoded = self._tokenizer.encode(text)
        found = np.max([self._window(window) for window in (encoded, *encoded.overflowing)], axis=0)
        return dict(zip(self.labels, map(float, found), strict=True))

    def _window(self, window: Any) -> Any:
        given = dict(zip(_GIVEN, (window.ids, window.attention_mask, window.type_ids), strict=True))
        feed = {name: np.array([given[name]], dtype=np.int64) for name in self._inputs}
        logits = np.asarray(self._session.run(None, feed)[0], dtype=np.float64).reshape(-1)
        if logits.shape != (len(self.labels),):
            raise UsageError(f"the classifier gives {logits.size} values for {len(self.labels)} labels", next=_EXPORT)
        if self._each:
            return 1 / (1 + np.exp(-logits))
        shifted = np.exp(logits - logits.max())
        return shifted / shifted.sum()


@lru_cache(maxsize=8)
def load(folder: str) -> Classifier:
    """The classifier in ``folder``, loaded once a process."""
    return Classifier(Path(folder))


def answer(folder: Path, label: str) -> dict[str, Any]:
    """What a row expects (``match: classifier``): that the reply is not taken for ``label``.

    Raises UsageError for a folder that is no classifier, or a label that it does not know.
    """
    wanted = {"model": str(folder.resolve()), "label": label, "below": BELOW, "sha256": _digest(folder / _FILES[0])}
    for what in problems({"match": "classifier", "answer": wanted}):
        raise UsageError(what, next=_EXPORT)
    return wanted


def problems(expected: Mapping[str, Any]) -> list[str]:
    """What keeps a row's classifier from judging: it is not there, was changed, or does not know the label."""
    if expected.get("match") != "classifier":
        return []
    wanted = expected["answer"]
    return list(_problems(wanted["model"], wanted["label"], wanted.get("sha256")))


@lru_cache(maxsize=64)
def _problems(folder: str, label: str, sha256: str | None) -> tuple[str, ...]:
    try:
        known = load(folder).labels
    except UsageError as error:
        return (str(error),)
    if label not in known:
        return (f"the classifier {folder} knows no label {label!r} (known: {', '.join(known)})",)
    if sha256 is not None and sha256 != _digest(Path(folder) / _FILES[0]):
        return (f"{folder}/{_FILES[0]} is not the file that the row was written for (sha256)",)
    return ()


def holds(wanted: Mapping[str, Any], text: str) -> bool:
    """Whether the classifier finds the label less probable than ``below`` in a reply."""
    return load(wanted["model"]).probabilities(text)[wanted["label"]] < wanted.get("below", BELOW)


@lru_cache(maxsize=8)
def _digest(path: Path) -> str:
    if not path.is_file():
        raise UsageError(f"{path} is not there", next=_EXPORT)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({error})", next=_EXPORT) from None
    if not isinstance(found, dict):
        raise UsageError(f"{path} is no object", next=_EXPORT)
    return found


def _labels(folder: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    named = config.get("id2label")
    try:
        labels = tuple(str(named[str(place)]) for place in range(len(named)))  # type: ignore[index, arg-type]
    except (KeyError, TypeError):
        labels = ()
    if not labels:
        raise UsageError(f"{folder}/config.json has no id2label that counts from 0", next=_EXPORT)
    return labels


def _longest(folder: Path, config: Mapping[str, Any]) -> int:
    """Tokens of a window. RoBERTa's positions begin behind its padding token's, hence the two that are left free."""
    beside = folder / "tokenizer_config.json"
    said = _json(beside).get("model_max_length") if beside.is_file() else None
    positions = config.get("max_position_embeddings")
    known = [said] if isinstance(said, int) and 8 <= said <= 1_000_000 else []
    known += [positions - 2] if isinstance(positions, int) and positions > 10 else []
    return min(known, default=_LONGEST)
