"""Runs of samples and the chunks that hold them: arithmetic on layouts, no I/O."""

from __future__ import annotations

import math

from ..plain.array_spec import StoredLayout


def sample_axis(layout: StoredLayout) -> int:
    """The stored axis along which samples follow each other: T where there is one, else N."""
    return layout.letters.index("T" if "T" in layout.letters else "N")


def whole_chunks(layout: StoredLayout, together: int, start: int, stop: int) -> tuple[int, int]:
    """The run [start, stop), longer at both ends up to where chunks of `together` samples, or episodes, begin and end.

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
