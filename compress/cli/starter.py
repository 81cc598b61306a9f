"""The commented pipeline file that ``compress init`` writes."""

from __future__ import annotations

from pathlib import Path

from compress.errors import UsageError

TEMPLATE = """\
# A Holdfast pipeline: from a model, your examples and your written rules to a bundle that is proved.
#   compress plan {path}        what would run, what is cached, what it needs
#   compress pipeline {path}    run it (again: only what changed)
version: 1
name: {name}
seed: 17

# The model to start from (docs/sources.md): {{path: FOLDER}} (Hugging Face), {{hf: org/name, revision: <commit>}},
# {{gguf: FILE}} of Ollama or LM Studio, or {{tiny: {{}}}}, a small model that is trained here on a made-up shop.
source: {source}

# The rules that the model must keep (docs/rules.md): used in training, in the gate and by the runtime.
rules: {rules}

# JSONL rows: training {{"messages"}}, evaluation {{"id", "messages", "facts", "expected"}} (docs/data.md).
data: {data}

stages:
  # Fine-tune with NF4 QLoRA; the adapter is merged into the weights it was trained on.
  - {{id: tune, use: finetune.sft, with: {{method: qlora, rank: 16, epochs: 2}}}}
  # Remove a quarter of the FFN channels, then recover by distillation from the unpruned model.
  - {{id: slim, use: prune.width, from: tune, with: {{ffn: 0.25}}}}
  # 4-bit GPTQ; the ONNX decoder takes its weights as they are.
  - {{id: gptq, use: quantize.gptq, from: slim, with: {{bits: 4, group_size: 128}}}}
  - {{id: onnx, use: export.onnx, from: gptq}}
  # GGUF for llama.cpp; each type of the matrix is a candidate.
  - {{id: gguf, use: export.gguf, from: slim, matrix: {{type: [Q8_0, Q5_K_M, Q4_K_M]}}}}
  # Is each file the very model that it was made from, but for quantization?
  - {{id: same, use: export.parity, from: [slim, gguf, onnx]}}
  # The gate: every candidate in its own runtime against the fine-tuned model.
  - {{id: proof, use: validate, from: [gptq, onnx, gguf], with: {{baseline: tune, base: source}}}}
  # What ships: the smallest candidate that passes.
  - {{id: ship, use: export.bundle, from: proof, with: {{choose: smallest_passing}}}}
"""

DEFAULT_RULES = Path("configs/rules/customer_service.yaml")
SPLITS = ("train", "calibration", "eval")


def write_starter(path: Path, *, source: Path | None, data: Path | None, rules: Path | None) -> None:
    """Write a starter pipeline to ``path``; what is not given is filled with what runs offline."""
    if path.exists():
        raise UsageError(f"{path} exists already", next="give another name: compress init NAME.yaml")
    for given in (source, data, rules):
        if given is not None and not given.exists():
            raise UsageError(f"{given} does not exist", next="check the path")
    text = TEMPLATE.format(
        path=path,
        name=_name(path),
        source=_source(source),
        rules=_quote(rules or DEFAULT_RULES),
        data=_data(data),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _name(path: Path) -> str:
    name = "".join(c if c.isalnum() and c.isascii() else "-" for c in path.stem).strip("-") or "pipeline"
    return name if name[0].isalpha() else f"p-{name}"


def _source(source: Path | None) -> str:
    if source is None:
        return "{tiny: {}}"
    return f"{{{'gguf' if source.is_file() else 'path'}: {_quote(source)}}}"


def _quote(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _data(data: Path | None) -> str:
    if data is None:
        return "{world: {}}"
    if data.is_file():
        return f"{{train: {_quote(data)}}}  # add calibration: and eval:"
    found = [(split, data / f"{split}.jsonl") for split in SPLITS if (data / f"{split}.jsonl").is_file()]
    if not found:
        raise UsageError(f"{data} holds none of train.jsonl, calibration.jsonl, eval.jsonl", next="name the files so")
    return "{" + ", ".join(f"{split}: {_quote(path)}" for split, path in found) + "}"
