"""What one request may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Each is a 400 (413 for the body) that names the limit."""

    body: int = 1 << 20
    """Bytes of a request body."""
    messages: int = 512
    max_tokens: int | None = None
    """Tokens of a reply; None: as many as the context holds."""
    choices: int = 16
    """``n``."""
    tools: int = 128
    timeout: float = 120.0
    """Seconds for a reply; a request may ask for less."""
    body_timeout: float = 30.0
    """Seconds in which a body must have come."""
    header_timeout: float = 10.0
    """Seconds in which the head of a request must have come."""
    stall: float = 30.0
    """Seconds for which a reader may take nothing before the connection is cut."""
    connections: int = 1024
    """Open connections; more are answered with 503."""
