"""Compare two arrays value by value, in any formats, chunks and orders of axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...formats.contract import StoredArray
from ...plain.array_spec import StoredLayout
from ...plain.errors import MmapstoreError
from ...plain.memory_budget import MemoryPlan
from ...readers.contract import Reader
from ...readers.library_reader import LibraryReader
from ...readers.select_reader import reader_for
from ..flow.casts import SCRATCH_NBYTES, nearest
from ..flow.regions import Region
from .regions import Check
from .rows import BLOCK_NBYTES, BLOCKS, BOOKKEEPING, BY_LIBRARY, Array, read_ahead, rows_in_order, rows_together
from .verdict import ArrayVerdict, Difference, dtype_words

_PIECE_NBYTES = 1 << 19  # of values that are cast at a time
_SLICE = 1 << 16  # values looked at together: masks of them stay in the cache, and cost no memory worth predicting
_NOTHING: Array = np.empty(0, np.uint8)


@dataclass(frozen=True)
class Side:
    """One of two arrays to compare, the letters of its axes where they are known, and its name in messages."""

    stored: StoredArray
    layout: str | None
    name: str


def paired(a: Side, b: Side, max_memory: int, cast: bool, independent: bool) -> Comparison:
    """Pair the values of both. Shapes and dtypes that differ are problems; lengths may differ, up to the shorter.

    Raises MemoryBudgetError, MissingPackageError.
    """
    problems, notes = _dtype_words(a.stored.dtype, b.stored.dtype, cast)
    found = _paired(a, b, max(1, max_memory // 16), independent)
    is_comparable = found.is_comparable and not problems
    found = replace(found, is_comparable=is_comparable, problems=(*problems, *found.problems), notes=(*notes, *found.notes))
    return found.fitted(max_memory) if is_comparable else found


@dataclass(frozen=True)
class Comparison(Check):
    """Two arrays as rows that belong together. Regions are samples [start, stop), which may be checked in any order."""

    sides: tuple[Side, Side]
    # of both; a sample, the part of an array at one place along its first axis, is one row of each or several
    rows: tuple[Reader, Reader]
    problems: tuple[str, ...] = ()  # those that are known before any value is read
    notes: tuple[str, ...] = ()
    is_comparable: bool = True  # shapes and dtypes allow to compare values
    together: tuple[int, int] = (1, 1)  # rows of each that are read at a time
    # bring a run of the second's values into the order of the first's; None where they come in that order
    axes: tuple[int, ...] | None = None
    layouts: tuple[StoredLayout, StoredLayout] | None = None  # of both, where axes are paired by their letters

    @property
    def samples(self) -> int:
        """Samples that both have."""
        return min((shape or (1,))[0] if math.prod(shape) and self.is_comparable else 0 for shape in self._shapes)

    @property
    def _shapes(self) -> list[tuple[int, ...]]:
        """Shapes of both, in the order of the axes in which values come."""
        return [rows.spec.shape if self.layouts else each.stored.shape for rows, each in zip(self.rows, self.sides, strict=True)]

    @property
    def _sample_values(self) -> int:
        return math.prod(self._shapes[0][1:])

    @property
    def sample_nbytes(self) -> int:
        return self._sample_values * self.rows[0].spec.dtype.itemsize

    def fitted(self, max_memory: int) -> Comparison:
        """Decide how much is read at a time. Raises MemoryBudgetError."""
        most = min(BLOCK_NBYTES, max_memory // 16), max_memory // 8
        a, b = self.rows
        together = rows_together(a, *most), rows_together(b, *most)
        a_nbytes, b_nbytes = together[0] * a.spec.sample_nbytes, together[1] * b.spec.sample_nbytes
        parts = {
            "blocks of the first": min(BLOCKS * a_nbytes, a.spec.nbytes),
            "blocks of the second": min(BLOCKS * b_nbytes, b.spec.nbytes),
            "axes brought into one order": 2 * b_nbytes if self.axes else 0,
            "values cast": SCRATCH_NBYTES if a.spec.dtype != b.spec.dtype else 0,
            "bookkeeping": BOOKKEEPING,
        }
        share = (max_memory - sum(parts.values())) // 2
        rows = a.within(share), b.within(share)
        MemoryPlan({**parts, "decoding": sum(found.scratch_nbytes for found in rows)}).require(
            max_memory, f"Comparing {self.sides[0].name} and {self.sides[1].name}", "Give a larger max_memory= (--max-memory)."
        )
        return replace(self, rows=rows, together=together)

    @property
    def unit(self) -> int:
        return max(each * self._sample_values // _values(rows) for each, rows in zip(self.together, self.rows, strict=True))

    def read(self, region: Region, done: Callable[[int], Any]) -> Differences:
        """Compare the values of a region, up to where one side cannot be read."""
        found = Differences()
        with ThreadPoolExecutor(2, "ThreadPoolExecutor-mmapstore-verify") as threads:
            for a, b in _overlaps(*(self._runs(side, region, found, threads) for side in (0, 1))):
                step = max(1, _PIECE_NBYTES // max(a.itemsize, b.itemsize))
                for at in range(0, len(a), step):
                    x, y, misfits = a[at : at + step], b[at : at + step], None
                    if x.dtype.kind == y.dtype.kind == "S":
                        wide = max(x.dtype, y.dtype, key=lambda dtype: dtype.itemsize)
                        x, y = x.astype(wide, copy=False), y.astype(wide, copy=False)
                    elif x.dtype != y.dtype:
                        x, misfits = cast_values(x, y.dtype)
                    found.update(x, y, misfits)
                done(region[0] + found.compared // self._sample_values)
        return found

    def _runs(self, side: int, region: Region, record: Differences, threads: ThreadPoolExecutor) -> Iterator[Array]:
        """Yield the values of a region, flat, in runs that are valid until the next; up to a run that cannot be read."""
        rows, together = self.rows[side], self.together[side]
        first, last = (at * self._sample_values // _values(rows) for at in region)
        steps = [(at, min(at + together, last)) for at in range(first, last, together)]
        for start, stop, found in read_ahead(rows, steps, together, threads):
            if isinstance(found, MmapstoreError):
                record.unread = f"{self.sides[side].name} cannot be read in rows [{start}, {stop}): {found}"
                return
            yield (found if self.axes is None or not side else found.transpose(self.axes)).reshape(-1)

    def merged(self, records: Iterator[Differences]) -> ArrayVerdict:
        found = Differences()
        for record in records:
            found.add(record)
            if found.unread:
                break
        (a, b), (dtype, _) = self.sides, (side.stored.dtype for side in self.sides)
        problems, notes, difference = [*self.problems], [*self.notes], None
        problems += [found.unread] if found.unread else []
        if found.first is not None:
            index, other = self._places(found.first)
            values = exact(found.first_values[0], dtype), exact(found.first_values[1], dtype)
            difference = Difference(found.differing, found.compared, index, other, values, found.largest)
            there = f" ({list(other)} of the second)" if other is not None and other != index else ""
            far = f"; the largest distance is {found.largest:g}" if found.largest is not None else ""
            problems.insert(
                0,
                f"{found.differing:,} of {found.compared:,} values differ, the first at {list(index)}{there}: "
                f"{values[0]} against {values[1]}{far}",
            )
        elif problems and found.compared:
            same = f"{found.compared:,} values"
            notes.append(f"up to there, {same} are equal" if found.unread else f"the {same} that both have are equal")
        if found.bits_only:
            notes.append(f"{found.bits_only:,} values are equal but not bit by bit: -0.0 and 0.0, or NaNs of other payloads")
        shape = tuple(int(n) for n in a.stored.shape)
        count = f"all {found.compared:,} values" if found.compared > 1 else "its one value" if found.compared else "both are empty"
        equal = f"EQUAL, {count}, {shape} {dtype_words(dtype)}"
        return ArrayVerdict(
            a.name,
            b.name,
            not problems,
            f"{a.name} and {b.name}: {'DIFFERENT' if problems else equal}",
            shape=shape,
            dtype=dtype.str,
            problems=tuple(problems),
            notes=tuple(notes),
            difference=difference,
            nbytes=found.compared * dtype.itemsize,
        )

    def _places(self, flat: int) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        """Return the index of a value in both arrays as stored; None for the second where that is the same."""
        shape = self._shapes[0]
        if self.layouts is None:
            return tuple(int(n) for n in np.unravel_index(flat, shape)) if shape else (), None
        sample, within = divmod(flat, self._sample_values)
        along = dict(zip(self.layouts[0].sample_letters, map(int, np.unravel_index(within, shape[1:])), strict=True))
        return _place(sample, along, self.layouts[0]), _place(sample, along, self.layouts[1])


def _place(sample: int, along: dict[str, int], layout: StoredLayout) -> tuple[int, ...]:
    episode, step = divmod(sample, layout.episode_length)
    along = along | ({"T": step, "N": episode} if "T" in layout.letters else {"N": step})
    return tuple(along.get(letter, 0) for letter in layout.letters)


def _values(rows: Reader) -> int:
    """Return the number of values in each row, at least 1."""
    return max(1, math.prod(rows.spec.sample_shape))


# --- pairing ---------------------------------------------------------------------------------------------------------------


def _dtype_words(a: np.dtype[Any], b: np.dtype[Any], cast: bool) -> tuple[list[str], list[str]]:
    """Return (problems, notes); values of dtypes that are a problem are not compared."""
    if a.newbyteorder("=") == b.newbyteorder("="):
        return [], [f"the byte order differs ({_order(a)} and {_order(b)}); values are compared"] if a != b else []
    if a.kind == b.kind == "S":
        return [], [f"stored with a width of {a.itemsize} and {b.itemsize} bytes; texts are compared"]
    words = f"dtype {dtype_words(a)} against {dtype_words(b)}"
    numbers = a.kind in "biufc" and b.kind in "biufc"
    if not cast or not numbers:
        hint = ": values are not compared; cast=True (--cast) compares the first's as the second's dtype" if numbers else ""
        return [words + hint], []
    rounding = "rounded to the nearest float" if b.kind in "fc" else "which must fit without loss"
    return [], [f"{words}: compared after a cast of the first's values to {b.name}, {rounding}"]


def _order(dtype: np.dtype[Any]) -> str:
    return "big-endian" if dtype.newbyteorder(">") == dtype else "little-endian"


def _paired(a: Side, b: Side, most_row_nbytes: int, independent: bool) -> Comparison:
    """Return both as rows that belong together."""
    a_shape, b_shape = (tuple(int(n) for n in side.stored.shape) for side in (a, b))
    known = a.layout and b.layout and len(a.layout) == len(a_shape) and len(b.layout) == len(b_shape)
    if known and a.layout != b.layout and 0 not in a_shape and 0 not in b_shape:
        return _paired_by_layout(a, b, independent)
    is_comparable = len(a_shape) == len(b_shape) and a_shape[1:] == b_shape[1:]
    moved = not is_comparable and sorted(a_shape) == sorted(b_shape)
    hint = "; if only the order of axes differs, say how both are stored with layout= and other_layout=" if moved else ""
    problems = () if a_shape == b_shape else (f"shape {a_shape} against {b_shape}{hint}",)
    rows = rows_in_order(a.stored, most_row_nbytes, independent), rows_in_order(b.stored, most_row_nbytes, independent)
    return Comparison((a, b), rows, problems, is_comparable=is_comparable)


def _paired_by_layout(a: Side, b: Side, independent: bool) -> Comparison:
    layouts = StoredLayout.of(a.layout, tuple(a.stored.shape), a.name), StoredLayout.of(b.layout, tuple(b.stored.shape), b.name)
    one, two = (
        LibraryReader(side.stored, each, BY_LIBRARY) if independent else reader_for(side.stored, each, mapped=False)
        for side, each in zip((a, b), layouts, strict=True)
    )
    rows = one, two
    letters, others = layouts[0].sample_letters, layouts[1].sample_letters
    lengths, other_lengths = (dict(zip(each.sample_letters, each.sample_shape, strict=True)) for each in layouts)
    if any(lengths.get(letter, 1) != other_lengths.get(letter, 1) for letter in {*lengths, *other_lengths}):
        shapes = f"shape {tuple(a.stored.shape)} ({a.layout}) against {tuple(b.stored.shape)} ({b.layout})"
        return Comparison((a, b), rows, (f"{shapes}: samples of other shapes",), is_comparable=False)
    # An axis that one of them lacks has length 1, and changes no order.
    shared = [others.index(letter) for letter in letters if letter in others]
    axes = [0, *(1 + place for place in shared), *(1 + place for place, letter in enumerate(others) if letter not in letters)]
    problem, note = f"{len(rows[0].spec)} samples against {len(rows[1].spec)}", ""
    if len(rows[0].spec) == len(rows[1].spec):
        problem, note = "", f"the axes are stored as {a.layout} and {b.layout}; compared in the order of the first"
    moved = tuple(axes) if axes != sorted(axes) else None
    return Comparison((a, b), rows, (problem,) * bool(problem), (note,) * bool(note), axes=moved, layouts=layouts)


# --- comparing values ------------------------------------------------------------------------------------------------------


def _overlaps(a_runs: Iterator[Array], b_runs: Iterator[Array]) -> Iterator[tuple[Array, Array]]:
    """Cut the runs of both where either ends, and yield pairs of one length that hold the same places."""
    a = b = _NOTHING
    while True:
        a, b = (run if len(run) else next(runs, _NOTHING) for run, runs in ((a, a_runs), (b, b_runs)))
        count = min(len(a), len(b))
        if not count:
            return
        yield a[:count], b[:count]
        a, b = a[count:], b[count:]


def exact(value: Any, dtype: np.dtype[Any]) -> str:
    """
    >>> exact(0.10000000149011612, np.dtype("f4")), exact(7, np.dtype("u1")), exact(float("nan"), np.dtype("f8"))
    ('0.1', '7', 'nan')
    """
    if dtype.kind in "fc" and isinstance(value, (float, complex)):
        return str(dtype.newbyteorder("=").type(value))
    return repr(value)


@dataclass
class Differences:
    """The differences found so far in two runs of values, compared piece by piece.

    Two values are equal if their bits are, if they compare equal, or if both are NaN. Those that are equal though their bits are
    not (-0.0 and 0.0, NaNs of other payloads) are counted in `bits_only`.
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
