"""Two arrays against each other, value by value, in whatever formats, chunks and axis orders they are stored."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...formats.contract import StoredArray
from ...plain.array_spec import StoredLayout
from ...plain.errors import MmapstoreError
from ...plain.memory_budget import MemoryPlan
from .differences import Differences, cast_values
from .manifest_check import BOOKKEEPING, Report
from .rows import BLOCK_NBYTES, BLOCKS, Array, Rows, read_ahead, rows_by_layout, rows_in_order
from .verdict import ArrayVerdict, Difference, dtype_words

_PIECE = 1 << 20  # values cast at a time
_NOTHING: Array = np.empty(0, np.uint8)


@dataclass(frozen=True)
class Side:
    """One of the two: the array, its axes where they are known, and what to call it."""

    stored: StoredArray
    layout: str | None
    name: str


@dataclass(frozen=True)
class _Pair:
    """Both as rows that belong together. `axes` bring a run of the second's into the order of the first's; None: as they come."""

    a: Rows
    b: Rows
    axes: tuple[int, ...] | None = None
    a_layout: StoredLayout | None = None
    b_layout: StoredLayout | None = None


def compare(a: Side, b: Side, max_memory: int, cast: bool, independent: bool, report: Report) -> ArrayVerdict:
    """Compare the values of both. Shapes and dtypes that differ are reported first; lengths may differ, up to the shorter."""
    problems, notes = _dtype_words(a.stored.dtype, b.stored.dtype, cast)
    paired = _paired(a, b, max_memory, independent)
    if isinstance(paired, str):
        return _verdict(a, b, [*problems, paired], notes, Differences(), None)
    shape_problem, shape_note = _shape_words(a, b, paired)
    problems += [shape_problem] if shape_problem else []
    notes += [shape_note] if shape_note else []
    if _incomparable(a.stored.dtype, b.stored.dtype, cast):
        return _verdict(a, b, problems, notes, Differences(), paired)
    found = Differences()
    try:
        _look_through(paired, a, b, found, max_memory, report)
    except _UnreadableError as error:
        problems.append(str(error))
    return _verdict(a, b, problems, notes, found, paired)


class _UnreadableError(Exception):
    pass


# --- what is compared ------------------------------------------------------------------------------------------------------


def _dtype_words(a: np.dtype[Any], b: np.dtype[Any], cast: bool) -> tuple[list[str], list[str]]:
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


def _incomparable(a: np.dtype[Any], b: np.dtype[Any], cast: bool) -> bool:
    same = a.newbyteorder("=") == b.newbyteorder("=")
    return not same and not a.kind == b.kind == "S" and not (cast and a.kind in "biufc" and b.kind in "biufc")


def _order(dtype: np.dtype[Any]) -> str:
    return "big-endian" if dtype.newbyteorder(">") == dtype else "little-endian"


def _paired(a: Side, b: Side, max_memory: int, independent: bool) -> _Pair | str:
    """The rows to compare; or why there are none."""
    a_shape, b_shape = tuple(a.stored.shape), tuple(b.stored.shape)
    most = max(1, max_memory // 16)
    known = a.layout and b.layout and len(a.layout) == len(a_shape) and len(b.layout) == len(b_shape)
    if known and a.layout != b.layout and 0 not in a_shape and 0 not in b_shape:
        return _paired_by_layout(a, b, independent)
    if len(a_shape) != len(b_shape) or a_shape[1:] != b_shape[1:]:
        moved = sorted(a_shape) == sorted(b_shape)
        hint = "; if only the order of axes differs, say how both are stored with layout= and other_layout=" if moved else ""
        return f"shape {a_shape} against {b_shape}{hint}"
    return _Pair(rows_in_order(a.stored, most, independent), rows_in_order(b.stored, most, independent))


def _paired_by_layout(a: Side, b: Side, independent: bool) -> _Pair | str:
    a_layout = StoredLayout.of(a.layout, tuple(a.stored.shape), a.name)
    b_layout = StoredLayout.of(b.layout, tuple(b.stored.shape), b.name)
    a_rows, b_rows = (rows_by_layout(*each, independent) for each in ((a.stored, a_layout), (b.stored, b_layout)))
    assert a_rows.reader is not None and b_rows.reader is not None
    letters, others = a_rows.reader.spec.layout, b_rows.reader.spec.layout
    lengths = dict(zip(letters[1:], a_rows.shape[1:], strict=True))
    other_lengths = dict(zip(others[1:], b_rows.shape[1:], strict=True))
    if any(lengths.get(letter, 1) != other_lengths.get(letter, 1) for letter in {*lengths, *other_lengths}):
        return f"shape {tuple(a.stored.shape)} ({a.layout}) against {tuple(b.stored.shape)} ({b.layout}): samples of other shapes"
    # An axis that one of them lacks has length 1, and changes no order.
    shared = [letter for letter in letters if letter in others]
    axes = (*(others.index(letter) for letter in shared), *(place for place, letter in enumerate(others) if letter not in letters))
    return _Pair(a_rows, b_rows, None if axes == tuple(range(len(others))) else axes, a_layout, b_layout)


def _shape_words(a: Side, b: Side, pair: _Pair) -> tuple[str, str]:
    """(problem, note) about shapes of rows that can be compared."""
    a_shape, b_shape = tuple(a.stored.shape), tuple(b.stored.shape)
    if pair.a_layout is not None and pair.b_layout is not None:
        if pair.a.rows != pair.b.rows:
            return f"{pair.a.rows} samples against {pair.b.rows}", ""
        return "", f"the axes are stored as {pair.a_layout.letters} and {pair.b_layout.letters}; compared in the order of the first"
    return (f"shape {a_shape} against {b_shape}", "") if a_shape != b_shape else ("", "")


# --- going through both ----------------------------------------------------------------------------------------------------


def _look_through(pair: _Pair, a: Side, b: Side, found: Differences, max_memory: int, report: Report) -> None:
    a_together, b_together = (rows.rows_together(min(BLOCK_NBYTES, max_memory // 16), max_memory // 8) for rows in (pair.a, pair.b))
    _plan(pair, a_together, b_together, a.stored.dtype != b.stored.dtype).require(
        max_memory, f"Comparing {a.name} and {b.name}", "Give a larger max_memory= (--max-memory)."
    )
    common = min(pair.a.nbytes // max(1, pair.a.dtype.itemsize), pair.b.nbytes // max(1, pair.b.dtype.itemsize))
    if not common:
        return
    with ThreadPoolExecutor(2, "ThreadPoolExecutor-mmapstore-verify") as threads:
        a_runs = _runs(pair.a, a_together, common, a.name, None, threads)
        b_runs = _runs(pair.b, b_together, common, b.name, pair.axes, threads)
        for a_part, b_part in _overlaps(a_runs, b_runs):
            for start in range(0, len(a_part), _PIECE):
                _compare_piece(a_part[start : start + _PIECE], b_part[start : start + _PIECE], found)
            report(found.compared // pair.a.row_values, pair.a.rows, pair.a.row_nbytes)


def _compare_piece(a: Array, b: Array, found: Differences) -> None:
    if a.dtype == b.dtype:
        found.update(a, b)
    elif a.dtype.kind == b.dtype.kind == "S":
        wide = max(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
        found.update(a.astype(wide), b.astype(wide))
    else:
        cast, misfits = cast_values(a, b.dtype)
        found.update(cast, b, misfits)


def _plan(pair: _Pair, a_together: int, b_together: int, casts: bool) -> MemoryPlan:
    width = pair.b.dtype.itemsize + 3 * pair.a.dtype.itemsize
    return MemoryPlan(
        {
            "blocks of the first": BLOCKS * a_together * pair.a.row_nbytes,
            "blocks of the second": BLOCKS * b_together * pair.b.row_nbytes,
            "decoding": pair.a.scratch_nbytes + pair.b.scratch_nbytes,
            "axes brought into one order": 2 * b_together * pair.b.row_nbytes if pair.axes else 0,
            "values cast": width * _PIECE if casts else 0,
            "bookkeeping": BOOKKEEPING,
        }
    )


def _runs(
    rows: Rows, together: int, values: int, name: str, axes: tuple[int, ...] | None, threads: ThreadPoolExecutor
) -> Iterator[Array]:
    """The first `values` values of an array, flat, in runs that are valid until the next is asked for."""
    last = -(-values // rows.row_values)
    steps = ((start, min(stop, last)) for start, stop in rows.steps(together) if start < last)
    for start, stop, found in read_ahead(rows, steps, together, threads):
        if isinstance(found, MmapstoreError):
            raise _UnreadableError(f"{name} cannot be read in rows [{start}, {stop}): {found}")
        yield (found if axes is None else found.transpose(axes)).reshape(-1)[: values - start * rows.row_values]


def _overlaps(a_runs: Iterator[Array], b_runs: Iterator[Array]) -> Iterator[tuple[Array, Array]]:
    """Both cut where either ends: runs of one length that hold the same places."""
    a = b = _NOTHING
    while True:
        a, b = (run if len(run) else next(runs, _NOTHING) for run, runs in ((a, a_runs), (b, b_runs)))
        count = min(len(a), len(b))
        if not count:
            return
        yield a[:count], b[:count]
        a, b = a[count:], b[count:]


# --- what was found --------------------------------------------------------------------------------------------------------


def _verdict(a: Side, b: Side, problems: list[str], notes: list[str], found: Differences, pair: _Pair | None) -> ArrayVerdict:
    shape, dtype = tuple(int(n) for n in a.stored.shape), a.stored.dtype
    both = f"{a.name} and {b.name}"
    difference = None
    if found.differing and pair is not None and found.first is not None and found.first_values is not None:
        index, other = _index(found.first, shape, pair.a, pair.a_layout), None
        if pair.b_layout is not None and pair.a_layout is not None:
            other = _other_index(found.first, pair)
        values = tuple(exact(value, dtype) for value in found.first_values)
        difference = Difference(found.differing, found.compared, index, other, (values[0], values[1]), found.largest)
        there = f" ({list(other)} of the second)" if other is not None and other != index else ""
        far = f"; the largest distance is {found.largest:g}" if found.largest is not None else ""
        problems = [
            f"{found.differing:,} of {found.compared:,} values differ, the first at {list(index)}{there}: "
            f"{values[0]} against {values[1]}{far}",
            *problems,
        ]
    elif problems and found.compared:
        notes = [
            *notes,
            f"the {found.compared:,} values that both have are equal"
            if "cannot be read" not in problems[-1]
            else f"up to there, {found.compared:,} values are equal",
        ]
    if found.bits_only:
        notes = [*notes, f"{found.bits_only:,} values are equal but not bit by bit: -0.0 and 0.0, or NaNs of other payloads"]
    ok = not problems
    count = f"all {found.compared:,} values" if found.compared > 1 else "its one value" if found.compared else "both are empty"
    return ArrayVerdict(
        a.name,
        b.name,
        ok,
        f"{both}: EQUAL, {count}, {shape} {dtype_words(dtype)}" if ok else f"{both}: DIFFERENT",
        shape=shape,
        dtype=dtype.str,
        problems=tuple(problems),
        notes=tuple(notes),
        difference=difference,
        nbytes=found.compared * dtype.itemsize,
    )


def exact(value: Any, dtype: np.dtype[Any]) -> str:
    """
    >>> exact(0.10000000149011612, np.dtype("f4")), exact(7, np.dtype("u1")), exact(float("nan"), np.dtype("f8"))
    ('0.1', '7', 'nan')
    """
    if dtype.kind in "fc" and isinstance(value, (float, complex)):
        return str(dtype.newbyteorder("=").type(value))
    return repr(value)


def _index(flat: int, shape: tuple[int, ...], rows: Rows, layout: StoredLayout | None) -> tuple[int, ...]:
    """The place of a value in the array as stored. `flat` counts values in the order in which they were compared."""
    if layout is None:
        return tuple(int(n) for n in np.unravel_index(flat, shape)) if shape else ()
    sample, within = divmod(flat, rows.row_values)
    return _place(sample, tuple(int(n) for n in np.unravel_index(within, rows.shape[1:])), layout)


def _place(sample: int, within: tuple[int, ...], layout: StoredLayout) -> tuple[int, ...]:
    episode, step = divmod(sample, layout.episode_length)
    along = {"T": step, "N": episode} if "T" in layout.letters else {"N": step}
    along |= dict(zip(layout.sample_letters, within, strict=True))
    return tuple(along[letter] for letter in layout.letters)


def _other_index(flat: int, pair: _Pair) -> tuple[int, ...]:
    assert pair.a_layout is not None and pair.b_layout is not None
    sample, within = divmod(flat, pair.a.row_values)
    own = np.unravel_index(within, pair.a.shape[1:])
    along = {letter: int(n) for letter, n in zip(pair.a_layout.sample_letters, own, strict=True)}
    return _place(sample, tuple(along.get(letter, 0) for letter in pair.b_layout.sample_letters), pair.b_layout)
