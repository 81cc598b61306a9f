"""The grids of block formats against their readers (gguf, ggml, bitsandbytes), ggml's own quantizers and slow loops."""

import itertools

import pytest
import torch

from compress.errors import UsageError
from compress.quantize.gptq_math import solve
from compress.quantize.grids import Steps
from compress.quantize.kformats import FORMATS, NF4
from compress.quantize.kgrids import grid_of
from compress.quantize.kterms import Problem

pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")

from kquants import GGML, OUT, error, fit, ggml, importance, nearest, read, read_by_ggml, values, weights


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
    assert bool((steps.scale > 0).all()) or not grid.form.affine
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


@pytest.mark.parametrize("kind", GGML)
def test_error_feedback_runs_inside_the_format(kind):
    grid, g = grid_of(kind), torch.Generator().manual_seed(6)
    x = torch.randn(2048, 512, generator=g) @ torch.randn(512, 512, generator=g) * importance(512).sqrt()
    H, W = x.T @ x / len(x), weights("gaussian").repeat(2, 1)[:, :32].contiguous()
    solution = solve(W, H, grid)
    bytes_ = grid.pack(solution.codes, [solution.steps])
    assert torch.equal(read(bytes_, kind), solution.weights())
    peer = read(
        torch.from_numpy(ggml.quantize(W.T.contiguous().numpy(), kind, H.diagonal().contiguous().numpy())), kind
    )
    ours, theirs = (float(((v - W) * (H @ (v - W))).sum()) for v in (solution.weights(), peer))
    assert ours < 0.6 * theirs
