"""The cost of training from the source in every epoch, and of ingesting once and training from the store."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class IngestCost:
    """Durations in one unit: to `prepare` all samples from the source, to `ingest` them, to `read` them from the store, to `train`.

    >>> cost = IngestCost(prepare=4 + 2 + 1, ingest=4 + 2 + 1, read=1, train=1.5)
    >>> cost.from_source(15), cost.from_store(15), cost.pays_from
    (127.5, 44.5, 2)
    >>> IngestCost(prepare=3, ingest=4, read=3).pays_from is None
    True
    """

    prepare: float
    ingest: float
    read: float
    train: float = 0.0

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
        return math.floor(self.ingest / saved) + 1 if saved > 0 else None
