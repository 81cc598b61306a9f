"""The accuracy level of int4/int8 products, chosen by what int8 activations do to this very model.

MatMulNBits' attribute ``accuracy_level`` says how activations enter a product: 4 rounds them to int8 with one scale
per block (fastest), 1 keeps float32. A block with one huge activation loses all others, which shows only when run.
With float32 activations onnxruntime 1.31 multiplies codes of 8 bits twenty times slower, a token at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.errors import ArtifactError, DataError
from compress.extras import need
from compress.model.config import read_settings
from compress.rows import numbered_rows
from compress.stage import Job
from export.tokenizers.read import load_tokenizer
from runtime.engine.chat import DEFAULT, of_tokenizer
from runtime.engine.template import STILL, render

log = logging.getLogger(__name__)
LEVELS = {"4": (4, 4), "1, 8 bits 4": (1, 4), "1": (1, 1)}
"""Tried in this order: the levels of products of up to 4 bits and of 8. The last is as exact as 0, the reference."""
PAST = "past_key_values."
KINDS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
TOKENS, LENGTH = 1024, 128
"""How much text is answered, in windows of how many tokens."""


def settle_level(folder: Path, source: Path, job: Job[Any]) -> dict[str, Any]:
    """Stamp the accuracy level into the graph of ``folder``; return the facts of the choice.

    ``auto`` on the CPU: the first level that changes the most likely token at no more than ``max_flips`` of the
    positions, teacher-forced on the job's calibration text or else on text that the model draws itself.
    """
    params, path = job.params, folder / "model.onnx"
    if params.accuracy_level != "auto":
        return {"accuracy_level": params.accuracy_level}
    model = need("onnx").load(str(path), load_external_data=False)
    widths = {how["bits"] for how in map(attributes, model.graph.node) if how}
    if not widths or params.provider != "cpu":
        return {"accuracy_level": 0}  # nothing to choose: no codes, or kernels that compute in float16
    reference, readings = session(model, path, 0, job.threads), {}
    windows = read_windows(source, job)
    text = "calibration" if windows else "drawn"
    windows = windows or draw_windows(reference, source, job.seed)
    for name, (few, eight) in LEVELS.items():
        if few != eight and not (8 in widths and len(widths) > 1):
            continue  # one level for all is the same
        candidate = session(model, path, few, job.threads, eight)
        readings[name] = reading = compare(reference, candidate, windows)
        if reading["flips"] <= params.max_flips:
            break
    else:
        raise ArtifactError(
            f"accuracy level {name} changes {reading['flips']:.2%} of the answers", next="set accuracy_level: 0"
        )
    if few != 4:
        slow = "twenty times slower a token at a time" if eight != 4 and 8 in widths else "slower"
        _warn_slow(readings["4"]["flips"], params.max_flips, text, slow)
    path.write_bytes(stamp(model, few, eight))
    tokens = sum(len(window) for window in windows)
    facts = {"accuracy_level": few, "accuracy_levels": readings, "accuracy_tokens": tokens, "accuracy_text": text}
    return {**facts, **({"accuracy_level_8_bits": eight} if few != eight else {})}


def _warn_slow(flips: float, limit: float, text: str, slow: str) -> None:
    hint = "" if text == "calibration" else "; the text was drawn from the model, --data calibration=FILE is better"
    log.warning(
        "int8 activations change %.1f%% of the answers (max_flips %.1f%%): accuracy level 1 computes products in "
        "float32, which is %s%s",
        100 * flips, 100 * limit, slow, hint,
    )  # fmt: skip


def attributes(node: Any) -> dict[str, int]:
    """The numbers of a product of codes; {} for any other node."""
    return {a.name: int(a.i) for a in node.attribute} if node.op_type == "MatMulNBits" else {}


def stamp(model: Any, level: int, eight: int | None = None) -> bytes:
    """The graph with ``level`` on every product of codes, and ``eight`` on those of 8 bits where it is given."""
    for node in model.graph.node:
        wanted = eight if eight is not None and attributes(node).get("bits") == 8 else level
        for attribute in node.attribute:
            if node.op_type == "MatMulNBits" and attribute.name == "accuracy_level":
                attribute.i = wanted
    return bytes(model.SerializeToString(deterministic=True))


def session(model: Any, path: Path, level: int, threads: int, eight: int | None = None) -> Any:
    """onnxruntime on the graph at one accuracy level (of products of 8 bits: ``eight``, where it is given); the weights
    stay in the folder's file."""
    ort = need("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return ort.InferenceSession(stamp(model, level, eight), options, providers=["CPUExecutionProvider"])


def logits(run: Any, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """float32 [positions, vocab] of one sequence, computed in one go with an empty cache."""
    feeds: dict[str, Any] = {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64)}
    feeds["position_ids"] = np.arange(len(ids), dtype=np.int64)[None]
    for given in run.get_inputs():
        if given.name.startswith(PAST):
            feeds[given.name] = np.zeros((1, given.shape[1], 0, given.shape[3]), KINDS[given.type])
    wanted = {given.name: feeds[given.name] for given in run.get_inputs()}
    return np.asarray(run.run(["logits"], wanted)[0][0], dtype=np.float32)


def compare(reference: Any, candidate: Any, windows: list[npt.NDArray[np.int64]]) -> dict[str, float]:
    """Share of positions with another most likely token, and mean KL(reference ‖ candidate) per position."""
    flips, divergence, count = 0, 0.0, 0
    for ids in windows:
        expected, got = logits(reference, ids), logits(candidate, ids)
        if not np.all(np.isfinite(got)):
            return {"flips": 1.0}
        flips += int(np.sum(expected.argmax(1) != got.argmax(1)))
        p, q = _log_softmax(expected), _log_softmax(got)
        divergence += float(np.sum(np.exp(p) * (p - q)))
        count += len(ids)
    return {"flips": round(flips / count, 5), "kl": float(f"{max(divergence, 0) / count:.2e}")}


def _log_softmax(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted = rows.astype(np.float64) - rows.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def read_windows(source: Path, job: Job[Any]) -> list[npt.NDArray[np.int64]]:
    """Windows of token ids of the job's calibration text; none where there is no such file."""
    file = job.data.path / "calibration.jsonl" if job.data else None
    if file is None or not file.is_file():
        return []
    tokenizer, settings = load_tokenizer(source), read_settings(source)
    ids: list[int] = []
    for text in calibration_texts(file, tokenizer):
        ids += tokenizer.encode(text, add_special_tokens=False)
        if len(ids) >= TOKENS:
            break
    if not ids:
        raise DataError(file, None, "holds no text to choose an accuracy level on", next="set accuracy_level: 1")
    length = min(LENGTH, settings.max_position_embeddings)
    return [np.asarray(ids[at : at + length], np.int64) for at in range(0, min(len(ids), TOKENS), length)]


def draw_windows(run: Any, source: Path, seed: int) -> list[npt.NDArray[np.int64]]:
    """Text of the model itself, int64 ``[positions]`` each: what it is sure of and what not is as in its answers.

    Every window goes on from where a user's message begins in the chat template (Xu et al. 2024, "Magpie"), or from the
    first token; tokens are drawn with the model's own probabilities.
    """
    length = min(LENGTH, read_settings(source).max_position_embeddings)
    ids = np.tile(np.asarray(opening(load_tokenizer(source))[-(length // 2) :], np.int64), (TOKENS // length, 1))
    cache: dict[str, Any] = {}
    draw, fed = np.random.default_rng(seed), ids
    while ids.shape[1] < length:
        rows, cache = step(run, fed, ids.shape[1], cache)
        fed = (rows + draw.gumbel(size=rows.shape)).argmax(1)[:, None].astype(np.int64)
        ids = np.concatenate([ids, fed], axis=1)
    return list(ids)


def opening(tokenizer: Any) -> list[int]:
    """Token ids in front of a conversation's first message of a user; at least one token."""
    chat, mark = of_tokenizer(tokenizer), "\u2042"
    template = chat.templates.get(DEFAULT)
    text = ""
    if template is not None:
        talk = [{"role": "user", "content": mark}]
        text = render(template, talk, special=chat.special, add_generation_prompt=False, now=STILL).partition(mark)[0]
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return list(tokenizer.encode(text, add_special_tokens=False)) or [first or 0]


def step(
    run: Any, ids: npt.NDArray[np.int64], total: int, cache: dict[str, Any]
) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    """float32 ``[rows, vocab]`` behind ``ids`` ``[rows, n]``, the last n of ``total`` tokens; the cache with them."""
    count = len(ids)
    feeds: dict[str, Any] = {"input_ids": ids, "attention_mask": np.ones((count, total), np.int64)}
    feeds["position_ids"] = np.tile(np.arange(total - ids.shape[1], total, dtype=np.int64), (count, 1))
    wanted = {given.name: feeds.get(given.name) for given in run.get_inputs()}
    for given in run.get_inputs():
        if given.name.startswith(PAST):
            empty = np.zeros((count, given.shape[1], 0, given.shape[3]), KINDS[given.type])
            wanted[given.name] = cache.get(given.name, empty)
    names = [out.name for out in run.get_outputs()]
    values = dict(zip(names, run.run(names, wanted), strict=True))
    rows = np.asarray(values.pop("logits"), dtype=np.float32)[:, -1]
    return rows, {name.replace("present.", PAST): value for name, value in values.items()}


def calibration_texts(path: Path, tokenizer: Any) -> Iterator[str]:
    """The rows' text; conversations in the model's chat template, or line by line where it has none."""
    chat = of_tokenizer(tokenizer)
    template = chat.template()
    for number, row in numbered_rows(path, 'a row is {"messages"} or {"text"}'):
        try:
            talk = row.get("messages") or [{"role": "user", "content": row["text"]}]
            plain = "\n".join(str(turn["content"]) for turn in talk)
        except (KeyError, TypeError) as error:
            raise DataError(path, number, f"neither 'messages' nor 'text' ({error})", next="mend that row") from None
        if "messages" in row and template is not None:
            yield render(template, talk, special=chat.special, add_generation_prompt=False, now=STILL)
        else:
            yield plain
