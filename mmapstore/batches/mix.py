"""`mix`: its arguments, and the checks of its sources."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from ..plain.errors import InvalidTypeError, InvalidValueError
from ..plain.windows import whole_number
from .batch_epochs import BatchEpochs
from .batch_source import in_words
from .mixed_samples import MixedSamples
from .mixture import MixedBatches, Mixture


def mix(
    sources: Sequence[BatchEpochs],
    weights: Sequence[float],
    *,
    seed: int = 0,
    stop: str = "first",
    within_batch: bool = False,
    batch_size: int | None = None,
    drop_last: bool = False,
) -> Mixture:
    """Return the batches of several sources as one, in proportions that are exact over an epoch.

    The order of sources is a pure function of (seed, epoch). Any stretch of an epoch has nearly the proportions of all of it. A
    source gives its own batches in its own order: those of its epoch 0, 1, 2 ..., one after the other, and the next epoch of the
    mixture goes on where the last one ended. So nothing of a long source is left out for ever, no sample comes a second time
    before its source has given all others, and the end of an epoch of a source may lie within an epoch of the mixture. Positions of
    the sources are neither used nor moved.

    Parameters
    ----------
    sources : what `Dataset.batches` returned, or mixtures; with one structure, dtypes and shapes of samples. Each has its own
        `shard=`, which must be the same in all: workers then take the same source at each step, and equally many steps
    weights : the proportions of the sources, in any unit; 0 for a source that is not to be used
    seed : any int
    stop : "first" ends an epoch when the first source has no batch left; "all" when each source has given all of its batches once,
        so that shorter ones give theirs several times
    within_batch : mix samples in each batch, instead of whole batches. Each batch has its share of each source, rounded down or up
        (with three or more sources sometimes by one sample more); a batch of each source is held beside
    batch_size, drop_last : as for `Dataset.batches`, with `within_batch`; None is the batch size of the first source. Whole batches
        are those of the sources, of one size

    Returns
    -------
    A Mixture, which is used like `Batches`: in loops, with `to_keras`, `to_tf`, `to_torch` and `to_jax`, `state_dict` and
    `load_state_dict`. Its `memory` is the sum of that of the sources and its own.

    Raises
    ------
    InvalidValueError : no sources; weights that are not one for each, from 0 to 1e300 and not all 0, or that give a source
        nothing in an epoch; sources that differ in structure, dtypes, shapes, shard or (for whole batches) batch size
    InvalidTypeError : a source that is none

    >>> import numpy as np, mmapstore as mm
    >>> a, b = mm.open(np.zeros((70, 2))).batches(10), mm.open(np.ones((90, 2))).batches(10)
    >>> mixture = mm.mix([a, b], weights=[0.7, 0.3])
    >>> [int(x[0, 0]) for x in mixture]
    [0, 0, 0, 0, 1, 0, 0, 0, 1, 1]
    >>> [int(x.sum()) // 2 for x in mm.mix([a, b], weights=[0.7, 0.3], within_batch=True)]
    [3, 3, 3, 3, 3, 3, 3, 3, 3, 3]
    """
    if not within_batch and (batch_size is not None or drop_last):
        raise InvalidValueError(
            f"batch_size={batch_size}, drop_last={drop_last} without within_batch=True: whole batches are those of the sources. "
            "Give both to Dataset.batches."
        )
    if stop not in ("first", "all"):
        raise InvalidValueError(f"stop={stop!r}; expected 'first' or 'all'.")
    made_of = tuple(sources)
    kinds, parts, seed = _common_kinds(made_of), _checked_weights(weights, made_of), whole_number("seed", seed)
    if not within_batch:
        return MixedBatches(made_of, kinds, parts, stop, seed)
    size = made_of[0].batch_size if batch_size is None else whole_number("batch_size", batch_size, least=1)
    return MixedSamples(made_of, kinds, parts, stop, seed, size, bool(drop_last))


def _common_kinds(sources: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the kinds of the arrays of all sources. Raises unless there are sources, and of one kind and shard."""
    if not sources:
        raise InvalidValueError("mix() has no sources; expected one or more, as in mix([a, b], weights=[0.7, 0.3]).")
    for number, source in enumerate(sources):
        if not isinstance(source, BatchEpochs):
            raise InvalidTypeError(
                f"source {number} of mix() is a {type(source).__name__}; expected what Dataset.batches(...) returned, or a mixture."
            )
        if source.shard != sources[0].shard:
            raise InvalidValueError(
                f"source {number} has shard={source.shard}, and source 0 shard={sources[0].shard}; expected one shard in all, so "
                "that all workers take equally many steps."
            )
    all_kinds: list[tuple[Any, ...]] = [source.kinds() for source in sources]
    for number, kinds in enumerate(all_kinds):
        for letter, *parts in zip_longest("xyw", in_words(kinds), in_words(all_kinds[0]), fillvalue="missing"):
            if parts[0] != parts[1]:
                raise InvalidValueError(
                    f"{letter} of source {number} is {parts[0]}, and of source 0 {parts[1]} (dtypes, and shapes of a sample). "
                    "Expected one structure, dtype and shape in all; see inputs=, target=, dtype=, layout= and transform= of "
                    "Dataset.batches."
                )
    return all_kinds[0]


def _checked_weights(weights: Any, sources: tuple[BatchEpochs, ...]) -> list[float]:
    """Return the weights, so that they add up to 1."""
    try:
        found = [float(weight) for weight in weights]
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(f"weights={weights!r} are not understood; expected a number for each source.") from error
    if len(found) != len(sources) or not all(0 <= weight <= 1e300 for weight in found) or not any(found):
        raise InvalidValueError(
            f"weights={found} for {len(sources)} sources; expected as many, each a number from 0 to 1e300, and not all of them 0."
        )
    total = math.fsum(found)
    return [weight / total for weight in found]
