"""What a process holds of the machine's memory."""

from __future__ import annotations

import ctypes
import resource
from contextlib import suppress
from pathlib import Path


def trim() -> None:
    """Give freed memory back to the system: many block-sized pieces of other sizes leave glibc's heap full of holes."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def peak_bytes() -> int:
    """Peak resident set of this process image.

    ``ru_maxrss`` survives ``exec`` and so would carry the parent's peak; ``VmHWM`` belongs to this image alone.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_bytes_with_children() -> int:
    """Peak resident set of this process or of the largest child that it waited for."""
    return max(peak_bytes(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
