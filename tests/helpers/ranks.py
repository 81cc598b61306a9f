"""Trainings in one or several processes, as a launcher would start them; the libraries are imported once for all."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

from compress.artifact import open_artifact
from compress.registry import load_stage
from compress.stage import Job

PRELOAD = ["torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "finetune.train.training"]


class Stopped(BaseException):
    """Stands for the end of the process."""


def train(
    world: int,
    use: str,
    base: Path,
    data: Path,
    root: Path,
    *,
    die: int | None = None,
    cut: bool = False,
    **params: Any,
) -> Path:
    """Run a training stage in ``world`` processes that share ``root``/scratch; the folder that the first one wrote.
    ``die``: the step after which all of them end; ``cut``: as accelerate's launcher starts them for FSDP, and each
    process writes the share of the weights that it holds into held.json."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (root / "scratch").mkdir(parents=True, exist_ok=True)
    given = (world, port, use, str(base), str(data), str(root), die, cut, params)
    processes = [context.Process(target=_rank, args=(rank, *given)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [9 if die else 0] * world
    return root / "out-0"


def _rank(
    rank: int,
    world: int,
    port: int,
    use: str,
    base: str,
    data: str,
    root: str,
    die: int | None,
    cut: bool,
    params: dict[str, Any],
) -> None:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"}
    if cut:
        os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
    if world == 1:
        for name in numbers:
            del os.environ[name]

    def progress(done: int, total: int, note: str = "") -> None:
        if die is not None and done >= die and "loss" in note:
            os._exit(9)

    out = Path(root) / f"out-{rank}"
    out.mkdir(exist_ok=True)
    if cut:
        _note_what_is_held(out)
    stage = load_stage(use)
    job = Job(
        params=stage.Params(**params), out=out, scratch=Path(root) / "scratch", inputs=(open_artifact(base),),
        data=open_artifact(data), seed=1, threads=1, progress=progress,
    )  # fmt: skip
    stage.check(job)
    facts = stage.run(job)
    (out / "facts.json").write_text(json.dumps(facts))
    os._exit(0)


def _note_what_is_held(out: Path) -> None:
    from finetune.train import sharding

    plain = sharding.shard

    def shard(model: Any, on_cpu: bool) -> None:
        plain(model, on_cpu)
        weights = list(model.parameters())
        held = sum(sharding.here(weight.detach()).numel() for weight in weights)
        (out / "held.json").write_text(json.dumps(held / sum(weight.numel() for weight in weights)))

    sharding.shard = shard
