"""Broken models through the command itself: one clear message, the documented exit code, nothing half-written.

Exit codes: 1 a broken file, a full disk; 2 input that is not for this command (docs/formats.md, "Bad input").
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gguf_export import job_of
from mutants import json_mutants
from places import nothing_left
from safetensors.numpy import load_file
from small_folder import TEXT, write_model
from typer.testing import CliRunner

from compress.cli.app import app
from compress.errors import HoldfastError
from export.gguf.stage import ExportGguf

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("whole") / "hf", hidden=64, ffn=96, heads=4, tied=False)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def set_config(**values: Any) -> Callable[[Path], None]:
    return set_json("config.json", **values)


def set_json(name: str, **values: Any) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | values))

    return harm


def write(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def change(name: str, how: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Replace a tensor (torch, for the types that numpy lacks)."""

    def harm(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        tensors[name] = how(tensors[name]).contiguous()
        save_file(tensors, folder / "model.safetensors")

    return harm


def cast(dtype: str) -> Callable[[Path], None]:
    import torch

    return change(UP, lambda tensor: tensor.to(getattr(torch, dtype)))


def poison(value: float) -> Callable[[Path], None]:
    def put(tensor: Any) -> Any:
        tensor[3, 5] = value
        return tensor

    return change(UP, put)


def cut_vocabulary(folder: Path) -> None:
    set_config(vocab_size=100)(folder)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        change(name, lambda tensor: tensor[:100])(folder)


def unlink(pattern: str) -> Callable[[Path], None]:
    return lambda folder: [path.unlink() for path in folder.glob(pattern)] and None


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def lose_a_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


Harm = Callable[[Path], object]
BROKEN: dict[str, tuple[Harm, int, str]] = {
    "unknown architecture": (set_config(architectures=["MambaForCausalLM"]), 2, "add a row 'MambaForCausalLM' to ARCH"),
    "missing shard": (lose_a_shard, 1, "model-00001-of-00002.safetensors is missing: model.safetensors.index.json"),
    "truncated": (truncate, 1, "model.safetensors is truncated"),
    "empty file": (write("model.safetensors", b""), 1, "model.safetensors is truncated or not"),
    "no weights": (unlink("*.safetensors"), 1, "holds no *.safetensors file"),
    "int8": (cast("int8"), 1, f"{UP} in "),
    "fp8": (cast("float8_e4m3fn"), 1, "has type F8_E4M3; weights must be"),
    "bool": (cast("bool"), 1, "has type BOOL; weights must be"),
    "smaller config": (set_config(vocab_size=100), 1, "embed_tokens.weight has shape [383, 64]; config.json says [100"),
    "no config": (unlink("config.json"), 1, "is not a model that is known here"),
    "config cut": (write("config.json", b"{"), 1, "config.json is not JSON"),
    "config a list": (write("config.json", b"[1]"), 1, "config.json holds no JSON object"),
    "config binary": (write("config.json", b"\xff\xfe"), 1, "config.json is not JSON"),
    "text for a number": (set_config(hidden_size="64"), 1, "hidden_size is '64', not a whole number above 0"),
    "number for a text": (set_config(hidden_act=3), 1, "hidden_act is 3, not a text"),
    "negative": (set_config(intermediate_size=-96), 1, "intermediate_size is -96, not a whole number above 0"),
    "no heads": (set_config(num_attention_heads=0), 1, "num_attention_heads is 0, not a whole number above 0"),
    "heads do not divide": (set_config(num_attention_heads=5), 1, "5 attention heads do not divide among 2 key"),
    "width does not divide": (set_config(hidden_size=65), 1, "size of 65 does not divide among 4 attention heads"),
    "10^12 blocks": (set_config(num_hidden_layers=10**12), 1, "num_hidden_layers is 1000000000000, not 1 to 4096"),
    "half a block": (set_config(num_hidden_layers=2.5), 1, "num_hidden_layers is 2.5, not 1 to 4096"),
    "true for a number": (set_config(num_attention_heads=True), 1, "num_attention_heads is True, not a whole"),
    "no size": (set_config(hidden_size=None), 1, "hidden_size is None"),
    "nan": (set_config(rms_norm_eps=float("nan")), 1, "rms_norm_eps is nan, not 0 or more"),
    "theta 0": (set_config(rope_parameters={"rope_theta": 0}), 1, "not an object of usable rotary settings"),
    "rotary list": (set_config(rope_parameters=[1]), 1, "rope_parameters is [1], not an object"),
    "quantizer's name only": (
        set_config(quantization_config="gptq"),
        1,
        "quantization_config is 'gptq', not an object",
    ),
    "no model type": (set_config(model_type=None), 1, "config.json has no model_type"),
    "strange model type": (
        set_config(model_type="Llama"),
        2,
        "a model of type 'Llama', which transformers does not know",
    ),
    "a pointer of Git LFS": (
        write("model.safetensors", b"version https://git-lfs"),
        1,
        "is a Git LFS pointer, not the",
    ),
    "end token a text": (set_config(eos_token_id="x"), 1, "eos_token_id is 'x', not a token id"),
}
LATER: dict[str, tuple[Harm, int, str]] = {
    "nan weight": (poison(float("nan")), 1, f"{UP} holds NaN or infinity"),
    "infinite weight": (poison(float("inf")), 1, f"{UP} holds NaN or infinity"),
    "vocabulary beyond the embedding": (
        cut_vocabulary,
        1,
        "the tokenizer has token 379 but the embedding only 100 rows",
    ),
    "config that transformers refuses": (
        set_config(rms_norm_eps=0),
        1,
        "config.json (Validation error for field 'rms_norm",
    ),
    "no tokenizer": (unlink("tokenizer*"), 1, "cannot be loaded"),
    "tokenizer cut": (write("tokenizer.json", b"{"), 1, "cannot be loaded"),
    "end token beyond the vocabulary": (
        set_json("generation_config.json", eos_token_id=10**6),
        1,
        "names no valid end-of-sequence token",
    ),
    "generation_config a list": (write("generation_config.json", b"[]"), 1, "holds no JSON object"),
    "template that does not parse": (set_json("tokenizer_config.json", chat_template="{% for %}"), 1, "template"),
    "template a number": (set_json("tokenizer_config.json", chat_template=7), 1, "template"),
}


def export(folder: Path, place: Path, *extra: str) -> Any:
    arguments = ["run", "export.gguf", "--from", folder, "--out", place / "out", "--work-dir", place / "work"]
    settings = ["--with", "type=Q8_0", "--with", "imatrix=false"]
    return CliRunner().invoke(app, [*map(str, arguments), *settings, *extra])


def refused(result: Any, code: int, message: str) -> None:
    assert result.exit_code == code, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert message in result.stderr.replace("\n", " ")
    assert "next: " in result.stderr
    assert "Traceback" not in result.stderr
    assert "unexpected" not in line
    assert "failed: " not in line


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_model_is_refused_before_anything_runs(folder: Path, tmp_path: Path, damage: str) -> None:
    harm, code, message = BROKEN[damage]
    harm(folder)
    refused(export(folder, tmp_path), code, message)
    nothing_left(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("damage", LATER)
def test_what_shows_while_it_runs_leaves_nothing(folder: Path, tmp_path: Path, damage: str) -> None:
    harm, code, message = LATER[damage]
    harm(folder)
    refused(export(folder, tmp_path), code, message)
    nothing_left(tmp_path)


@pytest.mark.parametrize("damage", LATER)
def test_the_stage_itself_refuses_it(folder: Path, tmp_path: Path, damage: str) -> None:
    harm, _, message = LATER[damage]
    harm(folder)
    with pytest.raises(HoldfastError) as caught:
        ExportGguf().run(job_of(folder, tmp_path, type="Q8_0"))
    assert message in str(caught.value)
    assert caught.value.next
    assert not list((tmp_path / "out").iterdir())


CALIBRATED: dict[str, tuple[Harm, int, str]] = {
    "unknown type": (set_config(model_type="mamba"), 2, "no row in compress/model/families.py LAYOUTS"),
    "int8": (cast("int8"), 1, "has type I8; weights must be"),
    "fp8": (cast("float8_e4m3fn"), 1, "has type F8_E4M3"),
    "nan": (poison(float("nan")), 1, f"tensor '{UP}' of"),
    "vocabulary beyond the embedding": (cut_vocabulary, 1, "and the embedding has 100 rows"),
    "tokenizer cut": (write("tokenizer.json", b"{"), 1, "tokenizer.json is not JSON"),
    "no tokenizer": (unlink("tokenizer*"), 1, "cannot be loaded (no tokenizer.json"),
    "other weights": (set_config(intermediate_size=80), 1, "gate_proj.weight has shape [96, 64]; config.json says [80"),
    "other heads": (set_config(head_dim=15), 1, "q_proj.weight has shape [64, 64]; config.json says [60, 64]"),
}


@pytest.mark.parametrize("damage", CALIBRATED)
def test_the_compressing_side_refuses_it_too(folder: Path, tmp_path: Path, damage: str) -> None:
    harm, code, message = CALIBRATED[damage]
    harm(folder)
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": line}) + "\n" for line in TEXT * 20))
    arguments = ["run", "calibrate", "--from", folder, "--out", tmp_path / "out", "--work-dir", tmp_path / "work"]
    settings = {"calibration": text, "calibration_tokens": 512, "calibration_length": 32}
    given = [word for key, value in settings.items() for word in ("--with", f"{key}={value}")]
    refused(CliRunner().invoke(app, [*map(str, arguments), *given]), code, message)
    nothing_left(tmp_path)


MUTANTS = [pytest.param(300, id="300"), pytest.param(3000, id="3000", marks=pytest.mark.slow)]


def survive(folder: Path, name: str, texts: Iterator[str], attempt: Callable[[], object]) -> int:
    """How many of the damaged files end in an error of ours; any other exception fails the test."""
    refused = 0
    for text in texts:
        (folder / name).write_text(text)
        try:
            attempt()
        except HoldfastError:
            refused += 1
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error}, for {name} {text[:2000]}")
    return refused


@pytest.mark.parametrize("count", MUTANTS)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_damaged_json_of_the_model(folder: Path, tmp_path: Path, name: str, count: int) -> None:
    if "index" in name:
        tensors = load_file(folder / "model.safetensors")
        index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(tensors, "model.safetensors")}
        (folder / name).write_text(json.dumps(index))
    job = job_of(folder, tmp_path, type="Q8_0")
    texts = json_mutants(json.loads((folder / name).read_text()), count, seed=count)
    refused = survive(folder, name, texts, lambda: ExportGguf().check(job))
    assert count * 0.2 < refused < count


TOKENIZING = ("tokenizer_config.json", "generation_config.json", "tokenizer.json")


@pytest.mark.parametrize("name", TOKENIZING)
def test_damaged_json_of_the_tokenizer(folder: Path, name: str) -> None:
    from export.tokenizers.read import load_tokenizer, read_vocabulary

    texts = json_mutants(json.loads((folder / name).read_text()), 60, seed=60)
    survive(folder, name, texts, lambda: read_vocabulary(folder, load_tokenizer(folder), 383))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", *TOKENIZING])
def test_damaged_json_through_the_whole_stage(folder: Path, tmp_path: Path, name: str) -> None:
    job = job_of(folder, tmp_path, type="Q8_0")

    def attempt() -> None:
        ExportGguf().check(job)
        ExportGguf().run(job)

    survive(folder, name, json_mutants(json.loads((folder / name).read_text()), 40, seed=40), attempt)


def test_more_rows_than_tokens_are_padded(folder: Path, tmp_path: Path) -> None:
    set_config(vocab_size=2000)(folder)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        change(name, lambda tensor: tensor.repeat(6, 1)[:2000])(folder)
    facts = ExportGguf().run(job_of(folder, tmp_path, type="Q8_0"))
    assert facts["parameters"] > 2000 * 64 * 2


def test_a_model_without_chat_template_is_exported_and_says_so_when_asked_to_chat(folder: Path, tmp_path: Path) -> None:
    from compress.errors import UsageError
    from runtime.session import load

    set_json("tokenizer_config.json", chat_template=None)(folder)
    ExportGguf().run(job_of(folder, tmp_path, type="Q8_0"))
    with load(tmp_path / "out" / "model.gguf", slots=1) as session:
        assert session.template is None
        with pytest.raises(UsageError, match="has no chat template"):
            session.chat([{"role": "user", "content": "Hi"}], max_tokens=2)
        assert session.logits([1, 2, 3]).shape[0] == 3
