"""The cost of ingesting: every epoch from the source, against once through the source and then from the store."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import InvalidValueError


@dataclass(frozen=True)
class IngestCost:
    """Four durations, all in one unit of your choice.

    Attributes
    ----------
    prepare : to read, decode and augment all samples from the source, once; without a store every epoch pays it
    ingest : to prepare them and write them to the store, once for all epochs
    read : to read all samples from the store; every epoch pays it
    train : of one epoch's training itself; both ways pay it, so it changes both totals and neither the difference nor `pays_from`

    A hypothetical data set: serialising takes 4 hours, augmenting 2 and reading 1, an epoch of training 1.5, and there are 15:

    >>> cost = IngestCost(prepare=4 + 2 + 1, ingest=4 + 2 + 1, read=1, train=1.5)
    >>> cost.from_source(15), cost.from_store(15), cost.pays_from
    (127.5, 44.5, 2)

    Reading from the store as slowly as from the source never pays:

    >>> IngestCost(prepare=3, ingest=4, read=3).pays_from is None
    True
    """

    prepare: float
    ingest: float
    read: float
    train: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise InvalidValueError(f"{name}={value!r} is no duration; expected a number that is not negative.")

    def from_source(self, epochs: int) -> float:
        """Return `(prepare + train) * epochs`."""
        return (self.prepare + self.train) * epochs

    def from_store(self, epochs: int) -> float:
        """Return `ingest + (train + read) * epochs`."""
        return self.ingest + (self.train + self.read) * epochs

    @property
    def pays_from(self) -> int | None:
        """The first number of epochs with which ingesting takes less time in all; None if no number is enough."""
        saved = self.prepare - self.read
        if saved <= 0:
            return None
        return math.floor(self.ingest / saved) + 1
