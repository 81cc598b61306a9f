"""One way to ask any artifact for greedy replies and logits, whatever runs it.

======  ==================================================================================
kind    runner
======  ==================================================================================
hf      torch, float32 on the CPU (the checkpoint's own type on a CUDA device)
gptq    the same, on exactly dequantized weights: no kernel for the packed ones is needed
gguf    the runtime that ships (llama.cpp)
onnx    the runtime that ships (onnxruntime-genai)
bundle  the runtime that ships
======  ==================================================================================
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.errors import ArtifactError, UsageError
from compress.extras import need
from compress.validate.greedy import decode, plan_batches
from runtime.engine.backends import BACKENDS
from runtime.engine.chat import of_tokenizer
from runtime.engine.template import STILL, render

Messages = Sequence[Mapping[str, Any]]
Progress = Callable[[int, int], None]

BATCH = 64
"""Rows decoded together in torch."""
UNBOUNDED = 1 << 30
CACHE_BYTES = 512 << 20
"""Most bytes the key/value cache of one torch batch may take."""


@dataclass(frozen=True)
class Completion:
    """A greedy reply. ``truncated``: the token limit cut it. ``ttft_s`` is None where rows are decoded in batches."""

    text: str
    token_ids: tuple[int, ...]
    truncated: bool
    ttft_s: float | None = None


@dataclass(frozen=True)
class Probe:
    """Timings of one reply. TTFT in seconds, ``cold`` with nothing kept, ``warm`` as served: what earlier prompts of
    the same process had in common (the system prompt) may come from the prefix cache. None where there is none."""

    cold_s: float
    warm_s: float | None
    tokens_per_s: float | None


def _silent(done: int, total: int) -> None:
    del done, total


class Runner(ABC):
    """A loaded artifact; a context manager that frees it."""

    note: ClassVar[str] = ""
    """What a reader of the figures must know about how they were taken."""
    timed: ClassVar[bool] = True
    """Whether the latency measured here is the latency of what ships."""
    retries: ClassVar[bool] = False
    """Whether the rule guard may ask again: greedy decoding in torch would only repeat itself."""
    vocabulary: int
    context: int
    """Tokens that prompt and reply may have together."""

    @abstractmethod
    def encode(self, messages: Messages) -> list[int]:
        """Token ids of the rendered prompt, up to and including the start of the assistant's turn."""

    @abstractmethod
    def complete(
        self, prompts: Sequence[Messages], max_tokens: int, *, regroup: bool = False, progress: Progress = _silent
    ) -> list[Completion]:
        """Greedy replies in the order of ``prompts``; the same list gives the same replies.

        ``regroup`` decodes the same prompts in batches of another composition (for the A/A pass).
        """

    @abstractmethod
    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """float32 ``[len(ids), vocabulary]``: row t holds the logits of the token after ``ids[t]``."""

    @abstractmethod
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a reply."""

    @abstractmethod
    def probe(self, messages: Messages, max_tokens: int) -> Probe:
        """Time one reply."""

    def retry(self, messages: Messages, grammar: str | None, max_tokens: int) -> tuple[str, bool]:
        """One more ``(reply, truncated)``, made as the runtime makes it when the rule guard asks again; only where
        ``retries``."""
        raise TypeError(f"{type(self).__name__} does not retry")

    @abstractmethod
    def close(self) -> None:
        """Free the model."""

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class HfRunner(Runner):
    """A Hugging Face causal language model folder in torch."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        torch = need("torch")
        if threads:
            torch.set_num_threads(threads)
        self.path = Path(path)
        self.tokenizer = need("transformers").AutoTokenizer.from_pretrained(self.path, local_files_only=True)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = self._load("auto" if self.device == "cuda" else torch.float32).to(self.device).eval()
        self.vocabulary = self.model.get_output_embeddings().weight.shape[0]
        self.context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or UNBOUNDED

    def _load(self, dtype: Any) -> Any:
        return load_torch_model(self.path, dtype)

    def render(self, messages: Messages) -> str:
        """The prompt text by the tokenizer's own chat template; its clock stands still, as in `RuntimeRunner`."""
        chat = of_tokenizer(self.tokenizer)
        template = chat.template()
        if template is None:
            raise UsageError(f"{self.path} has no chat template", next="save the model with chat_template.jinja")
        return render(template, messages, special=chat.special, now=STILL)

    def encode(self, messages: Messages) -> list[int]:
        return self.tokenizer(self.render(messages), add_special_tokens=False)["input_ids"]

    def stop_ids(self) -> frozenset[int]:
        listed = self.model.generation_config.eos_token_id
        ids = listed if isinstance(listed, list) else [listed]
        return frozenset(i for i in [*ids, self.tokenizer.eos_token_id] if i is not None)

    def complete(
        self, prompts: Sequence[Messages], max_tokens: int, *, regroup: bool = False, progress: Progress = _silent
    ) -> list[Completion]:
        encoded = [self.encode(messages) for messages in prompts]
        self._check_length(encoded, max_tokens)
        size = self._batch_size(encoded, max_tokens)
        batches = plan_batches(encoded, max(1, size * 2 // 3) if regroup else size, reverse=regroup)
        layers = self.model.config.get_text_config().num_hidden_layers
        found: dict[int, Completion] = {}
        for index, reply in decode(self._step, layers, encoded, batches, max_tokens=max_tokens, stop=self.stop_ids()):
            text = self.tokenizer.decode(reply.token_ids, skip_special_tokens=True)
            found[index] = Completion(text, reply.token_ids, reply.truncated)
            progress(len(found), len(prompts))
        return [found[index] for index in range(len(prompts))]

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        torch = need("torch")
        with torch.inference_mode():
            out = self.model(input_ids=torch.tensor([list(ids)], device=self.device), use_cache=False).logits
        return out[0].float().cpu().numpy()

    def probe(self, messages: Messages, max_tokens: int) -> Probe:
        start = time.perf_counter()
        self.complete([messages], 1)
        first = time.perf_counter()
        (reply,) = self.complete([messages], max_tokens)
        decoding = time.perf_counter() - first - (first - start)
        more = len(reply.token_ids) - 1
        return Probe(first - start, None, more / decoding if more > 0 and decoding > 0 else None)

    def close(self) -> None:
        self.model = None

    def _step(self, ids: Any, mask: Any, positions: Any, cache: Any) -> Any:
        torch = need("torch")
        where = self.device
        with torch.inference_mode():
            out = self.model(
                input_ids=ids.to(where),
                attention_mask=mask.to(where),
                position_ids=positions.to(where),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return out.logits[:, -1].cpu()

    def _batch_size(self, encoded: Sequence[Sequence[int]], max_tokens: int) -> int:
        """As many rows as fit into ``CACHE_BYTES`` of keys and values."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        longest = max(map(len, encoded), default=1) + max_tokens
        row = 2 * config.num_hidden_layers * heads * width * longest * self.model.dtype.itemsize
        return max(1, min(BATCH, math.floor(CACHE_BYTES / row)))

    def _check_length(self, encoded: Sequence[Sequence[int]], max_tokens: int) -> None:
        for number, ids in enumerate(encoded):
            if len(ids) + max_tokens > self.context:
                raise UsageError(
                    f"prompt {number + 1} has {len(ids)} tokens; with max_tokens {max_tokens} it leaves the context "
                    f"of {self.context} tokens of {self.path}",
                    next="lower max_tokens, or shorten that prompt",
                )


class GptqRunner(HfRunner):
    """A GPTQ folder, its packed weights unpacked exactly into the same torch model."""

    note = "judged from dequantized weights"
    timed = False

    def _load(self, dtype: Any) -> Any:
        from compress.quantize.packing import dequantize_folder

        del dtype
        return assemble_torch_model(self.path, dequantize_folder(self.path))


class RuntimeRunner(Runner):
    """A .gguf, an onnxruntime-genai folder or a bundle in the runtime that ships, with its own settings."""

    retries = True

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        from runtime.session import load

        del threads  # the runtime chooses what suits the model
        self.session = load(path)
        self.session.clock = STILL
        self.vocabulary = self.session.engine.n_vocab
        self.context = self.session.engine.context

    def encode(self, messages: Messages) -> list[int]:
        return self.session.encode_chat(messages)

    def complete(
        self, prompts: Sequence[Messages], max_tokens: int, *, regroup: bool = False, progress: Progress = _silent
    ) -> list[Completion]:
        order = list(reversed(prompts)) if regroup else list(prompts)
        replies = self.session.complete_many(order, max_tokens=max_tokens)
        found = [Completion(r.text, tuple(r.token_ids), r.finish_reason == "length", r.ttft_s) for r in replies]
        progress(len(found), len(prompts))
        return found[::-1] if regroup else found

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        return self.session.logits(list(ids))

    def stop_ids(self) -> frozenset[int]:
        return self.session.engine.stops

    def probe(self, messages: Messages, max_tokens: int) -> Probe:
        served = self.session.chat(messages, max_tokens=max_tokens, enforce=False).timings
        (alone,) = self.session.complete_many([messages], max_tokens=1)
        return Probe(alone.ttft_s, served.ttft_ms / 1000, served.tokens_per_s or None)

    def retry(self, messages: Messages, grammar: str | None, max_tokens: int) -> tuple[str, bool]:
        allowed = grammar if self.session.engine.grammars else None
        again = self.session.chat(
            messages, max_tokens=max_tokens, temperature=0.7, top_p=0.95, seed=1, grammar=allowed, enforce=False
        )
        return again.raw, again.finish_reason == "length"

    def close(self) -> None:
        self.session.close()


def load_torch_model(path: Path, dtype: Any) -> Any:
    """The causal LM of an HF folder in ``dtype``."""
    transformers = need("transformers")
    transformers.utils.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)


def assemble_torch_model(path: Path, state: Mapping[str, Any]) -> Any:
    """The causal LM that ``path``'s config.json describes, float32, with ``state`` as its weights.

    Raises ArtifactError when a weight is missing or left over.
    """
    transformers = need("transformers")
    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=need("torch").float32)
    missing, extra = model.load_state_dict(dict(state), strict=False, assign=True)
    model.tie_weights()
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if config.tie_word_embeddings else set()
    wrong = sorted({*missing, *extra} - tied)
    if wrong:
        raise ArtifactError(f"{path} does not fit its config.json: weight {wrong[0]}", next="make the folder again")
    if (path / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(path, local_files_only=True)
    return model


RUNNERS: dict[str, type[HfRunner] | type[RuntimeRunner]] = {
    "gptq": GptqRunner,
    "hf": HfRunner,
    **dict.fromkeys(("bundle", *BACKENDS), RuntimeRunner),
}


def open_runner(kind: str, path: Path, *, threads: int | None = None) -> Runner:
    """The runner for an artifact of ``kind`` at ``path``."""
    if kind not in RUNNERS:
        raise ArtifactError(
            f"{path} is a {kind!r} artifact, which does not answer prompts",
            next=f"give one of {', '.join(sorted(RUNNERS))}",
        )
    return RUNNERS[kind](path, threads=threads)
