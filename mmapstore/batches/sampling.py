"""`balance=` and `sampling_weight=` of `Dataset.batches`: how often an epoch draws each sample."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plain.draws import Balance, Draws, Weighted, shares
from ..plain.errors import InvalidTypeError, InvalidValueError, KeyNotFoundError
from ..plain.windows import Anchors
from ..readers.contract import Array
from .labels import Labels, listed

if TYPE_CHECKING:
    from .dataset import Dataset

_PIECE = 2**18  # samples worked on at a time

# A field of classes, drawn equally often or in proportion to the weight of each class, by name or number.
Balanced = str | Mapping[str, Mapping[Any, float]]


@dataclass(frozen=True)
class Sampling:
    """The number of times that an epoch draws each anchor."""

    draws: Draws  # by the number of the draw
    words: str  # the same for `repr`
    digest: str  # the same for saved positions


def sampling_of(
    dataset: Dataset, balance: Balanced | None, sampling_weight: str | None, seed: int, anchors: Anchors, last: int
) -> Sampling | None:
    """Return the sampling that was asked for, None for each sample once.

    `anchors` are in the numbers of the dataset. A window has the class, and the weight, of its last input frame, `last` samples
    behind its anchor.
    """
    if balance is not None and sampling_weight is not None:
        raise InvalidValueError(
            f"balance={balance!r} and sampling_weight={sampling_weight!r} both say how often samples are drawn; expected one."
        )
    if sampling_weight is not None:
        weights = _of_windows(_weights(dataset, sampling_weight), anchors, last)
        weighted = Weighted(weights, seed)
        words = f"sampled by {sampling_weight!r} (one sample at most {weighted.most - 1} times an epoch)"
        return Sampling(Draws(weighted), words, f"sampling_weight {sampling_weight} {_digest(weights)}")
    if balance is None:
        return None
    field, by_class = _asked(balance)
    labels = dataset._labels(field, "balance")
    asked = [1.0] * len(labels.names) if by_class is None else _class_weights(labels, by_class, field)
    codes = _of_windows(labels.codes, anchors, last)
    rule = Balance(codes, shares(len(anchors), asked), seed)
    for name, members, count in zip(labels.names, rule.members, rule.counts, strict=True):
        if count and not members:
            raise InvalidValueError(
                f"balance={field!r}: no window ends with a sample of the class {name!r}. Shorten the windows, or give the class "
                f"the weight 0: balance={{{field!r}: {{{name!r}: 0, ...}}}}."
            )
    most = max(range(len(rule.repeats)), key=rule.repeats.__getitem__)
    words = f"balanced by {field!r} (a sample of class {labels.names[most]!r} {rule.repeats[most]:.3g} times an epoch)"
    return Sampling(Draws(rule), words, f"balance {field} {_digest(codes, rule.counts)}")


def _digest(of_anchors: Array, counts: Sequence[int] = ()) -> str:
    """Return a digest of all classes or weights, which decide the order: the fingerprint of the data covers a few samples."""
    digest = hashlib.blake2b(repr(counts).encode(), digest_size=8)
    digest.update(of_anchors.view(np.uint8).data)
    return digest.hexdigest()


def _asked(balance: Any) -> tuple[str, Mapping[Any, float] | None]:
    if isinstance(balance, str):
        return balance, None
    if isinstance(balance, Mapping) and len(balance) == 1:
        field, by_class = next(iter(balance.items()))
        if isinstance(by_class, Mapping):
            return field, by_class
    raise InvalidTypeError(
        f"balance={balance!r} is not understood; expected the name of a field of classes, such as 'label', or the weight of each "
        "class, such as {'label': {'cat': 1, 'dog': 3}}."
    )


def _class_weights(labels: Labels, by_class: Mapping[Any, float], field: str) -> list[float]:
    """Return the weight of each class. Classes are named as in `Labels.names`, or by their number."""
    names: Sequence[Any] = labels.names
    known = {**dict(zip(labels.indices, range(len(names)), strict=True)), **dict(zip(names, range(len(names)), strict=True))}
    weights: dict[int, float] = {}
    for name, weight in by_class.items():
        if name not in known:
            raise KeyNotFoundError(
                f"balance names the class {name!r}, of which {field!r} has no sample here; the classes are {listed(names)}."
            )
        if isinstance(weight, bool) or not isinstance(weight, (int, float, np.number)) or not 0 <= float(weight) < math.inf:
            raise InvalidValueError(f"balance gives {name!r} the weight {weight!r}; expected a finite number, 0 or more.")
        weights[known[name]] = float(weight)
    missing = [name for code, name in enumerate(names) if code not in weights]
    if missing:
        raise InvalidValueError(
            f"balance gives no weight to {listed(missing)} of {field!r}; expected one for each class, 0 to leave it out."
        )
    if not any(weights.values()):
        raise InvalidValueError(f"balance gives all classes of {field!r} the weight 0; expected one above 0.")
    return [weights[code] for code in range(len(names))]


def _weights(dataset: Dataset, field: Any) -> Array:
    if not isinstance(field, str):
        raise InvalidTypeError(
            f"sampling_weight={type(field).__name__} is not understood; expected the name of a field. Add an array of "
            "weights as a field: mmapstore.open({**ds.fields, 'p': array})."
        )
    one = dataset[field]
    if one.shape != (len(one),) or one.dtype.kind not in "biuf":
        raise InvalidTypeError(
            f"sampling_weight={field!r}: the field holds {one.shape[1:]} {one.dtype}; expected one number for each sample."
        )
    weights = np.empty(len(one), one.dtype if one.dtype.kind == "f" and one.dtype.itemsize >= 4 else np.float32)
    for start in range(0, len(one), _PIECE):
        piece = weights[start : start + _PIECE]
        piece[:] = one[start : start + _PIECE]
        wrong = ~((piece >= 0) & (piece < np.inf))
        if wrong.any():
            at = int(wrong.argmax())
            raise InvalidValueError(
                f"sampling_weight={field!r}: sample {start + at} has the weight {piece[at]}; expected finite numbers, 0 or more."
            )
    return weights


def _of_windows(of_samples: Array, anchors: Anchors, last: int) -> Array:
    """Return the entry of each window's last input frame; the same array where every sample is a window."""
    if len(anchors) == len(of_samples):
        return of_samples
    found = np.empty(len(anchors), of_samples.dtype)
    for start in range(0, len(anchors), _PIECE):
        numbers = np.arange(start, min(start + _PIECE, len(anchors)), dtype=np.int64)
        found[start : start + _PIECE] = of_samples[anchors.starts(numbers) + last]
    return found
