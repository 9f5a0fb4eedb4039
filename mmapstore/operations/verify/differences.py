"""Count and describe the values that differ between two blocks. Arithmetic only: NumPy in, numbers out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..flow.casts import nearest

Array = np.ndarray[Any, np.dtype[Any]]
_SLICE = 1 << 16  # values looked at together: masks of them stay in the cache, and cost no memory worth predicting


@dataclass
class Differences:
    """The differences found so far in two runs of values, compared piece by piece.

    Two values are equal if their bits are, if they compare equal, or if both are NaN. Those that are equal though their bits are
    not (-0.0 and 0.0, NaNs of other payloads) are counted in `bits_only`.

    >>> found = Differences()
    >>> found.update(np.array([1.0, np.nan, -0.0, 4.0]), np.array([1.0, np.nan, 0.0, 4.5]))
    >>> found.differing, found.bits_only, found.first, found.first_values, found.largest
    (1, 1, 3, (4.0, 4.5), 0.5)
    """

    compared: int = 0  # values, counted
    differing: int = 0
    bits_only: int = 0
    first: int | None = None  # the flat index of the first value that differs; None if none does
    first_values: tuple[Any, Any] = (None, None)  # both values there, as Python numbers; None where no value differs
    # the largest distance between two values that differ, as float; None where there is none that is finite
    largest: float | None = None
    unread: str = ""  # why the values behind these were not compared; "" where all were

    def add(self, other: Differences) -> None:
        """Append the differences of the values behind these."""
        if self.first is None and other.first is not None:
            self.first, self.first_values = self.compared + other.first, other.first_values
        self.compared += other.compared
        self.differing += other.differing
        self.bits_only += other.bits_only
        self.largest = max((each for each in (self.largest, other.largest) if each is not None), default=None)
        self.unread = other.unread

    def update(self, a: Array, b: Array, misfits: Array | None = None) -> None:
        """Compare the next values: `a` and `b` are flat, contiguous, of one length and of one native dtype.

        `misfits` marks values of `a` that were cast, and that the dtype cannot hold: they differ, whatever `b` has.
        """
        for start in range(0, len(a), _SLICE):
            part_a, part_b = a[start : start + _SLICE], b[start : start + _SLICE]
            lost = None if misfits is None else misfits[start : start + _SLICE]
            same = np.array_equal(part_a.view(np.uint8), part_b.view(np.uint8))
            if not same or (lost is not None and lost.any()):
                self._look_closer(part_a, part_b, lost)
            self.compared += len(part_a)

    def _look_closer(self, a: Array, b: Array, lost: Array | None) -> None:
        other_bits, other_values = _unlike(a, b)
        if lost is not None:
            other_values |= lost
        count = int(np.count_nonzero(other_values))
        self.bits_only += int(np.count_nonzero(other_bits & ~other_values))
        if not count:
            return
        self.differing += count
        if self.first is None:
            at = int(np.argmax(other_values))
            self.first, self.first_values = self.compared + at, (a[at].item(), b[at].item())
        if a.dtype.kind in "biufc":
            wide = np.complex128 if a.dtype.kind == "c" else np.float64
            with np.errstate(invalid="ignore", over="ignore"):
                apart = np.abs(a[other_values].astype(wide) - b[other_values].astype(wide))
            apart = apart[np.isfinite(apart)]
            if len(apart):
                self.largest = max(float(apart.max()), self.largest or 0.0)


def _unlike(a: Array, b: Array) -> tuple[Array, Array]:
    """Return two masks: of values whose bits differ, and of values that differ."""
    part = np.dtype(f"f{a.dtype.itemsize // 2}") if a.dtype.kind == "c" else a.dtype
    word = np.dtype(f"u{math.gcd(8, part.itemsize)}")
    bits = (a.view(word).reshape(len(a), -1) != b.view(word).reshape(len(a), -1)).any(axis=1)
    if part.kind == "b":
        return bits, (a.view(np.uint8) != 0) != (b.view(np.uint8) != 0)
    if part.kind != "f":
        return bits, bits.copy()
    x, y = (each.view(part).reshape(len(a), -1) for each in (a, b))
    with np.errstate(invalid="ignore"):
        values = ((x != y) & ~(np.isnan(x) & np.isnan(y))).any(axis=1)
    return (values.copy() if part.itemsize > 8 else bits), values  # bits of a long double that stand for nothing differ at will


def cast_values(values: Array, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return `values` as `dtype`, and a mask of those that it cannot hold.

    Floats are rounded to the nearest that `dtype` has, and that is no loss. A whole number out of range, a fraction cast to an
    integer, anything but 0 and 1 cast to bool, an imaginary part cast to a real, and a finite number that becomes infinite are.

    >>> cast_values(np.array([1.0, 2.5, 300.0]), np.dtype("u1"))[1].tolist()
    [False, True, True]
    """
    with np.errstate(invalid="ignore", over="ignore"):
        if dtype.kind == "c" or np.can_cast(values.dtype, dtype, "safe"):
            found = values.astype(dtype)
            return found, np.isinf(found) & np.isfinite(values)
        if values.dtype.kind == "c":
            found, lost = cast_values(np.ascontiguousarray(values.real), dtype)
            return found, lost | (values.imag != 0)
    found, off, beyond, none = nearest(values, dtype)
    return found, beyond if dtype.kind == "f" else off | beyond | none
