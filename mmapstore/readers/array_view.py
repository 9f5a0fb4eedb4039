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


class ArrayView(Reader):
    """Views of runs, copies for gathers. `stored` has an `as_array`; the file that it maps is checked to stay as it is."""

    gathers = offers_views = True

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

    def _episodes(self) -> Array:
        """The array as (episodes, samples of an episode, *sample)."""
        array = self._stored.as_array()
        assert array is not None
        return self._layout.samples_first(array)

    def read(self, start: int, stop: int, out: Array) -> None:
        by_episode, at = self._episodes(), start
        while at < stop:
            episode, first = divmod(at, self._layout.episode_length)
            count = min(self._layout.episode_length - first, stop - at)
            np.copyto(out[at - start : at - start + count], by_episode[episode, first : first + count])
            at += count

    def view(self, start: int, stop: int) -> Array | None:
        by_episode = self._episodes()
        if not by_episode.dtype.isnative:
            return None
        episode, first = divmod(start, self._layout.episode_length)
        if first + stop - start <= self._layout.episode_length:
            return by_episode[episode, first : first + stop - start]
        if not by_episode.flags.c_contiguous:
            return None
        return by_episode.reshape(self.spec.shape)[start:stop]

    def gather(self, starts: Numbers, parts: Sequence[Part]) -> None:
        by_episode = self._episodes()
        if by_episode.flags.c_contiguous and by_episode.dtype == self.spec.dtype:
            samples = by_episode.reshape(self.spec.shape)
            for part in parts:
                part.take(samples, part.frames(starts))
            return
        for part in parts:
            for k in range(part.count):
                episode, first = np.divmod(starts + (part.first + k * part.step), self._layout.episode_length)
                for window, (e, t) in enumerate(zip(episode.tolist(), first.tolist(), strict=True)):
                    part.out[window, k] = by_episode[e, t]
