"""What a run will do, how long that takes and what would not fit: told before anything is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePath

from ..plain.memory_budget import format_bytes
from .contract import NOT_RUN, Row, Task, delivered, name_of

DEFAULT_SIZE = "300MB"  # takes some 900 MB where it is held in RAM: beyond all doubt, and no row takes long
LARGEST_OF_SCALE = "8GB"
FRAMEWORK = 400_000_000  # private bytes of a process that has started TensorFlow on a CPU: 260 MB were measured, and more is safe
START_SECONDS = 10.0  # until TensorFlow is imported and one step compiled and run, on 2 cores
# Bytes of x and y a second through `fit`, on 2 cores from the page cache, the summing of every bit included.
USUAL_RATE = 1.0e9
RATES = {
    "from_generator": 0.3e9,
    "from_generator_args": 0.3e9,
    "shuffle_n": 0.25e9,
    "timeseries": 0.3e9,
    "image_data_generator": 0.04e9,
    "image_dataset": 0.1e9,
    "image_dataset_cached": 0.2e9,
}
# Bytes a second that it takes besides, once for each sample of an epoch.
_DECODED = {"folder": 10e9, "h5": 1.5e9, "h5-gzip": 0.3e9, "zarr": 1.0e9, "zarr-zstd": 0.5e9}
_USUALLY_DECODED = 0.5e9
_FROM_DISK = 0.5e9
# Bytes a second at which data is generated and written.
_WRITTEN = {"npy": 0.3e9, "h5": 0.5e9, "h5-gzip": 0.05e9, "zarr": 0.3e9, "zarr-zstd": 0.15e9, "folder": 0.03e9}
_STORED = {"h5-gzip": 0.7, "zarr-zstd": 0.7, "folder": 0.3}  # bytes on disk for each byte of data


@dataclass(frozen=True)
class Planned:
    """One row to come.

    Attributes
    ----------
    predicted : bytes of private memory; None where that cannot be told yet
    seconds : that the process may take
    missing : what has to be installed first; "" if nothing
    too_large : what is predicted and what there is, where that is less and it is not to be run all the same; else ""
    """

    strategy: str
    task: Task
    predicted: int | None
    seconds: float
    missing: str = ""
    too_large: str = ""

    @property
    def runs(self) -> bool:
        return not (self.missing or self.too_large)

    def not_run(self) -> Row:
        """The row of what is not run."""
        task, why = self.task, self.missing or self.too_large
        return Row(name_of(self.strategy), task.form, task.kind, NOT_RUN, why, data_nbytes=task.nbytes, predicted=self.predicted)


@dataclass(frozen=True)
class Stage:
    """A part of the run beside the rows: what it does in words, how many processes that takes, and seconds."""

    words: str
    runs: int
    seconds: float


def plan_rows(
    ways: Iterable[tuple[str, Task]],
    *,
    epochs: int,
    available: int,
    predict: Callable[[str, Task], int | None],
    missing: Callable[[str, Task], str],
    cold: bool = False,
    run_all: bool = False,
) -> list[Planned]:
    """Every way that was asked for, run or not. A way would not fit if what it is predicted to take, and the framework, are over
    `available` bytes; `run_all` runs it all the same."""
    found = []
    for strategy, task in ways:
        absent, too_large = missing(strategy, task), ""
        predicted = None if absent else predict(strategy, task)
        if predicted is not None and predicted + FRAMEWORK > available and not run_all:
            too_large = (
                f"would not fit: predicted {format_bytes(predicted)} and {format_bytes(FRAMEWORK)} of the framework, "
                f"available {format_bytes(available)}"
            )
        found.append(Planned(strategy, task, predicted, seconds_of(strategy, task, epochs, cold), absent, too_large))
    return found


def seconds_of(strategy: str, task: Task, epochs: int, cold: bool = False) -> float:
    """An estimate for one process: from starting Python to the end of the last epoch.

    >>> round(seconds_of("fit_memmap", Task("next", "npy", "a.npy", 10**6 + 1, (250,), "float32"), epochs=2))
    14
    """
    epoch = delivered(task.kind, task.nbytes, task.pairs) / RATES.get(strategy, USUAL_RATE)
    if task.form != "npy":
        epoch += task.nbytes / _DECODED.get(task.form, _USUALLY_DECODED)
    return START_SECONDS + epochs * epoch + (task.nbytes / _FROM_DISK if cold else 0)


def to_write(tasks: Iterable[Task], exists: Callable[[str], bool]) -> tuple[int, float]:
    """(bytes of disk, seconds), estimates, for generating what is not there yet of these tasks.

    All forms but images are converted from a .npy, which is made too.
    """
    nbytes, seconds = 0.0, 0.0
    wanted = {}
    for task in tasks:
        if task.form not in ("npy", "folder"):
            wanted[str(PurePath(task.path.partition("::")[0]).with_name("data.npy"))] = ("npy", task.nbytes)
        wanted[task.path.partition("::")[0]] = (task.form, task.nbytes)
    for path, (form, size) in wanted.items():
        if not exists(path):
            nbytes += size * _STORED.get(form, 1.0)
            seconds += size / _WRITTEN[form]
    return round(nbytes), seconds


class TimeLeft:
    """Seconds that the rest of a plan takes, learned from how the beginning went.

    >>> left = TimeLeft(40)
    >>> left.took(20, estimate=10)
    >>> left.seconds
    60.0
    >>> left.skipped(estimate=20)
    >>> left.seconds
    20.0
    """

    def __init__(self, estimate: float) -> None:
        self._left = float(estimate)
        self._estimated = self._took = 0.0

    @property
    def seconds(self) -> float:
        return max(0.0, self._left) * (self._took / self._estimated if self._estimated else 1.0)

    def took(self, seconds: float, estimate: float) -> None:
        """A run is done that took this long."""
        self._left -= estimate
        self._estimated += estimate
        self._took += seconds

    def skipped(self, estimate: float) -> None:
        """A run that was planned is not needed."""
        self._left -= estimate


# --- in words -----------------------------------------------------------------------------------------------------------


def format_duration(seconds: float) -> str:
    """
    >>> format_duration(0.4), format_duration(44), format_duration(400), format_duration(7800), format_duration(3600)
    ('1 s', '40 s', '7 min', '2 h 10 min', '1 h')
    """
    if seconds < 90:
        return f"{max(1, round(seconds)) if seconds < 20 else round(seconds, -1):.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    return f"{minutes} min" if not hours else f"{hours} h {minutes} min" if minutes else f"{hours} h"
