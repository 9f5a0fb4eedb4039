"""Batches of augmented rounds: those of the round that an epoch belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...batches.batch_reader import BatchReader
from ...batches.batch_source import GroupedReads
from ...batches.batches import Batches
from ...batches.opening import open_dataset
from ...plain.errors import InvalidValueError

if TYPE_CHECKING:
    from .rounds import AugmentedRounds


class RoundBatches(Batches):
    """Batches whose epoch e reads the store of a round. Made by `AugmentedRounds.batches`.

    Lengths, shapes, the order and the position are those of `Batches` over any one round: all rounds have equal counts.
    """

    def __init__(self, rounds: AugmentedRounds, batch_size: int, options: dict[str, Any]) -> None:
        for name in ("balance", "sampling_weight"):
            if options.get(name) is not None:
                raise InvalidValueError(f"{name}={options[name]!r}: rounds are balanced when they are made; leave it out.")
        specs = rounds.sample_specs
        # Arrays of the shapes of a round that take no memory: so all arguments are checked now, before a round is there.
        empty = {name: np.broadcast_to(np.zeros((), spec.dtype), spec.shape) for name, spec in specs.items()}
        shapes = open_dataset(empty, layout={name: spec.layout for name, spec in specs.items()})
        self.__dict__.update(shapes.batches(batch_size, **options).__dict__)
        if self._plan.reach() != (0, 0):
            raise InvalidValueError(
                "the samples of a round stand in a mixed order, so that NextFrame() and Window() of several samples would join "
                "some that have nothing to do with each other. Expected names of fields, or no target."
            )
        self._name = f"rounds of {rounds.source_name}"
        self._rounds = rounds
        self._made_of = batch_size, options
        self._latest: tuple[int, BatchReader] | None = None

    def _reader_of(self, epoch: int) -> BatchReader:
        super()._reader_of(epoch)
        number = self._rounds.round_of(epoch)
        stored = self._rounds.dataset(number)  # waits for the round
        latest = self._latest  # read once: another thread may replace it
        if latest is None or latest[0] != number or latest[1].order is not self._order:
            batch_size, options = self._made_of
            latest = self._latest = number, stored.batches(batch_size, **options)._reader.under(self._order)
        return latest[1]

    def grouped(self, casts: Any) -> GroupedReads | None:
        """Read as `Batches.grouped`, but from no file that is mapped for longer than a round."""
        return super().grouped(lambda have, want: False)

    def _digest(self) -> str:
        return self._rounds.fingerprint

    def _order_json(self) -> dict[str, Any]:
        rounds = None if self._rounds.validation else self._rounds.epochs_per_round
        return {**super()._order_json(), "epochs_per_round": rounds}

    def __reduce__(self) -> Any:
        return self._rounds.__reduce__()
