"""Where contiguous parts begin and end. Arithmetic only."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

from ..plain.errors import InvalidTypeError, InvalidValueError


def split_points(total: int, parts: Sequence[Any], gap: Any, unit: str) -> list[tuple[int, int]]:
    """[start, stop) of each part: floats are fractions of what the gaps leave, ints are counts.

    >>> split_points(100, (0.6, 0.2, 0.2), gap=0, unit="samples"), split_points(100, (0.5, 10), gap=4, unit="samples")
    ([(0, 60), (60, 80), (80, 100)], [(0, 48), (52, 62)])
    """
    if not parts:
        raise InvalidValueError("split() was given no parts; expected fractions such as split(0.6, 0.2, 0.2), or counts.")
    if isinstance(gap, bool) or not isinstance(gap, numbers.Integral) or gap < 0:
        raise InvalidValueError(f"gap={gap!r} is not a number of {unit} to leave out; expected 0 or more.")
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, numbers.Real):
            raise InvalidTypeError(f"{part!r} is not a part; expected a fraction such as 0.2, or a count such as 1000.")
        if not float(part) > 0:
            raise InvalidValueError(f"a part of {part} is empty; expected a fraction above 0 or a count of at least 1.")
    fractions = [float(part) for part in parts if not isinstance(part, numbers.Integral)]
    if sum(fractions) > 1 + 1e-9:
        raise InvalidValueError(f"the fractions {fractions} add up to {sum(fractions):.6g}; expected at most 1.")
    room = total - int(gap) * (len(parts) - 1)
    counts, shared, so_far = [], 0.0, 0
    for part in parts:
        if isinstance(part, numbers.Integral):
            counts.append(int(part))
        else:
            # Rounding the running sum, not each part, so that fractions which add up to 1 leave nothing over.
            shared += float(part)
            counts.append(round(shared * room) - so_far)
            so_far += counts[-1]
    if sum(counts) > room:
        raise InvalidValueError(f"the parts take {sum(counts)} {unit} and the gaps {total - room}, but there are {total}.")
    if min(counts) < 1:
        raise InvalidValueError(f"the parts {tuple(parts)} of {total} {unit} come to {counts}: one is empty. Make it larger.")
    points, start = [], 0
    for count in counts:
        points.append((start, start + count))
        start += count + int(gap)
    return points
