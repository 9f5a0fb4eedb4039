"""The arguments of `Dataset.batches`, checked: each error says what was found, what was expected, and what to do."""

from __future__ import annotations

import operator
from typing import Any

from ..plain.errors import InvalidTypeError, InvalidValueError
from ..plain.windows import Anchors, Episodes
from .plan import Plan


def whole_number(name: str, value: Any, least: int | None = None) -> int:
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InvalidTypeError(f"{name}={value!r} is not a whole number.") from error
    if least is not None and number < least:
        raise InvalidValueError(f"{name}={number} is too small; expected {least} or more.")
    return number


def checked_shard(shard: Any) -> tuple[int, int]:
    try:
        index, count = (operator.index(number) for number in shard)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(
            f"shard={shard!r} is not understood; expected (index, count), such as (0, 4) for the first of four."
        ) from error
    if not 0 <= index < count:
        raise InvalidValueError(f"shard={shard!r} does not exist; expected an index from 0 to count - 1.")
    return index, count


def window_range(start: int, stop: int | None, episodes: Episodes) -> tuple[int, int | None]:
    samples = int(episodes.offsets[-1])
    if start >= samples or (stop is not None and stop > samples):
        raise InvalidValueError(
            f"windows from start_index={start} to end_index={stop} leave the data, which has {samples} samples."
        )
    return start, stop


def require_windows(anchors: Anchors, plan: Plan, shard: tuple[int, int], name: str) -> None:
    low, high = plan.reach()
    if len(anchors) == 0:
        raise InvalidValueError(
            f"{name} has no window: one spans {high - low + 1} samples, the longest episode has {anchors.longest_episode}. "
            "Shorten the window (history, horizon, lead, sampling_rate), or give longer episodes."
        )
    if len(anchors) < shard[1]:
        raise InvalidValueError(f"{name} has {len(anchors)} windows, too few for {shard[1]} shards.")
