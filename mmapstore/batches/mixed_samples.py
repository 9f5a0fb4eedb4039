"""Batches that are put together of samples of several sources."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..files.lent_buffers import LentBuffers
from ..plain.errors import InvalidValueError
from ..plain.mixture_schedule import MixtureSchedule, counts_in_epoch
from ..plain.nests import leaves, pack
from ..plain.resumed_order import batches_of
from ..plain.runs import Numbers
from .batch_epochs import BatchEpochs
from .batch_reader import ALIVE
from .batch_source import in_words, kinds_of
from .look_ahead import Promise
from .mixture import Finish, Mixture

Made = Promise[tuple[Any, ...]]


class MixedSamples(Mixture):
    """Batches of `batch_size` samples of several sources, whose own batches are cut where need be."""

    _mixed = "samples"

    def __init__(
        self,
        sources: tuple[BatchEpochs, ...],
        kinds: Any,
        weights: list[float],
        stop: str,
        seed: int,
        batch_size: int,
        drop_last: bool,
    ) -> None:
        # Batches of a source have all of these samples, and only the last may be short.
        self._lengths = [min(source.samples, len(source) * source.batch_size) for source in sources]
        self._drop_last = drop_last
        self._buffers = LentBuffers()
        self._held: dict[int, tuple[tuple[int, int], Made]] = {}  # for each source the batch that was cut last
        schedule = MixtureSchedule(counts_in_epoch(self._lengths, weights, stop), batch_size, seed)
        order = {"weights": weights, "stop": stop, "seed": seed, "batch_size": batch_size, "drop_last": drop_last}
        super().__init__(sources, kinds, schedule, batch_size, order)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": {}}

    def __len__(self) -> int:
        """Return the batches in an epoch."""
        return batches_of(len(self._schedule), self.batch_size, self._drop_last)

    @property
    def batch_sizes(self) -> set[int]:
        """The numbers of samples that batches may have: two where the last batch is short."""
        rest = 0 if self._drop_last else len(self._schedule) % self.batch_size
        return {self.batch_size, rest or self.batch_size}

    @property
    def samples(self) -> int:
        """Samples in an epoch, those of a dropped last batch included."""
        return len(self._schedule)

    @property
    def takes_time(self) -> bool:
        """True: every batch is put together."""
        return True

    def begin(self, epoch: int, batch: int, *, aligned: bool = False) -> Finish:
        """Read the batches that a batch is cut from, and return the function that puts it together, always aligned."""
        self._require_batch(batch)
        sources, given = self._schedule.block_of(epoch, batch)
        pieces = [
            piece
            for source, before in enumerate(given)
            for piece in self._pieces(source, epoch, before, np.flatnonzero(sources == source))
        ]

        def finished() -> tuple[Any, ...]:
            try:
                found = [leaves(made.outcome()) for _, _, made in pieces]
            except BaseException:
                self._held.clear()  # Ctrl-C, say: read again when asked again
                raise
            outs = []
            for kind, *parts in zip(leaves(self._kinds), *found, strict=True):
                # Text is as wide as in its source.
                dtype = max((part.dtype for part in parts), key=lambda one: one.itemsize) if kind.dtype.kind == "S" else kind.dtype
                out = self._buffers.lend((self.batch_size, *kind.shape), dtype)[: len(sources)]
                for (rows, cut, _), part in zip(pieces, parts, strict=True):
                    out[rows] = part[cut]
                outs.append(out)
            return tuple(pack(self._kinds, outs))

        return finished

    def _pieces(self, source: int, epoch: int, before: int, rows: Numbers) -> Iterator[tuple[Numbers, slice, Made]]:
        """Yield the samples of each batch of a source that go into these rows of a batch."""
        size, place = self._sources[source].batch_size, epoch * self._schedule.counts[source] + before
        while len(rows):
            source_epoch, sample = divmod(place, self._lengths[source])
            number, first = divmod(sample, size)
            taken = min(len(rows), size - first, self._lengths[source] - sample)
            yield rows[:taken], slice(first, first + taken), self._batch_of(source, source_epoch, number)
            rows, place = rows[taken:], place + taken

    def _batch_of(self, source: int, epoch: int, number: int) -> Made:
        """Return a batch of a source: the one that is held, or one that is read now. It is finished once, by who asks first."""
        # With the process: of a batch that a thread was finishing, a forked child has half.
        key = os.getpid(), epoch * len(self._sources[source]) + number
        held = self._held.get(source)
        if held is None or held[0] != key:
            self._held.pop(source, None)
            finish = self._sources[source].begin(epoch, number)

            def checked() -> tuple[Any, ...]:
                made = finish()
                found, expected = in_words(kinds_of(made)), in_words(self._kinds)
                if found != expected:
                    raise InvalidValueError(
                        f"{self._sources[source].named(epoch, number)} of source {source} is made of {found}; expected {expected}. "
                        "Let transform= return the same structure, dtypes and shapes for each batch."
                    )
                return made

            held = self._held[source] = key, Promise(checked, begin=False)
        return held[1]

    def named(self, epoch: int, batch: int) -> str:
        """Return how messages name a batch: by its number, and by the samples that each source gives."""
        counts = np.bincount(self._schedule.block_of(epoch, batch)[0], minlength=len(self._sources)).tolist()
        said = ", ".join(f"{count} samples of source {source}" for source, count in enumerate(counts))
        return f"batch {batch} of epoch {epoch} of a mixture ({said})"

    @property
    def _own_memory(self) -> dict[str, int]:
        nbytes = self.batch_size * sum(kind.dtype.itemsize * math.prod(kind.shape) for kind in leaves(self._kinds))
        return {"schedule": self._schedule.nbytes, "batches put together": (ALIVE + 2 * (self.transform_workers - 1)) * nbytes}
