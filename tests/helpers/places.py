"""What a command that failed must not leave behind."""

from __future__ import annotations

from pathlib import Path


def nothing_left(place: Path) -> None:
    """No result, no staging beside it, no artifact in the store."""
    names = {path.name for path in place.iterdir()}
    assert "out" not in names
    assert not [name for name in names if name.startswith(".out")]
    store = place / "work" / "store"
    assert not store.is_dir() or not [path for path in store.iterdir() if not path.name.startswith(".")]
