"""The grids of block formats against their readers (gguf, ggml, bitsandbytes), ggml's own quantizers and slow loops."""

import ctypes
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from compress.errors import UsageError
from compress.quantize.grids import Steps
from compress.quantize.kformats import FORMATS, NF4
from compress.quantize.kgrids import grid_of
from compress.quantize.kterms import Problem

gguf = pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")
ggml = pytest.importorskip("export._ggml")

GGML = [kind for kind in FORMATS if not kind.startswith("NF4")]
OUT = 96


def values(codes, grid, steps):
    """scale · level(code) + offset, period by period; float32 ``[in, out]``."""
    rows = []
    for part, s in zip(codes.split(grid.period), steps, strict=True):
        level = part.float() if grid.levels is None else grid.levels[part.long()]
        level = level.view(s.scale.shape[0], -1, level.shape[1])
        rows.append((s.scale[:, None] * level + s.offset[:, None]).view(part.shape))
    return torch.cat(rows)


def nearest(w, grid, steps):
    """Codes of least distance among all, uint8 ``[in, out]``."""
    every = torch.stack([values(torch.full(w.shape, c, dtype=torch.uint8), grid, steps) for c in range(grid.top + 1)])
    return (every - w).abs_().argmin(0).to(torch.uint8)


def fit(w, h, grid):
    return [grid.fit(a, b) for a, b in zip(w.split(grid.period), h.split(grid.period), strict=True)]


def read(packed, kind):
    """As the gguf package reads it: float32 ``[in, out]``."""
    return torch.from_numpy(gguf.quants.dequantize(packed.numpy(), gguf.GGMLQuantizationType[kind])).T


def read_by_ggml(packed, kind, inputs):
    """As ggml itself reads it: float32 ``[in, out]``."""
    name = kind.lower().replace("_k", "_K")
    function = getattr(ggml.library(), f"dequantize_row_{name}")
    function.restype, function.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    result = torch.empty(packed.shape[0], inputs)
    function(packed.data_ptr(), result.data_ptr(), result.numel())
    return result.T


def weights(name, shared_data=None):
    g = torch.Generator().manual_seed(7)
    if name == "gaussian":
        return torch.randn(256, OUT, generator=g) * 0.02
    if name == "heavy":  # Student's t of three degrees of freedom
        return torch.randn(256, OUT, generator=g) / torch.randn(3, 256, OUT, generator=g).square_().mean(0).sqrt_() / 50
    from safetensors import safe_open

    with safe_open(shared_data / "models" / "m7" / "model.safetensors", "pt") as file:
        names = [f"model.layers.{i}.{n}.weight" for i in (0, 7) for n in ("mlp.gate_proj", "self_attn.o_proj")]
        return torch.cat([file.get_tensor(n)[:OUT].float() for n in names]).T.contiguous()


def importance(inputs, seed=0):
    return torch.randn(inputs, generator=torch.Generator().manual_seed(seed)).exp_()


def error(value, w, h):
    return float(((value - w).square() * h[:, None]).sum())


@pytest.mark.parametrize("kind", GGML)
def test_readers_compute_the_grid_s_values_bit_for_bit(kind):
    grid, w, h = grid_of(kind), weights("heavy").repeat(2, 1), importance(512)
    steps = fit(w, h, grid)
    codes = torch.randint(0, grid.top + 1, w.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    packed = grid.pack(codes, steps)
    assert packed.dtype == torch.uint8
    assert packed.shape == (OUT, ggml.row_bytes(kind, 512))
    assert torch.equal(read(packed, kind), values(codes, grid, steps))
    assert torch.equal(read_by_ggml(packed, kind, 512), values(codes, grid, steps))


@pytest.mark.parametrize("data", ["gaussian", "heavy", "real"])
@pytest.mark.parametrize("kind", GGML)
def test_loses_less_than_ggml(kind, data, request):
    grid = grid_of(kind)
    w = weights(data, request.getfixturevalue("shared_data") if data == "real" else None)
    for h, most in ((importance(256), 0.97), (torch.ones(256), 0.995)):
        steps = fit(w, h, grid)
        codes = nearest(w, grid, steps)
        rows = w.T.contiguous().numpy()
        peer = error(read(torch.from_numpy(ggml.quantize(rows, kind, h.numpy())), kind), w, h)
        assert error(read(grid.pack(codes, steps), kind), w, h) < most * peer


@pytest.mark.parametrize("kind", GGML)
def test_scales_are_what_the_fields_say(kind):
    grid, w = grid_of(kind), weights("gaussian")
    steps = grid.fit(w[: grid.period], importance(grid.period))
    low = grid.form.low
    if grid.form.k is None:
        assert not steps.fields
        assert torch.equal(steps.scale.half().float(), steps.scale)
        if grid.form.free:
            assert torch.equal(steps.offset.half().float(), steps.offset)
        else:
            assert torch.equal(steps.offset, steps.scale * low)
        return
    d, k, *rest = steps.fields
    assert torch.equal(steps.scale, d.float() * k.float())
    assert int(k.min()) >= grid.form.k[0]
    assert int(k.max()) <= grid.form.k[1]
    if rest:
        assert torch.equal(steps.offset, -rest[0].float() * rest[1].float())
        assert 0 <= int(rest[1].min()) <= int(rest[1].max()) <= grid.form.m
    else:
        assert torch.equal(steps.offset, steps.scale * low)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_quadratic_form_is_the_error(kind):
    grid, g = grid_of(kind), torch.Generator().manual_seed(3)
    form = grid.form
    w, h = torch.randn(grid.period, 5, generator=g), importance(grid.period)
    s = torch.rand(form.subs, 5, generator=g) * (0.3 if form.levels else 4 / grid.top) + 0.01
    o = -torch.rand(form.subs, 5, generator=g) if form.affine else None
    p = Problem(w, h, form)
    priced = p.error(p.terms(s, o), s, o)
    ladder = list(form.levels) or [c + form.low for c in range(grid.top + 1)]
    for b, j in itertools.product(range(form.subs), range(5)):
        scale, offset = float(s[b, j]), 0.0 if o is None else float(o[b, j])
        inside = range(b * form.sub, (b + 1) * form.sub)
        slow = sum(float(h[i]) * min((scale * z + offset - float(w[i, j])) ** 2 for z in ladder) for i in inside)
        assert float(priced[b, j]) == pytest.approx(slow, rel=1e-3, abs=1e-4)


def test_comes_close_to_the_best_of_all_float16_scales():
    grid, w, h = grid_of("Q4_0"), weights("gaussian")[:32, :8], importance(32)
    ours = [error(values(nearest(w, grid, [s]), grid, [s])[:, j : j + 1], w[:, j : j + 1], h)
            for s in (grid.fit(w, h),) for j in range(8)]  # fmt: skip
    scales = torch.arange(0x0400, 0x3000, dtype=torch.int16).view(torch.float16).float()
    for j in range(8):
        every = torch.cat([scales, -scales])[None]
        z = (w[:, j : j + 1] / every).round_().clamp_(-8, 7)
        best = float(((z * every - w[:, j : j + 1]).square() * h[:, None]).sum(0).min())
        assert best * (1 - 1e-4) <= ours[j] <= 1.15 * best


shapes = {
    "zero": lambda w: w * 0,
    "constant": lambda w: torch.full_like(w, 0.7),
    "negative": lambda w: -w.abs() - 0.1,
    "positive": lambda w: w.abs() + 0.1,
    "tiny": lambda w: w * 1e-9,
    "subnormal": lambda w: w * 1e-40,
    "large": lambda w: w * 1e4,
    "outlier": lambda w: w.index_fill(0, torch.tensor([3]), 900.0),
    "one": lambda w: (w * 0).index_fill(0, torch.tensor([5]), -0.25),
}


@pytest.mark.parametrize("shape", shapes)
@pytest.mark.parametrize("kind", FORMATS)
def test_odd_weights(kind, shape):
    grid = grid_of(kind)
    w = shapes[shape](torch.randn(256, 7, generator=torch.Generator().manual_seed(2)))
    h = importance(256)
    steps = fit(w, h, grid)
    codes = nearest(w, grid, steps)
    value = values(codes, grid, steps)
    assert all(bool(s.scale.isfinite().all()) and bool((s.scale != 0).all()) for s in steps)
    if kind in GGML:
        assert torch.equal(read(grid.pack(codes, steps), kind), value)
    if shape == "zero":  # a scale is at least 2^-24, and IQ4 has a level one instead of zero
        assert float(value.abs().max()) == (2.0**-24 if kind.startswith("IQ4") else 0)
    worst = {"constant": 1e-3, "one": 5e-3, "outlier": 1e-2}.get(shape, 0.2)
    assert error(value, w, h) <= worst * error(w * 0, w, h) + w.shape[1] * float(h.sum()) * 2.0**-47


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(list(FORMATS)),
    w=arrays.arrays(np.float32, (256, 3), elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False)),
    h=arrays.arrays(np.float32, 256, elements=st.floats(0, 1e4, width=32, allow_subnormal=False)),
)
def test_any_weights(kind, w, h):
    grid, w, h = grid_of(kind), torch.from_numpy(w), torch.from_numpy(h)
    steps = fit(w, h, grid)
    codes = nearest(w, grid, steps)
    value = values(codes, grid, steps)
    assert bool(value.isfinite().all())
    spare = 1e-4 * float(h.mean() * w.square().sum())  # a block whose large weights do not count still must store them
    assert error(value, w, h) <= error(w * 0, w, h) + spare + w.shape[1] * float(h.sum()) * 2.0**-47
    if kind in GGML:
        assert torch.equal(read(grid.pack(codes, steps), kind), value)


@pytest.mark.parametrize("kind", FORMATS)
def test_an_important_weight_is_kept_better(kind):
    grid, w = grid_of(kind), weights("gaussian")
    w = w[: grid.period]
    plain, weighed = torch.ones(grid.period), torch.ones(grid.period)
    weighed[11] = 100.0
    off = [(values(nearest(w, grid, [s]), grid, [s]) - w)[11].square().mean()
           for s in (grid.fit(w, plain), grid.fit(w, weighed))]  # fmt: skip
    if kind == "NF4_ABSMAX":
        assert off[1] == off[0]
    else:
        assert off[1] < 0.7 * off[0]


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_inputs_give_the_same_steps_and_cuts_do_not_matter(kind):
    grid, g = grid_of(kind), torch.Generator().manual_seed(4)
    w, h = torch.randn(grid.period, 2**17 // grid.period + 40, generator=g), importance(grid.period)
    whole, again, part = grid.fit(w, h), grid.fit(w, h), grid.fit(w[:, -60:-20].contiguous(), h)
    assert torch.equal(whole.scale, again.scale)
    assert torch.equal(whole.offset, again.offset)
    cut = Steps(whole.scale[:, -60:-20], whole.offset[:, -60:-20], ())
    w = w[:, -60:-20]
    lost = [error(values(nearest(w, grid, [s]), grid, [s]), w, h) for s in (cut, part)]
    assert lost[0] == pytest.approx(lost[1], rel=0.01)  # sums of another order may break a tie


def test_dead_inputs_do_not_count():
    grid, w = grid_of("Q4_K"), weights("gaussian")
    h = importance(256)
    h[::2] = 0
    spoilt = w.clone()
    spoilt[::2] *= 5
    for s in (grid.fit(w, h), grid.fit(spoilt, torch.zeros(256))):
        assert bool(s.scale.isfinite().all())
    kept = [error(values(nearest(x, grid, [s]), grid, [s]), x, h) for x in (w, spoilt) for s in (grid.fit(x, h),)]
    assert kept[1] < 1.3 * kept[0]


def test_nf4_is_what_bitsandbytes_reads():
    functional = pytest.importorskip("bitsandbytes").functional
    w = weights("gaussian")
    packed, state = functional.quantize_4bit(w.T.contiguous(), quant_type="nf4", blocksize=64)
    assert state.code.tolist() == list(NF4)
    grid = grid_of("NF4_ABSMAX")
    steps = fit(w, torch.ones(256), grid)
    scales = torch.stack([s.scale[0] for s in steps], 1)
    assert torch.equal(scales.reshape(-1), state.absmax)
    codes = nearest(w, grid, steps)
    mine = grid.pack(codes, steps)
    assert (mine.view(-1) == packed.view(-1)).float().mean() > 0.99  # it breaks near ties otherwise
    state.absmax = scales.reshape(-1)
    decoded = functional.dequantize_4bit(mine.reshape(-1, 1), state)
    assert torch.equal(decoded, values(codes, grid, steps).T)


def test_nf4_scales_are_worth_searching():
    w, h = weights("gaussian"), importance(256)
    lost = []
    for kind in ("NF4_ABSMAX", "NF4"):
        grid = grid_of(kind)
        steps = fit(w, h, grid)
        assert all(bool((s.scale > 0).all()) for s in steps)
        lost.append(error(values(nearest(w, grid, steps), grid, steps), w, h))
    assert lost[1] < 0.8 * lost[0]


def test_unknown_kind():
    with pytest.raises(UsageError, match="no grid for 'Q7_K'"):
        grid_of("Q7_K")
