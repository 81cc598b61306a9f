"""Byte-level BPE: which of llama.cpp's pre-tokenizers does what Hugging Face's definition does.

A row stands here only with a test in which both give the same ids on thousands of strings
(tests/export/tokenizers/test_bpe.py). llama.cpp's definitions: ``llm_tokenizer_bpe`` in src/llama-vocab.cpp.
"""

from __future__ import annotations

import importlib
import json
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from export.tokenizers.spm import flat, pairs, require_reachable
from export.tokenizers.vocabulary import BYTE_OF, Limit, unsupported

SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LONG, _GROUPED = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", "'(?i:[sdmt]|ll|ve|re)"
"""Other spellings of the same."""
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_SIGNS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*" + _SPACES
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _SIGNS
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = SHORT + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _SPACES
SEED = SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+" + _SPACES
MINICPM5 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+")
JAIS2 = (
    LLAMA3.removesuffix(r"\s+(?!\S)|\s+")
    + "".join(rf"\s{{{n}}}(?!\S)|" for n in (512, 256, 128, 64, 32, 16, 8, 4))
    + r"\s{1,2}(?!\S)|\s{1}"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_HEAD = r"[^\r\n\p{L}\p{N}]?"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _SPACES
GPT4O = rf"{_HEAD}{_UPPER}*{_LOWER}+{SHORT}?|{_HEAD}{_UPPER}+{_LOWER}*{SHORT}?|\p{{N}}{{1,3}}" + _TAIL
TEKKEN = rf"{_HEAD}{_UPPER}*{_LOWER}+|{_HEAD}{_UPPER}+{_LOWER}*|\p{{N}}" + _TAIL
DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*" + _SPACES
)
_LETTERS = (
    "µÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴ"
    "ᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-"
    "𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
"""What DeepSeek's first tokenizers take for letters of scripts with two cases."""
_MARKS = "!-/:-~！-／：-～‘-‟　-。"
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
_CODER_HAN, _HAN = "[一-龥ࠀ-一가-퟿]+", "[一-龥぀-ゟ゠-ヿ]+"


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}


WORDS = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
BARE = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
DIGIT, DIGITS = ({"type": "Digits", "individual_digits": alone} for alone in (True, False))


def _cut_apart(theirs: str, letter: str) -> Callable[[str], bool]:
    """Whether llama.cpp cuts a text otherwise: it knows no case outside ASCII, and no other ``letter`` than this."""
    capitals, small = rf"(?:(?={letter})[^a-z])", rf"(?:(?={letter})[^A-Z])"
    ours = theirs.replace(_UPPER, capitals).replace(_LOWER, small)

    def hits(text: str) -> bool:
        regex = importlib.import_module("regex")  # comes with transformers, without types
        return bool(regex.findall(theirs, text) != regex.findall(ours, text))

    return hits


def _has_wide_space(text: str) -> bool:
    return any("\u1680" <= char <= "\u3000" and char.isspace() for char in text)


CASE = Limit("capitals outside ASCII inside or behind a word are cut elsewhere", _cut_apart(GPT4O, r"[\p{L}\p{M}]"))
MARKS = Limit(
    "letters with combining marks (Thai, Devanagari, ...), and such capitals, are cut elsewhere",
    _cut_apart(TEKKEN, r"\p{L}"),
)
SPACES = Limit("spaces between U+1680 and U+3000 (ideographic, em, ...) are no word characters", _has_wide_space)
COMPOSED = Limit("text that is not in NFC is not composed", lambda text: not unicodedata.is_normalized("NFC", text))


@dataclass(frozen=True)
class Row:
    """One pre-tokenizer of llama.cpp."""

    name: str
    steps: tuple[Mapping[str, Any], ...]
    ignore_merges: bool = False
    limits: tuple[Limit, ...] = ()


PRE_TOKENIZERS = (
    Row("gpt-2", (WORDS,)),
    Row("gpt-2", (_split(GPT2), BARE)),
    Row("smollm", (DIGIT, WORDS)),
    Row("smollm", (DIGIT, _split(GPT2), BARE)),
    Row("llama-bpe", (_split(LLAMA3), BARE), ignore_merges=True),
    Row("smaug-bpe", (_split(LLAMA3), BARE)),
    Row("qwen2", (_split(QWEN2), BARE)),
    Row("qwen35", (_split(QWEN35), BARE)),
    Row("granite-embed-multi-97m", (_split(GPT4O), BARE), ignore_merges=True, limits=(CASE,)),
    Row("tekken", (_split(TEKKEN), BARE), ignore_merges=True, limits=(MARKS,)),
    Row("deepseek-v3", (_split(r"\p{N}{1,3}"), _split(_HAN), _split(DEEPSEEK3), BARE)),
    Row(
        "deepseek-coder",
        (*map(_split, ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CODER_HAN)), DIGIT, BARE),
        limits=(SPACES,),
    ),
    Row(
        "deepseek-llm",
        (*map(_split, ("[\r\n]", rf"\s?[A-Za-z{_LETTERS}]+", rf"\s?[{_MARKS}]+", r"\s+$", _CODER_HAN)), DIGIT, BARE),
        limits=(SPACES,),
    ),
    Row(
        "falcon",
        ({"type": "Punctuation", "behavior": "Contiguous"}, WORDS, DIGITS, _split("[0-9][0-9][0-9]")),
    ),
    Row("seed-coder", (_split(SEED), BARE)),
    Row("minicpm5", (_split(r"\p{N}{1,3}"), _split(MINICPM5), BARE), ignore_merges=True),
    Row("jais-2", (_split(JAIS2), BARE)),
    Row("bloom", (_split(BLOOM), BARE)),
    Row("viking", (_split(BLOOM), DIGIT, BARE)),
    Row("default", (*map(_split, (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")), BARE)),
)
"""llama.cpp's name of a pre-tokenizer, Hugging Face's definition, whether llama.cpp takes a whole word that is a
token without merging, and what it cannot follow. The first row with the tokenizer's own ``ignore_merges`` is taken."""

_SAME_AS = {
    "deepseek-v3": ("hunyuan-dense", "joyai-llm"),
    "gpt-2": ("exaone4", "gigachat", "granite-docling", "jais", "mellum", "mpt", "olmo", "phi-2", "trillion"),
    "llama-bpe": ("falcon-h1", "falcon3", "lfm2", "llama-v3", "llama3", "midm-2.0", "pixtral"),
    "qwen2": ("deepseek-r1-qwen", "grok-2", "hunyuan", "kormo", "megrez", "solar-open", "stablelm2"),
    "smaug-bpe": ("chatglm-bpe", "glm4"),
    "smollm": ("codeshell", "command-r", "exaone", "mellum2", "minerva-7b", "refact", "starcoder"),
}
SAME: Mapping[str, str] = {other: name for name, others in _SAME_AS.items() for other in others}
"""Other names in .gguf files -> the row whose expressions and flags llama.cpp has under them."""


def row_named(name: str) -> Row | None:
    """The row of a .gguf file's ``tokenizer.ggml.pre``; None where Hugging Face has no equal of it here."""
    return next((row for row in PRE_TOKENIZERS if row.name == SAME.get(name, name)), None)


def definition(row: Row) -> dict[str, Any]:
    """A row's pre-tokenizer as tokenizer.json has it."""
    more: dict[str, dict[str, Any]] = {"Split": {"invert": False}, "ByteLevel": {"trim_offsets": True}}
    return {"type": "Sequence", "pretokenizers": [dict(step) | more.get(step["type"], {}) for step in row.steps]}


def byte_level(backend: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a Vocabulary for byte-level BPE."""
    model, added = backend["model"], [token["content"] for token in backend["added_tokens"]]
    limits = (*_normalizer(backend), *_missing_bytes(model))
    steps, flag = _plain(backend["pre_tokenizer"]), bool(model.get("ignore_merges"))
    rows = [row for row in PRE_TOKENIZERS if [dict(step) for step in row.steps] == steps]
    if not rows:
        raise unsupported(
            f"no row for its pre-tokenizer {json.dumps(steps, ensure_ascii=False)}",
            "add a row to PRE_TOKENIZERS in export/tokenizers/bpe.py if llama.cpp has that pre-tokenizer",
        )
    row = next((row for row in rows if row.ignore_merges == flag), rows[0])
    if row.ignore_merges != flag:
        require_reachable(model, added)
    merges = [" ".join(pair) for pair in pairs(model)]
    return {"model": "gpt2", "pre": row.name, "merges": merges, "limits": (*limits, *row.limits)}


def _normalizer(backend: Mapping[str, Any]) -> tuple[Limit, ...]:
    steps = flat(backend["normalizer"], "normalizers")
    if any(step != {"type": "NFC"} for step in steps):
        raise unsupported(f"it normalizes text with {json.dumps(backend['normalizer'])}", "remove the normalizer")
    return (COMPOSED,) if steps else ()


def _missing_bytes(model: Mapping[str, Any]) -> tuple[Limit, ...]:
    """Hugging Face drops a byte without a token before it merges and llama.cpp afterwards; with an unknown token
    Hugging Face puts that in its place."""
    missing = {byte for char, byte in BYTE_OF.items() if char not in model["vocab"]}
    if missing and model.get("unk_token"):
        raise unsupported(
            f"{len(missing)} bytes have no token and become {model['unk_token']}", "set unk_token to null"
        )
    what = "characters with a byte that has no token are dropped after merging, not before"
    return (Limit(what, lambda text: not missing.isdisjoint(text.encode())),) if missing else ()


def _plain(pre: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a pre-tokenizer in one spelling, without what does not change ids."""
    return [_spelled(step) for step in flat(pre, "pretokenizers")]


def _spelled(step: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in step.items() if key != "trim_offsets"}
    if step["type"] != "Split":
        return plain
    kind = (step["behavior"], bool(step.get("invert")))
    if kind in (("Isolated", False), ("Isolated", True), ("Removed", True)):
        plain["behavior"] = "Isolated"
        plain.pop("invert", None)
    if "Regex" in step["pattern"]:
        pattern = step["pattern"]["Regex"]
        plain["pattern"] = {"Regex": pattern.replace(_LONG, SHORT).replace(_GROUPED, SHORT)}
    return {"type": "Digits", "individual_digits": True} if plain == _split(r"\p{N}") else plain
