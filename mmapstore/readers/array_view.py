"""Samples of something that NumPy can look at as one array: an array in RAM, or a memory map in any axis order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..files.descriptors import Descriptors
from ..formats.contract import StoredArray
from ..plain.array_spec import StoredLayout
from ..plain.runs import Numbers
from .contract import Array, Part, Reader


class MappedReader(Reader):
    """Views of runs, copies for gathers, of `_array()`: all of the stored array, in stored byte order."""

    gathers = offers_views = True
    _layout: StoredLayout

    def _array(self) -> Array:
        raise NotImplementedError

    def view(self, start: int, stop: int) -> Array | None:
        by_episode = self._layout.samples_first(self._array())
        if not by_episode.dtype.isnative:
            return None
        episode, first = divmod(start, self._layout.episode_length)
        if first + stop - start <= self._layout.episode_length:
            return by_episode[episode, first : first + stop - start]
        return by_episode.reshape(self.spec.shape)[start:stop] if by_episode.flags.c_contiguous else None

    def gather(self, starts: Numbers, parts: Sequence[Part]) -> None:
        array = self._array()
        if array.flags.c_contiguous and self._layout.has_rows:
            rows = array.view(self.spec.dtype).reshape(self.spec.shape)  # the bytes as they lie, rows in stored order
            for part in parts:
                part.take(rows, self._layout.rows_of(part.frames(starts)))
                if not array.dtype.isnative:
                    part.out.byteswap(inplace=True)
            return
        by_episode = self._layout.samples_first(array)
        for part in parts:
            for k in range(part.count):
                episode, first = np.divmod(starts + (part.first + k * part.step), self._layout.episode_length)
                for window, (e, t) in enumerate(zip(episode.tolist(), first.tolist(), strict=True)):
                    part.out[window, k] = by_episode[e, t]


class ArrayView(MappedReader):
    """Samples of `stored.as_array()`; the file that it maps is checked to stay as it is."""

    def __init__(self, stored: StoredArray, layout: StoredLayout, why: str) -> None:
        self._stored = stored
        self._layout = layout
        self.why = why
        self.place = "in RAM" if stored.path is None else "memory-mapped"
        self._files = Descriptors(stored.path)
        self.spec = layout.spec(stored.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return ArrayView, (self._stored, self._layout, self.why)

    @property
    def files(self) -> list[str]:
        return [] if self._stored.path is None else [self._stored.path]

    def check(self) -> None:
        self._files.check()

    def _array(self) -> Array:
        array = self._stored.as_array()
        assert array is not None
        return array

    def read(self, start: int, stop: int, out: Array) -> None:
        by_episode, at = self._layout.samples_first(self._array()), start
        while at < stop:
            episode, first = divmod(at, self._layout.episode_length)
            count = min(self._layout.episode_length - first, stop - at)
            np.copyto(out[at - start : at - start + count], by_episode[episode, first : first + count])
            at += count
