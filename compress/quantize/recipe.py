"""Which linear gets how many bits, and how a GPTQ checkpoint says so."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from compress.errors import UsageError
from compress.model.coded import FLOAT


@dataclass(frozen=True)
class Recipe:
    """Settings of a whole checkpoint and the linears that differ."""

    bits: int
    group_size: int
    sym: bool
    desc_act: bool = False
    damp: float = 0.01
    lm_head: bool = False
    special: Mapping[str, int] = field(default_factory=dict)
    """Full module name -> its bits, or FLOAT."""

    def bits_of(self, name: str) -> int:
        """Bits of the linear ``name``, or FLOAT."""
        return self.special.get(name, self.bits)

    def config(self) -> dict[str, Any]:
        """What config.json (``quantization_config``) and quantize_config.json say."""
        said: dict[str, Any] = {
            "bits": self.bits,
            "checkpoint_format": "gptq",
            "damp_percent": self.damp,
            "desc_act": self.desc_act,
            "group_size": self.group_size,
            "lm_head": self.lm_head,
            "quant_method": "gptq",
            "sym": self.sym,
        }
        differing = {name: bits for name, bits in sorted(self.special.items()) if bits != self.bits}
        if differing:
            said["dynamic"] = dict(_dynamic(name, bits) for name, bits in differing.items())
        return said


def _dynamic(name: str, bits: int) -> tuple[str, dict[str, int]]:
    pattern = "^" + re.sub(r"([.])", r"\\\1", name) + "$"
    return (f"-:{pattern}", {}) if bits == FLOAT else (f"+:{pattern}", {"bits": bits})


def special_bits(patterns: Mapping[str, int], names: Iterable[str]) -> dict[str, int]:
    """Full name -> bits by shell patterns such as ``*.down_proj``; the last pattern that fits counts.

    UsageError naming a pattern that fits no linear.
    """
    names = list(names)
    chosen: dict[str, int] = {}
    for pattern, bits in patterns.items():
        found = fnmatch.filter(names, pattern)
        if not found:
            raise UsageError(
                f"dynamic: no linear is called {pattern!r}", next=f"names look like {names[0]} or {names[-1]}"
            )
        chosen.update(dict.fromkeys(found, bits))
    return chosen
