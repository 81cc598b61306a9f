"""A broken model file is an error of ours and never the end of the process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
from tiny_gguf import write_tiny_gguf

from runtime.engine.gguf_model import check_model
from runtime.errors import ArtifactError
from runtime.session import load

PROBE = """
import json, os, random, resource, struct, sys
from pathlib import Path
from mutants import mutants
from runtime.engine.backends.base import Span
from runtime.engine.backends.llama import LlamaBackend
from runtime.errors import HoldfastError
from runtime.engine.gguf_file import read_gguf
from runtime.engine.gguf_model import check_model

source, count, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
whole, header, draw, ends = source.read_bytes(), read_gguf(source), random.Random(seed), {}
keys = [whole.index(key.encode()) + len(key) for key in header.metadata]
SIZES = (0, 1, 2, 3, 5, 7, 63, 65, 255, 256, 1000, 2**16, 2**31 - 1, 2**31, 2**32 - 1)

def changed():
    "Another type or value behind a key, another name of it, or any damage."
    data, at = bytearray(whole), draw.choice(keys)
    harm = draw.random()
    if harm < 0.25:
        return next(mutants(whole, 1, seed=draw.randrange(10**9), reach=header.data_offset))
    if harm < 0.4:
        data[at : at + 4] = struct.pack("<I", draw.randrange(13))
    elif harm < 0.9:
        data[at + 4 : at + 8] = struct.pack("<I", draw.choice(SIZES))
    else:
        data[at - 1] ^= 1
    return bytes(data)

def attempt(path):
    backend = LlamaBackend(path, threads=1, slots=1, context=64)
    backend.encode("Hello, wörld \\U0001f642")
    backend.decode([Span(0, 0, [1, 2, 3][: backend.context], 1)])

mutant = source.with_name("mutant.gguf")
for number in range(count):
    mutant.write_bytes(changed())
    try:
        check_model(mutant)
    except HoldfastError:
        ends[256] = ends.get(256, 0) + 1
        continue
    child = os.fork()
    if not child:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
            attempt(mutant)
            os._exit(0)
        except HoldfastError:
            os._exit(1)
        except BaseException:
            os._exit(2)
    end = os.waitpid(child, 0)[1]
    if end not in (0, 256):
        mutant.rename(mutant.with_name(f"crash-{number}.gguf"))
    ends[end] = ends.get(end, 0) + 1
print(json.dumps(ends))
"""


@pytest.mark.parametrize("count", [400, pytest.param(5000, marks=pytest.mark.slow)])
def test_no_damage_ends_the_process(tmp_path: Path, count: int) -> None:
    source = write_tiny_gguf(tmp_path / "whole.gguf")
    command = [sys.executable, "-c", PROBE, str(source), str(count), str(count)]
    root = Path(__file__).parents[3]
    environment = {
        "PYTHONPATH": f"{root}:{root / 'tests' / 'helpers'}",
        "GGML_NO_BACKTRACE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ends = {int(end): times for end, times in json.loads(done.stdout).items()}
    assert set(ends) == {0, 256}, f"{ends}: see crash-*.gguf in {tmp_path}"
    assert ends[256] > count // 2


def rewritten(path: Path, monkeypatch: pytest.MonkeyPatch, **replaced: object) -> Path:
    """The tiny model with other arguments for methods of GGUFWriter; None leaves the call out."""
    for name, value in replaced.items():
        method = getattr(gguf.GGUFWriter, name)
        put = (lambda *_: None) if value is None else (lambda self, _, m=method, v=value: m(self, v))
        monkeypatch.setattr(gguf.GGUFWriter, name, put)
    return write_tiny_gguf(path)


BROKEN: dict[str, tuple[dict[str, object], str]] = {
    "no blocks": ({"add_block_count": 0}, "block_count is 0, not 1 to 512"),
    "too many blocks": ({"add_block_count": 513}, "block_count is 513, not 1 to 512"),
    "no context": ({"add_context_length": 0}, "context_length is 0"),
    "a context that counts as negative": ({"add_context_length": 2**31}, "context_length is 2147483648"),
    "negative epsilon": ({"add_layer_norm_rms_eps": -1.0}, "epsilon is -1.0"),
    "token twice": ({"add_token_list": ["a", "b", "a"]}, "names a token twice"),
    "end token beyond the vocabulary": ({"add_eos_token_id": 999}, "eos_token_id is 999, and there are 262 tokens"),
    "types of some tokens only": ({"add_token_types": [1] * 9}, "token_type has 9 entries for 262 tokens"),
    "types that are texts": ({"add_token_types": ["1"] * 262}, r"token_type is arr\[str\], not arr\[i32\]"),
    "merges that are numbers": ({"add_token_merges": [1, 2]}, r"merges is arr\[i32\], not arr\[str\]"),
    "no byte tokens": ({"add_tokenizer_model": "llama"}, "no token for the byte 0x00"),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_what_llama_cpp_takes_for_granted_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    replaced, message = BROKEN[damage]
    path = rewritten(tmp_path / "model.gguf", monkeypatch, **replaced)
    with pytest.raises(ArtifactError, match=message):
        load(path)


@pytest.mark.parametrize("size", [0, 3, 100, 5000, -1])
def test_a_truncated_file_is_named(tmp_path: Path, size: int) -> None:
    path = write_tiny_gguf(tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ArtifactError, match=r"model\.gguf is not a valid GGUF file: "):
        load(path)


def test_a_model_that_loads_passes_the_check(tmp_path: Path) -> None:
    header = check_model(write_tiny_gguf(tmp_path / "model.gguf"))
    assert header.metadata["general.architecture"] == "llama"
    with load(tmp_path / "model.gguf", slots=1) as session:
        assert session.complete_many([[{"role": "user", "content": "Hi"}]], max_tokens=2)[0].token_ids
