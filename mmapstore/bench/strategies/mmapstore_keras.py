"""mmapstore, as a Sequence for Keras, in stored order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..contract import Task

if TYPE_CHECKING:
    from ...batches.batches import Batches

NAME = "mmapstore to_keras"
KINDS = ("next", "labelled")
STORED = ("npy", "h5", "zarr")
REQUIRES = ()


def batches(task: Task) -> Batches:
    import mmapstore as mm

    if task.labels is None:
        return mm.open(task.path, episodes=task.samples).batches(task.batch, mm.NextFrame())
    return mm.open({"x": task.path, "y": task.labels}).batches(task.batch, "y")


def private(task: Task) -> int:
    return batches(task).memory.total


def fit_arguments(task: Task) -> dict[str, Any]:
    return {"x": batches(task).to_keras(), "shuffle": False}
