"""Private memory of this process, as the kernel counts it: RssAnon of /proc/self/status."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
from pathlib import Path
from types import TracebackType

_STATUS = Path("/proc/self/status")
_SECONDS = 0.01  # between two looks; each takes some 50 microseconds


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


class PrivatePeak:
    """The most private memory while a block runs, looked at every 10 ms from a thread.

    >>> with PrivatePeak() as peak:
    ...     held = bytearray(b"x") * 50_000_000
    >>> peak.growth is None or peak.growth > 40_000_000
    True
    """

    def __init__(self) -> None:
        self.start: int | None = None
        self.highest: int | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="private memory", daemon=True)

    def __enter__(self) -> PrivatePeak:
        give_back_free_memory()
        self.start = self.highest = private_bytes()
        if self.start is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        if self.start is not None:
            self._thread.join()
            self._look()

    @property
    def growth(self) -> int | None:
        """Bytes that the peak lies above the start; None where nothing could be measured."""
        return None if self.start is None or self.highest is None else self.highest - self.start

    def _watch(self) -> None:
        while not self._done.wait(_SECONDS):
            self._look()

    def _look(self) -> None:
        now = private_bytes()
        if now is not None and self.highest is not None:
            self.highest = max(self.highest, now)
