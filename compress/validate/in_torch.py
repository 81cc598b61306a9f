"""Hugging Face and GPTQ folders in torch: float32 on the CPU, the checkpoint's own type on a CUDA device."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.errors import ArtifactError, UsageError
from compress.extras import LOCAL, need
from compress.memory import trim
from compress.validate.batches import plan_batches
from compress.validate.greedy import decode, score_batch
from compress.validate.packed import pack_linears
from compress.validate.runner import Completion, Floats, Messages, Probe, Progress, Runner, Scored, silent
from runtime.engine.chat import of_tokenizer
from runtime.engine.template import STILL, render

BATCH = 64
"""Most rows decoded together."""
UNBOUNDED = 1 << 30
CACHE_BYTES = 256 << 20
"""Most bytes the key/value cache of one batch may take."""
SLAB_BYTES = 64 << 20
"""Most bytes of logits in memory at once, a row's own aside."""


class HfRunner(Runner):
    """A Hugging Face causal language model folder. ``many``: prepare it for batches (``packed``), which costs a lone
    reply a little."""

    def __init__(self, path: Path, *, threads: int | None = None, many: bool = False) -> None:
        torch = need("torch")
        if threads:
            torch.set_num_threads(threads)
        self.path = Path(path)
        self.tokenizer = need("transformers").AutoTokenizer.from_pretrained(self.path, **LOCAL)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = self._load("auto" if self.device == "cuda" else torch.float32).to(self.device).eval()
        self.vocabulary = self.model.get_output_embeddings().weight.shape[0]
        config = self.model.config.get_text_config()
        self.context = getattr(config, "max_position_embeddings", None) or UNBOUNDED
        self.layers = config.num_hidden_layers
        if many:
            pack_linears(self.model)
        trim()

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
        self, prompts: Sequence[Messages], max_tokens: int, *, regroup: bool = False, progress: Progress = silent
    ) -> list[Completion]:
        encoded = [self.encode(messages) for messages in prompts]
        self._check_length(encoded, max_tokens)
        size = self._batch_size(max(map(len, encoded), default=1) + max_tokens)
        batches = plan_batches(encoded, max(1, size * 2 // 3) if regroup else size, reverse=regroup)
        how: dict[str, Any] = {"max_tokens": max_tokens, "stop": self.stop_ids(), "progress": progress}
        found: dict[int, Completion] = {}
        for index, reply in decode(self._step, self.layers, encoded, batches, **how):
            text = self.tokenizer.decode(reply.token_ids, skip_special_tokens=True)
            found[index] = Completion(text, reply.token_ids, reply.truncated)
        return [found[index] for index in range(len(prompts))]

    def reserve(self, prompts: Sequence[Messages], max_tokens: int) -> None:
        self._check_length([self.encode(messages) for messages in prompts], max_tokens)

    def score(self, rows: Sequence[Scored]) -> Iterator[tuple[int, Floats]]:
        most = max((len(row.where) for row in rows), default=1)
        size = self._batch_size(max((len(row.ids) for row in rows), default=1))
        size = max(1, min(size, SLAB_BYTES // (4 * most * self.vocabulary)))
        for batch in plan_batches([row.ids for row in rows], size):
            chosen = [rows[number] for number in batch]
            found = score_batch(self._step, self.layers, [(row.ids, row.where) for row in chosen])
            for number, logits in zip(batch, found, strict=True):
                yield number, logits.float().numpy()

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
        gc.collect()  # modules know each other in circles
        trim()

    def _step(self, ids: Any, mask: Any, positions: Any, cache: Any, at: Any) -> Any:
        """The head is put on the positions ``at`` alone: it is a third of a small model with many tokens."""
        torch = need("torch")

        def only(module: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
            del module
            return (given[0][at][None],)

        where = self.device
        hook = self.model.get_output_embeddings().register_forward_pre_hook(only)
        try:
            with torch.inference_mode():
                out = self.model(
                    input_ids=ids.to(where),
                    attention_mask=mask.to(where),
                    position_ids=positions.to(where),
                    past_key_values=cache,
                    use_cache=True,
                )
        finally:
            hook.remove()
        return out.logits[0].cpu()

    def _batch_size(self, longest: int) -> int:
        """As many rows of ``longest`` tokens as fit into ``CACHE_BYTES`` of keys and values."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        row = 2 * self.layers * heads * width * longest * self.model.dtype.itemsize
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


def load_torch_model(path: Path, dtype: Any) -> Any:
    """The causal LM of an HF folder in ``dtype``."""
    transformers = need("transformers")
    transformers.utils.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **LOCAL)


def assemble_torch_model(path: Path, state: Mapping[str, Any]) -> Any:
    """The causal LM that ``path``'s config.json describes, float32, with ``state`` as its weights.

    Raises ArtifactError when a weight is missing or left over.
    """
    transformers = need("transformers")
    config = transformers.AutoConfig.from_pretrained(path, **LOCAL)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.tie_word_embeddings = "lm_head.weight" not in state
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
