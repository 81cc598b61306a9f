"""What compress makes of every family - narrower, shorter, in GPTQ codes - exports as the model it stands for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from family_models import PLAIN, save_family
from ggml_gelu import table_gelu
from gguf_export import export
from llama_run import logits
from small_folder import TEXT
from stages import run_stage

from compress.quantize.packing import dequantize_folder

CALIBRATION = {"calibration_tokens": 512, "calibration_length": 32}
SIZES = {
    "gemma2": {"head_dim": 32},
    "gemma3": {"head_dim": 32},
    "llama-wide-biases": {"head_dim": 32},
    "qwen2": {"num_key_value_heads": 4},
}
"""GPTQ packs outputs by 32."""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("".join(json.dumps({"text": f"{line} {i}"}) + "\n" for i in range(20) for line in TEXT))
    return path


def stands_for(gptq: Path, plain: Path, ids: list[int]) -> np.ndarray:
    """Logits by transformers of the folder ``plain`` with the weights of ``gptq``."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32, attn_implementation="eager")
    lost = model.load_state_dict(dequantize_folder(gptq), strict=False)
    assert not lost.unexpected_keys
    assert set(lost.missing_keys) <= {"lm_head.weight"}
    table_gelu(model)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


QUICK = ("llama-wide-biases", "gemma3", "phi3")


@pytest.mark.parametrize("case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in PLAIN])
def test_pruned_gptq_folders_export(tmp_path: Path, text: Path, case: str) -> None:
    whole = save_family(case, tmp_path / "hf", **SIZES.get(case, {}))
    cut = {"method": "magnitude", "compensate": False, "multiple_of": 32, "recover": None}
    groups = {"gpt2": None, "qwen2": 2}.get(case, 1)
    narrow = run_stage("prune.width", whole, tmp_path / "narrow", ffn=0.3, kv_groups=groups, **cut)
    short = run_stage("prune.depth", narrow.path, tmp_path / "short", blocks=1, method="random", recover=None)
    gptq = run_stage(
        "quantize.gptq", short.path, tmp_path / "gptq", group_size=32, upstream=True, calibration=text, **CALIBRATION
    )
    ids = np.random.default_rng(1).integers(0, 300, 140).tolist()
    expected = stands_for(gptq.path, short.path, ids)
    got = logits(export(gptq.path, tmp_path), ids)
    assert np.abs(expected).max() > 1
    assert np.abs(got - expected).max() < 2e-4 * np.abs(expected).max()
