"""Checks of the arguments of `Dataset.batches`, and of states of `Batches`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from ..plain.errors import InvalidTypeError, InvalidValueError, StateMismatchError
from ..plain.windows import Anchors, Episodes
from .plan import Plan
from .worker_rank import WorkerRank, worker_rank


def checked_shard(shard: Any) -> WorkerRank:
    if isinstance(shard, str) and shard == "auto":
        return worker_rank()
    try:
        index, count = (operator.index(number) for number in shard)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(
            f"shard={shard!r} is not understood; expected (index, count), such as (0, 4) for the first of four, or 'auto'."
        ) from error
    if not 0 <= index < count:
        raise InvalidValueError(f"shard={shard!r} does not exist; expected an index from 0 to count - 1.")
    return WorkerRank(index, count, "given")


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


def loaded_position(
    state: Mapping[str, Any], order: Mapping[str, Any], fingerprint: Callable[[], str], batches: int, name: str
) -> tuple[int, int]:
    """Return the (epoch, batch) of what `Batches.state_dict` returned; `order` and `fingerprint` are those of `batches` batches."""
    try:
        epoch, batch = int(state["epoch"]), int(state["batch"])
        saved_order, saved_fingerprint = dict(state["order"]), str(state["fingerprint"])
    except (KeyError, TypeError, ValueError) as error:
        raise StateMismatchError(f"{state!r} is not a saved position; expected what state_dict() returned.") from error
    differing = [
        f"{key}: saved {saved_order.get(key)!r}, now {value!r}" for key, value in order.items() if saved_order.get(key) != value
    ]
    if differing:
        raise StateMismatchError(
            f"the saved position belongs to another order ({'; '.join(differing)}). Make the batches as they were."
        )
    if saved_fingerprint != (now := fingerprint()):
        raise StateMismatchError(
            f"the saved position belongs to other data than {name}: lengths agree, contents do not "
            f"(fingerprint saved {saved_fingerprint}, now {now}). Open the data as they were, or begin anew."
        )
    if epoch < 0 or not 0 <= batch <= batches:
        raise StateMismatchError(f"the saved position is epoch {epoch}, batch {batch}, but an epoch has {batches} batches.")
    return epoch, batch
