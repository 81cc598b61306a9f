"""The weights that a quantized file really holds, under their Hugging Face names, and what quantization explains.

Reading back does not use the exporter's own flags: what llama.cpp's graphs and the ONNX model builder expect of a
stored tensor is written down here once more, so that a mistake in one of the two places shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from compress.errors import ArtifactError
from export.checkpoint import Checkpoint, open_checkpoint
from export.gguf.ggml import dequantize
from export.gguf.layout import layout_of
from export.gguf.tensors import tensors_of
from export.parity.noise import GGUF_ROUNDING
from runtime.engine.gguf_file import GgufHeader
from runtime.engine.gguf_file import read_gguf as read_header

Floats = npt.NDArray[np.float32]

HEAD = "lm_head.weight"
INTERLEAVED = frozenset({"llama"})
"""GGUF architectures whose graph rotates neighbouring pairs: q and k rows are stored as pairs (i, i + half)."""
NORM_PLUS_ONE = frozenset({"gemma", "gemma2", "gemma3"})
"""GGUF architectures whose graph multiplies by the norm's weight, Hugging Face by 1 + weight."""
SCALED_QUERY = frozenset({"gemma2", "gemma3"})
"""GGUF architectures whose queries may hold a factor of the attention scale."""
STACKED = ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up")
"""Tensors that Hugging Face may stack into one, in its order."""
FEEDING = {"ffn_down": ("ffn_gate", "ffn_up"), "attn_output": ("attn_v", "attn_qkv")}
"""Tensors that read what others of their block made."""
CONV1D = frozenset({"gpt2"})
"""GGUF architectures whose Hugging Face linears are stored [in, out]."""


@dataclass(frozen=True)
class Stored:
    """One tensor of a file as Hugging Face would hold it."""

    name: str
    """Its name in the reference folder."""
    values: Floats
    kind: str
    """GGUF tensor type, ``int4``/``int8`` or ``F32``."""
    rounding: str = ""
    """How the runtime rounds what this weight is multiplied with (``how`` of ``noise.rounded``), "" if not."""
    behind: str = ""
    """The coarsest type of the tensors that made what this one reads, "" if that is not known."""


def read_gguf(path: Path, reference: Checkpoint) -> Iterator[Stored]:
    """Every tensor of a .gguf file that has a source in ``reference``. Raises ArtifactError when one is missing."""
    header = read_header(path)
    architecture = str(header.metadata.get("general.architecture"))
    layout = layout_of(reference.config)
    sources: dict[str, list[str]] = {}
    for tensor in tensors_of(layout, reference):
        sources.setdefault(tensor.source, []).append(tensor.name)
    if "output.weight" in header.tensors and all("output.weight" not in names for names in sources.values()):
        sources[HEAD] = ["output.weight"]
    for source, names in sources.items():
        names.sort(key=_order)
        lacking = [name for name in names if name not in header.tensors]
        if lacking:
            raise ArtifactError(f"the file has no tensor {lacking[0]} ({source})", next="export the model again")
        parts = [_undo(_values(header, name), name, architecture, layout.head_dim) for name in names]
        kind = _coarsest(header, names)
        values = np.concatenate(parts) if len(parts) > 1 else parts[0]
        del parts
        if architecture in SCALED_QUERY and names[0].split(".")[-2] in ("attn_q", "attn_q_norm"):
            values = _unscaled(values, source, names[0], reference)
        if architecture in NORM_PLUS_ONE and names[0].split(".")[-2].endswith("norm"):
            values = values - np.float32(1)
        block, part, _ = f".{names[0]}".rsplit(".", 2)
        behind = [f"{block[1:]}.{other}.weight" for other in FEEDING.get(part, ())]
        yield Stored(source, values, kind, GGUF_ROUNDING.get(kind, ""), _coarsest(header, behind))


def _coarsest(header: GgufHeader, names: list[str]) -> str:
    """The type of the widest bound among those of the named tensors that the file has, "" if it has none."""
    kinds = [header.tensors[name].kind for name in names if name in header.tensors]
    return max(kinds, key=lambda kind: ROW_ERROR.get(kind, 9.0), default="")


def _order(name: str) -> int:
    """Where a part stands in a stacked source."""
    part = name.split(".")[-2]
    return STACKED.index(part) if part in STACKED else 0


def _values(header: GgufHeader, name: str) -> Floats:
    """One tensor of the file as float32, rows first."""
    tensor = header.tensors[name]
    raw = np.memmap(header.path, np.uint8, "r", tensor.start, (tensor.nbytes,))
    shape = tensor.shape[::-1]
    values = dequantize(raw.reshape(math.prod(shape[:-1]), -1), tensor.kind)
    return np.require(values, np.float32, ["C", "W"]).reshape(shape)  # F32 is a view of the file


def _undo(values: Floats, name: str, architecture: str, head_dim: int) -> Floats:
    """A tensor as llama.cpp's graph wants it -> as Hugging Face's module wants it."""
    part = name.split(".")[-2]
    if architecture in INTERLEAVED and part in ("attn_q", "attn_k"):
        return halves(values, head_dim)
    if architecture in CONV1D and part in ("attn_qkv", "attn_output", "ffn_up", "ffn_down") and values.ndim == 2:
        return np.ascontiguousarray(values.T)
    return values


def _unscaled(values: Floats, source: str, name: str, reference: Checkpoint) -> Floats:
    """Without the one factor between the model's attention scale and the graph's, fitted to the source: a wrong factor
    shows in the logits."""
    own = whole(reference, source) + np.float32(name.split(".")[-2].endswith("norm"))
    return values / np.float32((values * own).sum(dtype=np.float64) / (own * own).sum(dtype=np.float64))


def halves(values: Floats, head_dim: int) -> Floats:
    """Per head: rows in neighbouring pairs -> first half, second half; [heads * head_dim, in] or [heads * head_dim]."""
    pairs = values.reshape(-1, head_dim // 2, 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def read_gptq(folder: Path) -> Iterator[Stored]:
    """Every weight of a GPTQ folder, dequantized."""
    checkpoint = open_checkpoint(folder)
    bits = int((checkpoint.config.get("quantization_config") or {}).get("bits", 16))
    for name in checkpoint.names():
        packed = name not in checkpoint.entries
        kind = f"int{_bits_of(checkpoint, name, bits)}" if packed else "F32"
        yield Stored(name, whole(checkpoint, name), kind)


def _bits_of(checkpoint: Checkpoint, name: str, usual: int) -> int:
    """Bits of one packed linear, which may differ from the folder's (``dynamic``)."""
    packed = checkpoint.entries.get(f"{name.removesuffix('weight')}qweight")
    columns = checkpoint.shape(name)[-1]
    return packed.shape[0] * 32 // columns if packed else usual


def whole(checkpoint: Checkpoint, name: str) -> Floats:
    """One tensor of a folder, float32, in the shape of its transformers module."""
    shape = checkpoint.shape(name)
    values = checkpoint.rows(name, 0, shape[0] if len(shape) == 2 else 1).reshape(shape)
    return values.T if is_turned(checkpoint, name) and name not in checkpoint.entries else values


def embedding_of(checkpoint: Checkpoint) -> str:
    """The name of a folder's embedding."""
    return next(name for name in checkpoint.names() if name.endswith(("embed_tokens.weight", "wte.weight")))


def source_of(checkpoint: Checkpoint, name: str) -> Floats:
    """A weight of a folder by name; the head of a tied model is its embedding."""
    return whole(checkpoint, embedding_of(checkpoint) if name == HEAD and name not in checkpoint.names() else name)


def is_turned(checkpoint: Checkpoint, name: str) -> bool:
    """Whether the transformers module holds this weight [in, out] (packed folders hold it [out, in])."""
    return checkpoint.config.get("model_type") == "gpt2" and name.endswith(_CONV1D)


_CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


# ---- what quantization explains ----

ROW_ERROR = {
    "F32": 1e-6,
    "F16": 2e-3,
    "BF16": 8e-3,
    "Q8_0": 0.03,
    "int8": 0.05,
    "Q6_K": 0.12,
    **dict.fromkeys(("Q5_0", "Q5_1", "Q5_K"), 0.25),
    **dict.fromkeys(("Q4_0", "Q4_1", "Q4_K", "IQ4_NL", "IQ4_XS", "int4"), 0.45),
    **dict.fromkeys(("Q3_K", "IQ3_S", "IQ3_XXS", "int3"), 0.7),
    **dict.fromkeys(("Q2_K", "IQ2_S", "IQ2_XS", "IQ2_XXS", "int2"), 0.9),
}
"""Type -> largest ||quantized - source|| / ||source|| of one row that is rounded. A row in another's place, a
transposed matrix, a zeroed row or a norm without its offset gives 1 or more."""
FED_ROW_ERROR = {
    **dict.fromkeys(("Q6_K", "Q5_0", "Q5_1", "Q5_K", "int8"), 0.85),
    **dict.fromkeys(("Q4_0", "Q4_1", "Q4_K", "IQ4_NL", "IQ4_XS", "int4"), 0.85),
    **dict.fromkeys(("Q3_K", "IQ3_S", "IQ3_XXS", "int3"), 0.9),
    **dict.fromkeys(("Q2_K", "IQ2_S", "IQ2_XS", "IQ2_XXS", "int2"), 0.95),
}
"""The same where errors were fed back: single rows move on purpose, to make good what rounding did to their inputs or
before them. A whole tensor does not: its middle row is still held to ROW_ERROR."""
MOVED, MOVED_SHARE, ALONG = 1.6, 0.005, 0.25
"""Where errors were fed back, one row in 200 (one at least) may be off by MOVED if it is changed along its source by no
more than ALONG: the row of SmolLM2's channel of massive activations moved by .93 in a block (.95 of it left along the
source). A row of zeros, of another place, negative or of another size is changed by 1 or more."""
EXACT = ("F32", "F16", "BF16")
GROWN, SHRUNK_FED = 0.02, 0.04
"""A whole matrix may be longer along its source by so much (or, rounded, shorter than a least-squares fit makes it),
and shorter by so much where errors were fed back. Of some 3,300 matrices of real exports none grew by more than .0051,
none that was rounded shrank by more than .0038, none that was fed back by more than .0194."""
GROWN_FED = 0.06
"""Where errors were fed back, a matrix makes good that the coarse ones before it came out short: it may grow by so much
more of the square of their ROW_ERROR. Behind 2 bits the down projections of m7 grew by up to .040, behind 3 bits by
.012, behind 4 bits by .005."""
SLAB = 1 << 18
"""Values that are compared at a time."""
SMALL = 1e-3
"""Rows shorter than this share of the tensor's root mean square row are measured against that."""


def row_errors(values: Floats, source: Floats, *, exact: bool = False) -> Floats:
    """||values - source|| / ||source|| per row, float32 [rows]; a vector is one row. ``exact``: tensors that are
    stored as they are; there a row counts as if its values were near 1 (what + 1 - 1 leaves of a norm)."""
    ours, theirs = np.atleast_2d(values), np.atleast_2d(source)
    length, apart = (np.empty(len(theirs), dtype=np.float64) for _ in range(2))
    step = max(1, SLAB // theirs.shape[1])
    for slab in (slice(at, at + step) for at in range(0, len(theirs), step)):
        gap = ours[slab] - theirs[slab]
        length[slab] = np.einsum("ij,ij->i", theirs[slab], theirs[slab])
        apart[slab] = np.einsum("ij,ij->i", gap, gap)
    least = theirs.shape[1] if exact else SMALL**2 * length.mean()
    return np.sqrt(apart / np.maximum(length, max(least, 1e-30))).astype(np.float32)


def unexplained(stored: Stored, source: Floats, *, fed: bool = False) -> tuple[float, str | None]:
    """The largest row error, and in words what no quantization to this type explains. ``fed``: errors may have been fed
    back when the tensor was made."""
    if stored.values.shape != source.shape:
        return float("inf"), f"{stored.name} has shape {list(stored.values.shape)} instead of {list(source.shape)}"
    usual = ROW_ERROR.get(stored.kind)
    if usual is None:
        raise ArtifactError(f"{stored.name} has type {stored.kind}, for which no bound is known", next=_NEXT)
    errors = row_errors(stored.values, source, exact=stored.kind == "F32")
    worst, middle = int(errors.argmax()), float(np.median(errors))
    found, limit = float(errors[worst]), FED_ROW_ERROR.get(stored.kind, usual) if fed else usual
    if not found <= limit and not (fed and _moved(stored.values, source, errors, limit)):
        where = f"row {worst} of {stored.name}" if source.ndim == 2 else stored.name
        return found, f"{where} is off by {found:.2g} of its length; {stored.kind} explains at most {limit:g}"
    if not middle <= usual:
        return found, f"half of {stored.name} is off by {middle:.2g} of its length; {stored.kind} explains {usual:g}"
    grown = GROWN + GROWN_FED * ROW_ERROR.get(stored.behind, 0.0) ** 2 * fed
    if source.ndim == 2 and stored.kind not in EXACT and (scaled := _scaled(stored.values, source, grown, fed=fed)):
        return found, f"{stored.name} is {scaled:+.1%} of its size; {stored.kind} does not explain it"
    return found, None


def _moved(values: Floats, source: Floats, errors: Floats, limit: float) -> bool:
    """Whether the rows beyond ``limit`` are few and still hold their source: along it they are as long as they were,
    and what was added stands across it."""
    beyond = np.flatnonzero(~(errors <= limit))
    if source.ndim != 2 or len(beyond) > max(1, MOVED_SHARE * len(errors)):
        return False
    if not bool((errors[beyond] <= MOVED).all()):
        return False
    ours, theirs = values[beyond].astype(np.float64), source[beyond].astype(np.float64)
    along = (ours * theirs).sum(1) / np.maximum((theirs * theirs).sum(1), 1e-30)
    return bool((np.abs(along - 1) <= ALONG).all())


def _scaled(values: Floats, source: Floats, grown: float, *, fed: bool) -> float | None:
    """By what share a matrix is longer along its source than rounding makes it; None where rounding (or a growth of
    ``grown``) explains it.

    With e² = ||values - source||² / ||source||², rounding without bias gives <values, source> / ||source||² = 1 and a
    least-squares fit 1 - e²; independent errors scatter it by e / √n.
    """
    own, along, apart = np.zeros(3)
    step = max(1, SLAB // source.shape[1])
    for at in range(0, len(source), step):
        ours, theirs = values[at : at + step].ravel(), source[at : at + step].ravel()
        gap = ours - theirs
        own += float(theirs @ theirs)
        along += float(gap @ theirs)
        apart += float(gap @ gap)
    share, error = along / max(own, 1e-30), apart / max(own, 1e-30)
    chance = 4 * math.sqrt(error / source.size)
    least = -error - (SHRUNK_FED if fed else GROWN) - chance
    return None if least <= share <= grown + chance else share


_NEXT = "add its bound to ROW_ERROR in export/parity/weights.py"
