"""``export.onnx``: a decoder graph with KV cache for onnxruntime-genai.

The graph is written here, tensor by tensor (``export/onnx/decoder.py``); nothing is traced and no model is loaded.
Codes of a GPTQ folder go into the graph as they are; afterwards every weight is read back and compared with its source.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from compress.costs import WORKER, Work, forward, touched
from compress.errors import ArtifactError, UnsupportedArchitecture, UsageError
from compress.json_files import read_json, write_json
from compress.model.config import read_settings
from compress.outline import SIDE_BYTES, ModelOutline, Outline
from compress.stage import Job, JobOutline, Needs, Params, Stage
from export.checkpoint import Checkpoint, open_checkpoint
from export.onnx.family import Spec, family_of, rope_tables, spec_of
from export.onnx.levels import LENGTH
from export.onnx.levels import TOKENS as LEVEL_TOKENS

GRAPH = "model.onnx"
LIBRARIES = 190_000_000
"""Bytes of onnx, onnxruntime and onnxruntime-genai."""
FIXED_S, ENTRY_S = 1.5, 4e-5
"""Seconds of the interpreter: importing them, writing and stamping the graph; an entry of the vocabulary."""
WEIGHT_MOVED = 150
"""Bytes moved for a weight: rounded, written, read back, compared, hashed."""
SPEED = 0.4
"""Share of the probe's float32 speed that products of codes reach in onnxruntime."""


class OnnxParams(Params):
    """Parameters of ``export.onnx``."""

    precision: Literal["int4", "int8", "fp16", "fp32"] = "int4"
    """Weights: int4/int8 (a GPTQ folder's own codes, or round to nearest), fp16 or fp32."""
    accuracy_level: Literal["auto", 0, 1, 4] = "auto"
    """Activations in int4/int8 products: 4 int8, 1 float32, 0 as stored; auto: 4 where measuring allows it."""
    max_flips: float = Field(0.02, ge=0, le=1)
    """With ``auto``: share of positions whose most likely token int8 activations may change."""
    head: Literal["int8", "int4", "float"] = "int8"
    """Output head and token embedding where the blocks are int4 or int8."""
    block_size: Literal[16, 32, 64, 128, 256] = 32
    """Weights that share a scale, where this stage rounds (a GPTQ folder keeps its groups)."""
    provider: Literal["cpu", "cuda"] = "cpu"
    """Execution provider that the graph is made for; activations are float32 on the CPU, float16 on CUDA."""

    @property
    def half(self) -> bool:
        """Whether activations are float16."""
        return self.precision == "fp16" or self.provider == "cuda"

    @property
    def bits(self) -> int | None:
        """Bits of a linear that the folder holds in floating point."""
        return {"int4": 4, "int8": 8}.get(self.precision)

    @property
    def head_bits(self) -> int | None:
        """Bits of the output head and the embedding."""
        return None if self.bits is None else {"int4": 4, "int8": 8}.get(self.head)


class ExportOnnx(Stage[OnnxParams]):
    """Writes an onnxruntime-genai folder."""

    Params = OnnxParams
    version = 6
    accepts = frozenset({"gptq", "hf"})
    produces = "onnx"
    uses = frozenset({"calibration"})
    modules = frozenset({"onnx", "onnxruntime", "onnxruntime_genai", "torch", "transformers"})
    libraries = frozenset({"onnx", "onnxruntime", "onnxruntime-genai", "transformers"})

    def requires(self, params: OnnxParams) -> frozenset[str]:
        """Nothing: without calibration text the accuracy level is chosen on text that the model draws itself."""
        return frozenset()

    def outline(self, job: JobOutline[OnnxParams]) -> Outline:
        """Codes with a float32 scale per block, embedding and head as ``head`` says; float16 or float32 else."""
        p, model = job.params, job.input.sizes
        plain = 2.0 if p.half else 4.0
        stored = plain if p.bits is None else p.bits / 8 + 4 / _block(job)
        head = plain if p.head_bits is None else p.head_bits / 8 + 4 / p.block_size
        size = model.linears * stored + model.head * head * (1 if model.tied else 2)
        return Outline("onnx", int(size + SIDE_BYTES * model.shape.vocab), replace(model, weight_bytes=stored))

    def needs(self, job: JobOutline[OnnxParams]) -> Needs:
        """Memory: the largest tensor in float32 with its codes while it is rounded, or two sessions and their scores of
        a window while the accuracy level is chosen.

        Work: every weight rounded, written, read back and compared; two passes over LEVEL_TOKENS tokens.
        """
        p, model, found = job.params, job.input.sizes, self.outline(job)
        work = Work(python=FIXED_S + ENTRY_S * model.shape.vocab, moved=WEIGHT_MOVED * model.parameters)
        sessions = 0
        if p.accuracy_level == "auto" and p.bits is not None and p.provider == "cpu":
            work += _levels(model)
            sessions = 3 * found.disk_bytes + 3 * 8 * LENGTH * model.shape.vocab
        memory = WORKER + LIBRARIES + max(16 * max(model.head, model.block), sessions)
        return Needs(2 * found.disk_bytes, int(memory), work)

    def check(self, job: Job[OnnxParams]) -> None:
        """Refuse what the runtime cannot do, before anything is written."""
        if job.params.precision == "fp32" and job.params.provider == "cuda":
            raise UsageError(
                "onnxruntime's attention has no float32 kernel on CUDA", next="set precision: fp16 or int4"
            )
        if job.inputs:
            check_source(job.input.path, job.params)

    def run(self, job: Job[OnnxParams]) -> Mapping[str, Any]:
        """Write the graph, choose its accuracy level, and compare weights and token ids with the source."""
        from export.onnx.check import compare_tokens, compare_weights
        from export.onnx.levels import settle_level

        built, source = job.scratch / "onnx", job.input.path
        shutil.rmtree(built, ignore_errors=True)
        built.mkdir(parents=True)
        linears = build(source, built, job.params)
        job.progress(1, 4, "weights")
        compared = compare_weights(built / GRAPH, source, linears)
        job.progress(2, 4, "accuracy level")
        levels = settle_level(built, source, job)
        job.progress(3, 4, "tokenizer")
        probes = compare_tokens(built, source)
        for path in sorted(built.iterdir()):
            shutil.move(path, job.out / path.name)
        job.progress(4, 4)
        return job.params.model_dump() | levels | compared | {"probes_equal": probes}


def _block(job: JobOutline[OnnxParams]) -> int:
    """Weights that share a scale: those of a GPTQ folder as a guess of its usual group."""
    return 128 if job.input.kind == "gptq" else job.params.block_size


def _levels(model: ModelOutline) -> Work:
    """One reference and one candidate, float32 inside, and the comparison of their scores in float64."""
    answers = forward(model, LEVEL_TOKENS, LENGTH, LEVEL_TOKENS)
    scores = 200.0 * LEVEL_TOKENS * model.shape.vocab
    return Work(float32=2 * answers / SPEED, moved=scores + 8 * touched(model, LEVEL_TOKENS))


def check_source(folder: Path, params: OnnxParams) -> tuple[Checkpoint, Any, Spec]:
    """The folder's weights, settings and sizes; raise UsageError or ArtifactError when they cannot be exported."""
    checkpoint = open_checkpoint(folder)
    family = family_of(checkpoint.config).found_in(checkpoint.names())
    if given := checkpoint.config.get("quantization_config"):
        _check_gptq(given, params)
    if params.half and family.scales_embedding:
        raise UnsupportedArchitecture(
            f"the residual stream of {family.kind} exceeds float16",
            next="set provider: cpu and precision: int4 or fp32",
        )
    settings = read_settings(folder)
    return checkpoint, settings, spec_of(family, settings)


def _check_gptq(given: Mapping[str, Any], params: OnnxParams) -> None:
    """Raise UsageError where the folder's codes are not what ``precision`` says."""
    bits = given.get("bits")
    wanted = {2: "int4", 3: "int4", 4: "int4", 8: "int8"}.get(bits) if isinstance(bits, int) else None
    if params.precision != wanted:
        raise UsageError(
            f"a {bits}-bit GPTQ folder cannot become {params.precision} without requantizing",
            next=f"set precision: {wanted}" if wanted else "quantize with bits: 2, 3, 4 or 8",
        )


def build(source: Path, out: Path, params: OnnxParams) -> dict[str, list[str]]:
    """Write graph, settings and tokenizer into ``out``; return which linears each product of the graph stands for."""
    import numpy as np

    from export.onnx.decoder import Decoder
    from export.onnx.graph import Graph
    from export.onnx.linears import Precision
    from export.tokenizers.read import load_tokenizer

    checkpoint, settings, spec = check_source(source, params)
    tokenizer = load_tokenizer(source)
    _check_vocabulary(source, tokenizer, spec)
    ropes = rope_tables(spec.family, settings, spec.kinds)
    level = 0 if params.accuracy_level == "auto" else params.accuracy_level
    coded = "quantization_config" in checkpoint.config  # its float linears were left so on purpose
    precision = Precision(None if coded else params.bits, params.head_bits, params.block_size, level)
    with Graph(out / GRAPH, np.float16 if params.half else np.float32) as graph:
        decoder = Decoder(graph, spec, checkpoint, ropes, precision)
        decoder.build()
        graph.save("holdfast")
    tokenizer.save_pretrained(out)
    write_json(out / "genai_config.json", genai_config(source, tokenizer, spec, decoder, params))
    settle_tokenizer(out / "tokenizer_config.json", source)
    spell_out(out / "tokenizer.json")
    return decoder.linears.products


def _check_vocabulary(source: Path, tokenizer: Any, spec: Spec) -> None:
    last = max(tokenizer.get_vocab().values(), default=-1)
    if last >= spec.vocab:
        raise ArtifactError(
            f"the tokenizer of {source} has token {last}; the embedding has {spec.vocab} rows",
            next="save tokenizer and model from the same training run",
        )


def genai_config(source: Path, tokenizer: Any, spec: Spec, decoder: Any, params: OnnxParams) -> dict[str, Any]:
    """genai_config.json: names and sizes of the graph, Hugging Face's end tokens and context, greedy search."""
    from export.tokenizers.read import end_ids

    ends = end_ids(source, tokenizer, spec.vocab)
    given = read_json(source / "config.json")

    def own(name: str) -> int:
        """The tokenizer's token, else config.json's, else the first end token: the library wants one (-1 is none)."""
        found = (getattr(tokenizer, name), given.get(name))
        return next((token for token in found if isinstance(token, int) and 0 <= token < spec.vocab), ends[0])

    inputs = ["input_ids", "attention_mask", *(["position_ids"] if decoder.takes_positions else [])]
    kept = {f"past_{side}_names": f"past_key_values.%d.{side}" for side in ("key", "value")}
    options = [{"cuda": {"enable_cuda_graph": "0"}}] if params.provider == "cuda" else []
    return {
        "model": {
            "bos_token_id": own("bos_token_id"),
            "context_length": spec.context,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": options},
                "filename": GRAPH,
                "head_size": decoder.attention.head_size,
                "hidden_size": spec.hidden,
                "inputs": {name: name for name in inputs} | kept,
                "outputs": {"logits": "logits"} | {f"present_{s}_names": f"present.%d.{s}" for s in ("key", "value")},
                "num_attention_heads": spec.heads,
                "num_hidden_layers": spec.blocks,
                "num_key_value_heads": spec.kv_heads,
            },
            "eos_token_id": ends if len(ends) > 1 else ends[0],
            "pad_token_id": own("pad_token_id"),
            "type": spec.family.kind,
            "vocab_size": spec.vocab,
        },
        "search": {
            "do_sample": False,
            "max_length": spec.context,
            "num_beams": 1,
            "past_present_share_buffer": True,
            "top_k": 50,
        },
    }


def spell_out(path: Path) -> None:
    """Pre-tokenizers that onnxruntime-genai reads otherwise, as the regular expressions that they stand for.

    It knows ``Digits`` for ASCII alone, and after another step it leaves out the words of ``ByteLevel``. The ids of
    Hugging Face stay what they were.
    """
    from export.tokenizers.bpe import GPT2

    backend = read_json(path)
    pre = backend.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", []) if pre.get("type") == "Sequence" else []
    spelled: list[dict[str, Any]] = []
    for step in steps:
        if step["type"] == "Digits":
            spelled.append(_isolated(r"\p{N}" if step["individual_digits"] else r"\p{N}+"))
        elif step["type"] == "ByteLevel" and step.get("use_regex", True) and len(steps) > 1:
            spelled += [_isolated(GPT2), {**step, "use_regex": False}]
        else:
            spelled.append(step)
    if spelled != steps:
        write_json(path, {**backend, "pre_tokenizer": {"type": "Sequence", "pretokenizers": spelled}})


def _isolated(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def settle_tokenizer(path: Path, source: Path) -> None:
    """tokenizer_config.json as the source has it; transformers' loading marks (``is_local`` …) are dropped."""
    marks = {"is_local", "local_files_only", "name_or_path", "_commit_hash"}
    given = read_json(source / "tokenizer_config.json") if (source / "tokenizer_config.json").is_file() else {}
    kept = {key: value for key, value in read_json(path).items() if key in given or key not in marks}
    write_json(path, kept)
