"""A position in the epochs as small JSON, bound to the order and to the data that it was taken in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..plain.errors import StateMismatchError


def saved_position(epoch: int, batch: int, order: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
    """`order` is all that the order follows from, `fingerprint` that of the data."""
    return {"version": 1, "epoch": int(epoch), "batch": int(batch), "order": dict(order), "fingerprint": fingerprint}


def loaded_position(
    state: Mapping[str, Any], order: Mapping[str, Any], fingerprint: Callable[[], str], batches: int, name: str
) -> tuple[int, int]:
    """(epoch, batch) of a saved position in this order of this data, which is called `name` and has `batches` an epoch.

    Raises StateMismatchError if it belongs to another order, to other data, or lies outside.
    """
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
