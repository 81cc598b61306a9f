"""The character map, read back by a reader of its own and by SentencePiece's layout."""

from __future__ import annotations

import struct

import pytest

from export.tokenizers.charsmap import build


def replace(blob: bytes, text: bytes) -> bytes:
    """llama.cpp's reader (``llm_tokenizer_ugm_session::normalize_prefix``), byte by byte where nothing matches."""
    size = struct.unpack_from("<I", blob)[0]
    units, strings = struct.unpack_from(f"<{size // 4}I", blob, 4), blob[4 + size :]
    out, start = b"", 0
    while start < len(text):
        node, length, found = units[0] >> 10, 0, 0
        for at in range(start, len(text)):
            node ^= text[at]
            if node >= len(units) or units[node] & (1 << 31 | 0xFF) != text[at]:
                break
            leaf = units[node] >> 8 & 1
            node ^= units[node] >> 10
            if leaf:
                length, found = at + 1 - start, units[node] & (1 << 31) - 1
        out += strings[found : strings.index(b"\0", found)] if length else text[start : start + 1]
        start += length or 1
    return out


def test_the_longest_key_wins() -> None:
    blob = build({b"a": b"1", b"ab": b"2", b"abc": b"", b"\xc3": b"?", b"\xc3\xa9": b"e", b" ": "▁".encode()})
    assert replace(blob, "a ab abc abd xé ê".encode()) == "1▁2▁▁2d▁xe▁?".encode() + b"\xaa"


def test_a_thousand_keys_read_back() -> None:
    keys = {chr(0x4E00 + 7 * i).encode(): str(i).encode() for i in range(1000)}
    blob = build(keys)
    for key, value in keys.items():
        assert replace(blob, key + b"x") == value + b"x"
    assert build(dict(reversed(keys.items()))) != b""


def test_a_map_beyond_the_format_is_refused() -> None:
    keys = {bytes([a, b, c, d]): b"x" for a in range(1, 13) for b in range(1, 41) for c in range(1, 40) for d in (1, 2)}
    with pytest.raises(ValueError, match="too many distinct prefixes"):
        build(keys)
