"""A batch made of the arrays that were read for it: weights checked, arrays in the structure asked for, transformed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..plain.errors import InvalidValueError
from ..plain.nests import leaves, pack
from ..plain.windows import Anchors
from ..readers.contract import Array
from .plan import Plan
from .transforms import BatchTransform

Numbers = np.ndarray[Any, np.dtype[np.int64]]
_SAMPLES_SAID = 8  # of a batch, in messages


class BatchContents:
    """The parts of batches, of arrays in the order of `plan.arrays`, which were read for these `anchors`.

    `together` is the number of samples in a batch; `name` is that of the dataset, for errors.
    """

    def __init__(self, plan: Plan, anchors: Anchors, together: int, transform: BatchTransform | None, name: str) -> None:
        self._plan = plan
        self._anchors = anchors
        self._together = together
        self._transform = transform
        self._name = name

    def packed(self, arrays: list[Array]) -> tuple[Any, ...]:
        """Return the parts of a batch as they were asked for: (x,), (x, y) or (x, y, w)."""
        parts: tuple[Any, ...] = pack(self._plan.parts, arrays)
        return parts

    def finished(
        self, parts: tuple[Any, ...], epoch: int, batch: int, which: Callable[[], str], aligned: Callable[[Array], Array] | None
    ) -> tuple[Any, ...]:
        """Return the parts of a batch as they are handed out: transformed, and each array as `aligned` makes it.

        `which` names the batch, for errors.
        """
        if self._transform is not None:
            parts = self._transform(parts, epoch, batch, which)
        return parts if aligned is None else pack(parts, map(aligned, leaves(parts)))

    def named(self, epoch: int, batch: int, numbers: Numbers) -> str:
        """Return how messages name the batch of these anchors."""
        samples = self._anchors.starts(numbers).tolist()
        said = ", ".join(map(str, samples[:_SAMPLES_SAID])) + (", ..." if len(samples) > _SAMPLES_SAID else "")
        return f"batch {batch} of epoch {epoch} ({len(samples)} samples, those at {said} in the store)"

    def require_weights(self, arrays: list[Array], epoch: int, batch: int, numbers: Numbers) -> None:
        """Raise InvalidValueError if a weight is NaN, infinite or below 0.

        `arrays` end with the weights, of the anchors `numbers`, which begin with those of a batch. They are checked as they are
        read: a check of the whole field beforehand would read it twice.
        """
        weights = self._plan.weights
        for frames, values in zip(weights, arrays[len(arrays) - len(weights) :], strict=True):
            if values.size == 0 or (values.min() >= 0 and values.max() < np.inf):  # NaN is neither
                continue
            rows = values.reshape(len(values), -1)
            wrong = ~((rows >= 0) & (rows < np.inf))
            row = int(np.flatnonzero(wrong.any(axis=1))[0])
            sample = int(self._anchors.starts(numbers[row : row + 1])[0]) + frames.offsets[0]
            raise InvalidValueError(
                f"sample_weight: the field {frames.field!r} of {self._name} is {rows[row][wrong[row]][0]} at sample {sample} of "
                f"the store, in batch {batch + row // self._together} of epoch {epoch}; expected finite weights, 0 or more. "
                "Correct the field, or leave such samples out with ds.select."
            )
