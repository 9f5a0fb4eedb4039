"""Runs of samples and the chunks that hold them: arithmetic on layouts, no I/O."""

from __future__ import annotations

import math

from ..formats.located import Located, OneRun
from ..plain.array_spec import StoredLayout
from ..plain.chunk_grid import ChunkGrid

_STRETCH_NBYTES = 64 * 2**10


def sample_axis(layout: StoredLayout) -> int:
    """Return the stored axis along which samples follow each other: T where there is one, else N."""
    return layout.letters.index("T" if "T" in layout.letters else "N")


def whole_chunks(layout: StoredLayout, together: int, start: int, stop: int) -> tuple[int, int]:
    """Return the run [start, stop), longer at both ends up to where chunks of `together` samples, or episodes, begin and end.

    >>> whole_chunks(StoredLayout("NTHW", (3, 10, 8, 8)), 4, 5, 19)          # episodes of 10: chunks end at 4, 8, 10, 14, 18, 20
    (4, 20)
    """
    if stop <= start:
        return start, stop
    length = layout.episode_length
    first = start % length
    last = (stop - 1) % length + 1
    return start - first % together, stop - last + min(length, -(-last // together) * together)


def batch_cost(layout: StoredLayout, chunk: tuple[int, ...], samples: int) -> tuple[int, int]:
    """(chunks, elements in them) that must be decoded for so many consecutive samples that begin where a chunk does."""
    axis = sample_axis(layout)
    chunks = 1
    for at, (letter, length, each) in enumerate(zip(layout.letters, layout.shape, chunk, strict=True)):
        wanted = min(samples, length) if at == axis else 1 if letter == "N" else length
        chunks *= -(-wanted // each)
    return chunks, chunks * math.prod(chunk)


def in_stretches(located: Located, offset: int, layout: StoredLayout) -> OneRun:
    """Cut an array that lies in one run into chunks that are stretches of its file: so it is read where nothing may be mapped.

    A chunk is some positions along the last axis of samples or episodes, one along those before it, and all along those behind it.
    Its length divides that of the axis, so that no chunk reaches past the end.
    """
    letters, shape = layout.letters, layout.shape
    axis = max(letters.index(letter) for letter in "NT" if letter in letters)
    most = max(1, _STRETCH_NBYTES // (math.prod(shape[axis + 1 :]) * located.dtype.itemsize))
    along = next(length for length in range(min(most, shape[axis]), 0, -1) if shape[axis] % length == 0)
    grid = ChunkGrid(shape, (*[1] * axis, along, *shape[axis + 1 :]))
    return OneRun(root=located.root, offset=offset, grid=grid, dtype=located.dtype)
