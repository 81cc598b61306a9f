"""Memory and speed of training on a GPU, beside what the planner says.

    python benchmarks/train/gpu.py table                         the planner's table of large models, needs no GPU
    python benchmarks/train/gpu.py make SHAPE FOLDER TOKENIZER   random weights; TOKENIZER: a folder that has one
    python benchmarks/train/gpu.py measure FOLDER                some steps on the first GPU

``--tokens N --checkpointing yes|no`` replaces the planner's choice.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

SHAPES = {  # blocks, hidden, ffn, heads, kv heads, vocabulary, tied
    "135M": (30, 576, 1536, 9, 3, 49152, True),
    "0.5B": (24, 896, 4864, 14, 2, 151936, True),
    "1.1B": (22, 2048, 5632, 32, 4, 32000, False),
    "1.2B": (16, 2048, 8192, 32, 8, 128256, True),
    "3B": (28, 3072, 8192, 24, 8, 128256, True),
    "7B": (32, 4096, 11008, 32, 32, 32000, False),
    "8B": (32, 4096, 14336, 32, 8, 128256, False),
}
"""Published sizes: SmolLM2-135M, Qwen2.5-0.5B, TinyLlama, Llama 3.2 1B and 3B, Llama 2 7B, Llama 3.1 8B."""


def config_of(shape: str) -> dict[str, Any]:
    """A Llama config.json."""
    blocks, hidden, ffn, heads, kv_heads, vocab, tied = SHAPES[shape]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": blocks,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "dtype": "bfloat16",
    }


def table() -> None:
    """Peak and fit for cards of 24, 48 and 80 GB."""
    from compress.errors import HoldfastError
    from compress.model.outline import config_outline
    from finetune.train import gpu
    from finetune.train.params import SftParams

    print("| model | method, optimizer | length | 24 GB | 48 GB | 80 GB |\n|---|---|---|---|---|---|")
    for shape in ("1.2B", "3B", "7B", "8B"):
        model = config_outline(config_of(shape), Path("config.json"), 2.0)
        for method, optimizer in (("qlora", "adamw"), ("lora", "adamw"), ("full", "adamw"), ("full", "adamw_8bit")):
            for length in (512, 4096):
                p = SftParams(method=method, rank=16, optimizer=optimizer, max_length=length)
                cells = []
                for card in (24, 48, 80):
                    try:
                        fit = gpu.fitted(model, p, length, 1, card * 1e9 - gpu.CONTEXT)
                        how = "computed twice" if fit.checkpointing else "kept"
                        cells.append(f"{gpu.peak(model, p, fit) / 1e9:.1f} GB: {fit.tokens // length} rows, {how}")
                    except HoldfastError:
                        cells.append("–")
                print(f"| {shape} | {method}, {optimizer} | {length} | {' | '.join(cells)} |")


def make(shape: str, tokenizer: Path, place: Path) -> None:
    """A folder with random weights."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**config_of(shape)))
    model.save_pretrained(place)
    for path in [*tokenizer.glob("*token*"), *tokenizer.glob("chat_template*")]:
        shutil.copy(path, place)


def measure(given: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Some steps on random tokens."""
    import torch

    from compress.artifact import Artifact
    from compress.model.outline import folder_outline
    from compress.stage import Job
    from finetune.train import gpu, hooks, training
    from finetune.train.objective import IGNORED, Labels
    from finetune.train.params import SftParams

    class Noise(Labels):
        def examples(self, tokenizer: Any) -> Any:
            made = torch.Generator().manual_seed(1)
            ids = torch.randint(3, 30000, (given.steps * given.batch, given.length), generator=made).tolist()
            half = given.length // 2
            return [[{"input_ids": row, "labels": [IGNORED] * half + row[half:]}] for row in ids]

    chosen: list[gpu.Fit] = []
    plan = gpu.fitted

    def fitted(*arguments: Any) -> gpu.Fit:
        fit = gpu.Fit(given.tokens, given.checkpointing == "yes") if given.tokens else plan(*arguments)
        chosen.append(fit)
        return fit

    gpu.fitted = fitted
    work = Path(tempfile.mkdtemp())
    for part in ("out", "scratch"):
        (work / part).mkdir()
    p = SftParams(
        method=given.method,
        rank=16,
        optimizer=given.optimizer,
        steps=given.steps,
        batch=given.batch,
        max_length=given.length,
        checkpoint_every=10**6,
    )
    job = Job(params=p, out=work / "out", scratch=work / "scratch", inputs=(Artifact("hf", place, ""),), seed=1)
    times: list[float] = []
    watched = hooks.recent_loss

    def recent(history: Any) -> float:
        torch.cuda.synchronize()
        times.append(time.monotonic())
        return watched(history)

    hooks.recent_loss = recent
    hooks.INTERVAL = 4
    training.train(job, Noise(), 1e-4)
    shutil.rmtree(work)
    model, fit = folder_outline(place).model, chosen[0]
    assert model is not None
    peak = torch.cuda.max_memory_allocated() + gpu.CONTEXT
    told = gpu.peak(model, p, fit)
    steady = (len(times) - 2) * hooks.INTERVAL * given.batch * given.length / (times[-2] - times[0])
    return {
        "method": f"{given.method} {given.optimizer}",
        "batch": f"{given.batch} x {given.length}",
        "together": fit.tokens,
        "checkpointing": fit.checkpointing,
        "planned_gb": round(told / 1e9, 2),
        "peak_gb": round(peak / 1e9, 2),
        "reserved_gb": round((torch.cuda.max_memory_reserved() + gpu.CONTEXT) / 1e9, 2),
        "fixed_gb": round(gpu.fixed(model, p) / 1e9, 2),
        "tokens_per_second": round(steady),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True)
    tasks.add_parser("table")
    making = tasks.add_parser("make")
    making.add_argument("shape", choices=SHAPES)
    making.add_argument("folder", type=Path)
    making.add_argument("tokenizer", type=Path)
    measuring = tasks.add_parser("measure")
    measuring.add_argument("folder", type=Path)
    measuring.add_argument("--method", default="qlora")
    measuring.add_argument("--optimizer", default="adamw")
    measuring.add_argument("--checkpointing", choices=["yes", "no"])
    for name, value in (("steps", 20), ("batch", 16), ("length", 256), ("tokens", 0)):
        measuring.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    if given.task == "table":
        table()
    elif given.task == "make":
        make(given.shape, given.tokenizer, given.folder)
    else:
        print(json.dumps({"model": given.folder.name, **measure(given, given.folder)}), flush=True)


if __name__ == "__main__":
    main()
