from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_folder import write_tokenizer
from tiny_families import PLAIN, save_tiny
from tiny_gguf import write_tiny_gguf
from validate_models import prompts

from compress.validate import in_runtime, in_torch, packed
from compress.validate.batches import common_prefix, plan_batches
from compress.validate.in_runtime import RuntimeRunner
from compress.validate.in_torch import HfRunner
from compress.validate.packed import pack_linears
from compress.validate.runner import Scored

SHARED = (5, 9, 11, 3, 7, 8)
ROWS = [
    Scored((*SHARED, 20, 21, 22), (6, 8)),
    Scored((*SHARED, 30, 31, 32, 33, 34, 35), (5, 6, 7, 11)),
    Scored((*SHARED, 40), (6,)),
    Scored((2, 4, 6), (0, 1, 2)),
]


@pytest.mark.parametrize("family", PLAIN)
def test_scored_rows_are_those_of_the_whole_model(family: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    model = save_tiny(family, tmp_path)
    with HfRunner(tmp_path) as runner:
        found = dict(runner.score(ROWS))
    assert sorted(found) == [0, 1, 2, 3]
    for number, row in enumerate(ROWS):
        with torch.no_grad():
            whole = model(input_ids=torch.tensor([row.ids])).logits[0]
        np.testing.assert_allclose(found[number], whole[list(row.where)].numpy(), rtol=1e-3, atol=2e-4)


def test_no_more_logits_than_a_slab_are_made_at_once(tiny_hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_torch, "SLAB_BYTES", 4 * 4 * 400 * 2)
    seen = []
    with HfRunner(tiny_hf) as runner:
        step = runner._step
        monkeypatch.setattr(runner, "_step", lambda *given: seen.append(out := step(*given)) or out)
        found = dict(runner.score(ROWS * 3))
        whole = runner.vocabulary * 4 * 4
    assert len(found) == 12
    assert max(out.numel() * 4 for out in seen) <= 2 * whole


def test_packed_layers_answer_alike(tiny_hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "WORTH_PACKING", 1)
    with HfRunner(tiny_hf) as plain, HfRunner(tiny_hf, many=True) as quick:
        assert type(quick.model.lm_head).__name__ == "PackedLinear"
        assert type(quick.model.model.layers[0].mlp.up_proj).__name__ == "PackedLinear"
        ids = plain.encode(prompts(1)[0])
        np.testing.assert_allclose(quick.logits(ids), plain.logits(ids), rtol=1e-4, atol=1e-4)
        assert quick.complete(prompts(6), 8) == plain.complete(prompts(6), 8)


def test_packed_products_are_float32_and_keep_their_bias() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(600, 700), torch.nn.Linear(700, 3))
    x = torch.randn(2, 5, 600)
    with torch.inference_mode():
        exact = x.double() @ model[0].weight.double().T + model[0].bias.double()
        pack_linears(model)
        assert type(model[1]) is torch.nn.Linear, "too small to be worth it"
        assert float((model[0](x) - exact).abs().max()) < 1e-5


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf", context=2048)


@pytest.fixture
def in_gguf(tiny_gguf: Path) -> Iterator[RuntimeRunner]:
    with RuntimeRunner(tiny_gguf, context=256) as runner:
        assert isinstance(runner, RuntimeRunner)
        yield runner


def test_the_runtime_scores_as_it_reads_the_whole(in_gguf: RuntimeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_runtime, "SLAB_BYTES", 4 * in_gguf.vocabulary * 8)
    shared = tuple(range(40, 80))
    rows = [Scored((*shared, *range(90, 92 + n)), (39 + n % 2, 41 + n)) for n in range(9)]
    found = dict(in_gguf.score(rows))
    assert in_gguf.session.scheduler.counters.reused_tokens >= 7 * 39, "what rows begin with is read once"
    for number, row in enumerate(rows):
        whole = in_gguf.session.logits(list(row.ids))
        np.testing.assert_allclose(found[number], whole[list(row.where)], atol=0.03)


def test_a_prompt_longer_than_expected_gets_room(in_gguf: RuntimeRunner) -> None:
    asked = [[{"role": "user", "content": "a" * 40 * n}] for n in (1, 9)]
    (short,) = in_gguf.complete(asked[:1], 4)
    assert in_gguf.context == 256
    both = in_gguf.complete(asked, 4)
    assert in_gguf.context == 2048
    assert both[0].token_ids == short.token_ids


def test_the_runtime_tells_how_many_replies_are_finished(in_gguf: RuntimeRunner) -> None:
    told: list[tuple[int, int]] = []
    in_gguf.complete(
        [[{"role": "user", "content": "b" * n}] for n in range(5)], 3, progress=lambda *at: told.append(at)
    )
    assert told == [(n, 5) for n in range(1, 6)]


def test_torch_tells_of_progress_inside_a_batch(tiny_hf: Path) -> None:
    told: list[tuple[int, int]] = []
    with HfRunner(tiny_hf) as runner:
        runner.complete(prompts(20), 10, progress=lambda *at: told.append(at))
    assert told == sorted(told)
    assert told[-1] == (20, 20)
    assert len(told) > 5, "one batch, several steps"


def test_batches_are_of_like_length_where_that_computes_less() -> None:
    asked = [[*range(50), n, *[7] * (1 + 19 * (n % 2))] for n in range(64)]
    for batch in plan_batches(asked, 16):
        assert len({len(asked[i]) for i in batch}) == 1
    two = [[n % 2] * 200 + [3] * (1 + n % 3) for n in range(64)]
    assert all(common_prefix([two[i] for i in batch]) >= 200 for batch in plan_batches(two, 16))
