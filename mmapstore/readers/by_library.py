"""Samples read through the format's own library: right for every codec, at the library's speed."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..formats.contract import StoredArray
from ..plain.array_spec import ArraySpec, StoredLayout
from .contract import Array


class ByLibrary:
    """Reads runs only. Windows are cut from runs held in memory, so that no chunk is decoded for each of them."""

    def __init__(self, stored: StoredArray, layout: StoredLayout, why: str) -> None:
        self._stored = stored
        self._layout = layout
        self.why = why
        self.place = "decoded by its library"
        self.spec: ArraySpec = layout.spec(stored.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return ByLibrary, (self._stored, self._layout, self.why)

    @property
    def scratch_nbytes(self) -> int:
        """Bytes the library may hold while it reads: a chunk, encoded and decoded, beside what it returns."""
        chunks = self._stored.chunks
        return 2 * int(np.prod(chunks)) * self._stored.dtype.itemsize if chunks else 0

    def read(self, start: int, stop: int, out: Array) -> None:
        layout = self._layout
        axes = [layout.letters.index(letter) for letter in "NT" if letter in layout.letters]
        samples_lead = axes == list(range(len(axes)))
        for selection, first, last in layout.boxes(start, stop):
            shape = tuple(part.stop - part.start for part in selection)
            if samples_lead:
                self._stored.read_box(selection, out[first:last].reshape(shape))
            else:
                box: Array = np.empty(shape, self.spec.dtype)
                self._stored.read_box(selection, box)
                np.copyto(out[first:last], layout.samples_first(box)[0])
