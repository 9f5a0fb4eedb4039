"""The sources of `ingest`: samples of one field or of several that belong together, in order, in pieces.

A source gives all its fields at once, so that what is read once is decoded once, fields cannot drift apart, and an item that is
left out is left out of all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ...plain.array_spec import ArraySpec
from ...plain.guessed_axes import Doubt

Array = np.ndarray[Any, np.dtype[Any]]

ONLY = "data"  # the field of a source that has one, and no name for it


@dataclass(frozen=True)
class Piece:
    """Consecutive samples. Their arrays are valid until the next piece is asked for."""

    fields: Mapping[str, Array]  # by name, (n, *sample shape), the same n in all; maybe views
    starts: Sequence[int] = ()  # which of them, counted from the first, begin an episode
    skipped: Sequence[str] = ()  # names of the items that should have given the samples before the first of these, and are broken


@dataclass(frozen=True)
class Position:
    """A place between two samples of a source."""

    samples: int = 0  # given before this position
    starts: Sequence[int] = ()  # where the episodes begin that are known to begin at or before it, from the first on
    skipped: Sequence[str] = ()  # names of the items that were left out before it, in their order


class Source(Protocol):
    """Gives its samples in order.

    Attributes
    ----------
    name : what messages and the manifest call it
    specs : of the samples of each field as they come; lengths are 0 where `samples` is None
    samples : how many there are, None if that shows at the end only
    guess : how many there may be, to reserve space and to show progress; 0 for no idea
    paths : files it reads, none of which may be the target
    fingerprint : small JSON that changes when the source does
    gives_from_any_sample : False if earlier samples have to be consumed to reach later ones
    notes : by field, small JSON that the manifest keeps, such as {"label": {"classes": ["cat", "dog"]}}
    """

    @property
    def name(self) -> str: ...

    @property
    def specs(self) -> Mapping[str, ArraySpec]: ...

    @property
    def samples(self) -> int | None: ...

    @property
    def guess(self) -> int: ...

    @property
    def paths(self) -> Sequence[str]: ...

    @property
    def fingerprint(self) -> Mapping[str, Any]: ...

    @property
    def gives_from_any_sample(self) -> bool: ...

    @property
    def notes(self) -> Mapping[str, Mapping[str, Any]]: ...

    def pieces(self, after: Position, at_most: int) -> Iterator[Piece]:
        """Samples from a position on, at most `at_most` in a piece. Closing the iterator ends whatever works ahead for it."""
        ...

    def memory(self, at_most: int) -> dict[str, int]:
        """Most private bytes that `pieces` holds at once, in named parts."""
        ...


@runtime_checkable
class FitsMemory(Protocol):
    """An ability: a source that can read in less memory, more slowly."""

    def fit(self, nbytes: int) -> None:
        """Arrange reading so that `memory` stays well below `nbytes`, if that is possible."""
        ...


@runtime_checkable
class LooksFirst(Protocol):
    """An ability: a source that has to read everything once before it can tell what it gives."""

    def look(self, max_memory: int) -> None:
        """Read everything, holding at most so many bytes. Raises MemoryBudgetError before it does, if that cannot be enough."""
        ...


@runtime_checkable
class DoubtsAxes(Protocol):
    """An ability: a source that says where its axes, which nobody named, are likely others than the usual ones."""

    @property
    def doubts(self) -> Sequence[Doubt]: ...


@runtime_checkable
class TellsTimes(Protocol):
    """An ability: a source of one field that knows when its samples were taken."""

    def times(self, skipped: Collection[str]) -> Sequence[Mapping[str, Any] | None]:
        """Return small JSON with seconds for each episode; none for the items that are broken, `skipped` by name."""
        ...
