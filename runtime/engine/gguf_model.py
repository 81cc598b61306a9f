"""What llama.cpp takes for granted in a model file, asked beforehand: there it would end the process.

Each question is a ``GGML_ASSERT`` (or an exception that nothing catches) met while loading, encoding or
decoding in src/llama-model.cpp, src/llama-vocab.cpp and ggml-cpu/ops.cpp of the llama.cpp in
llama-cpp-python 0.3.36; the fuzz test of the backend found them. What llama.cpp refuses by itself is not asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ArtifactError
from .gguf_file import GgufHeader, read_gguf

MAX_LAYERS, MAX_EXPERTS = 512, 1024
_TOKENS = "tokenizer.ggml.tokens"
_LISTS: dict[str, tuple[tuple[str, ...], bool]] = {
    "merges": (("arr[str]",), False),
    "precompiled_charsmap": (("arr[i8]", "arr[u8]"), False),
    "scores": (("arr[f32]",), True),
    "token_type": (("arr[i32]", "arr[u32]"), True),
}
"""Key -> its types, and whether every token has an entry."""
_EPSILON = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "attention.group_norm_epsilon")


def check_model(path: Path) -> GgufHeader:
    """The header of a model that llama.cpp can be given. Raises ArtifactError naming what is wrong."""
    header = read_gguf(path)
    for problem in (*_sizes(header), *_vocabulary(header)):
        raise ArtifactError(f"{path} cannot be run: {problem}", next="export the model again or check the file")
    return header


def _sizes(header: GgufHeader) -> Iterator[str]:
    values = header.metadata
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str):
        yield f"general.architecture is {architecture!r}" + _kind(header)
        return

    def number(name: str, default: Any) -> Any:
        value = values.get(f"{architecture}.{name}", default)
        return value if isinstance(value, int | float) else default

    layers, experts = number("block_count", 1), number("expert_count", 0)
    if not 1 <= layers <= MAX_LAYERS:
        yield f"{architecture}.block_count is {layers}, not 1 to {MAX_LAYERS}"
    if number("nextn_predict_layers", 0) > layers:
        yield f"{architecture}.nextn_predict_layers is more than its {layers} blocks"
    if not 1 <= number("context_length", 1) < 2**31:
        yield f"{architecture}.context_length is {number('context_length', 1)}"
    for name in _EPSILON:
        if not (math.isfinite(number(name, 0.0)) and number(name, 0.0) >= 0):
            yield f"{architecture}.{name} is {number(name, 0.0)}"
    yield from _experts(architecture, experts, values)


def _experts(architecture: str, experts: int, values: Any) -> Iterator[str]:
    used = values.get(f"{architecture}.expert_used_count", 0)
    most = max(used, default=0) if not isinstance(used, int | float | str) else used
    groups = values.get(f"{architecture}.expert_group_count", 0)
    picked = values.get(f"{architecture}.expert_group_used_count", 0)
    wrong = not isinstance(most, int) or not 0 <= most <= experts <= MAX_EXPERTS or (experts > 0) != (most > 0)
    split = isinstance(groups, int) and (
        groups >= max(experts, 1) or (groups > 1 and (experts % groups != 0 or not 0 < picked < groups))
    )
    if wrong or split:
        yield f"{architecture} uses {used} of {experts} experts, {picked} of {groups} groups"


def _kind(header: GgufHeader) -> str:
    kind = header.metadata.get("general.type", "model")
    return f"; it holds an {kind}, not a model" if kind != "model" else ""


def _vocabulary(header: GgufHeader) -> Iterator[str]:
    tokens = header.metadata.get(_TOKENS)
    if tokens is None:
        return
    if header.types[_TOKENS] != "arr[str]":
        yield f"{_TOKENS} is not a list of texts"
        return
    yield from _lists(header, len(tokens))
    named = [token for token in tokens if token]
    if len(set(named)) < len(named):
        yield f"{_TOKENS} names a token twice"
    for key, value in header.metadata.items():
        if key.startswith("tokenizer.ggml.") and key.endswith("token_id") and not _is_token(value, len(tokens)):
            yield f"{key} is {value!r}, and there are {len(tokens)} tokens"
    if header.metadata.get("tokenizer.ggml.model") == "llama":
        yield from _bytes_missing(set(tokens))


def _lists(header: GgufHeader, tokens: int) -> Iterator[str]:
    """Lists beside the tokens, which llama.cpp reads as that many numbers of one type, wherever they end."""
    for name, (types, each) in _LISTS.items():
        key = f"tokenizer.ggml.{name}"
        if key not in header.metadata:
            continue
        if header.types[key] not in types:
            yield f"{key} is {header.types[key]}, not {' or '.join(types)}"
        elif each and len(header.metadata[key]) < tokens:
            yield f"{key} has {len(header.metadata[key])} entries for {tokens} tokens"


def _is_token(value: Any, count: int) -> bool:
    return isinstance(value, int) and 0 <= value < count


def _bytes_missing(tokens: set[str]) -> Iterator[str]:
    for value in range(256):
        if f"<0x{value:02X}>" not in tokens and (value > 127 or chr(value) not in tokens):
            yield f"its vocabulary has no token for the byte 0x{value:02X}, so a text could not be split"
            return
