"""Refuse texts of fixed width where one long text would pad all others to many times their size."""

from __future__ import annotations

from .errors import InvalidValueError
from .memory_budget import format_bytes

MOST_NBYTES, _MOST_TIMES = 64 << 20, 16


def refuse_padding(where: str, count: int, longest: int, nbytes: int, remedy: str, most: int = MOST_NBYTES) -> None:
    """Raise InvalidValueError if padding `count` texts to the longest takes over `most` bytes, and over 16 times theirs.

    `longest` is in bytes, as is `nbytes`, which all texts have together.

    >>> refuse_padding("a.pkl", 10_000, 1_000_000, 1_200_000, "Shorten it.")
    Traceback (most recent call last):
    mmapstore.plain.errors.InvalidValueError: a.pkl holds 10,000 texts of 1.20 MB in all, but the longest has 1.00 MB: padded to \
that width they would take 10.0 GB. Shorten it.
    """
    padded = count * longest
    if padded > max(most, _MOST_TIMES * nbytes):
        raise InvalidValueError(
            f"{where} holds {count:,} texts of {format_bytes(nbytes)} in all, but the longest has {format_bytes(longest)}: padded "
            f"to that width they would take {format_bytes(padded)}. {remedy}"
        )
