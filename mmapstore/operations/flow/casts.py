"""Values in another dtype: none is changed without a word. What does not fit is refused, rounded or clipped, and counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...files.worker_threads import share_out
from ...plain.errors import InvalidTypeError, InvalidValueError

Array = np.ndarray[Any, np.dtype[Any]]
Casting = Literal["exact", "round", "clip", "fit"]
CASTINGS: tuple[Casting, ...] = ("exact", "round", "clip")  # that users choose from; "fit" is that of `ingest`
_PIECE = 1 << 16  # values looked at together: half a megabyte as float64
SCRATCH_NBYTES = 4 << 20  # of one thread at most: a piece, its values as float64 and as the new dtype, and masks


def checked_casting(casting: str) -> Casting:
    """Raises InvalidValueError for a word that is none of "exact", "round", "clip"."""
    for known in CASTINGS:
        if casting == known:
            return known
    raise InvalidValueError(f"casting={casting!r} is not known; expected one of {', '.join(map(repr, CASTINGS))}.")


def checked_target(source: np.dtype[Any], dtype: Any) -> np.dtype[Any]:
    """`dtype` in native byte order, if values of `source` can become it.

    Raises InvalidTypeError: text and bytes are kept as they are, complex numbers stay complex.
    """
    try:
        found: np.dtype[Any] = np.dtype(dtype)
    except TypeError as error:
        raise InvalidTypeError(f"dtype={dtype!r} is not a dtype; expected text such as 'uint8' or 'float32'.") from error
    native = found.newbyteorder("=")
    if native == source.newbyteorder("="):
        return native
    known = native.kind in "biuf" and native.itemsize <= 8 and source.kind in "biuf" and source.itemsize <= 8
    if not known and not (native.kind == "c" and source.kind in "biufc" and max(native.itemsize, source.itemsize) <= 16):
        raise InvalidTypeError(
            f"Values of {source} cannot be converted to {found}; expected bool, (u)int8 to 64, float16 to 64, or complex "
            "numbers from those. Leave dtype= out to keep them as they are."
        )
    return native


@dataclass
class Changes:
    """Numbers of values that were changed: to the nearest of the dtype, or to the end of its range."""

    rounded: int = 0
    clipped: int = 0

    def __add__(self, other: Changes) -> Changes:
        return Changes(self.rounded + other.rounded, self.clipped + other.clipped)


@dataclass(frozen=True)
class Cast:
    """Values of `source` as `target`, both native.

    casting : "exact" refuses a value that is not the same number in the new dtype; "round" takes the nearest one (halves to even)
        and refuses what is out of range; "clip" takes the end of the range for that; "fit" rounds to floats, and refuses any other
        change. A NaN is refused wherever there is none

    >>> cast = Cast(np.dtype("f8"), np.dtype("u1"), "clip")
    >>> out = np.empty(4, "u1")
    >>> cast.into(out, np.array([1.0, 2.4, -3.0, 300.0])), out.tolist()
    (Changes(rounded=1, clipped=2), [1, 2, 0, 255])
    """

    source: np.dtype[Any]
    target: np.dtype[Any]
    casting: Casting

    @property
    def is_copy(self) -> bool:
        return self.source == self.target

    @property
    def limits(self) -> str:
        """The values of the new dtype, in words."""
        if self.target.kind in "fc":
            return f"at most {np.finfo(self.target).max:g}"
        if self.target.kind == "b":
            return "only 0 and 1"
        return f"whole numbers from {np.iinfo(self.target).min} to {np.iinfo(self.target).max}"

    def into(self, out: Array, values: Array) -> Changes:
        """Fill `out` from `values`, an array of the same shape and any strides, in threads. `out` is C-contiguous.

        Raises InvalidValueError for the first value refused; its `args[1]` is where in `values` that lies.
        """
        if self.is_copy or _holds_all(self.source, self.target):
            np.copyto(out, values, casting="unsafe")
            return Changes()
        total = Changes()
        lock = threading.Lock()
        refused: list[tuple[int, Any]] = []

        def work(tasks: Iterator[tuple[int, Array, Array]]) -> None:
            nonlocal total
            for first, taken, given in tasks:
                flat = np.ascontiguousarray(taken).reshape(-1)
                changes, bad = self._piece(given, flat)
                with lock:
                    total = total + changes
                    if bad is not None:
                        refused.append((first + bad, flat[bad].item()))

        share_out(_pieces(values, out), work)
        if refused:
            flat, value = min(refused, key=lambda found: found[0])
            place = tuple(int(at) for at in np.unravel_index(flat, values.shape))
            raise RefusedValue(value, place, self)
        return total

    def _piece(self, out: Array, values: Array) -> tuple[Changes, int | None]:
        """Counts, and the first value refused, of a piece that is flat and contiguous."""
        if self.target.kind == "c":
            return self._complex(out, values)
        found, off, beyond, hopeless = nearest(values, self.target)
        rounded, clipped = int(np.count_nonzero(off)), int(np.count_nonzero(beyond))
        bad = hopeless if self.casting == "clip" else hopeless | beyond
        if self.casting == "exact" or (self.casting == "fit" and self.target.kind != "f"):
            bad = bad | off
        out.reshape(-1)[...] = found
        return Changes(rounded, clipped), int(np.argmax(bad)) if bad.any() else None

    def _complex(self, out: Array, values: Array) -> tuple[Changes, int | None]:
        part = np.dtype(f"f{self.target.itemsize // 2}")
        parts = (values.real, values.imag) if values.dtype.kind == "c" else (values,)
        total, first = Changes(), None
        made = np.zeros(values.shape, self.target)
        for name, numbers in zip(("real", "imag"), parts, strict=False):
            half = np.empty(values.shape, part)
            numbers = np.ascontiguousarray(numbers)
            if numbers.dtype == part or _holds_all(numbers.dtype, part):
                half[...] = numbers
                changes, bad = Changes(), None
            else:
                changes, bad = Cast(numbers.dtype, part, self.casting)._piece(half, numbers)
            setattr(made, name, half)
            total = total + changes
            if bad is not None:
                first = bad if first is None else min(first, bad)
        out.reshape(-1)[...] = made
        return total, first


class RefusedValue(InvalidValueError):
    """A value that the new dtype does not hold. `place` is where, in the array that was to be cast."""

    def __init__(self, value: Any, place: tuple[int, ...], cast: Cast) -> None:
        self.value, self.place, self.cast = value, place, cast
        super().__init__(self.at(place, "The source"))

    def at(self, place: tuple[int, ...], name: str) -> str:
        """The message, for a place in the whole array."""
        cast = self.cast
        remedies = {  # NaN, which also stands for values that unpacking masked, is refused by every casting
            "exact": "Pass casting='round' (--casting round) to take the nearest, 'clip' to cut off at the ends as well, or choose "
            "a dtype that holds it.",
            "round": "Pass casting='clip' (--casting clip) to cut off at the ends, or choose a dtype that holds it.",
            "clip": "There is no number for it: mask it first, or choose a float dtype.",
            "fit": "Choose a dtype= that holds it, or scale, round or mask the data first.",
        }
        remedy = remedies["clip" if self.value != self.value and cast.casting != "fit" else cast.casting]
        return f"{name} holds {self.value!r} at {place}, which is not a value of {cast.target} ({cast.limits}). {remedy}"


def _holds_all(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """NumPy takes 64-bit integers to float64 for safe, which has 53 bits for them."""
    loses = source.kind in "iu" and source.itemsize == 8 and target.kind in "fc"
    return not loses and np.can_cast(source, target, "safe")


def _pieces(values: Array, out: Array) -> Iterator[tuple[int, Array, Array]]:
    """(flat index, values, where they go), all views, in C order, each of about `_PIECE` values and contiguous in `out`."""
    if values.size <= _PIECE:
        yield 0, values, out
        return
    row = values[0].size
    step = max(1, _PIECE // max(1, row))
    for start in range(0, len(values), step):
        if step == 1 and row > _PIECE:
            for first, taken, given in _pieces(values[start], out[start]):
                yield start * row + first, taken, given
        else:
            yield start * row, values[start : start + step], out[start : start + step]


def nearest(values: Array, target: np.dtype[Any]) -> tuple[Array, Array, Array, Array]:
    """Return the nearest value of `target` for each, and masks: not equal to it, out of its range, none (NaN as an integer)."""
    none = np.zeros(values.shape, np.bool_)
    with np.errstate(invalid="ignore", over="ignore"):
        if target.kind == "f":
            found = values.astype(target)
            if values.dtype.kind == "f":
                beyond = np.isinf(found) & np.isfinite(values)
                off = (found.astype(values.dtype) != values) & ~np.isnan(values) & ~beyond
            else:
                beyond = np.isinf(found)
                # 2.0**63 and 2.0**64 are the first that do not go back, and stand for the last integers.
                top = 2.0 ** (8 * values.dtype.itemsize - (values.dtype.kind == "i"))
                off = ((found.astype(values.dtype) != values) | (found.astype(np.float64) >= top)) & ~beyond
            if beyond.any():
                largest = np.finfo(target).max
                found = np.where(beyond, np.where(values > 0, largest, -largest), found)
            return found, off, beyond, none
        low, high = (0, 1) if target.kind == "b" else (int(np.iinfo(target).min), int(np.iinfo(target).max))
        if values.dtype.kind == "f":
            wide = values.astype(np.float64)
            whole = np.rint(wide)
            hopeless = np.isnan(wide)
            # As floats both ends are powers of two, hence exact: 2.0**63 is the first that int64 cannot hold.
            over, under = whole >= float(high // 2 + 1) * 2 if high > 1 else whole > 1, whole < float(low)
            off = (whole != wide) & ~hopeless & ~over & ~under
            found = whole.astype(target)
        else:
            over, under = values > high, values < low
            off, hopeless = none, none
            found = values.astype(target)
    beyond = over | under
    if beyond.any():
        found = np.where(over, target.type(high), np.where(under, target.type(low), found))
    return found, off, beyond, hopeless
