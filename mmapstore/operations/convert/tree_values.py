"""The values of one array, moved in blocks in C order within a budget of memory, and their digest."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...formats.tree_contract import NewTreeArray, Values
from ...plain.array_spec import StoredLayout
from ...plain.c_order import c_order_boxes, times_decoded
from ...plain.chunk_grid import Box
from ...plain.content_digest import LeafDigests
from ...plain.errors import MmapstoreError
from ...plain.memory_budget import MemoryPlan, format_bytes
from ...readers.contract import Array, NeedsScratch, Reader
from ...readers.select_reader import reader_for

BOOKKEEPING_NBYTES = 32 << 20
"""Beside blocks: names of objects, what the libraries keep of metadata, small buffers."""
LEAST_BLOCK_NBYTES = 1 << 20
_BLOCK_NBYTES = 16 << 20  # larger ones are no faster, where chunks do not ask for them
_COPIES = 4  # of a block: as read, as converted, and as encoded by a library that works on all its chunks at a time
_DECODING = 3  # times a chunk: as stored, as decoded, and between two filters
_WORTH_A_READER = 1 << 20
_MOST_AXES = 5
_MOST_TIMES = 16


@dataclass(frozen=True)
class BlockPlan:
    """How an array is cut into blocks."""

    elements: int
    memory: MemoryPlan
    decoded: int
    """How often each chunk is decoded."""


def plan_blocks(values: Values, max_memory: int, name: str) -> BlockPlan:
    """Blocks as large as the chunks of the source ask for, and as `max_memory` allows.

    Raises MemoryBudgetError if the smallest does not fit: a chunk is decoded as a whole, and should not be so a hundred times.
    """
    each = _COPIES * values.dtype.itemsize + values.element_nbytes
    fixed = {
        "bookkeeping": BOOKKEEPING_NBYTES,
        "one chunk decoded": _DECODING * values.together_nbytes,
        "kept between blocks": values.kept_nbytes,
    }
    room = max_memory - sum(fixed.values())
    wanted = max(1, _BLOCK_NBYTES // each)
    if values.chunks is not None and values.shape:
        wanted = max(wanted, values.chunks[0] * math.prod(values.shape[1:]))
    elements = max(_least(values), min(wanted, max(1, room // each), max(1, math.prod(values.shape))))
    memory = MemoryPlan({**fixed, "blocks": elements * each})
    memory.require(
        max_memory,
        f"Converting {name}",
        f"Raise max_memory (--max-memory) to at least {format_bytes(memory.total * 1.01)}.",
    )
    return BlockPlan(elements, memory, times_decoded(values.shape, elements, values.chunks))


def _least(values: Values) -> int:
    """Elements of the smallest block with which no chunk is decoded more than `_MOST_TIMES` times."""
    least, whole = 1, math.prod(values.shape)
    while values.compressed and least < whole and times_decoded(values.shape, least, values.chunks) > _MOST_TIMES:
        least *= 2
    return least


def copy_values(values: Values, target: NewTreeArray | None, plan: BlockPlan) -> str:
    """Move all values to the target, if there is one. Returns their content digest."""
    digests = LeafDigests(values.dtype, values.text)
    read = _reading(values)
    for box in c_order_boxes(values.shape, plan.elements, values.chunks):
        block = read(box)
        digests.update(block)
        if target is not None:
            target.write(box, block)
    return digests.root(values.shape)


def digest_of(values: Values, plan: BlockPlan) -> str:
    """The content digest of all values."""
    return copy_values(values, None, plan)


def joint_digest(parts: list[tuple[str, str]]) -> str:
    """One digest for (member, digest) of all members; that of the only one where it is the whole."""
    if len(parts) == 1 and not parts[0][0]:
        return parts[0][1]
    return hashlib.sha256("".join(f"{member} {digest}\n" for member, digest in parts).encode()).hexdigest() if parts else ""


def _reading(values: Values) -> Callable[[Box], Array]:
    """Our own reader where there is one for these values, so that chunks are decoded in threads; else the format's library."""
    if values.stored is None or not 1 <= len(values.shape) <= _MOST_AXES or values.nbytes < _WORTH_A_READER:
        return values.read
    try:
        stored = values.stored()
        reader = reader_for(stored, StoredLayout.of(None, tuple(stored.shape), stored.name), mapped=False)
    except MmapstoreError:
        return values.read  # which says what is wrong, if it cannot either
    if stored.shape != values.shape or reader.spec.dtype != values.dtype.newbyteorder("=") or _scratch(reader) > _BLOCK_NBYTES:
        return values.read
    return _Rows(reader, values)


def _scratch(reader: Reader) -> int:
    return reader.scratch_nbytes if isinstance(reader, NeedsScratch) else 0


class _Rows:
    """Reads boxes of whole rows through a reader, others as the values have it."""

    def __init__(self, reader: Reader, values: Values) -> None:
        self._reader = reader
        self._values = values

    def __call__(self, box: Box) -> Array:
        if any(part.stop - part.start != length for part, length in zip(box[1:], self._values.shape[1:], strict=True)):
            return self._values.read(box)
        out: Array = np.empty((box[0].stop - box[0].start, *self._values.shape[1:]), self._reader.spec.dtype)
        self._reader.read(box[0].start, box[0].stop, out)
        return out
