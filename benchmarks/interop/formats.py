"""What stock readers answer, and how far that is from the Hugging Face model (``check_all.py`` runs them).

Every prompt goes through a reader's own template, special tokens and end token; the first 16 greedy tokens and, where
the reader tells them, the logits after the prompt are compared with transformers in float32. Rows are ``{"messages"}``
(the last assistant turn is dropped) or ``{"text"}`` (asked as one user turn).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NEW = 16
LIMITS = {
    **dict.fromkeys(("F32", "F16", "BF16", "fp32"), (0.98, 0.001)),
    **dict.fromkeys(("Q8_0", "int8"), (0.85, 0.005)),
}
"""Format -> (least share of equal 16-token answers, largest mean KL): near-ties flip with the rounding."""


@dataclass(frozen=True)
class Answer:
    """What a reader made of one prompt."""

    prompt: list[int]
    text: str
    ended: bool
    logits: np.ndarray | None
    """float32 [vocabulary] after the prompt; None from a reader that does not tell."""


def read_prompts(path: Path, count: int) -> list[list[dict[str, str]]]:
    """The first ``count`` conversations, each ending with a user turn."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        messages = row.get("messages") or [{"role": "user", "content": row["text"][:300]}]
        while messages and messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        if messages:
            found.append(messages)
        if len(found) == count:
            break
    return found


class Reference:
    """transformers, float32."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)  # several threads wait for each other on a busy machine
        self.torch = torch
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        ends = self.model.generation_config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [ends])

    def render(self, messages: list[dict[str, str]]) -> str:
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    def answer(self, messages: list[dict[str, str]]) -> Answer:
        prompt = self.tokenizer.encode(self.render(messages), add_special_tokens=False)
        new: list[int] = []
        ids, past, first = self.torch.tensor([prompt]), None, None
        with self.torch.no_grad():
            while len(new) < NEW:
                out = self.model(ids, past_key_values=past, use_cache=True)
                past, row = out.past_key_values, out.logits[0, -1]
                first = row.numpy().copy() if first is None else first
                new.append(int(row.argmax()))
                if new[-1] in self.ends:
                    break
                ids = self.torch.tensor([new[-1:]])
        assert first is not None
        ended = new[-1] in self.ends
        return Answer(prompt, self.tokenizer.decode(new[:-1] if ended else new, skip_special_tokens=True), ended, first)


def llama_answers(path: Path, reference: Reference, talks: list[list[dict[str, str]]]) -> Iterable[Answer]:
    """``llama_cpp.Llama``'s chat completion."""
    from llama_cpp import Llama

    llama = Llama(str(path), n_ctx=0, n_threads=1, n_threads_batch=1, verbose=False)
    for talk in talks:
        prompt = llama.tokenize(reference.render(talk).encode(), add_bos=False, special=True)
        llama.reset()
        llama.eval(prompt)
        logits = np.array(llama._ctx.get_logits_ith(-1)[: llama.n_vocab()], dtype=np.float32)
        llama.reset()
        choice = llama.create_chat_completion(talk, max_tokens=NEW, temperature=0.0)["choices"][0]
        yield Answer(prompt, choice["message"]["content"], choice["finish_reason"] == "stop", logits)


def onnx_answers(folder: Path, reference: Reference, talks: list[list[dict[str, str]]]) -> Iterable[Answer]:
    """onnxruntime-genai's tokenizer and generator."""
    import onnxruntime_genai as genai

    model = genai.Model(str(folder))
    tokenizer = genai.Tokenizer(model)
    for talk in talks:
        prompt = [int(i) for i in tokenizer.encode(reference.render(talk))]
        params = genai.GeneratorParams(model)
        params.set_search_options(max_length=len(prompt) + NEW, do_sample=False)
        generator = genai.Generator(model, params)
        generator.append_tokens(prompt)
        logits = generator.get_output("logits")[0, -1].astype(np.float32)
        while not generator.is_done():
            generator.generate_next_token()
        new = [int(i) for i in generator.get_sequence(0)[len(prompt) :]]
        ended = len(new) < NEW or new[-1] in reference.ends  # the end token itself may be left out
        kept = new[:-1] if new and new[-1] in reference.ends else new
        yield Answer(prompt, reference.tokenizer.decode(kept, skip_special_tokens=True), ended, logits)


def divergence(expected: np.ndarray, got: np.ndarray) -> float:
    """KL(expected || got) of two rows of logits, in nats."""
    n = min(expected.size, got.size)
    p, q = (row[:n] - row[:n].max() for row in (expected, got))
    p, q = p - np.log(np.exp(p).sum()), q - np.log(np.exp(q).sum())
    return float((np.exp(p) * (p - q)).sum())


def compare(expected: list[Answer], got: list[Answer]) -> dict[str, float]:
    """Rates over prompts: equal prompt ids, equal answer, equal ending; where logits are told also equal first token
    and mean KL."""
    pairs = list(zip(expected, got, strict=True))
    rates = {
        "n": len(pairs),
        "prompt_ids": float(np.mean([a.prompt == b.prompt for a, b in pairs])),
        "answer": float(np.mean([a.text == b.text for a, b in pairs])),
        "ending": float(np.mean([a.ended == b.ended for a, b in pairs])),
    }
    told = [(a.logits, b.logits) for a, b in pairs if a.logits is not None and b.logits is not None]
    if told:
        rates["first_token"] = float(np.mean([a.argmax() == b.argmax() for a, b in told]))
        rates["kl_mean"] = float(np.mean([divergence(a, b) for a, b in told]))
    return rates


def file_type(path: Path) -> str:
    """``Q4_K_M``, ``int4`` … of an artifact, by its record; by its name where it has none."""
    record = (path if path.is_dir() else path.parent) / "artifact.json"
    if record.is_file():
        facts = json.loads(record.read_text())["facts"]
        return str(facts.get("type") or facts.get("precision"))
    names = [name for name in (*LIMITS, "int4") if name.lower() in str(path).lower()]
    return names[0] if names else "quantized"
