"""A strategy of feeding Keras, short enough to be judged by an expert on it.

A strategy of this package is a decorated function. A user's own strategy is a .py file with the same parts as module attributes:

    NAME                 the title in tables, such as "fit(memmap)"
    KINDS                the kinds of task it serves, keys of `contract.KINDS`
    STORED               the beginnings of the stored forms it reads, keys of `contract.FORMS`; ("",) for all forms
    REQUIRES             packages it needs beside Keras, TensorFlow and NumPy
    private(task)        predicted bytes of private memory at the peak
    fit_arguments(task)  the keyword arguments of `keras.Model.fit`: {"x": x, "y": y, "batch_size": 32}
    prepare(task)        optional: writes what has to exist before training, in a process of its own

Only `fit_arguments` and `prepare` may import a framework.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...formats.registry import open_stored, split_inside
from ..contract import Task
from .framework_memory import by_sample

ARRAYS = ("next", "labelled", "input")
REGISTERED: dict[str, Strategy] = {}
Fit = TypeVar("Fit", bound=Callable[..., dict[str, Any]])


@dataclass(frozen=True)
class Strategy:
    """One strategy, with the parts that the module's docstring names."""

    name: str
    title: str
    private: Callable[[Task], int]
    fit_arguments: Callable[..., dict[str, Any]]
    kinds: tuple[str, ...] = ARRAYS
    stored: tuple[str, ...] = ("npy",)
    requires: tuple[str, ...] = ()
    prepare: Callable[[Task], object] | None = None

    def serves(self, kind: str, form: str) -> bool:
        return kind in self.kinds and form.startswith(self.stored)


def strategy(title: str, private: Callable[[Task], int], **parts: Any) -> Callable[[Fit], Fit]:
    """Register the decorated function as a strategy; `parts` are those of `Strategy` that differ from their defaults."""

    def enter(function: Fit) -> Fit:
        REGISTERED[function.__name__] = Strategy(function.__name__, title, private, function, **parts)
        return function

    return enter


def own(path: str) -> Strategy:
    """Load a user's own strategy from the .py file at `path`."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, Path(path).resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Strategy(
        Path(path).stem, module.NAME, module.private, getattr(module, "fit_arguments", dict), tuple(module.KINDS),
        tuple(module.STORED), tuple(module.REQUIRES), getattr(module, "prepare", None),
    )  # fmt: skip


def arrays(task: Task, mmap_mode: Any = "r") -> tuple[Any, ...]:
    """Load (x, y) of a .npy: frames and the frames after them, or samples and their labels; (x,) where the task has no y."""
    a = np.load(task.path, mmap_mode=mmap_mode)
    if task.kind == "next":
        return a[:-1], a[1:]
    return (a,) if task.labels is None else (a, np.load(task.labels))


def by_read(task: Task) -> int:
    """Predict batches that a format's library reads: it needs the stored chunk and a filter's buffer beside them."""
    chunks = open_stored(*split_inside(task.path)).chunks
    return by_sample(task) + (0 if chunks is None else 2 * math.prod(chunks) * np.dtype(task.dtype).itemsize)
