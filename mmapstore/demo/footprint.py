"""The most private memory that this process has while something runs in it: for what cannot be watched from outside."""

from __future__ import annotations

import threading
from types import TracebackType

from ..files.process_memory import give_back_free_memory, private_bytes


class PrivatePeak:
    """The most private memory while a block runs, looked at every `interval` seconds from a thread; a look takes some 50 us.

    >>> with PrivatePeak() as peak:
    ...     held = bytearray(b"x") * 50_000_000
    >>> peak.growth is None or peak.growth > 40_000_000
    True
    """

    def __init__(self, interval: float = 0.01) -> None:
        self._interval = interval
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
        while not self._done.wait(self._interval):
            self._look()

    def _look(self) -> None:
        now = private_bytes()
        if now is not None and self.highest is not None:
            self.highest = max(self.highest, now)
