"""Holdfast's runtime: ``load`` a bundle and ``chat`` with it. Nothing heavy is imported before ``load`` is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .reply import Completion, Reply
    from .session import Session, load

__version__ = "0.1.0"
__all__ = ["Completion", "Reply", "Session", "load"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from . import session

        return getattr(session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> Sequence[str]:
    return [*__all__, "__version__"]
