"""The values of two blocks that differ. Arithmetic only: NumPy in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
_SLICE = 1 << 16  # values looked at together: masks of them stay in the cache, and cost no memory worth predicting


@dataclass
class Differences:
    """The differences found so far in two runs of values, compared piece by piece.

    Two values are equal if their bits are, if they compare equal, or if both are NaN. Those that are equal though their bits are
    not (-0.0 and 0.0, NaNs of other payloads) are counted in `bits_only`.

    Attributes
    ----------
    compared, differing, bits_only : values, counted
    first : the flat index of the first value that differs; None if none does
    first_values : both values there, as Python numbers
    largest : the largest distance between two values that differ, as float; None where there is none that is finite

    >>> found = Differences()
    >>> found.update(np.array([1.0, np.nan, -0.0, 4.0]), np.array([1.0, np.nan, 0.0, 4.5]))
    >>> found.differing, found.bits_only, found.first, found.first_values, found.largest
    (1, 1, 3, (4.0, 4.5), 0.5)
    """

    compared: int = 0
    differing: int = 0
    bits_only: int = 0
    first: int | None = None
    first_values: tuple[Any, Any] | None = None
    largest: float | None = None

    def update(self, a: Array, b: Array, misfits: Array | None = None) -> None:
        """Compare the next values: `a` and `b` are flat, contiguous, of one length and of one native dtype.

        `misfits` marks values of `a` that were cast, and that the dtype cannot hold: they differ, whatever `b` has.
        """
        for start in range(0, len(a), _SLICE):
            part_a, part_b = a[start : start + _SLICE], b[start : start + _SLICE]
            lost = None if misfits is None else misfits[start : start + _SLICE]
            if not same_bytes(part_a, part_b) or (lost is not None and lost.any()):
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


def same_bytes(a: Array, b: Array) -> bool:
    """True if two contiguous arrays of one dtype and length hold the same bytes.

    >>> same_bytes(np.array([0.0, np.nan]), np.array([0.0, np.nan])), same_bytes(np.array([0.0]), np.array([-0.0]))
    (True, False)
    """
    a_bytes, b_bytes = a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8)
    whole = len(a_bytes) // 8 * 8
    if not np.array_equal(a_bytes[:whole].view(np.uint64), b_bytes[:whole].view(np.uint64)):
        return False
    return bool(np.array_equal(a_bytes[whole:], b_bytes[whole:]))


def _unlike(a: Array, b: Array) -> tuple[Array, Array]:
    """Two masks: where bits differ, and where values do."""
    kind, size = a.dtype.kind, a.dtype.itemsize
    if kind == "c":
        halves = [_unlike(*pair) for pair in ((a.real.copy(), b.real.copy()), (a.imag.copy(), b.imag.copy()))]
        return halves[0][0] | halves[1][0], halves[0][1] | halves[1][1]
    if kind == "f":
        with np.errstate(invalid="ignore"):
            values = (a != b) & ~(np.isnan(a) & np.isnan(b))
        if size not in (2, 4, 8):
            return values.copy(), values  # bits of a long double that stand for nothing differ at will
        unsigned = np.dtype(f"u{size}")
        return a.view(unsigned) != b.view(unsigned), values
    if kind == "b":
        a_bytes, b_bytes = a.view(np.uint8), b.view(np.uint8)
        return a_bytes != b_bytes, (a_bytes != 0) != (b_bytes != 0)
    if kind in "iu":
        values = a != b
        return values.copy(), values
    values = (a.view(np.uint8).reshape(-1, size) != b.view(np.uint8).reshape(-1, size)).any(axis=1)
    return values.copy(), values


def cast_values(values: Array, dtype: np.dtype[Any]) -> tuple[Array, Array | None]:
    """`values` as `dtype`, and a mask of those that it cannot hold; None where it holds all there can be.

    Floats are rounded to the nearest that `dtype` has, and that is no loss. A whole number out of range, a fraction cast to an
    integer, anything but 0 and 1 cast to bool, an imaginary part cast to a real, and a finite number that becomes infinite are.

    >>> cast_values(np.array([1.0, 2.5, 300.0]), np.dtype("u1"))[1].tolist()
    [False, True, True]
    """
    with np.errstate(invalid="ignore", over="ignore"):
        if values.dtype.kind == "c" and dtype.kind != "c":
            found, lost = cast_values(np.ascontiguousarray(values.real), dtype)
            imaginary = values.imag != 0
            return found, imaginary if lost is None else imaginary | lost
        found = values.astype(dtype)
        if np.can_cast(values.dtype, dtype, "safe"):
            return found, None
        if dtype.kind == "b":
            return found, (values != 0) & (values != 1)
        if dtype.kind in "fc":
            return found, np.isinf(found) & np.isfinite(values)
        back = found.astype(values.dtype)
        lost = (back != values) | ((values < 0) != (found < 0))
        if values.dtype.kind == "f":
            lost |= values >= 2.0 ** (8 * dtype.itemsize - (dtype.kind == "i"))  # the first one too large, and exact as a float
        return found, lost
