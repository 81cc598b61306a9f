"""Holdfast's runtime: ``load`` a bundle and ``chat`` with it. Nothing heavy is imported before ``load`` is called."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .answers import Session
    from .info import Info
    from .isolated import IsolatedSession, load_isolated
    from .reply import Completion, Options, Reply
    from .session import load

__version__ = "0.1.0"
__all__ = ["Completion", "Info", "IsolatedSession", "Options", "Reply", "Session", "load", "load_isolated"]
_FROM = {
    "Completion": "reply",
    "Info": "info",
    "IsolatedSession": "isolated",
    "Options": "reply",
    "Reply": "reply",
    "Session": "answers",
    "load": "session",
    "load_isolated": "isolated",
}


def __getattr__(name: str) -> object:
    if name in _FROM:
        return getattr(import_module(f".{_FROM[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> Sequence[str]:
    return [*__all__, "__version__"]
