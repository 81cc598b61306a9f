"""One thing that a text names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Found:
    """As it is shown, where it stands, and the normal form by which two spellings agree."""

    shown: str
    span: tuple[int, int]
    key: Any
