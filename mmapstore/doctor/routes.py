"""What the ways of feeding Keras would materialise for this data, as the strategies of the benchmark predict it. Runs none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..bench import strategies
from ..bench.contract import Task
from .case import NEXT, NONE, Case
from .places import Place

_FORMS = {".npy": "npy", "HDF5": "h5", "Zarr": "zarr", ".npz": "npz"}
OURS = "mmapstore"
_CLASS_NBYTES = 64  # of one y


@dataclass(frozen=True)
class Route:
    """One way. `nbytes` of private memory at its peak, over that of the framework; `fits` in what is available now.

    `least` differs from `nbytes` where the peak is left to chance: it lies between them.
    """

    name: str
    nbytes: int
    least: int
    fits: bool


def routes_of(case: Case) -> list[Route]:
    """The ways that are open to whoever has this file, the dearest first; mmapstore's own are predicted elsewhere."""
    task = task_of(case)
    found = dict.fromkeys(strategies.serving(task), task)
    if task.form != "npy":
        # Whoever reads all of it into an array has what he would have from a .npy.
        in_ram = Task(**{**vars(task), "form": "npy"})
        found.update({name: in_ram for name in strategies.serving(in_ram) if name == "array_in_ram"})
    return predicted(found, case.available, _with_target(case))


def _with_target(case: Case) -> float:
    """What strategies know of a field y is that it is a class: larger ones, such as masks, are kept and copied the way x is."""
    if case.target in (NEXT, NONE):
        return 1.0
    y = case.dataset.readers[case.target].spec.sample_nbytes
    return 1.0 if y <= _CLASS_NBYTES else 1.0 + y / max(1, case.spec.sample_nbytes)


def predicted(found: dict[str, Task], available: int, times: float = 1.0) -> list[Route]:
    """Of strategies by name, the dearest first, without mmapstore's own; each `times` what it says."""
    routes = []
    for name, task in found.items():
        strategy = strategies.load(name)
        if not strategy.NAME.startswith(OURS):
            nbytes = int(strategy.private(task) * times)
            least = int(strategy.least(task) * times) if hasattr(strategy, "least") else nbytes
            routes.append(Route(strategy.NAME, nbytes, least, nbytes <= available))
    return sorted(routes, key=lambda route: -route.nbytes)


def task_of(case: Case) -> Task:
    """As the benchmark would call it."""
    form = "".join(_form(case.place, case))
    labels = case.places.get(case.target)
    return Task(
        kind="next" if case.target == NEXT else "labelled",
        form=form,
        path=case.place.paths[0],
        samples=len(case.dataset),
        shape=case.spec.sample_shape,
        dtype=case.spec.dtype.name,
        labels=None if case.target in (NEXT, NONE) or labels is None else labels.paths[0],
        batch=case.batch,
    )


def _form(place: Place, case: Case) -> Iterator[str]:
    yield _FORMS[place.format]
    if case.stored.chunks is not None and place.format in ("HDF5", "Zarr"):
        yield "-own"
