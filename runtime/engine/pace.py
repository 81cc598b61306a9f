"""How much of the prompts to read in a step in which replies go on: their words must keep coming.

Small pieces cost more than large ones (llama.cpp computes them apart from the replies' tokens), and large ones keep
those who read a reply waiting. So a step gets as many prompt tokens as keep it short: stall-free batching (Agrawal et
al. 2024, Sarathi-Serve) with a budget of time instead of tokens. What a token costs is measured.
"""

from __future__ import annotations

CHUNK = 128
"""Prompt tokens of a step beside replies that nobody reads as they come: always so many, so that a list gives the same
batches every time."""
SCORED_CHUNK = 64
"""The logits of so many tokens are in memory at once."""
STALL, SMOOTH = 3.0, 0.1
"""A step with prompts may take so many times what one without takes, and so many seconds in any case: ten tokens a
second are more than anybody reads, and smaller pieces would keep the other customer waiting for the first word."""
LEAST, FIRST = 4, 16
"""Prompt tokens of a step at least, and while nothing is measured."""


class Pace:
    """Of one scheduler, used by its thread only."""

    def __init__(self) -> None:
        self._quiet: dict[int, float] = {}
        """Seconds of a step without prompts, by how many replies are running."""
        self._token = 0.0
        """Seconds that a prompt's token adds to a step."""

    def room(self, running: int) -> int:
        """Prompt tokens for a step beside so many running replies."""
        quiet = self._known(running)
        if quiet is None or not self._token:
            return FIRST
        return max(LEAST, int((max(STALL * quiet, SMOOTH) - quiet) / self._token))

    def note(self, running: int, prompt: int, seconds: float) -> None:
        """What a step with so many tokens of replies and of prompts took."""
        if not running:
            return
        if not prompt:
            known = self._quiet.setdefault(running, seconds)
            self._quiet[running] += 0.1 * (min(seconds, 2 * known) - known)
        elif (quiet := self._known(running)) is not None:
            token = max(seconds - quiet, 0.01 * seconds) / prompt
            self._token += 0.1 * (min(token, 2 * self._token) - self._token) if self._token else token

    def _known(self, running: int) -> float | None:
        """Of the nearest number of replies that was measured."""
        near = min(self._quiet, key=lambda count: abs(count - running), default=None)
        return None if near is None else self._quiet[near]
