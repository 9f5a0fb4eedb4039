"""How far a write has come: a bar on a terminal, a call of the user's function, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from ..plain.errors import InvalidTypeError
from ..plain.memory_budget import format_bytes

_WIDTH = 24
_SECONDS = 0.1  # between two paintings of the bar


class Progress:
    """Counts samples; `total` is None where it is not known, and may turn out wrong."""

    def __init__(self, wanted: Any, total: int | None, sample_nbytes: int, done: int) -> None:
        if wanted is not None and wanted is not False and wanted is not True and not callable(wanted):
            raise InvalidTypeError(
                f"progress={wanted!r} is not understood; expected None (a bar on a terminal), False, or a function (done, total)."
            )
        self._call: Callable[[int, int | None], Any] | None = wanted if callable(wanted) else None
        self._bar = wanted is True or (wanted is None and sys.stderr is not None and sys.stderr.isatty())
        self._total = total
        self._sample_nbytes = sample_nbytes
        self._first = done
        self._began = time.monotonic()
        self._painted = 0.0
        self._length = 0

    def __call__(self, done: int) -> None:
        if self._call is not None:
            self._call(done, self._total)
        now = time.monotonic()
        if self._bar and now - self._painted >= _SECONDS:
            self._painted = now
            self._paint(bar_text(done, self._total, done - self._first, self._sample_nbytes, now - self._began))

    def close(self) -> None:
        """Wipe the bar, so that what is printed next begins on a clean line."""
        if self._bar and self._length:
            self._paint("")
            sys.stderr.write("\r")
            sys.stderr.flush()

    def _paint(self, text: str) -> None:
        sys.stderr.write("\r" + text.ljust(self._length))
        sys.stderr.flush()
        self._length = len(text)


def bar_text(done: int, total: int | None, written: int, sample_nbytes: int, seconds: float) -> str:
    """
    >>> bar_text(50, 200, 50, 1_000_000, 2.0)
    '[######                  ]  25%  50 of 200 samples  25.0 MB/s  0:06 left'
    >>> bar_text(50, None, 50, 1_000_000, 2.0)
    '50 samples  25.0 MB/s'
    """
    rate = written / seconds if seconds > 0 else 0.0
    speed = f"{format_bytes(rate * sample_nbytes)}/s"
    if not total or done > total:
        return f"{done} samples  {speed}"
    share = done / total
    left = round((total - done) / rate) if rate else 0
    bar = "#" * int(share * _WIDTH)
    clock = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}" if left >= 3600 else f"{left // 60}:{left % 60:02d}"
    return f"[{bar:<{_WIDTH}}] {share:4.0%}  {done} of {total} samples  {speed}  {clock} left"
