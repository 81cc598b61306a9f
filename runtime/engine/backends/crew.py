"""How many threads share a step: all of them, or fewer while other programs hold the cores.

The threads of a step meet some ten times in every layer. Where another program holds one of the cores, each meeting
waits until the last thread gets its turn: beside one busy process on two cores a token of a 135M model takes 16 ms with
two threads and 6 ms with one; beside ten, half a second. What shows it is processor time: threads that wait for a core
use less of it than the clock goes on. A container's processor quota shows in the same way.
"""

from __future__ import annotations

BUSY = 0.8
"""Below this share of the time that its threads could have had, a step was kept waiting (0.89 to 1.0 on idle cores)."""
WINDOW = 0.05
"""Seconds of steps that are judged together."""
HOLD, LONGEST_HOLD = 1.0, 30.0
"""Seconds before more threads are tried again; twice as long after every try that fails."""


class Crew:
    """Of one backend, used by its decode thread only."""

    def __init__(self, threads: int) -> None:
        self.most = self.threads = threads
        self._wall = self._used = self._until = 0.0
        self._hold, self._trying = HOLD, False

    def note(self, now: float, wall: float, used: float) -> bool:
        """A step that ended ``now`` took ``wall`` seconds and so much processor time; whether ``threads`` changes."""
        self._wall += wall
        self._used += used
        if self._wall < WINDOW:
            return False
        waited = self._used < BUSY * self._wall * self.threads
        self._wall = self._used = 0.0
        if waited and self.threads > 1:
            self._hold = min(2 * self._hold, LONGEST_HOLD) if self._trying else HOLD
            self._until, self._trying = now + self._hold, False
            self.threads //= 2
            return True
        self._trying = not waited and self.threads < self.most and now >= self._until
        if self._trying:
            self.threads = min(2 * self.threads, self.most)
        return self._trying
