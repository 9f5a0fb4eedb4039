"""Large arrays of a tree in regions, whole rows of the target's chunks, that an engine may do in any order, and more than once."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...files.system_errors import explaining_write_errors, is_of_this_machine
from ...formats.contract import StoredArray
from ...formats.tree_contract import NewTreeArray, TreeArray
from ...plain.c_order import c_order_boxes
from ...plain.chunk_grid import Box
from ...plain.content_digest import LeafDigests
from ...plain.digest_leaves import leaves_of
from ...plain.errors import DamagedFileError, InvalidValueError, ReadError, WriteError
from ...readers.contract import Array
from ..flow import engines
from .tree_values import copy_values, reading

REGION_NBYTES = 256 << 20  # at most, of whole rows: the rest of its last leaf, 32 MiB on average, is read in two regions


@dataclass(frozen=True)
class Regions:
    """The plan of one array, small and picklable.

    Attributes
    ----------
    array : without `read`: each process opens it by `stored`
    reopen : opens the target; None to digest the array alone
    elements : of a block, at most
    rows : of the first axis, in each region
    """

    array: TreeArray
    reopen: Callable[[], NewTreeArray] | None
    elements: int
    rows: int

    def __len__(self) -> int:
        return -(-self.array.shape[0] // self.rows)


def copy_with(engine: Any, array: TreeArray, target: NewTreeArray | None, elements: int, max_memory: int) -> str:
    """Move all values to the target, if there is one, and return their digest, as `copy_values` does.

    `max_memory` is for each worker. An array of one region, or one that others cannot open by its path, stays in this process.
    """
    regions = _planned(array, target, elements) if engine != engines.THREADS else None
    if regions is None:
        return copy_values(array, target, elements)
    digests, left = LeafDigests(array.dtype), set(range(len(regions)))
    with explaining_write_errors("The target"):  # a full disk, as a worker met it
        for number, done in engines.results(engine, _do, regions, range(len(regions)), max_memory):
            digests.done.update(done)
            left.discard(number)
    if left:
        raise InvalidValueError(f"The engine returned no result for {len(left)} of {len(regions)} regions. Give one that does.")
    if target is not None:
        target.tidy()
    return digests.root(array.shape)


def _planned(array: TreeArray, target: NewTreeArray | None, elements: int) -> Regions | None:
    if array.text or array.stored is None or not array.nbytes or (target is not None and target.reopen is None):
        return None
    row_nbytes = array.nbytes // array.shape[0] if array.shape else array.nbytes
    unit = array.chunks[0] if array.chunks else 1
    if target is not None:  # chunks of the target are written by one process each, those of the source read by one if possible
        unit = both if (both := math.lcm(unit, target.rows)) * row_nbytes <= REGION_NBYTES else target.rows
    rows = max(1, REGION_NBYTES // (unit * row_nbytes)) * unit
    if not array.shape or rows >= array.shape[0] or array.opened() is array:
        return None
    return Regions(replace(array, read=_unread), None if target is None else target.reopen, elements, rows)


def _do(regions: Regions, number: int) -> tuple[int, dict[int, bytes]]:
    """Copy a region, and have it on disk; return its number, and by number the SHA-256 of each leaf that begins in it."""
    try:
        return number, _copied(regions, number)
    except (ReadError, WriteError) as error:
        if is_of_this_machine(error) and error.__cause__ is not None:
            raise error.__cause__ from None  # which is lost on the way between processes
        raise


def _copied(regions: Regions, number: int) -> dict[int, bytes]:
    assert regions.array.stored is not None
    stored, array = regions.array.stored(), regions.array
    if (stored.shape, stored.dtype.newbyteorder("=")) != (array.shape, array.dtype.newbyteorder("=")):
        raise DamagedFileError(f"{stored.name} was changed while it was converted. Convert it once nothing writes to it.")
    read = reading(replace(array, read=functools.partial(_box_of, stored)))
    target = regions.reopen() if regions.reopen is not None else NewTreeArray()
    values, total = math.prod(array.shape[1:]), math.prod(array.shape)
    first, last = number * regions.rows, min(array.shape[0], (number + 1) * regions.rows)
    run = leaves_of(array.shape, array.dtype.itemsize).run
    began = (last * values - 1) // run * run
    end = min(total, began + run) if began >= first * values else last * values  # of the leaf that this region has to hash whole
    digests, at = LeafDigests(array.dtype), first * values
    digests.update(np.empty(0, array.dtype), at)
    try:
        for start, stop in (first, last), (last, -(-end // values)):
            for box in c_order_boxes((stop - start, *array.shape[1:]), regions.elements, array.chunks):
                box = (slice(box[0].start + start, box[0].stop + start), *box[1:])
                block = read(box)
                digests.update(block if block.size <= end - at else block.reshape(-1)[: end - at])
                at += block.size
                if start == first:
                    target.write(box, block)
    finally:
        target.close()
    digests.of(array.shape)  # the last leaf ends where the array does
    return digests.done


def _unread(box: Box) -> Array:
    raise AssertionError("other processes open the array themselves")


def _box_of(stored: StoredArray, box: Box) -> Array:
    found: Array = np.empty(tuple(part.stop - part.start for part in box), stored.dtype)
    stored.read_box(box, found)
    return found
