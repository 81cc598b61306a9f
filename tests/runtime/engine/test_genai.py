from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx_export import export_onnx
from small_folder import write_model

import runtime
from runtime.engine.backends.base import Interrupted, Span
from runtime.engine.backends.pieces import Vocabulary
from runtime.engine.chat import Chat
from runtime.engine.requests import Request
from runtime.errors import ArtifactError, HoldfastError, UsageError
from runtime.session import Session


def test_pieces_and_ids_agree_with_the_tokenizer(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "<|user|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["the cat sat on the mat", "the dog"], trainer)
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": {"content": "<s>"}, "chat_template": "x"}')
    vocabulary = Vocabulary.read(tmp_path)
    text = "the cat – déjà vu 🐈\n"
    ids = vocabulary.encode(f"<|user|>{text}", lambda part: made.encode("<s>" + part).ids)
    assert ids == made.encode(f"<|user|>{text}").ids
    assert b"".join(map(vocabulary.piece, ids)).decode() == text
    assert vocabulary.chat == Chat({"default": "x"}, {"bos_token": "<s>"})


def test_tokens_that_one_generator_refuses_fail_their_request_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime_genai")
    model = write_model(tmp_path / "hf", hidden=64, ffn=128, layers=1, heads=4)
    with runtime.load(export_onnx(model, tmp_path / "onnx", precision="fp32"), slots=3) as session:
        prompts = [[10 + i, 20, 30, 40] for i in range(3)]
        alone = [reply.token_ids for reply in session.continue_many(prompts, max_tokens=20)]
        session.engine.stop(on=True)
        with pytest.raises(Interrupted):
            session.engine.decode([Span(0, 0, [1], 1)])
        session.engine.stop(on=False)
        append = session.engine._append  # type: ignore[attr-defined]

        def refuse(span: Span) -> object:
            if 77 in span.tokens:
                raise RuntimeError("the engine refuses")
            return append(span)

        monkeypatch.setattr(session.engine, "_append", refuse)
        good, bad = [Request(ids, max_tokens=20) for ids in prompts], Request([5, 77, 6])
        session.scheduler.submit([*good[:2], bad, good[2]])
        with pytest.raises(HoldfastError, match="the engine refuses"):
            bad.wait(20)
        for request, expected in zip(good, alone, strict=True):
            request.wait(20)
            assert request.tokens == expected


@pytest.fixture(scope="module")
def folder(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime_genai")
    pytest.importorskip("onnx_ir", reason="the model builder of onnxruntime-genai needs onnx_ir")
    out = tmp_path_factory.mktemp("genai")
    source = shared_data / "models" / "m7"
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "fp32", "-e", "cpu"]
    subprocess.run([*command, "-m", str(source), "-o", str(out), "-c", str(out / "cache")], check=True)
    return out


@pytest.fixture(scope="module")
def session(folder: Path) -> Iterator[Session]:
    with runtime.load(folder, slots=3) as loaded:
        yield loaded


TOPICS = [[{"role": "user", "content": f"Tell me about the {word}"}] for word in ("river", "war", "city", "king")]


@pytest.mark.slow
def test_logits_are_those_of_transformers(session: Session, shared_data: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(shared_data / "models" / "m7", dtype=torch.float32)
    ids = session.encode_chat(TOPICS[0])
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(session.logits(ids), theirs, atol=1e-3)


@pytest.mark.slow
def test_it_answers_the_same_every_way(session: Session) -> None:
    first = session.complete_many(TOPICS, max_tokens=24)
    assert [c.token_ids for c in session.complete_many(TOPICS, max_tokens=24)] == [c.token_ids for c in first]
    assert first[0].finish_reason == "stop"
    assert "".join(session.stream(TOPICS[0], max_tokens=24)) == first[0].text
    reply = session.chat(TOPICS[0], max_tokens=24)
    assert reply.raw == first[0].text
    assert reply.usage.cached_tokens > 0


@pytest.mark.slow
def test_a_grammar_is_refused(session: Session) -> None:
    with pytest.raises(UsageError, match="grammar"):
        session.chat(TOPICS[0], grammar='root ::= "x"')


def test_a_broken_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "genai_config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="cannot load"):
        runtime.load(tmp_path)
