"""Memory and speed of two processes that train one model, each with the whole of it (DDP) and with its part (FSDP).

    python benchmarks/train/processes.py MODEL ROWS.jsonl [--method full] [--steps 3] [--batch 4] [--words 30]

Peak RSS of each process up to the last step, and up to the end: the first one gathers the checkpoint and the model.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]


def measure(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """One process."""
    import torch
    from step import read_rows

    from compress.artifact import Artifact
    from compress.memory import trim
    from compress.stage import Job
    from finetune.train import merge, training
    from finetune.train.params import SftParams
    from finetune.train.sft import Conversations

    torch.set_num_threads(1)
    before: list[int] = []
    notes: list[str] = []

    def progress(done: int, total: int, note: str = "") -> None:
        before.append(peak())
        notes.append(note)

    params = SftParams(method=given.method, rank=16, steps=given.steps, batch=given.batch, checkpoint_every=10**6)
    out = scratch / f"out-{os.environ['RANK']}"
    out.mkdir()
    job = Job(
        params=params,
        out=out,
        scratch=scratch,
        inputs=(Artifact("hf", given.model, ""),),
        seed=1,
        progress=progress,
    )
    rows = read_rows(given.rows, given.steps * given.batch, given.words, 2)
    result = training.train(job, Conversations(rows, params), 1e-5)
    trained = peak()
    if os.environ["RANK"] == "0" and given.method == "full":
        merge.save_merged(result.model, given.model, out, result.weights)
    trim()
    return {"steps_mb": before[-1] // 10**6, "checkpoint_mb": trained // 10**6, "end_mb": peak() // 10**6} | {
        "tokens_per_second": round(result.tokens / result.seconds, 1),
        "loss": notes[-1].split(",")[0],
    }


def peak() -> int:
    """Highest RSS of this process so far, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Both ways, in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--method", choices=["full", "lora"], default="full")
    for name, value in (("steps", 3), ("batch", 4), ("words", 30)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    if "RANK" in os.environ:
        found = measure(given, Path(os.environ["PLACE"]))
        print(json.dumps(found), flush=True)
        os._exit(0)
    for way in ("DDP", "FSDP"):
        with socket.socket() as free, tempfile.TemporaryDirectory() as place:
            free.bind(("127.0.0.1", 0))
            shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "PLACE": place}
            shared |= {"MASTER_PORT": str(free.getsockname()[1]), "ACCELERATE_USE_FSDP": str(way == "FSDP").lower()}
            free.close()
            command = [sys.executable, __file__, *sys.argv[1:]]
            ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
            started = [
                subprocess.Popen(command, env=os.environ | shared | rank, stdout=subprocess.PIPE, text=True)
                for rank in ranks
            ]
            for rank, process in enumerate(started):
                print(way, rank, process.communicate()[0].splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
