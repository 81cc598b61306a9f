"""Importance matrices go to llama.cpp's own tools and come from them, with the same quantized bytes either way.

The tools are llama.cpp's: HOLDFAST_LLAMA_TOOLS names the folder of llama-imatrix and llama-quantize.
"""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import gguf
import numpy as np
import pytest
from cutting import altered
from safetensors.torch import load_file
from stages import run_stage

from compress.artifact import Artifact
from compress.calibrate.reading import Calibration
from compress.errors import ArtifactError
from export.gguf import ggml
from export.gguf.imatrix import Entry, Matrix, awake, read_matrix, write_matrix
from export.gguf.params import GgufParams
from export.gguf.stage import ExportGguf

CALIBRATION = {"calibration_tokens": 1600, "calibration_length": 64}
"""25 windows: a count that is no power of two, so that sums do not divide exactly."""
SOME = ["Q4_K_M", "Q2_K_S", pytest.param("IQ3_XXS", marks=pytest.mark.slow)]


@pytest.fixture(scope="session")
def tools() -> Path:
    folder = os.environ.get("HOLDFAST_LLAMA_TOOLS")
    if not folder:
        pytest.skip("set HOLDFAST_LLAMA_TOOLS to the folder of llama-imatrix and llama-quantize")
    return Path(folder)


@pytest.fixture(scope="module")
def passed(tiny_llama: Path, chat_jsonl: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("pass") / "c"
    return run_stage("calibrate", tiny_llama, out, calibration=chat_jsonl, **CALIBRATION)


@pytest.fixture(scope="module")
def ours(tiny_llama: Path, chat_jsonl: Path, passed: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = {"calibration": chat_jsonl, "pass_": passed, **CALIBRATION}
    return run_stage("export.imatrix", tiny_llama, tmp_path_factory.mktemp("matrix") / "m", **given).path


@pytest.fixture(scope="module")
def plain(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tiny_llama, tmp_path_factory.mktemp("plain") / "f32", type="F32").path / "model.gguf"


def export(folder: Path, out: Path, **params: object) -> Artifact:
    return run_stage("export.gguf", folder, out, **({"imatrix": False} | params))


def tensors(path: Path) -> dict[str, tuple[str, bytes]]:
    return {t.name: (t.tensor_type.name, t.data.tobytes()) for t in gguf.GGUFReader(path).tensors}


def run(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


def theirs(tools: Path, plain: Path, chat_jsonl: Path, out: Path) -> Path:
    """What llama-imatrix collects over the same text, in the format of the suffix."""
    text = out.with_suffix(".txt")
    text.write_text(chat_jsonl.read_text()[:8000])
    kind = out.suffix.removeprefix(".")
    run(tools / "llama-imatrix", "-m", plain, "-f", text, "-o", out, "--output-format", kind, "-c", 64, "--chunks", 9)
    return out


@pytest.mark.parametrize("kind", SOME)
@pytest.mark.parametrize("suffix", ["gguf", "dat"])
def test_their_matrix_gives_their_bytes(
    tools: Path, tiny_llama: Path, plain: Path, chat_jsonl: Path, tmp_path: Path, suffix: str, kind: str
) -> None:
    matrix = theirs(tools, plain, chat_jsonl, tmp_path / f"theirs.{suffix}")
    told = run(tools / "llama-quantize", "--imatrix", matrix, plain, tmp_path / "theirs.q", kind)
    assert "have 14 importance matrix entries" in told
    made = export(tiny_llama, tmp_path / "ours", type=kind, imatrix=matrix)
    assert tensors(made.path / "model.gguf") == tensors(tmp_path / "theirs.q")
    assert (made.facts["importance_from"], made.facts["feedback"]) == (matrix.name, "off")


@pytest.mark.parametrize("kind", SOME)
def test_llama_quantize_reads_our_matrix(
    tools: Path, tiny_llama: Path, plain: Path, ours: Path, tmp_path: Path, kind: str
) -> None:
    told = run(tools / "llama-quantize", "--imatrix", ours / "imatrix.gguf", plain, tmp_path / "theirs.q", kind)
    assert "loaded 14 importance matrix entries" in told
    assert "computed on 25 chunks" in told
    assert "imatrix datasets=['chats.jsonl']" in told
    made = export(tiny_llama, tmp_path / "ours", type=kind, imatrix=ours)
    assert tensors(made.path / "model.gguf") == tensors(tmp_path / "theirs.q")


def test_llama_imatrix_adds_to_ours(tools: Path, plain: Path, ours: Path, chat_jsonl: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(chat_jsonl.read_text()[:8000])
    given, out = ours / "imatrix.gguf", tmp_path / "both.gguf"
    run(tools / "llama-imatrix", "-m", plain, "-f", text, "--in-file", given, "-o", out, "-c", 64, "--chunks", 9)
    mine, both = (read_matrix(path).entries["blk.0.attn_q.weight"] for path in (given, out))
    assert both.counts == mine.counts + 9 * 64
    assert (both.sums > mine.sums).all()


def test_a_file_rounds_as_the_pass_it_was_made_of(
    tiny_llama: Path, chat_jsonl: Path, passed: Artifact, ours: Path, tmp_path: Path
) -> None:
    given = {"calibration": chat_jsonl, "pass_": passed, **CALIBRATION}
    direct = export(tiny_llama, tmp_path / "a", type="Q4_K_M", imatrix=True, feedback="off", **given)
    by_file = export(tiny_llama, tmp_path / "b", type="Q4_K_M", imatrix=ours / "imatrix.gguf")
    assert direct.digest == by_file.digest
    assert direct.facts["importance_from"] == "calibration"


def test_our_file_says_what_the_pass_measured(passed: Artifact, ours: Path) -> None:
    matrix, calibration = read_matrix(ours), Calibration(passed.path)
    assert (matrix.chunks, matrix.length, matrix.datasets) == (25, 64, ["chats.jsonl"])
    assert len(matrix.entries) == 14
    down = matrix.entries["blk.1.ffn_down.weight"]
    assert down.counts.tolist() == [1600]
    assert np.allclose(down.mean(), calibration.diagonal("model.layers.1.mlp.down_proj").numpy(), rtol=1e-6)
    fields = gguf.GGUFReader(ours / "imatrix.gguf").fields
    assert fields["general.type"].contents() == "imatrix"
    assert {"imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"} < set(fields)


def small(**entries: Entry) -> Matrix:
    rows = {"blk.0.attn_q.weight": Entry(np.array([[2.0, 6.0]], np.float32), np.array([2.0], np.float32))}
    return Matrix(rows | entries, ["a.txt"], 3, 128)


def test_the_same_matrix_gives_the_same_bytes_and_comes_back(tmp_path: Path) -> None:
    experts = Entry(np.array([[3, 6], [5, 7]], np.float32), np.array([3, 0], np.float32))
    for name in ("a", "b"):
        write_matrix(tmp_path / name, small(**{"blk.1.ffn_up_exps.weight": experts}))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = read_matrix(tmp_path / "a")
    assert (found.datasets, found.chunks, found.length) == (["a.txt"], 3, 128)
    assert found.entries["blk.0.attn_q.weight"].mean().tolist() == [1, 3]
    assert found.entries["blk.1.ffn_up_exps.weight"].mean().tolist() == [1, 2, 1, 1], "1 for an expert never asked"


def legacy(*values: float, calls: int = 4) -> bytes:
    name = b"blk.0.attn_q.weight"
    head = struct.pack("<2i", 1, len(name)) + name + struct.pack("<2i", calls, len(values))
    return head + struct.pack(f"<{len(values)}f", *values) + struct.pack("<2i", 7, 5) + b"a.txt"


def test_the_older_format_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.dat").write_bytes(legacy(4, 8, 2))
    found = read_matrix(tmp_path / "x.dat")
    assert found.entries["blk.0.attn_q.weight"].mean().tolist() == [1, 2, 0.5]
    assert (found.datasets, found.chunks) == (["a.txt"], 7)


DAMAGE = {
    "not there": (None, "cannot be read"),
    "a text": (b"hello, world", "is no importance matrix"),
    "empty": (b"", "is no importance matrix"),
    "cut": (legacy(4, 8, 2)[:40], "is no importance matrix"),
    "2^31 entries": (struct.pack("<i", 2**31 - 1) + bytes(40), "is no importance matrix"),
    "nan": (legacy(4, float("nan")), "attn_q.weight are negative or not finite"),
    "negative": (legacy(4, -1), "attn_q.weight are negative or not finite"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    data, message = DAMAGE[damage]
    if data is not None:
        (tmp_path / "x.dat").write_bytes(data)
    with pytest.raises(ArtifactError, match=rf"x\.dat.*{message}"):
        read_matrix(tmp_path / "x.dat")


def test_a_model_is_not_taken_for_a_matrix(plain: Path) -> None:
    with pytest.raises(ArtifactError, match="holds a model, not an importance matrix"):
        read_matrix(plain)


def test_sums_without_counts_are_refused(tmp_path: Path) -> None:
    write_matrix(tmp_path / "x.gguf", small())
    data = (tmp_path / "x.gguf").read_bytes().replace(b"weight.counts", b"weight.country"[:13])
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"attn_q\.weight lacks its counts"):
        read_matrix(tmp_path / "x.gguf")


def reshape(matrix: Matrix, name: str, entry: Entry | None) -> Matrix:
    entries = {key: value for key, value in matrix.entries.items() if key != name}
    return Matrix(entries | ({name: entry} if entry else {}), matrix.datasets, matrix.chunks, matrix.length)


WIDE = Entry(np.ones((1, 999), np.float32), np.ones(1, np.float32))
FOREIGN = {
    "a tensor is missing": ("blk.1.ffn_up.weight", None, r"lacks blk\.1\.ffn_up\.weight"),
    "a block too many": ("blk.2.ffn_up.weight", WIDE, r"holds, and the model does not, blk\.2\.ffn_up\.weight"),
    "another width": ("blk.1.ffn_up.weight", WIDE, r"blk\.1\.ffn_up\.weight has 999 values for 256 inputs"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_the_matrix_of_another_model_is_refused(tiny_llama: Path, ours: Path, tmp_path: Path, what: str) -> None:
    name, entry, message = FOREIGN[what]
    write_matrix(tmp_path / "x.gguf", reshape(read_matrix(ours), name, entry))
    with pytest.raises(ArtifactError, match=message):
        export(tiny_llama, tmp_path / "out", type="Q4_K_M", imatrix=tmp_path / "x.gguf")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("given", "reads"), [(True, True), (False, False), ("m.gguf", False), (Path("m"), False)])
def test_only_a_pass_of_its_own_is_calibrated(given: object, reads: bool) -> None:
    params = GgufParams.model_validate({"imatrix": given})
    assert ExportGguf().reads_calibration(params) is reads
    assert isinstance(params.imatrix, bool) == isinstance(given, bool)


def test_a_bare_off_of_yaml_means_off() -> None:
    assert GgufParams.model_validate({"feedback": False}).feedback == "off"


LATE = {"IQ2_S", "IQ2_XS"}
"""Types whose tables ggml makes for seconds."""
WEIGHED = [
    pytest.param(kind, marks=pytest.mark.slow) if kind in LATE else kind
    for kind in sorted(ggml.TYPE_IDS.keys() - ggml.PLAIN)
]


@pytest.mark.parametrize("kind", WEIGHED)
def test_columns_that_nothing_reached_keep_their_weights(kind: str) -> None:
    """A sub-block, a block, a whole row: as good as with equal weights, and the others as with their own."""
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((4, 1024)).astype(np.float32)
    seen = np.exp(draw.standard_normal(1024)).astype(np.float32)

    def errors(importance: np.ndarray) -> np.ndarray:
        packed = ggml.quantize(rows, kind, importance)
        return (gguf.quants.dequantize(packed, gguf.GGMLQuantizationType[kind]) - rows) ** 2

    equal, whole = errors(np.ones_like(seen)), errors(seen)
    for start, stop, worse in ((0, 1024, 1.01), (256, 512, 1.01), (256, 288, 1.3), (256, 272, 2.1)):
        given = seen.copy()
        given[start:stop] = 0
        found = errors(awake(given))
        assert found[:, start:stop].mean() < worse * equal[:, start:stop].mean(), (start, stop)
        rest = np.r_[0:start, stop:1024]
        if rest.size:
            assert (found * seen)[:, rest].mean() < 1.02 * (whole * seen)[:, rest].mean(), (start, stop)


def test_importance_that_is_there_stays_as_it_is() -> None:
    seen = np.exp(np.random.default_rng(1).standard_normal(80)).astype(np.float32)
    seen[3:18] = 0
    assert awake(seen) is seen
    seen[16:32] = 1e-20
    changed = awake(seen)
    assert np.all(changed[16:32] == changed[16])
    assert changed[16] > 1e-6
    assert np.array_equal(np.delete(changed, range(16, 32)), np.delete(seen, range(16, 32)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["IQ2_XS", "Q4_K_M"])
def test_channels_that_never_fire_are_written(tiny_llama: Path, chat_jsonl: Path, tmp_path: Path, kind: str) -> None:
    """A block of FFN channels whose gate is shut on every text of the calibration."""
    folder = altered(tiny_llama, tmp_path / "m", shut)
    given = {"calibration": chat_jsonl, "type": kind, "imatrix": True, **CALIBRATION}
    out = run_stage(
        "export.gguf",
        folder,
        tmp_path / "out",
        **given,
        pass_=run_stage("calibrate", folder, tmp_path / "c", calibration=chat_jsonl, **CALIBRATION),
    )
    found = {t.name: t for t in gguf.GGUFReader(out.path / "model.gguf").tensors}["blk.0.ffn_down.weight"]
    values = gguf.quants.dequantize(found.data, found.tensor_type)
    own = load_file(folder / "model.safetensors")["model.layers.0.mlp.down_proj.weight"].numpy()
    for columns in (slice(0, 256), slice(256, 512)):
        assert np.corrcoef(values[:, columns].ravel(), own[:, columns].ravel())[0, 1] > 0.9


def shut(tensors: dict) -> None:
    tensors["model.layers.0.mlp.up_proj.weight"][:256] = 0
