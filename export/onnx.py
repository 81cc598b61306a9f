"""``export.onnx``: a decoder graph with KV cache for onnxruntime-genai.

The graph comes from onnxruntime-genai's model builder, run offline in a process of its own. Int4 weights
of a GPTQ folder go into the graph as they are: afterwards every one is read back and compared. What the
builder leaves to chance or to the machine (its revision stamp, serialisation order) is fixed here.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from compress.artifact import write_json
from compress.errors import ArtifactError, UnsupportedArchitecture, UsageError
from compress.stage import Job, Needs, Params, Stage
from export.checkpoint import open_checkpoint, read_json

log = logging.getLogger(__name__)

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
"""Families whose graphs are checked here against Hugging Face; the builder knows more."""
BLOCK_SIZES = (16, 32, 64, 128, 256)
"""Group sizes that onnxruntime's MatMulNBits computes."""
_NEXT_SIZE = "quantize with group_size 32, 64 or 128"


class OnnxParams(Params):
    """Parameters of ``export.onnx``."""

    precision: Literal["int4", "int8", "fp16", "fp32"] = "int4"
    """Weights: int4/int8 (a GPTQ folder's own codes, or round to nearest), fp16 (CUDA) or fp32."""
    accuracy_level: int = Field(4, ge=0, le=4)
    """Least precision of activations in int4/int8 products: 4 int8, 3 bfloat16, 2 float16, 1 float32, 0 as stored."""
    head: Literal["int8", "int4", "float"] = "int8"
    """Output head (and a tied embedding) where the blocks are int4 or int8."""
    provider: Literal["cpu", "cuda"] = "cpu"
    """Execution provider that the graph is made for."""


class ExportOnnx(Stage[OnnxParams]):
    """Writes an onnxruntime-genai folder."""

    Params = OnnxParams
    version = 1
    accepts = frozenset({"gptq", "hf"})
    produces = "onnx"
    modules = frozenset({"onnx", "onnx_ir", "onnxruntime", "onnxruntime_genai", "torch", "transformers"})
    libraries = frozenset({"onnx", "onnx-ir", "onnxruntime", "onnxruntime-genai", "transformers"})

    def needs(self, job: Job[OnnxParams]) -> Needs:
        """Disk: the weights once, in float32 at most; memory: the builder holds them all."""
        size = sum(a.size_bytes() for a in job.inputs)
        grow = 2 if job.params.precision == "fp32" else 1
        return Needs(disk_bytes=grow * size, ram_bytes=3 * grow * size)

    def check(self, job: Job[OnnxParams]) -> None:
        """Refuse what the builder or the runtime cannot do, before anything is built."""
        if job.params.precision == "fp16" and job.params.provider == "cpu":
            raise UsageError("fp16 graphs run on CUDA only", next="set provider: cuda, or precision: fp32 or int4")
        if job.inputs:
            check_source(job.input.path, job.params)

    def run(self, job: Job[OnnxParams]) -> Mapping[str, Any]:
        """Build, make the bytes repeatable, and compare weights and token ids with the source."""
        from export.onnx_check import compare_tokens, compare_weights

        built = job.scratch / "onnx"
        shutil.rmtree(built, ignore_errors=True)
        build(job.input.path, built, job.params, job.scratch / "cache", job.threads)
        job.progress(1, 4, "graph built")
        settle_graph(built / "model.onnx")
        settle_config(built / "genai_config.json", job.input.path)
        settle_tokenizer(built / "tokenizer_config.json", job.input.path)
        job.progress(2, 4, "weights")
        exact = compare_weights(built / "model.onnx", job.input.path) if job.input.kind == "gptq" else 0
        job.progress(3, 4, "tokenizer")
        probes = compare_tokens(built, job.input.path)
        for path in sorted(built.iterdir()):
            shutil.move(path, job.out / path.name)
        job.progress(4, 4)
        return job.params.model_dump() | {"weights_equal": exact, "probes_equal": probes}


def check_source(folder: Path, params: OnnxParams) -> None:
    """Raise UsageError or ArtifactError when ``folder`` cannot be built with ``params``."""
    checkpoint = open_checkpoint(folder)
    names = checkpoint.config.get("architectures") or ["unknown"]
    if names[0] not in ARCHITECTURES:
        raise UnsupportedArchitecture(
            f"ONNX export does not know the architecture {names[0]!r} (known: {', '.join(ARCHITECTURES)})",
            next="add it to ARCHITECTURES in export/onnx.py once its graph agrees with Hugging Face",
        )
    if settings := checkpoint.config.get("quantization_config"):
        _check_gptq(settings, params)


def _check_gptq(settings: Mapping[str, Any], params: OnnxParams) -> None:
    """Raise UsageError when builder or runtime would not compute with just these codes."""
    bits, group = settings.get("bits"), settings.get("group_size")
    if params.precision != f"int{bits}":
        raise UsageError(
            f"a {bits}-bit GPTQ folder cannot become {params.precision} without requantizing",
            next=f"set precision: int{bits}" if bits in (4, 8) else "quantize with bits: 4 or 8",
        )
    if group not in BLOCK_SIZES:
        raise UsageError(f"onnxruntime has no kernel for group_size {group}", next=_NEXT_SIZE)
    if settings.get("dynamic"):
        raise UsageError(
            "the GPTQ folder holds linears of different bits; the ONNX model builder packs all of them alike",
            next="quantize without dynamic and without a budget, or use export.gguf",
        )
    if settings.get("desc_act") and (bits != 4 or not settings.get("sym", True)):
        # as of onnxruntime 1.31: 8 bits with g_idx are refused when run, zero points with g_idx are computed wrongly
        raise UsageError(
            "onnxruntime computes desc_act folders right only with 4 symmetric bits",
            next="quantize with desc_act: false (act_order: true costs nothing at inference), or bits: 4 and sym: true",
        )


def build(source: Path, out: Path, params: OnnxParams, cache: Path, threads: int) -> None:
    """Run onnxruntime-genai's builder; its prints go to the log. Raises ArtifactError with its last words."""
    options = ["hf_token=false", f"accuracy_level={params.accuracy_level}"]
    if params.precision in ("int4", "int8"):
        options.append("algo_config=rtn")
        if params.head == "float":
            options.append("nodes_to_exclude=/lm_head/MatMul")
        elif params.head != params.precision:
            options.append(f"matmul_mixed_precision=last_matmul:{params.head}")
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(out)]
    command += ["-p", params.precision, "-e", params.provider, "-c", str(cache), "--extra_options", *options]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    env = os.environ | offline | {"OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1", "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, errors="replace", check=False)
    for line in (done.stdout + done.stderr).splitlines():
        log.debug("builder: %s", line)
    if done.returncode != 0 or not (out / "model.onnx").is_file():
        last = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ArtifactError(
            f"the ONNX model builder failed: {last[:300]}", next="run again with --debug for its whole log"
        )


def settle_graph(path: Path) -> None:
    """Rewrite the graph without what differs between machines (revision stamp, doc strings), in a fixed order."""
    import onnx
    import onnxruntime_genai

    model = onnx.load(str(path), load_external_data=False)
    model.producer_name, model.producer_version = "onnxruntime-genai", onnxruntime_genai.__version__
    model.ClearField("doc_string")
    for node in model.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    path.write_bytes(model.SerializeToString(deterministic=True))


def settle_config(path: Path, source: Path) -> None:
    """genai_config.json: Hugging Face's end tokens and context, greedy by default."""
    from export.gguf_arch import context_length
    from export.tokenizer import end_ids, load_tokenizer

    config, model = read_json(path), read_json(source / "config.json")
    ends = end_ids(source, load_tokenizer(source), int(model["vocab_size"]))
    context = context_length(model)
    config["model"] |= {"eos_token_id": ends if len(ends) > 1 else ends[0], "context_length": context}
    config["search"] |= {"max_length": context, "do_sample": False}
    write_json(path, config)


def settle_tokenizer(path: Path, source: Path) -> None:
    """tokenizer_config.json as the source has it; the builder's loading marks (``is_local`` …) are dropped."""
    marks = {"is_local", "local_files_only", "name_or_path", "_commit_hash"}
    given = read_json(source / "tokenizer_config.json") if (source / "tokenizer_config.json").is_file() else {}
    kept = {key: value for key, value in read_json(path).items() if key in given or key not in marks}
    write_json(path, kept)
