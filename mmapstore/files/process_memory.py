"""Private memory of this process, as the kernel counts it: RssAnon of /proc/self/status."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

_STATUS = Path("/proc/self/status")


def private_bytes() -> int | None:
    """Bytes of private (anonymous) memory in RAM now; None where the system has no /proc to ask.

    Pages of memory-mapped files are not in it: they belong to the page cache, and the kernel takes them back when it wants.
    """
    try:
        with _STATUS.open(encoding="ascii") as status:
            for line in status:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def give_back_free_memory() -> None:
    """Have what is free, but kept by Python and by malloc for later, go back to the system: else it hides what comes next."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # malloc_trim is glibc's own
        ctypes.CDLL(None).malloc_trim(0)
