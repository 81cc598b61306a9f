"""Damaged GGUF and safetensors files: an error of ours or a header that holds, quickly, and nothing else."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from mutants import json_mutants, mutants
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from compress.errors import ArtifactError
from compress.model.safetensors_header import read_header
from runtime.engine.gguf_file import TENSOR_TYPES, VALUE_TYPES, read_gguf

SECONDS = 0.5
"""For one damaged file of a few kB; an intact one takes some 0.2 ms."""
MANY = [pytest.param(4_000, id="4k"), pytest.param(100_000, id="100k", marks=pytest.mark.slow)]


def write_gguf(path: Path) -> Path:
    """One value of every type, arrays of every kind, tensors of several types."""
    writer = gguf.GGUFWriter(path, "llama")
    for number, kind in enumerate(gguf.GGUFValueType):
        if kind not in (gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.STRING):
            writer.add_key_value(f"a.{kind.name}", number % 2, kind)
            writer.add_key_value(f"b.{kind.name}", [1, 0, 1], gguf.GGUFValueType.ARRAY, sub_type=kind)
    writer.add_array("a.nested", [[1, 2], [3]])
    writer.add_token_list(["<unk>", "a", "ä", "日本"])
    writer.add_token_merges(["a b", "c d"])
    for name, kind, shape in (("x", "Q8_0", (3, 64)), ("y", "F32", (5,)), ("z", "Q4_K", (2, 256))):
        _, block, width = TENSOR_TYPES[gguf.GGMLQuantizationType[kind]]
        data = np.zeros((*shape[:-1], shape[-1] // block * width), np.uint8)
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_safetensors(path: Path) -> Path:
    kinds = (np.float32, np.float16, np.int8, np.bool_)
    tensors = {f"model.layers.{i}.weight": np.ones((i + 1, 3), kind) for i, kind in enumerate(kinds)}
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def _read(read: Callable[[Path], Any], path: Path) -> tuple[float, bool]:
    """(processor seconds, whether it was refused)"""
    started, bad = time.process_time(), False
    try:
        read(path)
    except ArtifactError as error:
        bad = True
        if str(path) not in error.what or not error.next:
            pytest.fail(f"neither culprit nor next step: {error}")
    return time.process_time() - started, bad


def survive(read: Callable[[Path], Any], path: Path, damaged: Iterable[bytes]) -> int:
    """How many of the damaged files were refused; each within SECONDS, and all within little memory."""
    before, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for data in damaged:
        path.write_bytes(data)
        took, bad = _read(read, path)
        if took > SECONDS:  # of the file, or of something else in this process: a slow file is slow again
            took, bad = _read(read, path)
        refused += bad
        if took > SECONDS:
            path.rename(path.with_suffix(".slow"))
            pytest.fail(f"{took:.1f} s for {path.with_suffix('.slow')}")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "kB more at the peak"
    return refused


@pytest.mark.parametrize("count", MANY)
def test_damaged_gguf(tmp_path: Path, count: int) -> None:
    whole = write_gguf(tmp_path / "whole.gguf").read_bytes()
    reach = read_gguf(tmp_path / "whole.gguf").data_offset
    refused = survive(read_gguf, tmp_path / "mutant.gguf", mutants(whole, count, seed=count, reach=reach))
    assert count * 0.5 < refused < count


@pytest.mark.parametrize("count", MANY)
def test_damaged_safetensors(tmp_path: Path, count: int) -> None:
    whole = write_safetensors(tmp_path / "whole.safetensors").read_bytes()
    reach = 8 + int.from_bytes(whole[:8], "little")
    damaged = mutants(whole, count // 2, seed=count, reach=reach)
    refused = survive(read_header, tmp_path / "mutant.safetensors", damaged)
    refused += survive(read_header, tmp_path / "mutant.safetensors", _headers(whole, count - count // 2))
    assert count * 0.5 < refused < count


def _headers(whole: bytes, count: int) -> Iterator[bytes]:
    """The same data behind changed JSON, the length put right."""
    length = int.from_bytes(whole[:8], "little")
    for text in json_mutants(json.loads(whole[8 : 8 + length]), count, seed=count):
        yield len(text).to_bytes(8, "little") + text.encode() + whole[8 + length :]


def test_the_format_s_own_library_accepts_nothing_more_and_little_less(tmp_path: Path) -> None:
    whole = write_safetensors(tmp_path / "whole.safetensors").read_bytes()
    path, alike = tmp_path / "mutant.safetensors", 0
    for data in [*mutants(whole, 1000, seed=3, reach=400), *_headers(whole, 1000)]:
        path.write_bytes(data)
        try:
            with safe_open(path, "np") as opened:
                theirs = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
        except SafetensorError:
            theirs = None
        try:
            ours = {name: list(entry.shape) for name, entry in read_header(path).items()}
        except ArtifactError:
            ours = None
        assert ours is None or ours == theirs, "a file is read that the library refuses, or read otherwise"
        alike += ours == theirs
    assert alike > 1900


def test_a_gguf_header_is_read_as_the_format_s_own_library_reads_it(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "whole.gguf")
    header, reader = read_gguf(path), gguf.GGUFReader(path)
    assert (header.version, header.data_offset) == (3, reader.data_offset)
    keys = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert list(header.metadata) == list(keys)
    for name, field in keys.items():
        if name != "a.nested":
            value = header.metadata[name]
            assert (value if isinstance(value, str | int | float) else list(value)) == field.contents(), name
    assert [list(inner) for inner in header.metadata["a.nested"]] == [[1, 2], [3]]
    assert header.types["b.UINT16"] == "arr[u16]"
    assert header.types["tokenizer.ggml.tokens"] == "arr[str]"
    for theirs in reader.tensors:
        ours = header.tensors[theirs.name]
        assert (ours.kind, ours.start, ours.nbytes) == (theirs.tensor_type.name, theirs.data_offset, theirs.n_bytes)
        assert ours.shape == tuple(theirs.shape)


def test_the_table_of_types_is_ggml_s() -> None:
    sizes = {int(kind): (kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert sizes.items() <= TENSOR_TYPES.items()
    assert len(VALUE_TYPES) == len(gguf.GGUFValueType)


def test_real_vocabularies_are_read(shared_data: Path) -> None:
    for path in sorted((shared_data / "gguf_vocab").rglob("*.gguf")):
        header = read_gguf(path)
        tokens = header.metadata["tokenizer.ggml.tokens"]
        assert len(tokens) > 30_000
        assert header.types["tokenizer.ggml.token_type"] == "arr[i32]"


CLAIMS = {
    "2^60 tensors": (b"GGUF\x03\0\0\0" + (2**60).to_bytes(8, "little") + bytes(8), "too short for 0 keys and"),
    "2^60 keys": (b"GGUF\x03\0\0\0" + bytes(8) + (2**60).to_bytes(8, "little"), "too short for"),
    "ten bytes": (b"GGUF\x03\0\0\0\xff\xff", "too short for the number"),
    "empty": (b"", "does not begin with 'GGUF'"),
    "another format": (b"ggjt\x01\0\0\0" + bytes(90), "does not begin with 'GGUF'"),
    "version 1": (b"GGUF\x01\0\0\0" + bytes(90), "version 1, and only 2 and 3"),
    "big-endian": (b"GGUF\0\0\0\x03" + bytes(90), r"big-endian\?"),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_that_no_file_can_hold_fails_at_once(tmp_path: Path, claim: str) -> None:
    data, message = CLAIMS[claim]
    (tmp_path / "x.gguf").write_bytes(data)
    started = time.process_time()
    with pytest.raises(ArtifactError, match=message):
        read_gguf(tmp_path / "x.gguf")
    assert time.process_time() - started < 0.05


def test_a_header_of_many_names_twice_is_refused_in_time(tmp_path: Path) -> None:
    entry = '"dtype":"F32","shape":[0],"data_offsets":[0,0]'
    text = "{" + ",".join(f'"n{i % 50_000}":{{{entry}}}' for i in range(100_000)) + "}"
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text.encode())
    started = time.process_time()
    with pytest.raises(ArtifactError, match="twice"):
        read_header(tmp_path / "x.safetensors")
    assert time.process_time() - started < 5
