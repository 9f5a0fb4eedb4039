"""The memory of this process as the kernel counts it, and the memory that is available to it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import sys
import threading
import time
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..plain.errors import MemoryBudgetError

_STATUS = Path("/proc/self/status")
_SAMPLED_SECONDS = 0.01
_ALWAYS_TAKEN = 256 << 20  # bytes not worth a look at what is available
_LOOKED_SECONDS = 0.1
_looked = (-math.inf, 0)  # when somebody looked at what is available, and the bytes
# Of control groups v1 and v2: the mount, and the files and fields of a group: limits, usage, reclaimable page cache.
_GROUPS_V1, _GROUPS_V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"
_NAMES_V1 = (("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_active_file", "total_inactive_file"))
_NAMES_V2 = (("memory.max", "memory.high"), "memory.current", ("active_file", "inactive_file"))


def private_bytes() -> int | None:
    """Return the bytes of private (anonymous) memory in RAM now; None on a system without /proc.

    Pages of memory-mapped files do not count: the kernel reclaims them when it needs memory.
    """
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    return None


class PeakMemory:
    """Measure by how much the private memory of this process grows while a block runs; sampled every 10 ms.

    `nbytes` : the growth at most, in bytes; 0 on a system without /proc
    """

    nbytes = 0

    def __enter__(self) -> PeakMemory:
        self._before, self._ended = private_bytes() or 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._ended.wait(_SAMPLED_SECONDS)
            self.nbytes = max(self.nbytes, (private_bytes() or 0) - self._before)


def give_back_free_memory() -> None:
    """Return memory to the system that Python and malloc keep for later use; else it hides the growth that comes next."""
    gc.collect()
    give_back_freed_memory()


def give_back_freed_memory() -> None:
    """Return memory to the system that was freed already; malloc keeps as much for each thread as its largest arrays were."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # malloc_trim is glibc's own
        ctypes.CDLL(None).malloc_trim(0)


def new_array(shape: tuple[int, ...], dtype: np.dtype[Any], what: str) -> np.ndarray[Any, np.dtype[Any]]:
    """Return an array of arbitrary contents. Raises MemoryBudgetError, which begins with `what`, if memory is short."""
    nbytes = math.prod(shape) * dtype.itemsize
    require_memory(nbytes, what)
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError) as error:  # ValueError: more bytes than there are addresses
        raise no_memory(nbytes, what) from error


def require_memory(nbytes: int, what: str) -> None:
    """Raise MemoryBudgetError if a large number of bytes is not available.

    A damaged header can declare any size, and the system may grant the memory and kill the process later.
    """
    if nbytes > _ALWAYS_TAKEN and nbytes > memory_available():
        raise no_memory(nbytes, what)


def no_memory(nbytes: int, what: str) -> MemoryBudgetError:
    return MemoryBudgetError(
        f"{what}: {nbytes} bytes of memory are needed, and {memory_available()} available. If the data really is that large, take "
        "less of it at a time, or rewrite it in smaller chunks with `mmapstore convert`; if it is not, the file is damaged."
    )


def memory_available() -> int:
    """Return the bytes this process could still use: of the machine, of its control group and of every group around that one.

    Page cache that the kernel can reclaim counts as available. The figure may be a tenth of a second old: looking takes up to a
    millisecond, and thousands of joined files ask in turn.
    """
    global _looked
    if time.monotonic() - _looked[0] > _LOOKED_SECONDS:
        _looked = time.monotonic(), available_below("/")
    return _looked[1]


def available_below(root: str) -> int:
    """Return `memory_available` as it is now; `root` is the directory of /proc and /sys."""
    available = sys.maxsize
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path(root, "proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    with contextlib.suppress(OSError, ValueError):
        for line in Path(root, "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "" or "memory" in controllers.split(","):
                mount, names = (_GROUPS_V1, _NAMES_V1) if controllers else (_GROUPS_V2, _NAMES_V2)
                # In a container the mount itself can be the group, and `path` what only the host can see.
                group = PurePosixPath(os.path.normpath("/" + path.lstrip("/")))
                rooms = (_room(Path(root, mount, each.relative_to("/")), *names) for each in (group, *group.parents))
                available = min(available, *rooms)
    return max(available, 0)


def _room(group: Path, limits: tuple[str, ...], usage: str, reclaimable: tuple[str, ...]) -> int:
    """Return the bytes left under the limits of one control group; `sys.maxsize` without a limit."""
    found = []
    for limit in limits:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
            found.append(int((group / limit).read_text()))
    room = sys.maxsize
    with contextlib.suppress(OSError, ValueError):
        if found:
            room = min(found) - int((group / usage).read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            room += sum(int(stat[name]) for name in reclaimable if name in stat)
    return room
