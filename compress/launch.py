"""This process's place among those that ``accelerate launch`` or torchrun started for one command.

All of them run the command. The first (rank 0) leads: it makes what is made and says what is said. The others wait for
its artifacts in the store, and take part in the stages that train (``Stage.together``).
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """As the launcher's environment tells it."""

    rank: int = 0
    world: int = 1
    """Processes in all."""
    local: int = 0
    """Rank on this machine: the number of its device."""
    neighbours: int = 1
    """Processes on this machine."""

    @property
    def leads(self) -> bool:
        return self.rank == 0


def place() -> Place:
    """Alone without a launcher."""
    given = {"rank": "RANK", "world": "WORLD_SIZE", "local": "LOCAL_RANK", "neighbours": "LOCAL_WORLD_SIZE"}
    found = Place(**{name: int(os.environ[key]) for name, key in given.items() if os.environ.get(key)})
    return found if found.world > 1 else Place()
