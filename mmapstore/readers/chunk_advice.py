"""Advice to the kernel about chunks: those that are read soon, and those that are done with."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence

from ..files.descriptors import Descriptor, are_cached, let_go, will_need
from ..formats.located import Located
from ..plain.array_spec import StoredLayout
from ..plain.errors import MmapstoreError, NotFoundError
from . import chunk_groups
from .chunk_files import ChunkFiles
from .chunk_runs import sample_axis

_GAP_NBYTES = 64 * 2**10  # between chunks that the kernel is told of as one piece: less than another call costs


class ChunkAdvice:
    """Tells the kernel of the chunks of runs [start, stop) of samples. Never fails: reading will say what is wrong."""

    def __init__(self, chunks: Located, files: ChunkFiles, layout: StoredLayout) -> None:
        self._chunks, self._files, self._layout = chunks, files, layout
        self._axis = sample_axis(layout)

    def will_need(self, start: int, stop: int) -> None:
        # A file has to be opened to be asked for, which takes as long as to read it where it is small.
        are_small_files = self._chunks.one_file_each and self._files.chunk_nbytes <= chunk_groups.READ_TOGETHER
        if not are_small_files and not self._are_cached(start, stop):
            self._advise(start, stop, will_need, lambda last: True, gap=_GAP_NBYTES)

    def let_go(self, start: int, stop: int) -> None:
        """A chunk that goes on past the run is kept: whoever goes on reads it again."""
        length = self._layout.episode_length
        end = (stop - 1) % length + 1 if 0 <= start < stop and (stop - 1) // length == start // length else length
        self._advise(start, stop, let_go, lambda last: last <= end, gap=0)

    def _are_cached(self, start: int, stop: int) -> bool:
        """Return True if the first and the last chunk of a run seem to be in the page cache."""
        with contextlib.suppress(OSError, MmapstoreError):
            for sample in {start, stop - 1} if start < stop else ():
                ((selection, _, _),) = self._layout.boxes(sample, sample + 1)
                number, _, _ = next(self._chunks.grid.touching(selection))
                if not all(itertools.starmap(are_cached, self._pieces([number]))):
                    return False
            return True
        return False

    def _advise(
        self,
        start: int,
        stop: int,
        advise: Callable[[Descriptor, int, int], None],
        concerned: Callable[[int], bool],
        gap: int,
    ) -> None:
        """Tell the kernel of the chunks of a run, if `concerned` (end of the chunk along the sample axis)."""
        axis, each = self._axis, self._chunks.grid.chunk[self._axis]
        numbers = {
            number
            for selection, _, _ in self._layout.boxes(start, stop)
            for number, _, within in self._chunks.grid.touching(selection)
            if concerned(min(self._layout.episode_length, (selection[axis].start + within[axis].start) // each * each + each))
        }
        with contextlib.suppress(OSError, MmapstoreError):
            for piece in self._pieces(sorted(numbers), gap):
                advise(*piece)

    def _pieces(self, numbers: Sequence[int], gap: int = 0) -> Iterator[tuple[Descriptor, int, int]]:
        """Yield the stored bytes of chunks: (file, offset, bytes). Those up to `gap` apart are one piece."""
        places = sorted(place for place in self._chunks.places(numbers) if place is not None)
        for _, group in itertools.groupby(places, key=lambda place: place.path):
            begin, *others = group
            try:
                descriptor = self._files.descriptor(begin)
            except NotFoundError:
                continue
            first, nbytes = begin.offset, begin.nbytes if begin.nbytes >= 0 else descriptor.status.st_size - begin.offset
            end = first + nbytes
            for place in others:
                if place.offset > end + gap:
                    yield descriptor, first, end - first
                    first = place.offset
                end = max(end, place.offset + place.nbytes)
            yield descriptor, first, end - first
