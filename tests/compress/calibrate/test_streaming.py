"""Files of activations between blocks: order, completeness, overwriting, and where a killed run goes on."""

import pytest
import torch
from word_models import save_with_words

from compress.calibrate import streaming
from compress.calibrate.streaming import States, Stream, block_file, finished_blocks
from compress.errors import ArtifactError
from compress.model.blocks import ModelFolder

SPANS = [(0, 2), (2, 4), (4, 5)]


def batches(seed=0):
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(seed))
    return x, [x[start:stop] for start, stop in SPANS]


@pytest.mark.parametrize("kind", [None, torch.bfloat16])
def test_what_is_written_is_read_by_any_span(tmp_path, kind):
    x, parts = batches()
    x = x.to(kind or torch.float32)
    states = States(tmp_path / "s.bin", 3, 4, kind)
    states.write(part.to(x.dtype) for part in parts)
    assert states.path.stat().st_size == x.nbytes
    for start in range(5):
        for stop in range(start + 1, 6):
            assert torch.equal(states.read(start, stop), x[start:stop])


def test_a_file_gets_its_name_when_it_is_complete(tmp_path):
    _, parts = batches()
    states = States(tmp_path / "s.bin", 3, 4)
    passed = []
    for part in states.record(parts):
        passed.append(part)
        assert not states.path.exists()
    assert all(torch.equal(a, b) for a, b in zip(passed, parts, strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["s.bin"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    x, parts = batches()
    states = States(tmp_path / "s.bin", 3, 4)
    states.write(parts)

    def broken():
        yield batches(1)[1][0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        states.write(broken())
    assert torch.equal(states.read(0, 5), x)


def test_overwriting_replaces_every_window(tmp_path):
    states = States(tmp_path / "s.bin", 3, 4)
    for seed in (0, 1):
        x, parts = batches(seed)
        for _ in states.record(parts, over=True):
            pass
        assert torch.equal(states.read(0, 5), x)
        assert states.path.stat().st_size == x.nbytes


@pytest.mark.parametrize("kind", [None, torch.bfloat16])
def test_windows_are_put_in_place_one_range_after_the_other(tmp_path, kind):
    states = States(tmp_path / "s.bin", 3, 4, kind)
    for seed in (0, 1):
        x, parts = batches(seed)
        for (start, stop), part in zip(SPANS, parts, strict=True):
            states.put(start, part)
            assert torch.equal(states.read(start, stop), part.to(kind or part.dtype))
        assert torch.equal(states.read(0, 5), x.to(kind or x.dtype))


def test_reading_ahead_of_what_is_overwritten(tmp_path):
    """A batch may be computed from the very windows that it replaces."""
    x, parts = batches()
    states = States(tmp_path / "s.bin", 3, 4)
    states.write(parts)
    for _ in states.record((states.read(*span) * 2 for span in SPANS), over=True):
        pass
    assert torch.equal(states.read(0, 5), x * 2)


def test_a_file_that_is_cut_short_is_named(tmp_path):
    _, parts = batches()
    states = States(tmp_path / "s.bin", 3, 4)
    states.write(parts)
    states.path.write_bytes(states.path.read_bytes()[:-1])
    states.read(0, 4)
    with pytest.raises(ArtifactError, match=r"s\.bin is cut short"):
        states.read(3, 5)


def test_finished_blocks_end_at_the_first_gap(tmp_path):
    assert finished_blocks(tmp_path, 3) == 0
    (tmp_path / block_file(1)).touch()
    assert finished_blocks(tmp_path, 3) == 0
    (tmp_path / block_file(0)).touch()
    assert finished_blocks(tmp_path, 3) == 2
    (tmp_path / block_file(2)).touch()
    assert finished_blocks(tmp_path, 3) == 3


@pytest.mark.parametrize("windows", [1, 5, 8])
@pytest.mark.parametrize("fit", [1, 3, 100])
def test_spans_cover_the_windows_in_batches_that_fit(tmp_path, windows, fit, monkeypatch):
    save_with_words("gpt2", tmp_path / "m")
    model = ModelFolder(tmp_path / "m")
    monkeypatch.setattr(streaming, "BATCH_BYTES", fit * 4 * 24 * 256)  # the FFN is the widest
    tokens = torch.randint(0, 90, (windows, 24), generator=torch.Generator().manual_seed(1))
    stream = Stream(model, tokens, tmp_path)
    spans = list(stream.spans())
    assert [i for start, stop in spans for i in range(start, stop)] == list(range(windows))
    assert max(stop - start for start, stop in spans) == min(fit, windows)
    assert torch.equal(torch.cat(list(stream.embedded())), model.embed(tokens))
