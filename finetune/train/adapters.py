"""Low-rank adapters on a frozen base: peft's kinds, and what each starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import UsageError

if TYPE_CHECKING:
    from compress.outline import ModelOutline
    from finetune.train.params import TuningParams

NITER = 4
"""Power iterations of a truncated singular value decomposition."""


def adapted(model: Any, p: TuningParams, on_cpu: bool, folder: Path, *, checkpointing: bool = False) -> Any:
    """``model`` (loaded from ``folder``) with a fresh adapter; all else is frozen.

    - lora (Hu et al. 2021); rslora: scaled by alpha / √rank (Kalajdzievski 2023); lora+: the same adapter, whose B
      learns ``ratio`` times as fast (Hayou et al. 2024);
    - dora: magnitudes of the weight's columns learn apart (Liu et al. 2024);
    - pissa: starts as the weight's largest singular vectors, the base keeps the rest (Meng et al. 2024);
    - loftq: starts as the largest singular vectors of what NF4 lost, one round (Li et al. 2023).

    Raises UsageError for targets that match nothing.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    kind = p.adapter.kind
    require_linears(model, p.adapter.targets)
    if p.method == "qlora" and not on_cpu:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)
    lora = LoraConfig(
        r=p.rank,
        lora_alpha=p.alpha or p.rank,
        target_modules=p.adapter.targets or "all-linear",
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.modules()),
        task_type="CAUSAL_LM",
        use_rslora=kind == "rslora",
        use_dora=kind == "dora",
        init_lora_weights=f"pissa_niter_{NITER}" if kind == "pissa" else True,
    )
    wrapped = get_peft_model(model, lora)
    if kind == "loftq":
        _start_from_the_loss(wrapped, folder, turned=model.config.model_type == "gpt2")
    return wrapped


def require_linears(model: Any, targets: Sequence[str]) -> None:
    """Raise UsageError for a target that names no linear, or other modules too (as peft matches names: the whole of
    one, or what stands behind a dot)."""
    head = model.get_output_embeddings()
    kinds = {name: type(module).__mro__ for name, module in model.named_modules() if module is not head}
    linears = {name for name, mro in kinds.items() if any(kind.__name__ in ("Linear", "Conv1D") for kind in mro)}
    known = ", ".join(sorted({name.rpartition(".")[2] for name in linears}))
    for target in targets:
        found = {name for name, _ in model.named_modules() if name == target or name.endswith(f".{target}")}
        if found and found <= linears:
            continue
        why = "matches more than linears: embeddings and the head get no adapter" if found else "matches no linear"
        what = f"adapter.targets: {target!r} {why}"
        raise UsageError(what, next=f"the linears are called {known}; leave targets out for all of them")


def weights(model: ModelOutline, rank: int) -> int:
    """Weights of adapters on every linear of the blocks."""
    s = model.shape
    queries, keys = s.heads * s.head_dim, s.kv_heads * s.head_dim
    attention = 2 * (s.hidden + queries) + 2 * (s.hidden + keys)
    return rank * s.blocks * (attention + (3 if model.gated else 2) * (s.hidden + s.ffn))


def _start_from_the_loss(model: Any, folder: Path, *, turned: bool) -> None:
    """Let every adapter be the best of its rank for W − NF4(W); ``turned``: weights are stored as ``[in, out]``."""
    import bitsandbytes
    import torch
    from peft.tuners.lora.layer import LoraLayer

    from compress.model.tensors import held
    from compress.model.weights import Weights

    weights = Weights(folder, held(folder).entries)
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        stored = name.removeprefix("base_model.model.") + ".weight"
        base = module.base_layer.weight
        rounded = bitsandbytes.functional.dequantize_4bit(base.data, base.quant_state).float()
        lost = (weights.load(stored).float().T if turned else weights.load(stored).float()) - rounded
        (adapter,) = module.active_adapters
        rank = module.r[adapter]
        U, S, V = torch.svd_lowrank(lost, q=min(rank + 8, *lost.shape), niter=NITER)
        root = S[:rank].sqrt()
        module.lora_A[adapter].weight.data = (V[:, :rank] * root).T.contiguous()
        module.lora_B[adapter].weight.data = (U[:, :rank] * root).contiguous() / module.scaling[adapter]


def save(model: Any, place: Path, started: Path | None, weights: Mapping[str, Any] | None = None) -> None:
    """Save the adapter as one of the base as it is stored: what moved out of the base at the start comes back.
    ``weights``: those of the adapter by name, where the model is cut."""
    extra = {} if started is None else {"path_initial_model_for_weight_conversion": str(started)}
    model.save_pretrained(place, state_dict=weights, **extra)
