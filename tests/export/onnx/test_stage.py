"""The ONNX stage: GPTQ codes reach the graph untouched, the runtime answers as Hugging Face does, bytes repeat."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_folder import write_model
from small_gptq import write_gptq

from compress.artifact import hash_files, open_artifact
from compress.errors import ArtifactError, UnsupportedArchitecture, UsageError
from compress.stage import Job
from export.onnx.stage import ExportOnnx, OnnxParams, check_source

pytest.importorskip("onnxruntime_genai", reason="the onnx extra is not installed")
SIZES = {"hidden": 64, "ffn": 96, "heads": 4, "layers": 2, "tied": True}


def export(folder: Path, place: Path, **params: Any) -> tuple[Path, dict]:
    shutil.rmtree(place, ignore_errors=True)
    for part in ("out", "scratch"):
        (place / part).mkdir(parents=True)
    settings = OnnxParams(**params)
    job = Job(params=settings, out=place / "out", scratch=place / "scratch", inputs=(open_artifact(folder),), threads=2)
    ExportOnnx().check(job)
    return job.out, dict(ExportOnnx().run(job))


def greedy(folder: Path, ids: list[int], count: int) -> list[int]:
    import onnxruntime_genai as og

    model = og.Model(str(folder))
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(ids) + count, min_length=len(ids) + count, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    return [int(i) for i in generator.get_sequence(0)[len(ids) :]]


def greedy_hf(model: Any, ids: list[int], count: int) -> list[int]:
    import torch

    for _ in range(count):
        with torch.no_grad():
            row = model(torch.tensor([ids])).logits[0, -1]
        row[2] = -1e9  # the end token is held back on both sides
        ids = [*ids, int(row.argmax())]
    return ids[-count:]


def load_hf(folder: Path, weights: dict[str, np.ndarray] | None = None) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if weights:
        tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
        lacking = model.load_state_dict(tensors, strict=False)
        assert not lacking.unexpected_keys
    return model


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("onnx")
    source = write_model(place / "hf", **SIZES)
    plain = write_gptq(source, place / "gptq", symmetric=False)
    out, facts = export(place / "gptq", place / "int4", head="float", accuracy_level=1)
    return {"place": place, "source": source, "gptq": place / "gptq", "plain": plain, "out": out, "facts": facts}


def test_codes_reach_the_graph_untouched(built: dict[str, Any]) -> None:
    assert built["facts"]["weights_equal"] == 16
    from export.onnx.check import compare_weights

    linears = {"/model/layers.0/mlp/up_proj/MatMulNBits": ["model.layers.0.mlp.up_proj"]}
    assert compare_weights(built["out"] / "model.onnx", built["gptq"], linears)["weights_equal"] == 1
    other = built["place"] / "other"
    if not other.exists():
        write_gptq(write_model(built["place"] / "hf2", seed=1, **SIZES), other, symmetric=False)
    with pytest.raises(ArtifactError, match="is not the checkpoint's"):
        compare_weights(built["out"] / "model.onnx", other, linears)


def test_greedy_tokens_equal_the_dequantized_checkpoint(built: dict[str, Any]) -> None:
    model = load_hf(built["source"], built["plain"])
    draw = np.random.default_rng(2)
    prompts = [draw.integers(6, 300, 12).tolist() for _ in range(8)]
    same = [greedy(built["out"], p, 8) == greedy_hf(model, p, 8) for p in prompts]
    assert sum(same) >= 7  # a tie between two tokens may fall either way


def test_settings_of_the_folder(built: dict[str, Any]) -> None:
    config = json.loads((built["out"] / "genai_config.json").read_text())
    assert config["model"]["eos_token_id"] == 2
    assert config["model"]["context_length"] == config["search"]["max_length"] == 256
    assert not config["search"]["do_sample"]
    names = {p.name for p in built["out"].iterdir()}
    assert {"model.onnx", "model.onnx.data", "tokenizer.json", "tokenizer_config.json"} <= names
    assert "chat_template.jinja" in names or "chat_template" in (built["out"] / "tokenizer_config.json").read_text()
    for path in built["out"].iterdir():
        assert str(built["place"]).encode() not in path.read_bytes()


@pytest.mark.parametrize(
    "params", [{"precision": "fp32"}, {"precision": "int8"}, {"precision": "int4", "head": "int4"}]
)
def test_two_runs_give_the_same_bytes(built: dict[str, Any], tmp_path: Path, params: dict) -> None:
    first, _ = export(built["source"], tmp_path / "a", **params)
    second, _ = export(built["source"], tmp_path / "b", **params)
    assert hash_files(first) == hash_files(second)


def test_gptq_bytes_repeat_and_fp32_equals_hugging_face(built: dict[str, Any], tmp_path: Path) -> None:
    again, _ = export(built["gptq"], tmp_path / "a", head="float", accuracy_level=1)
    assert hash_files(again) == hash_files(built["out"])
    plain, _ = export(built["source"], tmp_path / "b", precision="fp32")
    model, draw = load_hf(built["source"]), np.random.default_rng(3)
    for _ in range(8):
        prompt = draw.integers(6, 300, 12).tolist()
        assert greedy(plain, prompt, 8) == greedy_hf(model, prompt, 8)


@pytest.mark.parametrize(
    ("bits", "params", "message"),
    [
        (4, {"precision": "fp32"}, "4-bit GPTQ folder cannot become fp32"),
        (8, {"precision": "int4"}, "8-bit GPTQ folder cannot become int4"),
    ],
)
def test_what_would_need_requantizing_is_refused(
    built: dict[str, Any], tmp_path: Path, bits: int, params: dict, message: str
) -> None:
    write_gptq(built["source"], tmp_path / "gptq", bits=bits)
    with pytest.raises(UsageError, match=message) as caught:
        check_source(tmp_path / "gptq", OnnxParams(**params))
    assert caught.value.next


@pytest.mark.parametrize("bits", [5, 8, None])
def test_bits_that_the_codes_do_not_have_are_refused(built: dict[str, Any], tmp_path: Path, bits: int | None) -> None:
    folder = tmp_path / "gptq"
    shutil.copytree(built["gptq"], folder)
    rewrite(folder, quantization_config={"quant_method": "gptq", "bits": bits, "group_size": 32})
    with pytest.raises(ArtifactError, match=f"bits is {bits}|{bits} bits of config.json"):
        check_source(folder, OnnxParams())


def test_inputs_in_an_order_of_their_own_are_computed_exactly(built: dict[str, Any], tmp_path: Path) -> None:
    """desc_act with zero points: every input names its group; here they are dealt out at random."""
    from compress.quantize.packing import dequantize_folder

    folder = tmp_path / "gptq"
    write_gptq(built["source"], folder, symmetric=False)
    tensors, draw = load_file(folder / "model.safetensors"), np.random.default_rng(7)
    orders = {size: draw.permutation(size) for size in (64, 96)}
    for name in [name for name in tensors if name.endswith(".g_idx")]:
        own = draw.permutation(64) if "1.self_attn.k_proj" in name else orders[len(tensors[name])]
        tensors[name] = tensors[name][own]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    out, facts = export(folder, tmp_path / "onnx", head="float", accuracy_level=1)
    assert facts["weights_equal"] == 16
    model = load_hf(built["source"], {name: value.numpy() for name, value in dequantize_folder(folder).items()})
    prompts = [draw.integers(6, 300, 12).tolist() for _ in range(8)]
    assert sum(greedy(out, p, 8) == greedy_hf(model, p, 8) for p in prompts) >= 7


def test_groups_that_fill_no_block_are_refused(built: dict[str, Any], tmp_path: Path) -> None:
    write_gptq(built["source"], tmp_path / "gptq", group=8)
    with pytest.raises(UsageError, match="groups of 8 inputs"):
        export(tmp_path / "gptq", tmp_path / "onnx")


def rewrite(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"architectures": ["FooForCausalLM"]}, UnsupportedArchitecture, "FooForCausalLM"),
        ({"architectures": None, "model_type": "mamba"}, UnsupportedArchitecture, "mamba"),
        ({"hidden_act": "relu6"}, UnsupportedArchitecture, "relu6"),
        ({"vocab_size": 390}, ArtifactError, r"embed_tokens.weight has shape \[383, 64\]; .* \[390, 64\]"),
        ({"num_hidden_layers": 3}, ArtifactError, r"hold no model.layers.2.self_attn.q_proj.weight"),
        ({"num_hidden_layers": 1}, ArtifactError, r"holds model.layers.1.* counts 1 blocks"),
        ({"num_key_value_heads": 3}, ArtifactError, "key/value heads"),
        ({"intermediate_size": "many"}, ArtifactError, "intermediate_size"),
        ({"tie_word_embeddings": False}, ArtifactError, "lm_head.weight is missing"),
    ],
)
def test_a_config_of_another_model_is_refused(
    built: dict[str, Any], tmp_path: Path, settings: dict, kind: type[Exception], message: str
) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(built["source"], folder)
    rewrite(folder, **settings)
    with pytest.raises(kind, match=message) as caught:
        export(folder, tmp_path / "onnx", precision="fp32")
    assert caught.value.next
    assert not list((tmp_path / "onnx" / "out").iterdir())


def test_a_tokenizer_beyond_the_embedding_is_refused(built: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(built["source"], folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    more = [{"id": i, "content": f"<|more{i}|>", "special": True} | flags for i in range(380, 384)]
    tokenizer["added_tokens"] += more
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ArtifactError, match="has token 383; the embedding has 383 rows"):
        export(folder, tmp_path / "onnx")


@pytest.mark.parametrize("alone", [True, False])
def test_digits_and_words_are_spelled_out_for_the_runtime(alone: bool, tmp_path: Path) -> None:
    """onnxruntime-genai reads "Digits" as ASCII's; the expression cuts as Hugging Face's step does."""
    from tokenizers import Tokenizer

    from export.onnx.stage import spell_out
    from export.tokenizers.chats import PROBES

    words = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    steps = [{"type": "Digits", "individual_digits": alone}, words]
    path = tmp_path / "tokenizer.json"
    plain = {"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}, "model": {"type": "WordLevel", "vocab": {}}}
    plain["model"]["unk_token"] = "?"
    path.write_text(json.dumps({"version": "1.0", "added_tokens": [], **plain}))
    before = Tokenizer.from_file(str(path)).pre_tokenizer
    spell_out(path)
    after = Tokenizer.from_file(str(path)).pre_tokenizer
    assert "Digits" not in path.read_text()
    for text in [*PROBES, " \u00bd \u00b2 12\u2177 it's  7\u0663", "a1b22  33"]:
        assert before.pre_tokenize_str(text) == after.pre_tokenize_str(text)


def test_a_full_disk_leaves_no_graph(built: dict[str, Any], tmp_path: Path) -> None:
    """The limit on the size of a file stands for the disk; the process that meets it writes nothing more."""
    (tmp_path / "out").mkdir()
    code = (
        "import resource, signal, sys; from pathlib import Path; from export.onnx.stage import OnnxParams, build\n"
        "import torch, transformers\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "build(Path(sys.argv[1]), Path(sys.argv[2]), OnnxParams(precision='fp32'))"
    )
    command = [sys.executable, "-c", code, str(built["source"]), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 1
    assert "OSError: [Errno 27]" in done.stderr
    assert not (tmp_path / "out" / "model.onnx").exists()
    assert not (tmp_path / "out" / "genai_config.json").exists()


@pytest.mark.parametrize(("bits", "symmetric", "group"), [(2, False, 32), (3, True, 64), (3, False, 32), (8, True, 96)])
def test_every_width_reaches_the_graph_untouched(
    built: dict[str, Any], tmp_path: Path, bits: int, symmetric: bool, group: int
) -> None:
    from compress.quantize.packing import dequantize_folder

    folder = tmp_path / "gptq"
    write_codes(built["source"], folder, bits, symmetric, group)
    precision = "int8" if bits == 8 else "int4"
    out, facts = export(folder, tmp_path / "onnx", head="float", precision=precision, accuracy_level=1)
    assert facts["weights_equal"] == 16
    model = load_hf(built["source"], {name: value.numpy() for name, value in dequantize_folder(folder).items()})
    prompts = np.random.default_rng(3).integers(6, 300, (8, 12)).tolist()
    assert sum(greedy(out, p, 4) == greedy_hf(model, p, 4) for p in prompts) >= 7


def write_codes(source: Path, folder: Path, bits: int, symmetric: bool, group: int) -> None:
    """A GPTQ folder of random codes: what they stand for does not matter here, only that none is lost."""
    import torch

    from compress.quantize.packing import pack

    write_gptq(source, folder)
    tensors, draw = load_file(folder / "model.safetensors"), np.random.default_rng(bits)
    for module in [n.removesuffix("qweight") for n in tensors if n.endswith(".qweight")]:
        columns, rows = len(tensors[f"{module}g_idx"]), tensors[f"{module}qweight"].shape[1]
        groups = -(-columns // group)
        codes = draw.integers(0, 2**bits, (columns, rows))
        zeros = np.full((groups, rows), 2 ** (bits - 1)) if symmetric else draw.integers(1, 2**bits, (groups, rows))
        tensors[f"{module}qweight"] = pack(torch.from_numpy(codes.astype(np.uint8)), bits).numpy()
        stored = np.zeros((-(-rows // 32) * 32, groups), dtype=np.uint8)
        stored[:rows] = (zeros - 1).T
        tensors[f"{module}qzeros"] = np.ascontiguousarray(pack(torch.from_numpy(stored), bits).numpy().T)
        tensors[f"{module}scales"] = draw.uniform(0.01, 0.1, (groups, rows)).astype(np.float16)
        tensors[f"{module}g_idx"] = (np.arange(columns) // group).astype(np.int32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= {"bits": bits, "group_size": group, "sym": symmetric}
    (folder / "config.json").write_text(json.dumps(config))


def test_float_linears_of_a_gptq_folder_stay_float(built: dict[str, Any], tmp_path: Path) -> None:
    """A folder whose recipe left a linear alone, and packed another one in 8 bits."""
    for bits in (4, 8):
        write_codes(built["source"], tmp_path / f"{bits}", bits, True, 32)
    tensors = load_file(tmp_path / "4" / "model.safetensors")
    wide, float_ = load_file(tmp_path / "8" / "model.safetensors"), load_file(built["source"] / "model.safetensors")
    for name in [name for name in tensors if ".0.mlp.down_proj." in name or ".1.self_attn.v_proj." in name]:
        del tensors[name]
    tensors |= {name: value for name, value in wide.items() if ".0.mlp.down_proj." in name}
    tensors["model.layers.1.self_attn.v_proj.weight"] = float_["model.layers.1.self_attn.v_proj.weight"]
    save_file(tensors, tmp_path / "4" / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((tmp_path / "4" / "config.json").read_text())["quantization_config"]
    dynamic = {r"+:.*\.0\.mlp\.down_proj": {"bits": 8}, r"-:.*\.1\.self_attn\.v_proj": {}}
    rewrite(tmp_path / "4", quantization_config=settings | {"dynamic": dynamic})
    out, facts = export(tmp_path / "4", tmp_path / "onnx", head="float")
    assert facts["weights_equal"] == 16
    assert facts["weights_rounded"] == 0
    widths = {n.name: {a.name: a.i for a in n.attribute}["bits"] for n in nodes(out) if n.op_type == "MatMulNBits"}
    assert widths["/model/layers.0/mlp/down_proj/MatMulNBits"] == 8
    assert widths["/model/layers.0/mlp/up_proj/MatMulNBits"] == 4
    assert "/model/layers.1/attn/v_proj/MatMul" in {n.name for n in nodes(out)}
    assert len(greedy(out, [5, 6, 7], 4)) == 4


def nodes(folder: Path) -> list[Any]:
    import onnx

    return list(onnx.load(str(folder / "model.onnx"), load_external_data=False).graph.node)


def test_a_graph_for_cuda_holds_the_same_codes(built: dict[str, Any], tmp_path: Path) -> None:
    """It cannot run on CUDA here; its float16 kernels also exist on the CPU."""
    out, facts = export(built["gptq"], tmp_path / "onnx", provider="cuda", head="float")
    assert facts["weights_equal"] == 16
    config = json.loads((out / "genai_config.json").read_text())
    assert "cuda" in config["model"]["decoder"]["session_options"]["provider_options"][0]
    config["model"]["decoder"]["session_options"]["provider_options"] = []
    (out / "genai_config.json").write_text(json.dumps(config))
    model, prompt = load_hf(built["source"], built["plain"]), [9, 40, 77, 120, 8]
    assert greedy(out, prompt, 4) == greedy_hf(model, prompt, 4)


def test_precisions_that_no_kernel_computes_are_refused(built: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no float32 kernel on CUDA"):
        export(built["source"], tmp_path / "a", precision="fp32", provider="cuda")


def test_fp16_and_int8_answer_as_hugging_face(built: dict[str, Any], tmp_path: Path) -> None:
    model, draw = load_hf(built["source"]), np.random.default_rng(5)
    prompts = [draw.integers(6, 300, 12).tolist() for _ in range(8)]
    for precision in ("fp16", "int8"):
        out, _ = export(built["source"], tmp_path / precision, precision=precision)
        assert sum(greedy(out, p, 4) == greedy_hf(model, p, 4) for p in prompts) >= 7
