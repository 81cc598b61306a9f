"""ONNX exporters side by side: this project's, onnxruntime-genai's model builder, transformers' exporter.

    python benchmarks/onnx/exporters.py MODEL [--text FILE] [--prompt 256] [--new 128] [--repeats 3] [--only NAME...]

Every export and every reading runs in a process of its own; the same plain onnxruntime loop decodes all of them, the
cache handed from step to step without a copy into Python. transformers' exporter needs onnxscript. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))


def ours(**params: Any) -> Callable[[Path, Path], Path]:
    """Export by the stage's own code, with the checks that belong to it."""

    def export(model: Path, out: Path) -> Path:
        from export.onnx.check import compare_weights
        from export.onnx.stage import OnnxParams, build

        linears = build(model, out, OnnxParams(**params))
        compare_weights(out / "model.onnx", model, linears)
        return out / "model.onnx"

    return export


def builder(precision: str, *options: str) -> Callable[[Path, Path], Path]:
    """Export by onnxruntime-genai's model builder."""

    def export(model: Path, out: Path) -> Path:
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(model), "-o", str(out)]
        command += [
            "-p",
            precision,
            "-e",
            "cpu",
            "-c",
            str(out / "cache"),
            "--extra_options",
            "hf_token=false",
            *options,
        ]
        subprocess.run(command, check=True, capture_output=True)
        return out / "model.onnx"

    return export


def transformers(int8: bool) -> Callable[[Path, Path], Path]:
    """Export by transformers' own exporter, fused for onnxruntime."""

    def export(model: Path, out: Path) -> Path:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.exporters import OnnxConfig, OnnxExporter, OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        ids = torch.randint(0, loaded.config.vocab_size, (1, 12))
        quantizer = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig()) if int8 else None
        config = OnnxConfig(dynamic=True, ort_fusions="cpu", quantizer=quantizer)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        made = OnnxExporter().export_for_generation(loaded, inputs, config=config, multi_token_decode=True)
        made.save_pretrained(out)
        for extra in out.glob("prefill.onnx*"):
            extra.unlink()  # decode.onnx answers prompts too
        return out / "decode.onnx"

    return export


WAYS: dict[str, Callable[[Path, Path], Path]] = {
    "ours fp32": ours(precision="fp32"),
    "builder fp32": builder("fp32"),
    "transformers fp32": transformers(False),
    "ours fp16": ours(precision="fp16"),
    "ours int8 level 4": ours(precision="int8", accuracy_level=4),
    "builder int8 level 4": builder("int8", "algo_config=rtn", "accuracy_level=4"),
    "transformers int8 dynamic": transformers(True),
    "ours int4 level 4": ours(accuracy_level=4),
    "ours int4 level 1": ours(accuracy_level=1),
    "ours int4 level 0": ours(accuracy_level=0),
    "ours int4 level 4, head int4": ours(accuracy_level=4, head="int4"),
    "ours int4 level 4, head float": ours(accuracy_level=4, head="float"),
    "ours int4 level 4, blocks of 128": ours(accuracy_level=4, block_size=128),
    "builder int4 level 4": builder(
        "int4", "algo_config=rtn", "matmul_mixed_precision=last_matmul:int8", "accuracy_level=4"
    ),
}


class Loop:
    """Greedy decoding in plain onnxruntime."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime as ort

        self.ort, options = ort, ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        self.run = ort.InferenceSession(str(path), options)
        names = {given.name: given for given in self.run.get_inputs()}
        self.past = {n: g for n, g in names.items() if "past" in n}
        self.rest = [n for n in names if n not in self.past]
        cache = [given.name for given in self.run.get_outputs() if given.name != "logits"]
        self.outputs, config = ["logits", *cache], path.with_name("genai_config.json")
        self.size = json.loads(config.read_text())["model"]["decoder"]["head_size"] if config.is_file() else None

    def empty(self) -> dict[str, Any]:
        """The cache before the first token."""
        return {
            n: self.ort.OrtValue.ortvalue_from_numpy(np.zeros(_dims(g, self.size), _kind(g)))
            for n, g in self.past.items()
        }

    def step(self, ids: list[int], at: int, past: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Logits [ids, vocab] and the new cache."""
        feeds = {
            "input_ids": np.asarray([ids], np.int64),
            "attention_mask": np.ones((1, at + len(ids)), np.int64),
            "position_ids": np.arange(at, at + len(ids), dtype=np.int64)[None],
        }
        given = {n: self.ort.OrtValue.ortvalue_from_numpy(feeds[n]) for n in self.rest}
        logits, *present = self.run.run_with_ort_values(self.outputs, given | past)
        return logits, dict(zip(past, present, strict=True))


def _dims(given: Any, size: int | None) -> list[int]:
    """[1, heads, 0, size]: transformers' exporter writes known sizes as text, the builder leaves the last one open."""
    known = [int(d) if str(d).isdigit() else None for d in given.shape]
    return [1, known[1] or 0, 0, size or known[3] or 0]


def _kind(given: Any) -> Any:
    return np.float16 if given.type == "tensor(float16)" else np.float32


def read(path: Path, ids: list[int], prompt: int, threads: int) -> dict[str, float]:
    """Tokens per second of the prompt and of what follows, the second time; peak memory of this process."""
    loop = Loop(path, threads)
    for _ in range(2):
        start = time.perf_counter()
        _, past = loop.step(ids[:prompt], 0, loop.empty())
        between = time.perf_counter()
        for at in range(prompt, len(ids)):
            _, past = loop.step([ids[at]], at, past)
        prefill, decode = prompt / (between - start), (len(ids) - prompt) / (time.perf_counter() - between)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"prefill": prefill, "decode": decode, "rss": peak}


def differ(path: Path, ids: list[int], expected: Path) -> dict[str, float]:
    """Largest difference of a logit in deviations, mean KL, and share of other most likely tokens."""
    loop, reference = Loop(path, 1), np.load(expected)
    got = np.asarray(loop.step(ids, 0, loop.empty())[0].numpy()[0], dtype=np.float64)
    p, q = (rows - np.logaddexp.reduce(rows, axis=1, keepdims=True) for rows in (reference.astype(np.float64), got))
    kl = float((np.exp(p) * (p - q)).sum(1).mean())
    flips = float((reference.argmax(1) != got.argmax(1)).mean())
    return {"off": float(np.abs(got - reference).max() / reference.std()), "kl": kl, "flips": flips}


def reference(model: Path, text: Path | None, count: int, out: Path) -> list[int]:
    """Token ids, and transformers' float32 logits for them in ``out``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = np.random.default_rng(0).integers(8, loaded.config.vocab_size, count).tolist()
    if text is not None:
        rows = [json.loads(line)["text"] for line in text.read_text().splitlines()[:50]]
        ids = AutoTokenizer.from_pretrained(model)("\n".join(rows), verbose=False)["input_ids"][:count]
    with torch.no_grad():
        np.save(out, loaded(torch.tensor([ids])).logits[0].numpy())
    return ids


def child(task: str, cores: int, **arguments: Any) -> dict[str, Any]:
    """Run one task in a process of its own."""
    command = [sys.executable, __file__, "--task", task, "--arguments", json.dumps(arguments, default=str)]
    env = os.environ | {"OMP_NUM_THREADS": str(cores), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:160]}
    return json.loads(done.stdout.splitlines()[-1])


def perform(task: str, given: dict[str, Any]) -> dict[str, Any]:
    """A task inside its process."""
    if task == "export":
        start, out = time.perf_counter(), Path(given["out"])
        path = WAYS[given["name"]](Path(given["model"]), out)
        peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        size = sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*")) / 1e6
        return {"path": str(path), "seconds": time.perf_counter() - start, "rss": max(peaks), "size": size}
    if task == "reference":
        text = None if given["text"] in (None, "None") else Path(given["text"])
        return {"ids": reference(Path(given["model"]), text, given["count"], Path(given["out"]))}
    if task == "differ":
        return differ(Path(given["path"]), given["ids"], Path(given["expected"]))
    return read(Path(given["path"]), given["ids"], given["prompt"], given["threads"])


def speeds(
    paths: dict[str, str], given: argparse.Namespace, ids: list[int], threads: int
) -> dict[str, dict[str, float]]:
    """Readings of every graph, in turn; the best of ``--repeats`` rounds, since others may use the machine."""
    best: dict[str, dict[str, float]] = {}
    for _ in range(given.repeats):
        for name, path in paths.items():
            found = child("read", threads, path=path, ids=ids, prompt=given.prompt, threads=threads)
            if "error" in found:
                raise SystemExit(f"{name}: {found['error']}")
            best[name] = {key: max(value, best.get(name, {}).get(key, 0)) for key, value in found.items()}
    return best


def table(given: argparse.Namespace, work: Path) -> None:
    """Export, compare and time; print one row per graph."""
    expected, count = work / "expected.npy", given.prompt + given.new
    ids = child("reference", 1, model=given.model, text=given.text, count=count, out=expected)["ids"]
    made: dict[str, dict[str, Any]] = {}
    for name in given.only:
        out = work / name.replace(" ", "-")
        out.mkdir()
        made[name] = child("export", 1, name=name, model=given.model, out=out)
    failed = {name: found["error"] for name, found in made.items() if "error" in found}
    paths = {name: found["path"] for name, found in made.items() if name not in failed}
    readings = {threads: speeds(paths, given, ids, threads) for threads in (1, 2)}
    print("| graph | export: time, peak | size | 1 thread: prefill / decode | 2 threads | peak | off | KL | flips |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in paths:
        near = child("differ", 1, path=paths[name], ids=ids, expected=expected)
        cells = [f"{made[name]['seconds']:.1f} s, {made[name]['rss']:.0f} MB", f"{made[name]['size']:.2f} MB"]
        cells += [f"{readings[t][name]['prefill']:,.0f} / {readings[t][name]['decode']:,.0f}" for t in (1, 2)]
        cells += [
            f"{readings[1][name]['rss']:.0f} MB",
            f"{near['off']:.1e}",
            f"{near['kl']:.1e}",
            f"{near['flips']:.1%}",
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    for name, error in failed.items():
        print(f"\n{name} failed: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--arguments", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        print(json.dumps(perform(given.task, json.loads(given.arguments))))
        return
    with tempfile.TemporaryDirectory() as folder:
        table(given, Path(folder))


if __name__ == "__main__":
    main()
