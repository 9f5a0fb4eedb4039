"""Strategies on mmapstore's batches of arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..contract import Task
from .strategy import strategy

if TYPE_CHECKING:
    from ...batches.batches import Batches

_STORED = ("npy", "h5", "zarr")


def batches(task: Task, **options: Any) -> Batches:
    """Open a task with mmapstore."""
    import mmapstore as mm

    if task.labels is not None:
        return mm.open({"x": task.path, "y": task.labels}).batches(task.batch, "y", **options)
    target = mm.NextFrame() if task.kind == "next" else None
    return mm.open(task.path, episodes=task.samples).batches(task.batch, target, **options)


@strategy("mmapstore to_keras", lambda task: batches(task).memory.total, stored=_STORED)
def mmapstore_keras(task: Task) -> dict[str, Any]:
    """mmapstore, as a Sequence for Keras, in sequential order."""
    return {"x": batches(task).to_keras(), "shuffle": False}


@strategy("mmapstore to_tf", lambda task: batches(task).memory.total, stored=_STORED)
def mmapstore_tf(task: Task) -> dict[str, Any]:
    """mmapstore, as a tf.data.Dataset, in sequential order."""
    return {"x": batches(task).to_tf()}


@strategy("mmapstore shuffled", lambda task: batches(task, shuffle=True, seed=task.seed).memory.total, stored=_STORED)
def mmapstore_shuffled(task: Task) -> dict[str, Any]:
    """mmapstore, shuffled: the samples of some 32 blocks of the file are mixed at a time, in another order each epoch."""
    return {"x": batches(task, shuffle=True, seed=task.seed).to_keras(), "shuffle": False}
