"""Checks of the arguments of `Dataset.batches`, and of states of `Batches`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..plain.errors import InvalidTypeError, InvalidValueError, StateMismatchError
from ..plain.resumed_order import Begun, batches_of, samples_left
from ..plain.windows import Anchors, Episodes
from .plan import Plan
from .worker_rank import WorkerRank, worker_rank

_MAY_DIFFER = ("batch_size", "drop_last", "shard")  # of the order that a saved position belongs to


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
    state: Mapping[str, Any], order: Mapping[str, Any], fingerprint: Callable[[], str], name: str
) -> tuple[int, int, tuple[Begun, ...]]:
    """Return (epoch, batch, workers that have begun the epoch with other batches) of what `Batches.state_dict` returned.

    `order` and `fingerprint` are those of the batches to go on with.
    """
    epoch, batch, saved_order = saved_position(state, order, fingerprint, name, _MAY_DIFFER)
    try:
        before = tuple(Begun(int(workers), int(samples)) for workers, samples in state.get("before", ()))
        saved_batches = _measures(saved_order)
    except (KeyError, TypeError, ValueError) as error:
        raise _no_position(state) from error
    anchors, (workers, size, _) = int(order["samples"]), saved_batches
    first, end = _batches_left(anchors, before, *saved_batches)
    steps = (samples_left(anchors, before[:number]) // max(1, each.workers) for number, each in enumerate(before))
    is_possible = all(each.workers >= 1 and 0 <= each.samples <= most for each, most in zip(before, steps, strict=True))
    if epoch < 0 or not first <= batch <= end or min(workers, size) < 1 or not is_possible:
        raise outside_epoch(epoch, batch, end)
    if saved_batches == _measures(order):
        return epoch, batch, before
    if batch == end:
        return epoch + 1, 0, ()
    if batch > first:
        before = (*before, Begun(workers, (batch - first) * size))
    return epoch, _batches_left(anchors, before, *_measures(order))[0], before


def saved_position(
    state: Mapping[str, Any], order: Mapping[str, Any], fingerprint: Callable[[], str], name: str, may_differ: Sequence[str] = ()
) -> tuple[int, int, dict[str, Any]]:
    """Return (epoch, batch, order) of a saved state. Raises StateMismatchError unless it is of this order and of these data."""
    try:
        epoch, batch = int(state["epoch"]), int(state["batch"])
        saved_order, saved_fingerprint = dict(state["order"]), str(state["fingerprint"])
    except (KeyError, TypeError, ValueError) as error:
        raise _no_position(state) from error
    differing = [
        f"{key}: saved {saved_order.get(key)!r}, now {value!r}"
        for key, value in order.items()
        if key not in may_differ and saved_order.get(key) != value
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
    return epoch, batch, saved_order


def outside_epoch(epoch: int, batch: int, batches: int) -> StateMismatchError:
    return StateMismatchError(f"the saved position is epoch {epoch}, batch {batch}, but an epoch has {batches} batches.")


def _no_position(state: Any) -> StateMismatchError:
    return StateMismatchError(f"{state!r} is not a saved position; expected what state_dict() returned.")


def _measures(order: Mapping[str, Any]) -> tuple[int, int, bool]:
    """Return (workers, batch_size, drop_last) of an order as JSON."""
    return int(order["shard"][1]), int(order["batch_size"]), bool(order["drop_last"])


def _batches_left(anchors: int, before: Sequence[Begun], workers: int, size: int, drop_last: bool) -> tuple[int, int]:
    """Return the first batch that each of `workers` has left of an epoch, and the number of batches in a whole one."""
    end = batches_of(anchors // max(1, workers), max(1, size), drop_last)
    return end - batches_of(samples_left(anchors, before) // max(1, workers), max(1, size), drop_last), end
