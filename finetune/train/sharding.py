"""A model cut over the processes: each holds its rows of every weight, gradient and moment (FSDP, Zhao et al. 2023;
stage 3 of ZeRO, Rajbhandari et al. 2020).

torch's ``fully_shard`` cuts block by block. A block's weights are whole only while it computes, in all processes at
once, so all of them must go through the model equally often (``accompany``). What is written is whole and as one
process writes it, so checkpoints serve any number of processes, cut or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import launch
from compress.errors import UsageError
from compress.memory import trim
from finetune.train import together
from finetune.train.objective import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.train.params import TuningParams

OPTIMIZERS = ("adamw", "sgd")
"""Those that treat each number of a weight alone, so that they need not know of the cut."""
ADAPTERS = ("lora", "rslora", "lora+")
"""Kinds of adapters that look at no whole weight of the base when they start, compute or are saved."""


def require(p: TuningParams) -> None:
    """Raise UsageError for what cannot be trained by a cut model."""
    whole = {
        "method: qlora": "NF4 weights are blocks with scales beside them" if p.method == "qlora" else "",
        f"adapter.kind: {p.adapter.kind}": "" if p.adapter.kind in ADAPTERS else "it reads whole weights of the base",
        f"optimizer: {p.optimizer}": "" if p.optimizer in OPTIMIZERS else "its state is one of whole weights",
    }
    for name, why in whole.items():
        if why:
            others = f"method lora or full, adapter.kind {', '.join(ADAPTERS)}, optimizer {' or '.join(OPTIMIZERS)}"
            what = f"the launcher asks for FSDP, and {name} cannot be cut: {why}"
            raise UsageError(what, next=f"start with accelerate launch --multi_gpu; FSDP takes {others}")


def shard(model: Any, on_cpu: bool) -> None:
    """Cut a transformers or peft model in place; its parts come to the processes' devices one after another."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu" if on_cpu else "cuda", (launch.place().world,))
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    blocks = [module for module in base.modules() if type(module).__name__ in (base._no_split_modules or ())]
    for part in [*blocks, model]:
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
        part.set_force_sum_reduction_for_comms(True)  # gloo takes no means
    trim()


def whole(value: Any) -> Any:
    """A cut tensor with the rows of all processes, which must all ask for it; anything else as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def own(value: Tensor, weight: Tensor) -> Tensor:
    """A whole tensor cut as ``weight`` is; as it is where ``weight`` is whole or has another shape."""
    if not hasattr(weight, "full_tensor") or value.shape != weight.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, weight.device_mesh, weight.placements, src_data_rank=None).clone()  # no view


def here(value: Tensor) -> Tensor:
    """The rows of a tensor that this process holds."""
    return value.to_local() if hasattr(value, "to_local") else value


def gathered(named: Mapping[str, Tensor], dtype: Any = None) -> dict[str, Tensor]:
    """Whole tensors by name, on the CPU of the process that leads; the others, which must ask as well, get none."""
    leads, found, seen = launch.place().leads, dict[str, Any](), dict[int, Any]()
    for name, value in named.items():
        if id(value) not in seen:
            one = whole(value.detach())
            seen[id(value)] = one.to("cpu", dtype) if leads else None
        if leads:
            found[name] = seen[id(value)]
    return found


def stored(model: Any, dtype: Any = None) -> dict[str, Tensor]:
    """What is stored of a model, gathered: the adapter where it has one, all weights otherwise."""
    state = model.state_dict(keep_vars=True)
    if hasattr(model, "get_base_model"):
        state = {name: value for name, value in state.items() if ".lora_" in name}
    return gathered(state, dtype)


def keep_whole(optimizer: Any) -> None:
    """Let the optimizer give its state whole, and cut what it is given. All processes must ask for it."""
    optimizer.register_state_dict_post_hook(_gather)
    optimizer.register_load_state_dict_pre_hook(_cut)


def _gather(optimizer: Any, state: dict[str, Any]) -> dict[str, Any]:
    return state | {"state": {number: gathered(entry) for number, entry in state["state"].items()}}


def _cut(optimizer: Any, state: dict[str, Any]) -> dict[str, Any]:
    weights = dict(enumerate(weight for group in optimizer.param_groups for weight in group["params"]))
    cut = {n: {name: own(v, weights[n]) for name, v in entry.items()} for n, entry in state["state"].items()}
    return state | {"state": cut}


def trainer(base: Any) -> Any:
    """The class ``base`` of trainers for models that are cut: by its ``cut``, before it trains."""
    from torch.utils.serialization import config

    class CutTrainer(base):  # type: ignore[misc]
        def cut(self, last: Path | None, on_cpu: bool) -> None:
            """Cut the model over the processes, as it was at a checkpoint where there is one."""
            if last is not None:
                super()._load_from_checkpoint(str(last))
            shard(self.model, on_cpu)
            self.is_distributed_loading_by_transformers = True  # accelerate then neither wraps nor moves it

        def create_optimizer(self, *given: Any, **named: Any) -> Any:
            optimizer = super().create_optimizer(*given, **named)
            keep_whole(optimizer)
            return optimizer

        def _move_model_to_device(self, model: Any, device: Any) -> None:
            """Its parts come there one after another."""

        def _clip_grad_norm(self, model: Any) -> Any:
            return whole(super()._clip_grad_norm(model))

        def _load_from_checkpoint(self, place: str, model: Any = None) -> None:
            """It was, before it was cut."""

        def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
            with config.patch("load.mmap", True):  # a part of it is read
                super()._load_optimizer_and_scheduler(checkpoint)

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            super()._save(output_dir, stored(self.model))

        def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
            if not launch.place().leads:
                self.optimizer.state_dict()  # gathered where the leading process writes it
            super()._save_optimizer_and_scheduler(output_dir)

    return CutTrainer


def nothing(model: Any) -> dict[str, Any]:
    """A batch in which nothing is learnt: ``input_ids`` and ``labels``, int64 ``[1, 8]``."""
    import torch

    ids = torch.zeros(1, 8, dtype=torch.int64, device=here(next(model.parameters())).device)
    return {"input_ids": ids, "labels": torch.full_like(ids, IGNORED)}


def missing(done: int) -> int:
    """How many times fewer than others this process has gone through a cut model; 0 where each has its own."""
    return together.largest(done) - done if together.cut() else 0


def accompany(model: Any, done: int) -> None:
    """Go through a cut model with nothing until every process has done so equally often."""
    for _ in range(missing(done)):
        batch = nothing(model)
        model(input_ids=batch["input_ids"], scored_labels=batch["labels"], use_cache=False)
