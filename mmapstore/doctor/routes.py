"""Private memory of other strategies to feed Keras with this data, as the benchmark predicts it. Runs none of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..bench import strategies
from ..bench.contract import Task
from .subject import NEXT, NONE, Subject

_FORMS = {".npy": "npy", "HDF5": "h5", "Zarr": "zarr", ".npz": "npz"}
_OURS = "mmapstore"
_CLASS_NBYTES = 64  # of a y that is a class


@dataclass(frozen=True)
class Route:
    """A strategy, its peak of private memory in bytes beside the framework's own, and True if these are available."""

    name: str
    nbytes: int
    fits: bool


def routes_of(subject: Subject) -> list[Route]:
    """Return the strategies for this file except mmapstore's own, the largest peak first."""
    task = task_of(subject)
    found = dict.fromkeys(strategies.serving(task), task)
    if task.form != "npy":
        found["array_in_ram"] = replace(task, form="npy")  # an array read from any file is the same as one from a .npy
    times = 1.0
    if subject.target not in (NEXT, NONE):
        # Strategies take a field y for a class; a larger y, such as a mask, is kept and copied the way x is.
        y = subject.dataset.readers[subject.target].spec.sample_nbytes
        times += y / max(1, subject.spec.sample_nbytes) if y > _CLASS_NBYTES else 0.0
    return predicted(found, subject.available, times)


def predicted(found: Mapping[str, Task], available: int, times: float = 1.0) -> list[Route]:
    """Return the routes of strategies by name, the largest first, without mmapstore's own; each `times` its prediction."""
    routes = []
    for name, task in found.items():
        strategy = strategies.load(name)
        if not strategy.title.startswith(_OURS):
            nbytes = int(strategy.private(task) * times)
            routes.append(Route(strategy.title, nbytes, nbytes <= available))
    return sorted(routes, key=lambda route: -route.nbytes)


def task_of(subject: Subject) -> Task:
    """Return the subject as a task of the benchmark."""
    kind, form = "next" if subject.target == NEXT else "labelled", _FORMS[subject.location.format]
    form += "-own" * (subject.stored.chunks is not None and form in ("h5", "zarr"))
    labels = None if subject.target in (NEXT, NONE) else subject.locations[subject.target].paths[0]
    path, spec = subject.location.paths[0], subject.spec
    return Task(kind, form, path, len(subject.dataset), spec.sample_shape, spec.dtype.name, labels, subject.batch)
