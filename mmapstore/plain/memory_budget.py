"""Byte counts people can write and read, predictions in named parts, and texts that padding would make many times as large."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field

from .errors import InvalidTypeError, InvalidValueError, MemoryBudgetError

MOST_NBYTES, _MOST_TIMES = 64 << 20, 16
_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", start=1):
    _UNITS[_letter] = _UNITS[f"{_letter}b"] = 1000**_power
    _UNITS[f"{_letter}ib"] = 1024**_power


def parse_bytes(size: int | str, name: str = "max_memory") -> int:
    """Return a number of bytes, from an int or text such as "256MB" (10**6) or "256MiB" (2**20).

    >>> parse_bytes("256MB"), parse_bytes("1.5 GiB"), parse_bytes(4096)
    (256000000, 1610612736, 4096)
    """
    if isinstance(size, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", size.lower())
        if not match or match[2] not in _UNITS:
            raise InvalidValueError(
                f"{name}={size!r} is not a size; expected text such as '256MB' (MB = 10**6) or '1GiB' (GiB = 2**30)."
            )
        size = int(float(match[1]) * _UNITS[match[2]])
    elif isinstance(size, bool) or not hasattr(size, "__index__"):
        raise InvalidTypeError(f"{name}={size!r} is not a size; expected bytes as an int, or text such as '256MB' or '1GiB'.")
    size = operator.index(size)
    if size <= 0:
        raise InvalidValueError(f"{name} is {size} bytes; expected more than 0.")
    return size


def format_bytes(size: float) -> str:
    """
    >>> format_bytes(0), format_bytes(30_000), format_bytes(1_474_560_000)
    ('0 B', '30.0 kB', '1.47 GB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < 999.5 or unit == "TB":
            return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}" if abs(size) >= 99.95 else f"{size:#.3g} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


@dataclass(frozen=True)
class MemoryPlan:
    """Predicted peak of private (anonymous) memory, in named parts; all figures in bytes.

    `page_cache` stands apart: pages of the file that random reads would like the kernel to keep. They are not
    private, the kernel takes them back when it wants, and reading is right without them, only slower.

    >>> plan = MemoryPlan({"batches handed out": 12_000_000, "bookkeeping": 4_000_000}, page_cache=64_000_000)
    >>> plan.total
    16000000
    >>> print(plan)
    16.0 MB predicted peak = batches handed out 12.0 MB + bookkeeping 4.00 MB; beside it 64.0 MB of page cache is useful
    """

    parts: dict[str, int] = field(default_factory=dict)
    page_cache: int = 0

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def require(self, max_memory: int, what: str, remedy: str) -> None:
        """Raise MemoryBudgetError, with the numbers and the remedy, if the prediction is over `max_memory` bytes."""
        if self.total > max_memory:
            raise MemoryBudgetError(f"{what} would need {self}, over max_memory={format_bytes(max_memory)}. {remedy}")

    def __str__(self) -> str:
        parts = " + ".join(f"{name} {format_bytes(size)}" for name, size in self.parts.items() if size)
        cache = f"; beside it {format_bytes(self.page_cache)} of page cache is useful" if self.page_cache else ""
        return f"{format_bytes(self.total)} predicted peak = {parts}{cache}"


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
