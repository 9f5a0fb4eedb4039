"""The plan of a run: strategies and tasks, with their time, disk and memory. Nothing is run here."""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from ..plain.display import format_duration
from ..plain.errors import InvalidValueError, MmapstoreError
from ..plain.inside_names import file_of
from ..plain.memory_budget import format_bytes, parse_bytes
from . import strategies
from .contract import KINDS, NOT_RUN, Row, Task, delivered, name_of
from .derived import USUAL_FRAMEWORK as FRAMEWORK
from .derived import grouped, holds_the_data, title
from .generated_data import planned
from .selection import chosen_forms, chosen_kinds, chosen_strategies
from .tasks import of_user

DEFAULT_SIZE = "300MB"
DEFAULT_DIRECTORY = "mmapstore-bench"  # in the temporary directory
_WRITTEN_BY = {"h5": ("h5py", "hdf5"), "zarr": ("zarr", "zarr"), "folder": ("PIL", "images")}  # module, extra

START_SECONDS = 10.0  # until TensorFlow is imported and one step compiled and run, on 2 cores
# Bytes of x and y a second through `fit`, on 2 cores from the page cache, the summing of every bit included.
USUAL_RATE = 1.0e9
RATES = {
    **dict.fromkeys(("from_generator", "from_generator_args", "timeseries"), 0.3e9),
    **{"shuffle_n": 0.25e9, "image_data_generator": 0.04e9, "image_dataset": 0.1e9, "image_dataset_cached": 0.2e9},
}
# Bytes a second that decoding takes besides, once for each sample of an epoch.
_DECODED = {"npy": float("inf"), "folder": 10e9, "h5": 1.5e9, "h5-gzip": 0.3e9, "zarr": 1.0e9, "zarr-zstd": 0.5e9}
_USUALLY_DECODED, _FROM_DISK = 0.5e9, 0.5e9
# Bytes a second at which data is generated and written; and bytes on disk for each byte of data.
_WRITTEN = {"npy": 0.3e9, "h5": 0.5e9, "h5-gzip": 0.05e9, "zarr": 0.3e9, "zarr-zstd": 0.15e9, "folder": 0.03e9}
_STORED = {"h5-gzip": 0.7, "zarr-zstd": 0.7, "folder": 0.3}


def data_directory(options: argparse.Namespace) -> Path:
    return Path(options.data) if options.data else Path(tempfile.gettempdir()) / DEFAULT_DIRECTORY


# --- one row ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """One row to come.

    Attributes
    ----------
    predicted : bytes of private memory; None while unknown
    seconds : that the process may take
    missing : the packages to install first; "" if none
    too_large : the prediction and the memory available, if the row would not fit and --run-all was not given; else ""
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

    @property
    def name(self) -> str:
        return name_of(self.strategy)

    @property
    def data(self) -> tuple[str, int]:
        return self.task.kind, self.task.nbytes

    def holds_the_data(self) -> bool:
        """Return True if the strategy is predicted to hold the data in memory."""
        return holds_the_data(self.not_run())

    def not_run(self) -> Row:
        task, why = self.task, self.missing or self.too_large
        return Row(self.name, task.form, task.kind, NOT_RUN, why, data_nbytes=task.nbytes, predicted=self.predicted)

    def __str__(self) -> str:
        return f"{title(self.name)} ({self.task.form}, {self.task.kind})"


def predicted(strategy: str, task: Task) -> int | None:
    """Return the predicted bytes of private memory; None while the data that the prediction depends on do not exist."""
    try:
        return strategies.load(strategy).private(task)
    except MmapstoreError:
        return None


def plan_row(
    strategy: str, task: Task, *, epochs: int, available: int, cold: bool = False, run_all: bool = False, own: bool = True
) -> Planned:
    """Plan one row. It would not fit if its prediction and the framework are over `available` bytes; `run_all` runs it anyway.

    own : True for a user's data, which need not be written first
    """
    missing = strategies.missing(strategy) or ("" if own else unwritable(task))
    expected, too_large = None if missing else predicted(strategy, task), ""
    if expected is not None and expected + FRAMEWORK > available and not run_all:
        too_large = (
            f"would not fit: predicted {format_bytes(expected)} and {format_bytes(FRAMEWORK)} of the framework, "
            f"available {format_bytes(available)}"
        )
    return Planned(strategy, task, expected, seconds_of(strategy, task, epochs, cold), missing, too_large)


def unwritable(task: Task) -> str:
    """Return the package that is missing to generate data of this form, with the line that installs it; "" if none is."""
    module, extra = _WRITTEN_BY.get(task.form.split("-")[0], ("numpy", ""))
    return "" if importlib.util.find_spec(module) else f'{module} is not installed: pip install "mmapstore[{extra}]"'


def seconds_of(strategy: str, task: Task, epochs: int, cold: bool = False) -> float:
    """Estimate the seconds of one process, from starting Python to the end of the last epoch.

    >>> round(seconds_of("fit_memmap", Task("next", "npy", "a.npy", 10**6 + 1, (250,), "float32"), epochs=2))
    14
    """
    epoch = delivered(task.kind, task.nbytes, task.pairs) / RATES.get(strategy, USUAL_RATE)
    epoch += task.nbytes / _DECODED.get(task.form, _USUALLY_DECODED)
    return START_SECONDS + epochs * epoch + (task.nbytes / _FROM_DISK if cold else 0)


def to_write(tasks: Iterable[Task], exists: Callable[[str], bool] = lambda path: Path(path).exists()) -> tuple[int, float]:
    """Estimate (bytes of disk, seconds) for generating the missing data of these tasks.

    All forms but images are converted from a .npy, which is made too.
    """
    wanted = {}
    for task in tasks:
        path = file_of(task.path)
        if task.form != "folder":
            wanted[str(PurePath(path).with_name("data.npy"))] = ("npy", task.nbytes)
        wanted[path] = (task.form, task.nbytes)
    absent = [made for path, made in wanted.items() if not exists(path)]
    nbytes = sum(size * _STORED.get(form, 1.0) for form, size in absent)
    return round(nbytes), sum(size / _WRITTEN[form] for form, size in absent)


# --- all of a run -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """Everything to be measured.

    Attributes
    ----------
    rows : without a limit
    limited : under `limit` bytes, with a strategy that holds the data in memory among them if there is one
    to_make : data that has to exist; empty for the user's own
    notes : what was asked for and is left out, and why
    """

    rows: list[Planned]
    limit: int | None = None
    limited: list[Planned] = field(default_factory=list)
    to_make: list[Task] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def tasks(self) -> list[Task]:
        return list(dict.fromkeys(each.task for each in self.rows))

    @property
    def runs(self) -> int:
        """Number of processes."""
        return sum(one.runs for one in self.rows) + len(self.limited)

    def seconds_under_limit(self, epochs: int) -> float:
        return sum(seconds_of(one.strategy, one.task, epochs, cold=True) for one in self.limited)

    def seconds(self, epochs: int) -> float:
        """Estimate the seconds of all runs, without those that make the data."""
        return sum(one.seconds for one in self.rows if one.runs) + self.seconds_under_limit(epochs)

    def to_text(self, epochs: int, data: str, seconds: float) -> str:
        """Say what will be run, what will not, and how long it takes; `data` says where the data are or will be."""
        lines: list[tuple[str, str]] = []
        for (kind, nbytes), tasks in grouped(self.tasks, lambda task: (task.kind, task.nbytes)).items():
            task = tasks[0]
            about = f"{task.samples:,} samples of {task.dtype} ({', '.join(map(str, task.shape))}{',' * (len(task.shape) == 1)})"
            forms = ", ".join(each.form for each in tasks)
            lines += [(kind, KINDS[kind]), ("", f"{format_bytes(nbytes)}: {about}, batches of {task.batch}; stored as {forms}")]
        count = sum(one.runs for one in self.rows)
        runs = f"{count} row{'s' * (count != 1)} of {epochs} epoch{'s' * (epochs > 1)}, each in a process of its own"
        lines += [("data", data), ("runs", runs)]
        if self.limited:
            time = format_duration(self.seconds_under_limit(epochs))
            lines.append(("", f"{len(self.limited)} more under a limit of {format_bytes(self.limit or 0)}, {time} of the time"))
        stop = "Ctrl-C ends it and keeps what was measured"
        lines.append(("time", f"about {format_duration(seconds)}, estimated for 2 cores; {stop}"))
        for missing, rows in grouped((one for one in self.rows if not one.runs), lambda one: one.missing).items():
            words = (
                [f"{', '.join(map(str, rows))}: {missing}"] if missing else [f"{one} {one.too_large} (--run-all)" for one in rows]
            )
            lines += [("not run", each) for each in words]
        lines += [("note", note) for note in self.notes]
        return "\n".join(
            textwrap.fill(words, 120, initial_indent=f"  {name:<9} ", subsequent_indent=" " * 12, break_on_hyphens=False)
            for name, words in lines
        )


def workload(options: argparse.Namespace, available: int) -> Workload:
    """Plan what these options ask for on a machine with `available` bytes of memory.

    Raises InvalidValueError for invalid options, and the errors of `tasks.of_user`.
    """
    _check(options)
    names, notes = chosen_strategies(options.only), list[str]()
    limit = None if options.limit is None else parse_bytes(options.limit, "--limit")
    if limit is not None and limit > available:
        raise InvalidValueError(
            f"--limit {options.limit} limits nothing here: {format_bytes(available)} of memory are available. Give a smaller one."
        )
    own = options.path is not None
    if own:
        about = {"labels": options.labels, "batch": options.batch, "seed": options.seed, "directory": data_directory(options)}
        tasks = [of_user(options.path, **about, notes=notes)]
    else:
        sizes = [parse_bytes(size.strip(), "--size") for size in (options.size or DEFAULT_SIZE).split(",")]
        tasks = [
            planned(kind, form, nbytes, data_directory(options), options.seed, options.batch)
            for nbytes in ([2 * limit] if limit is not None and not options.size else sizes)
            for kind in chosen_kinds(options.task)
            for form in chosen_forms(options.form, kind)
        ]

    def rows_of(names: Sequence[str]) -> list[Planned]:
        how = {"epochs": options.epochs, "cold": options.cold, "run_all": options.run_all, "own": own}
        chosen = [(name, task) for task in tasks for name in names if strategies.load(name).serves(task.kind, task.form)]
        return [plan_row(name, task, available=available, **how) for name, task in chosen]

    rows = rows_of(names)
    if not rows:
        raise InvalidValueError(
            f"None of {', '.join(names)} is for {' or '.join(f'{task.kind} from {task.form}' for task in tasks)}. "
            "`mmapstore bench --list` has the tasks of each strategy."
        )
    possible = [one for one in rows if not one.missing]
    limited: list[Planned] = []
    if limit is not None:
        limited = possible + _controls(possible, rows_of(strategies.names()), notes)
        if limit < FRAMEWORK:
            least = format_bytes(FRAMEWORK)
            notes.append(f"a limit of {format_bytes(limit)} may be less than TensorFlow takes by itself; {least} are enough.")
    to_make = [] if own else [task for task in dict.fromkeys(tasks) if not unwritable(task)]
    return Workload(rows, limit, limited, to_make, notes)


def _check(options: argparse.Namespace) -> None:
    for name, least in (("epochs", 1), ("batch", 1), ("seed", 0), ("timeout", 1)):
        if getattr(options, name) < least:
            raise InvalidValueError(f"--{name} {getattr(options, name)} is not valid; expected {least} or more.")
    if options.path is None and options.labels is not None:
        raise InvalidValueError(f"--labels {options.labels} without the data they belong to: give their PATH as well.")
    for name in ("size", "form", "task"):
        if options.path is not None and getattr(options, name):
            raise InvalidValueError(f"--{name} is for generated data, and {options.path} is read as it is. Leave one of them out.")


def _controls(possible: Sequence[Planned], candidates: Sequence[Planned], notes: list[str]) -> list[Planned]:
    """Return, for each kind and size of data, the cheapest strategy that holds the data, unless one was asked for."""
    found = []
    for data in dict.fromkeys(one.data for one in possible):
        asked, others = (
            [one for one in rows if one.data == data and not one.missing and one.holds_the_data()]
            for rows in (possible, candidates)
        )
        if others and not asked:
            found.append(min(others, key=lambda one: one.predicted or 0))
        elif not asked:
            notes.append(f"no strategy for these data ({data[0]}) holds them in memory, so no row under the limit will count.")
    return found
