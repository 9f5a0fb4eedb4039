"""Samples read through the format's own library: right for every codec, at the library's speed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..files.descriptors import Descriptors
from ..formats.contract import Selection, StoredArray
from ..plain.array_spec import StoredLayout
from ..plain.inside_names import file_of
from .chunk_runs import sample_axis, whole_chunks
from .contract import Array, Reader

PIECE_BYTES = 2 * 2**20  # asked of the library at a time, if chunks are no larger


class LibraryReader(Reader):
    """Reads runs only. Windows are cut from runs held in memory, so that no chunk is decoded for each of them.

    Raises MissingPackageError where the library lacks a codec.
    """

    place = "decoded by its library"

    def __init__(self, stored: StoredArray, layout: StoredLayout, why: str) -> None:
        stored.require_codecs()
        self._stored = stored
        self._layout = layout
        self.why = why
        self.spec = layout.spec(stored.dtype)
        self._axis = sample_axis(layout)
        self._together = stored.chunks[self._axis] if stored.chunks else 1
        self._sample_nbytes = self.spec.sample_nbytes + stored.element_nbytes * math.prod(self.spec.sample_shape)
        self._step = max(1, PIECE_BYTES // max(1, self._together * self._sample_nbytes)) * self._together
        checked = [] if stored.is_being_written else self.files  # growth is expected then
        self._checked = [Descriptors(path) for path in checked]

    def __reduce__(self) -> tuple[Any, ...]:
        return LibraryReader, (self._stored, self._layout, self.why)

    @property
    def scratch_nbytes(self) -> int:
        """Bytes the library may hold while it reads: chunks, encoded and decoded, and the piece it returns.

        zarr-python has all chunks of the piece encoded, decoded and copied at once.
        """
        chunks = self._stored.chunks
        chunk = math.prod(chunks) * self._stored.dtype.itemsize if chunks else 0
        return 2 * chunk + 4 * self._step * self._sample_nbytes + self.kept_nbytes

    @property
    def files(self) -> list[str]:
        path = os.path.abspath(file_of(self._stored.name))  # a live object in memory has a name, and no file
        return [path] if os.path.exists(path) else []

    def check(self) -> None:
        for files in self._checked:
            files.check()

    @property
    def kept_nbytes(self) -> int:
        return self._stored.cache_nbytes

    @property
    def decoded_together(self) -> int:
        return min(self._together, self._layout.episode_length)

    def whole_chunks(self, start: int, stop: int) -> tuple[int, int]:
        return whole_chunks(self._layout, self._together, start, stop)

    def read(self, start: int, stop: int, out: Array) -> None:
        layout = self._layout
        axes = [layout.letters.index(letter) for letter in "NT" if letter in layout.letters]
        samples_lead = axes == list(range(len(axes)))
        for selection, first, last in self._pieces(start, stop):
            shape = tuple(part.stop - part.start for part in selection)
            if samples_lead:
                self._stored.read_box(selection, out[first:last].reshape(shape))
            else:
                box: Array = np.empty(shape, self.spec.dtype)
                self._stored.read_box(selection, box)
                np.copyto(out[first:last], layout.samples_first(box)[0])

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[Selection, int, int]]:
        """As `StoredLayout.boxes`, cut where chunks end: however long a run is, little beside it is held at a time."""
        for selection, first, last in self._layout.boxes(start, stop):
            at, end = selection[self._axis].start, selection[self._axis].stop
            while at < end:
                cut = min(end, (at // self._step + 1) * self._step)
                yield (*selection[: self._axis], slice(at, cut), *selection[self._axis + 1 :]), first, first + cut - at
                first, at = first + cut - at, cut
            assert first == last
