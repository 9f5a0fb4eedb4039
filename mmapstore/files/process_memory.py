"""Memory of this process: what it has, as the kernel counts it, and what it could still have."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..plain.errors import MemoryBudgetError

_STATUS = Path("/proc/self/status")
_ALWAYS_TAKEN = 256 << 20  # bytes not worth a look at what is available


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
    give_back_freed_memory()


def give_back_freed_memory() -> None:
    """The same for what was freed already. With threads, malloc keeps as much for each of them as its largest arrays were."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # malloc_trim is glibc's own
        ctypes.CDLL(None).malloc_trim(0)


def new_array(shape: tuple[int, ...], dtype: np.dtype[Any], what: str) -> np.ndarray[Any, np.dtype[Any]]:
    """An array of arbitrary contents. Raises MemoryBudgetError, which says `what` it was for, where there is no memory for it."""
    nbytes = math.prod(shape) * dtype.itemsize
    require_memory(nbytes, what)
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError) as error:  # ValueError: more bytes than there are addresses
        raise no_memory(nbytes, what) from error


def require_memory(nbytes: int, what: str) -> None:
    """Raise MemoryBudgetError if a large number of bytes cannot be had: the system may promise them, and kill the process later.

    A few bytes of a header can declare any size, so what is large is asked for before it is taken.
    """
    if nbytes > _ALWAYS_TAKEN and nbytes > memory_available():
        raise no_memory(nbytes, what)


def no_memory(nbytes: int, what: str) -> MemoryBudgetError:
    return MemoryBudgetError(
        f"{what}: {nbytes} bytes of memory are needed, and {memory_available()} available. If the data really is that large, take "
        "less of it at a time, or rewrite it in smaller chunks with `mmapstore convert`; if it is not, the file is damaged."
    )


def memory_available() -> int:
    """Bytes that this process could still use: free memory or what is left under its control group, the smaller."""
    available = sys.maxsize
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return min(available, _control_group_room())


def _control_group_room() -> int:
    room = sys.maxsize
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                folder, limit, usage = Path("/sys/fs/cgroup") / path.lstrip("/"), "memory.max", "memory.current"
            elif "memory" in controllers.split(","):
                folder = Path("/sys/fs/cgroup/memory") / path.lstrip("/")
                limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
            else:
                continue
            with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
                room = min(room, int((folder / limit).read_text()) - int((folder / usage).read_text()))
    return max(room, 0)
