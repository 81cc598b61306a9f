"""Values of a GGUF header by name, of the kind that is wanted or refused by that name."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any

from compress.errors import ArtifactError
from finetune.source.gguf.parts import GgufParts

CHECK = "check what wrote the file, or take another one of this model"


class Keys:
    """The keys below the architecture's name; a list whose values are all the same stands for that value."""

    def __init__(self, parts: GgufParts) -> None:
        self.parts = parts

    def get(self, name: str) -> Any:
        """The value as it is stored; None where there is none."""
        return self.parts.metadata.get(f"{self.parts.architecture}.{name}")

    def count(self, name: str, default: int | None = None) -> int:
        """A whole number above 0."""
        return self._checked(name, default, lambda value: type(value) is int and 0 < value < 2**31, "a number above 0")

    def window(self, name: str) -> int:
        """A whole number, 0 where there is none."""
        return self._checked(name, 0, lambda value: type(value) is int and 0 <= value < 2**32, "a whole number")

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number above 0, as short as float32 allows: the 1e-05 that somebody once wrote."""
        value = self._checked(name, default, lambda v: _is_number(v) and 0 < v < math.inf, "a number above 0")
        return shortest(value)

    def text(self, name: str, default: str) -> str:
        """A text."""
        found = self._checked(name, default, lambda value: isinstance(value, str), "a text")
        return str(found)

    def _checked(self, name: str, default: Any, fits: Any, what: str) -> Any:
        value = self.get(name)
        if isinstance(value, array | list):
            value = _single(value)
        value = default if value is None else value
        if value is None or not fits(value):
            shown = "missing" if value is None else repr(value)
            raise self.error(f"{self.parts.architecture}.{name} is {shown:.80}, not {what}")
        return value

    def error(self, what: str) -> ArtifactError:
        """An error about this file."""
        return ArtifactError(f"{self.parts.path}: {what}", next=CHECK)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _single(values: Sequence[Any]) -> Any:
    return values[0] if len(values) and all(value == values[0] for value in values) else list(values)


def shortest(value: float) -> float:
    """The shortest decimal that is the same float32."""
    import numpy as np

    return float(str(np.float32(value)))
