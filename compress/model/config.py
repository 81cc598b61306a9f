"""``config.json`` of a model folder, with the values that sizes and arithmetic rest on checked for what they are.

Which keys a family needs is its table's business (``compress/model/families.py``, ``export/gguf/arch.py``); here a key
that is there must hold what it is for, so that a text or a zero is named and not met as a crash further on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compress.errors import ArtifactError
from compress.extras import LOCAL, need
from compress.json_files import read_json

MAX_LAYERS = 4096
Config = Mapping[str, Any]


def _count(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30 and math.isfinite(value)


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _tokens(value: Any) -> bool:
    ids = value if isinstance(value, list) else [value]
    return all(type(token) is int and token >= -1 for token in ids)


def _rotary(value: Any) -> bool:
    """A mapping of settings, or of such mappings by kind of block."""
    return isinstance(value, dict) and all(
        _rotary(item) if key.endswith("_attention") and item is not None else _rotary_item(key, item)
        for key, item in value.items()
    )


def _rotary_item(key: str, value: Any) -> bool:
    if key in ("rope_type", "type"):
        return isinstance(value, str)
    if key in ("rope_theta", "factor", "original_max_position_embeddings", "partial_rotary_factor"):
        return value is None or _positive(value)
    if isinstance(value, list):
        return all(_number(item) for item in value)
    return value is None or isinstance(value, str | bool) or _number(value)


Rule = tuple[Callable[[Any], bool], str]
_COUNT: Rule = (_count, "a whole number above 0")
_ABOVE_0: Rule = (_positive, "a number above 0")
_SWITCH: Rule = (lambda value: isinstance(value, bool), "true or false")
_TEXT: Rule = (lambda value: isinstance(value, str), "a text")
_IDS: Rule = (_tokens, "a token id or a list of them")
_OBJECT: Rule = (lambda value: isinstance(value, dict), "an object")
RULES: dict[str, Rule] = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size", "max_position_embeddings"), _COUNT),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "head_dim", "n_embd", "n_head", "n_inner"), _COUNT),
    **dict.fromkeys(("n_positions", "n_ctx", "sliding_window_pattern", "original_max_position_embeddings"), _COUNT),
    **dict.fromkeys(("num_hidden_layers", "n_layer"), (lambda n: _count(n) and n <= MAX_LAYERS, f"1 to {MAX_LAYERS}")),
    **dict.fromkeys(("sliding_window", "max_window_layers"), (lambda n: n == 0 or _count(n), "a whole number")),
    **dict.fromkeys(("rms_norm_eps", "layer_norm_epsilon"), (lambda x: _number(x) and x >= 0, "0 or more")),
    **dict.fromkeys(("rope_theta", "rope_local_base_freq", "query_pre_attn_scalar", "partial_rotary_factor"), _ABOVE_0),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping"), _ABOVE_0),
    **dict.fromkeys(("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window"), _SWITCH),
    **dict.fromkeys(("model_type", "hidden_act", "hidden_activation", "activation_function"), _TEXT),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), _IDS),
    **dict.fromkeys(("rope_parameters", "rope_scaling"), (_rotary, "an object of usable rotary settings")),
    "quantization_config": _OBJECT,
    "architectures": (lambda v: isinstance(v, list) and all(isinstance(n, str) for n in v), "a list of texts"),
    "layer_types": (lambda v: isinstance(v, list) and all(isinstance(n, str) for n in v), "a list of texts"),
}
"""Key -> what it must hold unless it is null."""


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a folder. Raises ArtifactError that names the file, the key and its value."""
    path = folder / "config.json"
    config = _checked(path)
    _check_heads(path, config)
    return config


def read_generation_config(folder: Path) -> dict[str, Any]:
    """``generation_config.json``, or {} where there is none. Raises ArtifactError as `read_config` does."""
    path = folder / "generation_config.json"
    return _checked(path) if path.is_file() else {}


def read_settings(folder: Path) -> Any:
    """The folder's configuration with transformers' defaults filled in. ArtifactError says what it refuses."""
    try:
        return need("transformers").AutoConfig.from_pretrained(str(folder), **LOCAL)
    except Exception as error:  # transformers' validation raises many kinds
        why = " ".join(str(error).split())
        raise ArtifactError(
            f"transformers cannot read {folder / 'config.json'} ({why})", next="mend that file"
        ) from error


def _checked(path: Path) -> dict[str, Any]:
    config = read_json(path)
    for key, value in config.items():
        fits, what = RULES.get(key, (None, ""))
        if fits is not None and value is not None and not fits(value):
            raise ArtifactError(f"{path}: {key} is {value!r:.80}, not {what}", next=f"repair {path.name}")
    return config


def _check_heads(path: Path, config: Config) -> None:
    heads, hidden = (config.get(new) or config.get(old) for new, old in _HEADS)
    if not heads:
        return
    kv_heads = config.get("num_key_value_heads") or heads
    if heads % kv_heads:
        raise ArtifactError(
            f"{path}: {heads} attention heads do not divide among {kv_heads} key/value heads", next="repair config.json"
        )
    if hidden and not config.get("head_dim") and hidden % heads:
        raise ArtifactError(
            f"{path}: a hidden size of {hidden} does not divide among {heads} attention heads",
            next="repair config.json",
        )


_HEADS = (("num_attention_heads", "n_head"), ("hidden_size", "n_embd"))
