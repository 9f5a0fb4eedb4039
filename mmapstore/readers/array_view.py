"""Samples of something that NumPy can look at as one array: an array in RAM, or a memory map in any axis order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..files.descriptors import Descriptors
from ..formats.contract import SeenAsArray
from ..plain.array_spec import ArraySpec, StoredLayout
from .contract import Array, Part


class ArrayView:
    """Views of runs, copies for gathers. `source` gives the array, and pickles by path where it has one.

    `path` is the file that it maps, if it does: that file is checked to stay as it is.
    """

    def __init__(self, source: SeenAsArray, layout: StoredLayout, why: str, place: str, path: str | None = None) -> None:
        self._source = source
        self._layout = layout
        self.why = why
        self.place = place
        self._path = path
        self._files = Descriptors(path)
        array = source.as_array()
        self.spec: ArraySpec = layout.spec(array.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return ArrayView, (self._source, self._layout, self.why, self.place, self._path)

    @property
    def files(self) -> list[str]:
        return [] if self._path is None else [self._path]

    def check(self) -> None:
        self._files.check()

    def _episodes(self) -> Array:
        """The array as (episodes, samples of an episode, *sample)."""
        return self._layout.samples_first(self._source.as_array())

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

    def gather(self, starts: np.ndarray[Any, np.dtype[np.int64]], parts: Sequence[Part]) -> None:
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
