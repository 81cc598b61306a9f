"""Error feedback inside ggml's formats: less error than rounding at the same bytes, resumable."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from family_models import PLAIN, save_family
from gguf_export import divergence
from llama_run import logits_of
from small_folder import TEXT
from stages import run_stage

from compress.calibrate.reading import Calibration
from compress.quantize import feedback
from export.checkpoint import open_checkpoint
from export.tokenizers.read import load_tokenizer

CALIBRATION = {"calibration_tokens": 2048, "calibration_length": 64}


@pytest.fixture(scope="module")
def passed(tiny_llama, chat_jsonl, tmp_path_factory):
    place = tmp_path_factory.mktemp("feedback")
    return run_stage("calibrate", tiny_llama, place / "c", calibration=chat_jsonl, **CALIBRATION)


def export(tiny_llama, chat_jsonl, passed, out, **params):
    given = {"type": "Q4_0", "calibration": chat_jsonl, "pass_": passed, **CALIBRATION, **params}
    return run_stage("export.gguf", tiny_llama, out, **given)


def stored(path):
    """Name -> dequantized rows."""
    import gguf

    reader = gguf.GGUFReader(path / "model.gguf")
    return {
        t.name: (t.tensor_type.name, np.array(gguf.quants.dequantize(t.data, t.tensor_type))) for t in reader.tensors
    }


def output_error(found, tiny_llama, passed):
    """Mean relative squared output error of the FFN linears on the calibration text."""
    checkpoint, calibration, errors = open_checkpoint(tiny_llama), Calibration(passed.path), []
    for ours, theirs in (("ffn_up", "mlp.up_proj"), ("ffn_down", "mlp.down_proj"), ("attn_output", "self_attn.o_proj")):
        name = f"model.layers.0.{theirs}"
        W = torch.from_numpy(checkpoint.rows(f"{name}.weight", 0, checkpoint.shape(f"{name}.weight")[0]))
        D, H = torch.from_numpy(found[f"blk.0.{ours}.weight"][1]) - W, calibration.hessian(name)
        errors.append(float(((D @ H) * D).sum() / ((W @ H) * W).sum()))
    return sum(errors) / len(errors)


def test_less_error_at_the_same_bytes(tiny_llama, chat_jsonl, passed, tmp_path):
    made = {mode: export(tiny_llama, chat_jsonl, passed, tmp_path / mode, feedback=mode) for mode in ("off", "shared")}
    found = {mode: stored(artifact.path) for mode, artifact in made.items()}
    assert made["off"].size_bytes() == pytest.approx(made["shared"].size_bytes(), abs=4096)
    assert {name: kind for name, (kind, _) in found["off"].items()} == {n: k for n, (k, _) in found["shared"].items()}
    assert output_error(found["shared"], tiny_llama, passed) < 0.7 * output_error(found["off"], tiny_llama, passed)
    assert made["shared"].facts["feedback"] == "shared"


@pytest.mark.parametrize("mode", [pytest.param("shared", marks=pytest.mark.slow), "upstream"])
def test_a_killed_export_ends_with_the_same_bytes(tiny_llama, chat_jsonl, passed, tmp_path, mode):
    whole = export(tiny_llama, chat_jsonl, passed, tmp_path / "a", feedback=mode)

    def die(done, total, note=""):
        del total, note
        if done == 1:
            raise KeyboardInterrupt

    scratch = tmp_path / "scratch"
    with pytest.raises(KeyboardInterrupt):
        export(tiny_llama, chat_jsonl, passed, tmp_path / "b", feedback=mode, scratch=scratch, progress=die)
    again = export(tiny_llama, chat_jsonl, passed, tmp_path / "c", feedback=mode, scratch=scratch)
    assert again.digest == whole.digest


def test_slabs_change_nothing_that_matters(tiny_llama, chat_jsonl, passed, tmp_path, monkeypatch):
    """Outputs are independent but for how products of another shape round."""
    whole = stored(export(tiny_llama, chat_jsonl, passed, tmp_path / "a", feedback="shared").path)
    monkeypatch.setattr(feedback, "SLAB", 2**15)
    parts = stored(export(tiny_llama, chat_jsonl, passed, tmp_path / "b", feedback="shared").path)
    errors = [output_error(found, tiny_llama, passed) for found in (whole, parts)]
    assert errors[1] == pytest.approx(errors[0], rel=0.02)


SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in (*PLAIN, "phi3-fewer-heads") if case != "phi3"]
SIZES = {"gpt2": {"n_embd": 128}}


@pytest.mark.parametrize("case", ["phi3", *SLOW])
def test_less_divergence_in_every_family(tmp_path, case):
    """KL of llama.cpp's answers on text like the calibration's; embedding and head are rounded alike."""
    folder = save_family(case, tmp_path / "hf", **SIZES.get(case, {"hidden_size": 128, "intermediate_size": 256}))
    rows = [f"{line} {number}" for number in range(40) for line in TEXT]
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    passed = run_stage("calibrate", folder, tmp_path / "c", calibration=text, **CALIBRATION)
    tokenizer = load_tokenizer(folder)
    ids = [tokenizer.encode(f"{TEXT[n]} {77 + n} {TEXT[n + 1]} {n + 500}")[:140] for n in range(3)]
    made = {
        mode: export(folder, text, passed, tmp_path / mode, feedback=mode) for mode in ("off", "shared", "upstream")
    }
    expected = logits_of(export(folder, text, None, tmp_path / "f32", type="F32").path / "model.gguf", ids)
    kl = {}
    for mode, artifact in made.items():
        got = logits_of(artifact.path / "model.gguf", ids)
        kl[mode] = np.mean([divergence(a, b) for a, b in zip(expected, got, strict=True)])
    assert kl["off"] > 1e-5
    assert max(kl["shared"], kl["upstream"]) < 0.7 * kl["off"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Q4_K_M", "Q3_K_M", "Q2_K"])
def test_beats_rounding_on_a_trained_model(shared_data, tmp_path, kind):
    """KL of the whole file to the float model, at most 0.65 of importance-matrix rounding at the same bytes."""
    from transformers import AutoModelForCausalLM

    from compress.windows import calibration_windows

    folder = shared_data / "models" / "m7"
    text = {"calibration": folder / "calibration.jsonl.gz"}
    calibration = run_stage("calibrate", folder, tmp_path / "c", **text)
    ids = calibration_windows(folder, folder / "eval.jsonl", 40 * 256, 256)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def logp(weights):
        model.load_state_dict({**original, **weights}, strict=False)
        with torch.no_grad():
            return torch.cat([model(input_ids=part).logits.log_softmax(-1) for part in ids.split(10)])

    reference, kl = logp({}), {}
    for mode in ("off", "upstream"):
        out = run_stage("export.gguf", folder, tmp_path / mode, type=kind, pass_=calibration, feedback=mode, **text)
        difference = reference - logp(hugging_face(stored(out.path), model.config))
        kl[mode] = float((reference.exp() * difference).sum(-1).mean())
    assert kl["upstream"] < 0.65 * kl["off"]


def hugging_face(found, config):
    """Rows of a Llama GGUF under their Hugging Face names, rotary order undone."""
    names = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    weights = {}
    for name, (_, rows) in found.items():
        part = name.split(".")
        if part[0] == "blk" and part[2] in names:
            if part[2] in ("attn_q", "attn_k"):
                heads = config.num_attention_heads if part[2] == "attn_q" else config.num_key_value_heads
                rows = rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
            weights[f"model.layers.{part[1]}.{names[part[2]]}.weight"] = torch.from_numpy(np.ascontiguousarray(rows))
        elif name == "token_embd.weight":
            weights["model.embed_tokens.weight"] = weights["lm_head.weight"] = torch.from_numpy(rows)
    return weights
