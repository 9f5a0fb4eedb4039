"""Batches that are put together of samples of several sources."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
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
from .mixture import Finish, Mixture, Rows

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
        self._in_words = in_words(kinds)
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

        def batch_of(source: int, place: int) -> Made:
            # With the process: of a batch that a thread was finishing, a forked child has half.
            key = os.getpid(), place
            held = self._held.get(source)
            if held is None or held[0] != key:
                self._held.pop(source, None)
                begun = self._sources[source].begin(*divmod(place, len(self._sources[source])))
                held = self._held[source] = key, self._promise(source, place, begun)
            return held[1]

        finish = self._put_together(epoch, batch, batch_of)

        def finished() -> tuple[Any, ...]:
            try:
                return finish()
            except BaseException:
                self._held.clear()  # Ctrl-C, say: read again when asked again
                raise

        return finished

    def begun_from(self, epoch: int, first: int) -> Generator[Finish, None, None]:
        """Yield what `begin` returns, for the batches of an epoch. Each source reads its own as in a loop over it."""
        held: dict[int, tuple[int, Made]] = {}
        with closing(Rows(self._sources)) as rows:

            def batch_of(source: int, place: int) -> Made:
                if source not in held or held[source][0] != place:
                    held.pop(source, None)
                    held[source] = place, self._promise(source, place, rows.begun(source, place))
                return held[source][1]

            for batch in range(first, len(self)):
                yield self._put_together(epoch, batch, batch_of)

    def _put_together(self, epoch: int, batch: int, batch_of: Callable[[int, int], Made]) -> Finish:
        """Ask `batch_of` (source, place in the row of its epochs) for what a batch is cut from; return what puts it together."""
        sources, given = self._schedule.block_of(epoch, batch)
        pieces = [
            (rows, cut, batch_of(source, place))
            for source, before in enumerate(given)
            for rows, cut, place in self._pieces(source, epoch, before, np.flatnonzero(sources == source))
        ]

        def finished() -> tuple[Any, ...]:
            found = [leaves(made.outcome()) for _, _, made in pieces]
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

    def _pieces(self, source: int, epoch: int, before: int, rows: Numbers) -> Iterator[tuple[Numbers, slice, int]]:
        """Yield for these rows of a batch the samples of a batch of a source, and the place of that batch."""
        size, at = self._sources[source].batch_size, epoch * self._schedule.counts[source] + before
        while len(rows):
            source_epoch, sample = divmod(at, self._lengths[source])
            number, first = divmod(sample, size)
            taken = min(len(rows), size - first, self._lengths[source] - sample)
            yield rows[:taken], slice(first, first + taken), source_epoch * len(self._sources[source]) + number
            rows, at = rows[taken:], at + taken

    def _promise(self, source: int, place: int, begun: Finish) -> Made:
        """Return a batch of a source, which is finished once, by who asks first."""

        def checked() -> tuple[Any, ...]:
            made = begun()
            found = in_words(kinds_of(made))
            if found != self._in_words:
                name = self._sources[source].named(*divmod(place, len(self._sources[source])))
                raise InvalidValueError(
                    f"{name} of source {source} is made of {found}; expected {self._in_words}. "
                    "Let transform= return the same structure, dtypes and shapes for each batch."
                )
            return made

        return Promise(checked, begin=False)

    def named(self, epoch: int, batch: int) -> str:
        """Return how messages name a batch: by its number, and by the samples that each source gives."""
        counts = np.bincount(self._schedule.block_of(epoch, batch)[0], minlength=len(self._sources)).tolist()
        said = ", ".join(f"{count} samples of source {source}" for source, count in enumerate(counts))
        return f"batch {batch} of epoch {epoch} of a mixture ({said})"

    @property
    def _own_memory(self) -> dict[str, int]:
        nbytes = self.batch_size * sum(kind.dtype.itemsize * math.prod(kind.shape) for kind in leaves(self._kinds))
        return {"schedule": self._schedule.nbytes, "batches put together": (ALIVE + 2 * (self.transform_workers - 1)) * nbytes}
