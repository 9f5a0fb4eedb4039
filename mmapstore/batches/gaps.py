"""Gaps in time stamps, as the ends of episodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..plain.errors import InvalidTypeError, InvalidValueError

if TYPE_CHECKING:
    from .samples import Samples

_MOST_STEPS = 1.5  # to the next sample: more is a gap, less is jitter


def ends_at_gaps(stamps: Samples, where: str, step: float | None) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return offsets, from 0 to the number of samples, of the runs without a gap. Takes 16 bytes of memory a sample meanwhile."""
    if stamps.shape != (len(stamps),) or stamps.dtype.kind not in "iuf":
        raise InvalidTypeError(f"{where}: the field holds {stamps.shape[1:]} {stamps.dtype}; expected one number for each sample.")
    times = stamps[:]
    if times.dtype.kind == "u":
        times = times.astype(np.int64)
    steps = np.diff(times)
    if step is None:
        step = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    if not 0 < step < np.inf:
        raise InvalidValueError(f"{where}: step={step}; expected the time from one sample to the next, a number above 0.")
    gaps = np.flatnonzero(~((steps > 0) & (steps <= _MOST_STEPS * step))) + 1
    return np.concatenate([[0], gaps, [len(times)]]).astype(np.int64)
