"""How fast this machine is: a probe of less than a second of work in a process of its own, kept beside the store."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from compress.costs import CALL_S, Work
from compress.errors import HoldfastError, MissingExtra
from compress.json_files import write_json

VERSION = 1
"""Raise it when the probe measures something else."""
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Machine:
    """Speeds of the cores that this process may use, together."""

    float32: float
    """Floating-point operations per second of a float32 matrix product."""
    bfloat16: float
    """The same in bfloat16."""
    bandwidth: float
    """Bytes per second read and written by a copy that no cache holds."""
    call_s: float
    """Seconds of a call that adds to a small tensor: the interpreter's speed."""
    start_s: float
    """Seconds in which a fresh process imports torch and transformers."""

    def seconds(self, work: Work) -> float:
        """Wall time of ``work``."""
        products = work.float32 / self.float32 + work.bfloat16 / self.bfloat16
        rest = work.moved / self.bandwidth + work.python * self.call_s / CALL_S
        return products + rest + work.starts * self.start_s


def read_machine(folder: Path) -> Machine:
    """This machine's speeds, from the file that an earlier probe left in ``folder``, or probed now.

    The file's name stands for processor, cores and torch: other ones are probed anew. Raises MissingExtra without
    torch, HoldfastError when the probe fails.
    """
    path = folder / f"machine-{_fingerprint()}.json"
    if path.is_file():
        try:
            return Machine(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise HoldfastError(f"{path} is damaged ({error})", next="delete that file") from None
    machine = probe(cores())
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(machine))
    return machine


def probe(count: int) -> Machine:
    """Measure ``count`` cores in a fresh process (``python -m compress.probe``)."""
    root = Path(__file__).parents[1]
    paths = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "compress.probe", str(count)]
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    try:
        found = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TIMEOUT_S, check=True)
        return Machine(**json.loads(found.stdout.splitlines()[-1]))
    except subprocess.CalledProcessError as error:
        what = (error.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise HoldfastError(f"this machine's speed could not be measured: {what}", next=" ".join(command)) from None
    except subprocess.TimeoutExpired:
        what = f"measuring this machine's speed took more than {TIMEOUT_S:.0f} s"
        raise HoldfastError(what, next="try again when it is less busy") from None


def _fingerprint() -> str:
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtra("torch", "all") from None
    known = [VERSION, cores(), torch, processor()]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


def processor() -> str:
    """Model and instruction sets of the processor; two with one name may differ in what they multiply fast."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        import platform

        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    first = path.read_text().split("\n\n")[0].splitlines()
    return "\n".join(line for line in first if line.startswith(wanted))


def cores() -> int:
    """Physical cores that this process may use: two threads of one core multiply no faster than one."""
    used = os.sched_getaffinity(0)
    siblings = [Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list") for number in used]
    return len({path.read_text() for path in siblings}) if all(path.is_file() for path in siblings) else len(used)
