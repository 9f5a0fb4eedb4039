"""Mixtures: batches of several sources as one source. What is mixed is whole batches here, and samples in `mixed_samples`."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from functools import cached_property
from typing import Any

import numpy as np

from ..plain.errors import InvalidValueError, OutOfRangeError, StateMismatchError
from ..plain.memory_budget import MemoryPlan, format_bytes
from ..plain.mixture_schedule import MixtureSchedule, counts_in_epoch
from .arguments import outside_epoch, saved_position
from .batch_epochs import BatchEpochs
from .batch_source import GroupedReads
from .cursor import Cursor

_BLOCK = 32  # batches whose sources are mixed with each other

Finish = Callable[[], tuple[Any, ...]]


class Mixture(BatchEpochs):
    """Batches of several sources. Made by `mix`; see there.

    kinds : those of the arrays of all sources
    order : what the order depends on beside the sources, as small JSON
    """

    transform_name = None
    _mixed = "whole batches"

    def __init__(
        self, sources: tuple[BatchEpochs, ...], kinds: Any, schedule: MixtureSchedule, batch_size: int, order: dict[str, Any]
    ) -> None:
        self.batch_size = batch_size
        self.shard = sources[0].shard
        self.transform_workers = max(source.transform_workers for source in sources)
        self._sources, self._kinds, self._schedule = sources, kinds, schedule
        self._order = {"mixed": self._mixed, **order}
        self._require_some()
        self.cursor = Cursor(len(self))

    def kinds(self) -> tuple[Any, ...]:
        """Return a `Kind` for each array of a batch, in its structure."""
        kinds: tuple[Any, ...] = self._kinds
        return kinds

    @property
    @abstractmethod
    def _own_memory(self) -> dict[str, int]:
        """Bytes of memory beside that of the sources."""

    @property
    def memory(self) -> MemoryPlan:
        """Predicted peak of private memory of an epoch: the sums of the parts of all sources, and those of the mixture."""
        plans = [source.memory for source in self._sources]
        parts = sum((Counter(plan.parts) for plan in plans), Counter(self._own_memory))
        return MemoryPlan(dict(parts), page_cache=sum(plan.page_cache for plan in plans))

    def grouped(self, casts: Any) -> GroupedReads | None:
        """Return None: batches are read one by one."""
        return None

    def _require_batch(self, batch: int) -> None:
        if not 0 <= batch < len(self):
            raise OutOfRangeError(f"there is no batch {batch}: an epoch has {len(self)} batches, counted from 0.")
        require_whole_epochs(self._sources)

    # --- position ----------------------------------------------------------------------------------------------------

    @cached_property
    def _identity(self) -> tuple[dict[str, Any], str]:
        """The order, and the data, that a position belongs to: of the mixture and of all its sources, for any of the workers."""
        states = [source.state_at(0, 0) for source in self._sources]
        orders = [{name: value for name, value in state["order"].items() if name != "shard"} for state in states]
        order = {**self._order, "workers": self.shard[1], "sources": orders}
        return order, " ".join(state["fingerprint"] for state in states)

    def state_at(self, epoch: int, batch: int) -> dict[str, Any]:
        """Return the state of having read everything before that batch, for callers who keep count themselves."""
        order, fingerprint = self._identity
        return {"version": 1, "epoch": int(epoch), "batch": int(batch), "order": order, "fingerprint": fingerprint}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved position, of this worker or of any other, with as many workers.

        Raises StateMismatchError if it belongs to another mixture, number of workers, order or data.
        """
        order, fingerprint = self._identity
        epoch, batch, _ = saved_position(state, order, lambda: fingerprint, "the sources of this mixture")
        if epoch < 0 or not 0 <= batch <= len(self):
            raise outside_epoch(epoch, batch, len(self))
        self.cursor.move_to(epoch, batch)

    def __repr__(self) -> str:
        counts = " + ".join(f"{count} of {source!r}" for count, source in zip(self._schedule.counts, self._sources, strict=True))
        peak = format_bytes(self.memory.total)
        return f"<Mixture of {self._mixed}: {len(self)} x {self.batch_size}, {counts}; peak {peak}>"


class MixedBatches(Mixture):
    """Whole batches of several sources."""

    def __init__(self, sources: tuple[BatchEpochs, ...], kinds: Any, weights: list[float], stop: str, seed: int) -> None:
        sizes = [source.batch_size for source in sources]
        if len(set(sizes)) > 1:
            raise InvalidValueError(
                f"the sources have batches of {sizes} samples; expected one batch_size. Make them alike, or mix samples with "
                "within_batch=True, which makes batches of its own."
            )
        counts = counts_in_epoch([len(source) for source in sources], weights, stop)
        order = {"weights": weights, "stop": stop, "seed": seed}
        super().__init__(sources, kinds, MixtureSchedule(counts, _BLOCK, seed), sizes[0], order)

    def __len__(self) -> int:
        """Return the batches in an epoch."""
        return len(self._schedule)

    @property
    def batch_sizes(self) -> set[int]:
        """The numbers of samples that batches may have."""
        return set().union(*(source.batch_sizes for source in self._sources))

    @property
    def samples(self) -> int:
        """Samples in an epoch. Raises InvalidValueError where epochs have short batches, and not all equally many."""
        if not self.all_full:
            raise InvalidValueError(
                "a mixture of whole batches that has short ones in its midst has no fixed number of samples, and cannot be mixed "
                "once more within batches. Make its sources with drop_last=True."
            )
        return len(self) * self.batch_size

    @property
    def takes_time(self) -> bool:
        """False where a batch is nothing but a view of the mapped file: then there is nothing to do ahead."""
        return any(source.takes_time for source in self._sources)

    @property
    def finishes_ahead(self) -> bool:
        """True where a source does; others read ahead by themselves."""
        return any(source.finishes_ahead for source in self._sources)

    def begin(self, epoch: int, batch: int, *, aligned: bool = False) -> Finish:
        """Read a batch of its source, and return the function that finishes it; see `BatchSource.begin`."""
        self._require_batch(batch)
        source, place = self._at(epoch, batch)
        return self._sources[source].begin(*divmod(place, len(self._sources[source])), aligned=aligned)

    def begun_from(self, epoch: int, first: int) -> Generator[Finish, None, None]:
        """Yield what `begin` returns, for the batches of an epoch. Each source reads its own as in a loop over it."""
        with closing(Rows(self._sources)) as rows:
            for batch in range(first, len(self)):
                yield rows.begun(*self._at(epoch, batch))

    def named(self, epoch: int, batch: int) -> str:
        """Return how messages name a batch: by its number, and by the name that its source has for it."""
        source, place = self._at(epoch, batch)
        name = self._sources[source].named(*divmod(place, len(self._sources[source])))
        return f"batch {batch} of epoch {epoch} of a mixture, which is {name} of source {source}"

    def _at(self, epoch: int, batch: int) -> tuple[int, int]:
        """Return the source of a batch, and its place in the row of all epochs of the source."""
        sources, given = self._schedule.block_of(epoch, batch // _BLOCK)
        source = int(sources[batch % _BLOCK])
        before = given[source] + int(np.count_nonzero(sources[: batch % _BLOCK] == source))
        return source, epoch * self._schedule.counts[source] + before

    @property
    def _own_memory(self) -> dict[str, int]:
        return {"schedule": self._schedule.nbytes}


def require_whole_epochs(sources: tuple[BatchEpochs, ...]) -> None:
    """Raise StateMismatchError if other workers have begun an epoch of a source."""
    if any(source.cursor.order for source in sources):
        raise StateMismatchError(
            "a source of this mixture has loaded the position of other workers, and mixtures read whole epochs of their sources. "
            "Make the source anew, and load positions of the mixture."
        )


class Rows:
    """The batches of each source in the row of all its epochs, read as in loops over the sources. For one caller at a time."""

    def __init__(self, sources: tuple[BatchEpochs, ...]) -> None:
        require_whole_epochs(sources)
        self._sources = sources
        self._rows: dict[int, Generator[Finish, None, None]] = {}

    def begun(self, source: int, place: int) -> Finish:
        """Return what `begin` returns for the next batch of a source; `place` is that of the first that is asked for."""
        if source not in self._rows:
            self._rows[source] = self._row(self._sources[source], place)
        return next(self._rows[source])

    def _row(self, source: BatchEpochs, place: int) -> Generator[Finish, None, None]:
        while True:
            epoch, first = divmod(place, len(source))
            yield from source.begun_from(epoch, first)
            place += len(source) - first

    def close(self) -> None:
        """Drop all that was read ahead."""
        for row in self._rows.values():
            row.close()
