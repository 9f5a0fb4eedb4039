"""The chunks that one read brings in together: arithmetic on places, no I/O."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..files.worker_threads import usable_cpus
from ..formats.located import ChunkPlace
from .contract import Array

READ_TOGETHER = 512 * 2**10  # bytes of small chunks that are read with one call: they stay in the processor's cache
_GAP = 4 * 2**10  # bytes between two chunks that are read along, unless both are decoded as one stream: less than another call

# (part of the caller's array in stored axis order, part of the chunk: for each axis a slice of step 1, or rising places).
Target = tuple[Array, tuple[Any, ...]]


class WantedChunk(NamedTuple):
    """A chunk to decode, and where parts of it go."""

    number: int
    place: ChunkPlace | None
    targets: list[Target]


def groups_of(chunks: list[WantedChunk], together: int, adjacent: bool = False) -> list[list[WantedChunk]]:
    """Return chunks to be read together, in the order in which they lie: small neighbours in a file, and small files.

    `together` is the number of chunks that are decoded together; 0 where each is decoded alone. `adjacent` : only where they
    follow one another
    """
    groups, stored, files = [], [], []
    for chunk in chunks:
        if chunk.place is None:
            groups.append([chunk])
        elif chunk.place.nbytes < 0:
            files.append(chunk)
        else:
            stored.append((chunk.place.path, chunk.place.offset, chunk.place.nbytes, chunk))
    shares = 2 * usable_cpus()  # work for every thread, twice
    each = max(1, min(together, len(files) // shares))
    groups += [files[at : at + each] for at in range(0, len(files), each)]
    stored.sort(key=lambda found: found[:2])
    most = min(READ_TOGETHER, sum(found[2] for found in stored) // shares)
    file, begin, end = "", 0, 0
    for path, offset, nbytes, chunk in stored:
        is_near = path == file and 0 <= offset - end <= (0 if adjacent else _GAP) and offset + nbytes - begin <= most
        if is_near and len(groups[-1]) != together:
            groups[-1].append(chunk)
        else:
            groups.append([chunk])
            file, begin = path, offset
        end = offset + nbytes
    return groups
