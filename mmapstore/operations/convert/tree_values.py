"""Move the values of one array of a tree in blocks in C order, within a budget of memory, and digest them."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable

import numpy as np

from ...formats.tree_contract import NewTreeArray, TreeArray
from ...plain.array_spec import StoredLayout
from ...plain.c_order import c_order_boxes, times_decoded
from ...plain.chunk_grid import Box
from ...plain.content_digest import LeafDigests
from ...plain.errors import MmapstoreError
from ...plain.memory_budget import MemoryPlan, format_bytes
from ...readers.contract import Array
from ...readers.select_reader import reader_for

BOOKKEEPING_NBYTES = 32 << 20
"""Memory beside blocks: names of objects, metadata that the libraries keep, small buffers."""
LEAST_BLOCK_NBYTES = 1 << 20
_BLOCK_NBYTES = 16 << 20  # larger ones are no faster, unless chunks ask for them
_COPIES = 4  # of a block: as read, as converted, and as encoded by a library that works on all its chunks at a time
_DECODING = 3  # times a chunk: as stored, as decoded, and between two filters
_WORTH_A_READER = 1 << 20
_MOST_AXES = 5
_MOST_TIMES = 16


def plan_blocks(array: TreeArray, max_memory: int, name: str) -> tuple[int, int]:
    """Return (elements of a block, times that each chunk is decoded): as the chunks of the source ask for, within `max_memory`.

    Raises MemoryBudgetError if the smallest does not fit: a chunk is decoded as a whole, and at most 16 times.
    """
    each = _COPIES * array.dtype.itemsize + array.element_nbytes
    fixed = {
        "bookkeeping": BOOKKEEPING_NBYTES,
        "one chunk decoded": _DECODING * array.together_nbytes,
        "kept between blocks": array.kept_nbytes,
    }
    room, whole = max_memory - sum(fixed.values()), max(1, math.prod(array.shape))
    wanted = max(1, _BLOCK_NBYTES // each)
    if array.chunks is not None and array.shape:
        wanted = max(wanted, array.chunks[0] * math.prod(array.shape[1:]))
    least = 1
    while array.compressed and least < whole and times_decoded(array.shape, least, array.chunks) > _MOST_TIMES:
        least *= 2
    elements = max(least, min(wanted, max(1, room // each), whole))
    memory = MemoryPlan({**fixed, "blocks": elements * each})
    remedy = f"Raise max_memory (--max-memory) to at least {format_bytes(memory.total * 1.01)}."
    memory.require(max_memory, f"Converting {name}", remedy)
    return elements, times_decoded(array.shape, elements, array.chunks)


def copy_values(array: TreeArray, target: NewTreeArray | None, elements: int) -> str:
    """Move all values to the target, if there is one, in blocks of at most `elements`. Returns their content digest."""
    digests, read = LeafDigests(array.dtype, array.text), reading(array)
    for box in c_order_boxes(array.shape, elements, array.chunks):
        block = read(box)
        digests.update(block)
        if target is not None:
            target.write(box, block)
    return digests.root(array.shape)


def joint_digest(parts: list[tuple[str, str]]) -> str:
    """Return one digest for (member, digest) of all members; that of the only one if it is the whole."""
    if len(parts) == 1 and not parts[0][0]:
        return parts[0][1]
    return hashlib.sha256("".join(f"{member} {digest}\n" for member, digest in parts).encode()).hexdigest() if parts else ""


def reading(array: TreeArray) -> Callable[[Box], Array]:
    """Return our own reader if it reads this array, which decodes chunks in threads; else the format's library."""
    if not 1 <= len(array.shape) <= _MOST_AXES or array.nbytes < _WORTH_A_READER or (stored := array.opened()) is array:
        return array.read
    with contextlib.suppress(MmapstoreError):  # the library says what is wrong, if it cannot read it either
        reader = reader_for(stored, StoredLayout.of(None, array.shape, stored.name), mapped=False)
        if reader.scratch_nbytes > _BLOCK_NBYTES:
            return array.read

        def read(box: Box) -> Array:
            if any(part.stop - part.start != length for part, length in zip(box[1:], array.shape[1:], strict=True)):
                return array.read(box)  # no whole rows
            out: Array = np.empty((box[0].stop - box[0].start, *array.shape[1:]), reader.spec.dtype)
            reader.read(box[0].start, box[0].stop, out)
            return out

        return read
    return array.read
