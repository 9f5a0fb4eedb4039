"""SIGTERM and SIGUSR1, by which clusters and spot machines announce the end of a job."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any


class StopSignals:
    """Notes the first of these signals from `start` to `end`; a second one is left to the handlers that were there before.

    Does nothing outside of the main thread, where Python lets nobody handle signals.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._over = True

    def start(self) -> None:
        self.received = None
        if threading.current_thread() is not threading.main_thread() or not self._over:
            return
        self._over = False
        for name in ("SIGTERM", "SIGUSR1"):
            number = getattr(signal, name, None)  # Windows has no SIGUSR1
            if number is not None and (before := _still_meant(number)) is not None:  # None: a handler that Python cannot put back
                self._before[number] = before
                signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        if self.received is None and not self._over:
            self.received = number
        elif callable(self._before[number]):
            self._before[number](number, frame)
        else:
            self.end()
            signal.signal(number, self._before[number])
            os.kill(os.getpid(), number)

    def end(self) -> Any:
        """Put the previous handlers back. Returns the one of the signal that was noted, if it is a function."""
        self._over = True
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                if signal.getsignal(number) == self._note:  # not where somebody has set another one since
                    signal.signal(number, handler)
        found = self._before.get(self.received or 0)
        return found if callable(found) else None


def _still_meant(number: int) -> Any:
    """Return the handler of a signal; the one before it where a `fit` ended without putting that one back."""
    handler = signal.getsignal(number)
    while isinstance(owner := getattr(handler, "__self__", None), StopSignals) and owner._over:
        handler = owner._before[number]
    return handler
