"""How fast this file comes, measured for a second or two on a few places of it. Reads only, and not more than it says."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..files.descriptors import Descriptor, let_go, read_exactly
from ..files.page_cache import is_cached
from ..plain.errors import NotFoundError
from ..plain.nests import leaves
from ..plain.sample_order import BLOCK_BYTES
from ..readers.chunk_runs import batch_cost
from ..readers.contract import Decodes, NamesFiles
from .case import Case

_DISK_SECONDS, _READ_SECONDS, _LOOP_SECONDS = 0.4, 0.4, 0.4
_PLACES = 32  # of the file, that are looked at
_PIECE = 2 << 20
_MOST_AT_ONCE = 64 << 20  # bytes that are held
_MOST_DECODED = 256 << 20  # of one call, in chunks that cannot be decoded in part
_MOST_HELD = 1 << 30  # by the loop that is tried
_COPIED = 8 << 20
_PAGE = 4096


@dataclass(frozen=True)
class Speeds:
    """Bytes per second, or seconds. Of samples as they are decoded, where nothing else is said.

    Attributes
    ----------
    copy : from one array in RAM to another
    disk : stored bytes, of places that were not in the page cache; None where all were, or it cannot be told
    cached : share of the places looked at that were in the page cache; None where it cannot be told
    read : from the page cache, by the reader that serves, whole chunks where there are any; None for chunks too large to try
    batch : seconds that a shuffled batch takes, once what it needs is in the page cache
    """

    copy: float
    disk: float | None
    cached: float | None
    read: float | None
    batch: float | None


def measured(case: Case) -> Speeds:
    """Raises what reading raises: damage is found here at the latest."""
    copy = copy_speed()
    disk, cached = _disk_speed(case)
    read = _read_speed(case)
    return Speeds(copy, disk, cached, read, _batch_seconds(case, read, copy))


def copy_speed() -> float:
    """Bytes per second, from one array in RAM to another."""
    source, target = np.ones(_COPIED, np.uint8), np.empty(_COPIED, np.uint8)
    np.copyto(target, source)
    return _COPIED / min(_timed(np.copyto, target, source) for _ in range(3))


# --- the disk -----------------------------------------------------------------------------------------------------------


def _disk_speed(case: Case) -> tuple[float | None, float | None]:
    if not isinstance(case.reader, NamesFiles):
        return None, None
    # All places are asked about before one is read: where they lie close, the kernel reads ahead into the next.
    looked: list[bool] = []
    not_cached: list[tuple[Descriptor, int, int]] = []
    for path, offset, length in _spread(list(case.reader.files)):
        with contextlib.suppress(NotFoundError, OSError):
            descriptor = Descriptor(path)
            was_cached = is_cached(descriptor.number, offset + length // 2)
            if was_cached is None:
                return None, None
            looked.append(was_cached)
            if not was_cached:
                not_cached.append((descriptor, offset, length))
    nbytes, seconds = 0, 0.0
    out = np.empty(_PIECE, np.uint8)
    for descriptor, offset, length in not_cached:
        with contextlib.suppress(NotFoundError, OSError):
            if is_cached(descriptor.number, offset + length // 2):
                continue  # read ahead: no speed of the disk
            seconds += _timed(read_exactly, descriptor, offset, [out[:length]])
            nbytes += length
            let_go(descriptor, offset, length)  # as it was
        if seconds > _DISK_SECONDS:
            break
    return (nbytes / seconds if nbytes >= _PAGE and seconds else None), (sum(looked) / len(looked) if looked else None)


def _spread(paths: list[str]) -> Iterator[tuple[str, int, int]]:
    """Pieces (file, offset, bytes) from all over the files; of a directory, from the first of its files that are found."""
    if len(paths) == 1 and os.path.isdir(paths[0]):
        paths = list(itertools.islice((each for each in _files_below(paths[0])), _PLACES))
    chosen = paths if len(paths) <= _PLACES else [paths[len(paths) * k // _PLACES] for k in range(_PLACES)]
    for path in chosen:
        size = os.path.getsize(path) if os.path.isfile(path) else 0
        pieces = min(max(1, size // _PIECE), max(1, _PLACES // max(1, len(chosen))))
        for k in range(pieces):
            offset = (size // pieces) * k // _PAGE * _PAGE
            if size:
                yield path, offset, min(_PIECE, size - offset)


def _files_below(folder: str) -> Iterator[str]:
    for above, _, names in os.walk(folder):
        for name in names:
            if name not in ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"):
                yield os.path.join(above, name)


# --- the reader ---------------------------------------------------------------------------------------------------------


def _read_speed(case: Case) -> float | None:
    reader, spec = case.reader, case.spec
    samples = max(1, min(len(spec), BLOCK_BYTES // max(1, spec.sample_nbytes)))
    if case.chunk is not None and batch_cost(case.layout, case.chunk, samples)[1] * spec.dtype.itemsize > _MOST_DECODED:
        return None
    runs, seconds, nbytes = [], 0.0, 0
    for k in range(8):
        start = (len(spec) - samples) * k // 7
        stop = start + samples
        whole = reader.whole_chunks(start, stop) if isinstance(reader, Decodes) else (start, stop)
        if (whole[1] - whole[0]) * spec.sample_nbytes <= _MOST_AT_ONCE:
            start, stop = whole
        elif (whole[1] - whole[0]) * spec.sample_nbytes > _MOST_DECODED:
            return None
        run = (start, stop, (whole[1] - whole[0]) * spec.sample_nbytes)
        if run not in runs:
            runs.append(run)
    began = time.perf_counter()
    out = np.empty((max(stop - start for start, stop, _ in runs), *spec.sample_shape), spec.dtype)
    for start, stop, decoded in runs:
        _timed(reader.read, start, stop, out[: stop - start])  # into the page cache, and the library into memory
        seconds += _timed(reader.read, start, stop, out[: stop - start])
        nbytes += decoded
        if seconds > _READ_SECONDS / 2 or time.perf_counter() - began > 2 * _READ_SECONDS:
            break
    return nbytes / max(seconds, 1e-9)


# --- batches ------------------------------------------------------------------------------------------------------------


def _batch_seconds(case: Case, read: float | None, copy: float) -> float | None:
    """As they come from the loop that feeds training. Where windows of frames are decoded for many batches at once, that is
    calculated, and the loop tried inside the first window; without it, if that would take long to come."""
    batches, memory = case.usual, case.usual.memory
    windows = memory.parts["windows of frames"]
    if windows and read is None:
        return None
    if not windows:
        if memory.total > _MOST_HELD:
            return None
        steps = _loop(batches, 0, case.steps)[0]  # into the page cache
        steps, seconds = _loop(batches, 0, steps)
        return seconds / steps
    assert read is not None
    decoding = case.spec.nbytes * case.decodes / case.steps / read
    inside = min(case.steps, windows // max(1, 4 * case.spec.sample_nbytes * case.batch))
    if windows / read > _LOOP_SECONDS or memory.total > _MOST_HELD or inside < 2:
        return decoding + case.delivered_nbytes / case.steps / copy
    batches.read(0, 0)
    steps, seconds = _loop(batches, 1, inside)
    return decoding + seconds / steps


def _loop(batches: Any, first: int, stop: int) -> tuple[int, float]:
    """(batches, seconds) of batches [first, stop), or those that there is time for, every byte of x and y looked at."""
    began, step = time.perf_counter(), first
    while step < stop:
        for array in leaves(batches.read(0, step)):
            _look_at(array)
        step += 1
        if time.perf_counter() - began > _LOOP_SECONDS:
            break
    return step - first, time.perf_counter() - began


def _look_at(array: Any) -> None:
    """The cheapest way to touch every byte."""
    np.bitwise_or.reduce(np.ascontiguousarray(array).reshape(-1).view(np.uint8)[::64])


def _timed(function: Any, *arguments: Any) -> float:
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began
