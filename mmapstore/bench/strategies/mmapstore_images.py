"""The images ingested once (`mmapstore ingest FOLDER DIRECTORY`), and then read from a memory map, in stored order.

Decoding is paid before training, and what is mapped are the uint8 pixels: more disk than the JPEGs, less than floats in memory.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ..contract import Task

if TYPE_CHECKING:
    from ...batches.batches import Batches

NAME = "mmapstore, images ingested"
KINDS = ("images",)
STORED = ("folder",)
REQUIRES = ("PIL",)


def stored_at(task: Task) -> str:
    return task.prepared or f"{task.path.rstrip(os.sep)}-ingested"


def prepare(task: Task) -> None:
    import mmapstore as mm

    if not os.path.exists(stored_at(task)):
        os.makedirs(os.path.dirname(os.path.abspath(stored_at(task))), exist_ok=True)
        images = mm.Images(
            task.path, size=task.shape[:2], channels=task.shape[2], dtype="uint8", order="sorted", source_field=False
        )
        mm.ingest(images, stored_at(task), layout="NHWC", progress=False)


def batches(task: Task) -> Batches:
    import mmapstore as mm

    return mm.open(stored_at(task), episodes=task.samples).batches(task.batch, "label", inputs="image")


def private(task: Task) -> int:
    import mmapstore as mm

    if os.path.exists(stored_at(task)):
        return batches(task).memory.total
    image, label = np.zeros((), np.uint8), np.zeros((), np.int64)  # not there yet: arrays of that shape that take no memory
    shapes = {"image": (task.samples, *task.shape), "label": (task.samples,)}
    planned = {"image": np.broadcast_to(image, shapes["image"]), "label": np.broadcast_to(label, shapes["label"])}
    return mm.open(planned, layout={"image": "NHWC"}).batches(task.batch, "label", inputs="image").memory.total


def fit_arguments(task: Task) -> dict[str, Any]:
    return {"x": batches(task).to_keras(), "shuffle": False}
