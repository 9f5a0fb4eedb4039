"""The peak of private memory of this process, for code that cannot be measured from outside."""

from __future__ import annotations

import threading

from ..files.process_memory import give_back_free_memory, private_bytes


class PrivatePeak:
    """The peak of private memory while a block runs, sampled every `interval` seconds from a thread; a sample takes some 50 us.

    >>> with PrivatePeak() as peak:
    ...     held = bytearray(b"x") * 50_000_000
    >>> peak.growth is None or peak.growth > 40_000_000
    True
    """

    def __init__(self, interval: float = 0.01) -> None:
        self._interval = interval
        self._start: int | None = None
        self._highest = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="private memory", daemon=True)

    def __enter__(self) -> PrivatePeak:
        give_back_free_memory()
        self._start = private_bytes()
        self._highest = self._start or 0
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def growth(self) -> int | None:
        """Bytes of the peak above the start; None where the system has no figure."""
        return None if self._start is None else self._highest - self._start

    def _watch(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._done.wait(self._interval)
            self._highest = max(self._highest, private_bytes() or 0)
