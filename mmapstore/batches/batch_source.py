"""The protocol between batches and the adapters that feed frameworks from them. `Batches` has it; so may other sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..plain.nests import leaves, map_leaves, pack
from .cursor import Cursor
from .plan import Frames

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class GroupedReads:
    """Batches that are fetched many at a time, and gathered each by the framework from the rows that are fetched."""

    arrays: Sequence[Frames]  # in the order of the leaves of `BatchSource.begin`
    # (epoch, batch, batches) -> for each of `arrays` the rows (int64) of the samples of these batches, and the frames they are of
    fetch: Callable[[int, int, int], list[tuple[Array, Array]]]
    most: int | None  # batches that one call may fetch; None for as many as fit into memory
    is_read_ahead: bool  # what `fetch` returns was read before it is called


@dataclass(frozen=True)
class Kind:
    """The dtype of an array of a batch, and the shape of one sample."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{'text' if self.dtype.kind == 'S' else self.dtype} {self.shape}"  # of any width


def kinds_of(made: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a batch with the `Kind` of each array in its place."""
    kinds: tuple[Any, ...] = map_leaves(lambda array: Kind(array.dtype, array.shape[1:]), made)
    return kinds


def in_words(kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return kinds as text, in their structure: equal for batches that can be mixed."""
    return tuple(pack(kinds, map(str, leaves(kinds))))


class BatchSource(Protocol):
    """Epochs of batches, any of which may be read at any time, from any thread. Its length is the batches in an epoch."""

    cursor: Cursor  # where passes over the batches begin
    batch_size: int
    shard: tuple[int, int]  # (index, number) of the parts that workers share
    transform_workers: int  # threads that make batches beside each other
    transform_name: str | None  # of the function that batches went through, for messages

    def __len__(self) -> int: ...

    @property
    def all_full(self) -> bool:
        """True if every batch has exactly `batch_size` samples."""

    @property
    def takes_time(self) -> bool:
        """True if making batches ahead, while one is in use, saves time."""

    def begin(self, epoch: int, batch: int, *, aligned: bool = False) -> Callable[[], tuple[Any, ...]]:
        """Read a batch; return the function that finishes it: (x,), (x, y) or (x, y, w), each a nest of arrays.

        `aligned` : arrays are C-contiguous and start at multiples of 64 bytes
        """

    def named(self, epoch: int, batch: int) -> str:
        """Return how messages name a batch."""

    def grouped(self, casts: Callable[[np.dtype[Any], np.dtype[Any]], bool]) -> GroupedReads | None:
        """Return how small batches are read many at a time; None where each is to be read by itself.

        `casts` : True for two dtypes if the caller converts one into the other as NumPy does
        """

    def state_at(self, epoch: int, batch: int) -> dict[str, Any]:
        """Return the state of having read everything before that batch, as small JSON."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Move the cursor to a saved state. Raises StateMismatchError if it belongs to other data or another order."""
