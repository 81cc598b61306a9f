"""Origins whose pages may ask (CORS)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import UsageError

_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#\s]+", re.IGNORECASE)


def origins(given: Sequence[str]) -> list[str]:
    """The origins as browsers write them. Raises UsageError for what no browser ever sends, such as a path."""
    for origin in given:
        if not _ORIGIN.fullmatch(origin):
            raise UsageError(f"{origin!r} is no origin", next="give scheme, host and port alone: https://shop.example")
    return [origin.lower() for origin in given]
