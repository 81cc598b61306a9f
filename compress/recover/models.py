"""Teacher and student in transformers: what they say at the positions to learn, and the adapters of LoRA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from compress.errors import ArtifactError
from compress.extras import LOCAL, need
from compress.model.blocks import ModelFolder
from compress.model.families import logit_cap
from compress.model.weights import write_model
from compress.recover.rows import Batch

if TYPE_CHECKING:
    import torch


class Said(NamedTuple):
    """At the targets of a batch: the head's input and block outputs, float ``[targets, hidden]``, and the head."""

    hidden: torch.Tensor
    head: torch.Tensor
    """``[vocabulary, hidden]``."""
    cap: float | None
    """Soft cap of logits."""
    blocks: list[torch.Tensor]


def load_model(folder: Path) -> Any:
    """The causal model in ``folder`` in float32, without dropout."""
    import torch

    auto = need("transformers").AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=torch.float32, **LOCAL).eval()


def say(model: Any, batch: Batch, blocks: Sequence[int] = ()) -> Said:
    """Run ``model``; the head is most of a small model's work, so it sees the targets only."""
    with _watched(model, blocks) as outputs:
        hidden = model.base_model(input_ids=batch.ids, use_cache=False).last_hidden_state
    states = [outputs[block].flatten(0, 1)[batch.targets] for block in blocks]
    head, cap = model.get_output_embeddings().weight, logit_cap(model.config)
    return Said(hidden.flatten(0, 1)[batch.targets], head, cap, states)


@contextmanager
def _watched(model: Any, blocks: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Block index -> output of the block, filled by the next run of the model."""
    outputs: dict[int, torch.Tensor] = {}

    def keep(block: int) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            del module, inputs
            outputs[block] = output[0] if isinstance(output, tuple) else output

        return hook

    stack = decoder_blocks(model) if blocks else []
    handles = [stack[block].register_forward_hook(keep(block)) for block in blocks]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def decoder_blocks(model: Any) -> Any:
    """The list of a model's decoder blocks."""
    import torch

    count = model.config.num_hidden_layers
    lists = (module for module in model.base_model.modules() if isinstance(module, torch.nn.ModuleList))
    return next(blocks for blocks in lists if len(blocks) == count)


def add_adapters(model: Any, folder: Path, rank: int, seed: int) -> Any:
    """LoRA (Hu et al. 2022) of ``rank`` and scale 2 on every block linear, in place; all else is frozen.

    Returns the peft model, whose ``merge_and_unload`` gives the plain model back.
    """
    import torch

    peft = need("peft")
    layout = ModelFolder(folder).layout
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=sorted(set(layout.linears())),
        fan_in_fan_out=layout.conv1d,
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(model, config)


def write_back(model: Any, folder: Path) -> None:
    """Overwrite the folder's tensors with the trained ones, names and dtypes as they were stored.

    Some folders leave the prefix of their names out. ArtifactError if a parameter has no tensor in the folder.
    """
    weights = ModelFolder(folder).weights
    trained = model.state_dict()
    prefix = f"{model.base_model_prefix}."
    names = {name: name if name in trained else prefix + name for name in weights.names()}
    lost = {name for name, _ in model.named_parameters()} - set(names.values())
    if lost:
        raise ArtifactError(f"{folder} has no tensor for {min(lost)!r}", next="save the unpruned model again")

    def load(name: str) -> torch.Tensor:
        return trained[names[name]].to(weights.load(name).dtype).contiguous()

    write_model(folder, [weights.spec(name) for name in weights.names()], load)
