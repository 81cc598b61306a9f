"""Several processes that train one model: where they meet, and sums over what each of them has.

The launcher (``accelerate launch``, torchrun) says who takes part. In the group that ``join`` opens accelerate wraps
the model (DDP), or it is cut (FSDP, ``finetune.train.sharding``). Every stage, and every training of a search, opens a
group of its own, so that one launch carries any number of them.
"""

from __future__ import annotations

import functools
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from compress import launch
from compress.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

ASKED, TAKEN = "ACCELERATE_USE_FSDP", "HOLDFAST_FSDP"
"""The launcher's wish that the model be cut, and the same once it is ours to do: accelerate must not cut it, too."""
OTHERS = {
    "FSDP_OFFLOAD_PARAMS": "FSDP with weights outside the device",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron",
}
PATIENCE = timedelta(hours=1)
"""How long a process waits for the others."""


def cut() -> bool:
    """Whether the model is cut over the processes."""
    return launch.place().world > 1 and any(_true(name) for name in (ASKED, TAKEN))


def _true(setting: str) -> bool:
    return os.environ.get(setting, "").lower() == "true"


def join(meeting: str, *, on_cpu: bool) -> None:
    """Open the group of all processes of this launch; ``meeting``: a name that stands for this training alone."""
    here = launch.place()
    if _true(ASKED):
        os.environ[TAKEN] = os.environ.pop(ASKED)
    if here.world == 1:
        return
    import torch
    from torch import distributed

    for setting, name in OTHERS.items():
        if _true(setting):
            what = f"the launcher asks for {name}; here processes hold the model whole (DDP) or cut (FSDP)"
            raise UsageError(what, next="start with accelerate launch --multi_gpu, or --use_fsdp")
    try:
        store = _store(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    except KeyError as error:
        what = f"{here.world} processes were started, but {error.args[0]} does not say where they meet"
        raise UsageError(what, next="start them with accelerate launch or torchrun") from None
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if not on_cpu:
        torch.cuda.set_device(here.local)
    distributed.init_process_group(
        "gloo" if on_cpu else "cuda:nccl,cpu:gloo", store=distributed.PrefixStore(f"{meeting}/{attempt}", store),
        rank=here.rank, world_size=here.world, timeout=PATIENCE,
    )  # fmt: skip


@functools.cache
def _store(address: str, port: int) -> Any:
    """Where all groups of this launch meet: one for the process's life, as what was cut holds on to it."""
    from torch import distributed

    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return distributed.TCPStore(address, port, is_master=launch.place().leads and not hosted, timeout=PATIENCE)


def leave() -> None:
    """Close the group once every process has come so far."""
    if launch.place().world > 1:
        from torch import distributed

        distributed.barrier()
        distributed.destroy_process_group()


def wait() -> None:
    """Until every process has come so far."""
    if launch.place().world > 1:
        from torch import distributed

        distributed.barrier()


def summed(values: Tensor) -> Tensor:
    """The sum over the processes of a tensor that each of them has; the tensor itself where there is one process."""
    if launch.place().world > 1:
        from torch import distributed

        values = values.clone()
        distributed.all_reduce(values)
    return values


def smallest(value: int) -> int:
    """The least of the processes' values."""
    if launch.place().world == 1:
        return value
    import torch
    from torch import distributed

    found = torch.tensor(int(value))
    distributed.all_reduce(found, op=distributed.ReduceOp.MIN)
    return int(found)


def largest(value: int) -> int:
    """The greatest of the processes' values."""
    return -smallest(-value)


def gathered(values: Tensor) -> Tensor:
    """The processes' tensors of one shape, one behind the other by rank."""
    if launch.place().world == 1:
        return values
    import torch
    from torch import distributed

    parts = [torch.empty_like(values) for _ in range(launch.place().world)]
    distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def share(batch: int) -> int:
    """Examples of a batch that each process takes. Raises UsageError where they cannot be shared evenly."""
    world = launch.place().world
    if batch % world:
        what = f"batch is {batch}: {world} processes cannot share it evenly"
        raise UsageError(what, next=f"set batch to a multiple of {world}")
    return batch // world


def mine(items: Any) -> Any:
    """Every how-manieth item is this process's."""
    here = launch.place()
    return items[here.rank :: here.world]
