"""The plan of a run: strategies and tasks, with their time, disk and memory. Nothing is run here."""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import tempfile
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from ..plain.display import format_duration
from ..plain.errors import InvalidValueError, MmapstoreError
from ..plain.inside_names import file_of
from ..plain.memory_budget import format_bytes, parse_bytes
from . import strategies
from .contract import KINDS, NOT_RUN, Row, Task, delivered, name_of
from .derived import USUAL_FRAMEWORK as FRAMEWORK
from .derived import data_of, grouped, holds_the_data, title
from .generated_data import planned
from .tasks import of_user

DEFAULT_SIZE = "300MB"
DEFAULT_DIRECTORY = "mmapstore-bench"  # in the temporary directory

# Of the estimate, on 2 cores: seconds until TensorFlow has run one step; bytes a second that `fit` takes, and that are written.
START_SECONDS, _FED, _WRITTEN = 10.0, 0.4e9, 0.1e9
_ARRAYS = ("npy", "h5", "h5-gzip", "zarr", "zarr-zstd")
_GENERATED_FORMS = {"next": _ARRAYS, "labelled": _ARRAYS, "images": ("folder",)}


def data_directory(options: argparse.Namespace) -> Path:
    return Path(options.data) if options.data else Path(tempfile.gettempdir()) / DEFAULT_DIRECTORY


# --- one row ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """One row to come."""

    strategy: str  # its name, or the path of the user's own file
    task: Task
    row: Row  # of a strategy that is not run; `why` is empty for one that runs
    is_missing: bool = False  # packages that have to be installed first

    @property
    def runs(self) -> bool:
        return not self.row.why


def plan_row(strategy: str, task: Task, available: int, *, run_all: bool = False) -> Planned:
    """Plan one row. It would not fit if its prediction and the framework are over `available` bytes; `run_all` runs it anyway."""
    missing = strategies.missing(strategy)
    row = Row(name_of(strategy), task.form, task.kind, NOT_RUN, missing, data_nbytes=task.nbytes)
    if not missing:
        with contextlib.suppress(MmapstoreError):  # the prediction may depend on data that do not exist yet
            row.predicted = strategies.load(strategy).private(task)
    if row.predicted is not None and row.predicted + FRAMEWORK > available and not run_all:
        row.why = (
            f"would not fit: predicted {format_bytes(row.predicted)} and {format_bytes(FRAMEWORK)} of the framework, "
            f"available {format_bytes(available)}"
        )
    return Planned(strategy, task, row, bool(missing))


def seconds_of(task: Task, epochs: int) -> float:
    """Estimate the seconds of one process, from starting Python to the end of the last epoch."""
    return START_SECONDS + epochs * delivered(task.kind, task.nbytes, task.pairs) / _FED


def to_write(tasks: Iterable[Task]) -> tuple[int, float]:
    """Estimate (bytes of disk, seconds) for generating the missing data of these tasks.

    All forms but images are converted from a .npy, which is made too.
    """
    wanted = {file_of(task.path): task.nbytes for task in tasks}
    wanted |= {str(PurePath(path).with_name("data.npy")): size for path, size in wanted.items() if not path.endswith("images")}
    nbytes = sum(size for path, size in wanted.items() if not Path(path).exists())
    return nbytes, nbytes / _WRITTEN


def chosen_strategies(only: str | None) -> list[str]:
    """Return the strategies that `only` names, with commas between and `*` for anything, in the order of the table; None: all.

    A strategy is named as its function or as its title in the table; the path of a .py file is a user's own strategy.
    Raises InvalidValueError for a word that matches none.
    """
    known = strategies.names()
    titles = {name: strategies.load(name).title for name in known}

    def meant(word: str) -> list[str]:
        pattern = word.strip().lower().replace("[", "[[]")
        found = [name for name in known if any(fnmatch.fnmatchcase(each.lower(), pattern) for each in (name, titles[name]))]
        return [word.strip()] if word.strip().endswith(".py") and Path(word.strip()).is_file() else found

    if only is None:
        return known
    found: list[str] = []
    # A title may contain a comma: "array in RAM, fit(x, y)".
    for word in [only] if meant(only) else only.split(","):
        if not meant(word):
            raise InvalidValueError(f"there is no strategy {word.strip()!r}. `mmapstore bench --list` has all.")
        found += meant(word)
    return sorted(dict.fromkeys(found), key=lambda name: known.index(name) if name in known else len(known))


def chosen_words(given: str | None, option: str, known: Sequence[str], default: Sequence[str]) -> list[str]:
    """Return the words with commas between that an option takes, in the order of `known`.

    >>> chosen_words("zarr,npy", "--form", ["npy", "h5", "zarr"], [])
    ['npy', 'zarr']
    """
    words = list(default) if given is None else [word.strip().lower() for word in given.split(",")]
    for word in words:
        if word not in known:
            raise InvalidValueError(f"{option} {word} is not known; expected {', '.join(known)}, or several with commas between.")
    return [word for word in known if word in words]


# --- all of a run -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """Everything to be measured."""

    rows: list[Planned]  # without a limit
    limit: int | None = None
    # under `limit` bytes, with a strategy that holds the data in memory among them if there is one
    limited: list[Planned] = field(default_factory=list)
    to_make: list[Task] = field(default_factory=list)  # data that has to exist; empty for the user's own
    notes: list[str] = field(default_factory=list)  # what was asked for and is left out, and why

    @property
    def tasks(self) -> list[Task]:
        return list(dict.fromkeys(each.task for each in self.rows))

    @property
    def runs(self) -> int:
        """Number of processes."""
        return sum(one.runs for one in self.rows) + len(self.limited)

    def seconds(self, epochs: int) -> float:
        """Estimate the seconds of all runs, without those that make the data."""
        return sum(seconds_of(one.task, epochs) for one in [*(one for one in self.rows if one.runs), *self.limited])

    def to_text(self, epochs: int, data: str, seconds: float) -> str:
        """Say what will be run, what will not, and how long it takes; `data` says where the data are or will be."""
        lines: list[tuple[str, str]] = []
        for (kind, nbytes), tasks in grouped(self.tasks, lambda task: (task.kind, task.nbytes)).items():
            task = tasks[0]
            about = f"{task.samples:,} samples of {task.dtype} {task.shape}"
            forms = ", ".join(each.form for each in tasks)
            lines += [(kind, KINDS[kind]), ("", f"{format_bytes(nbytes)}: {about}, batches of {task.batch}; stored as {forms}")]
        count = sum(one.runs for one in self.rows)
        runs = f"{count} row{'s' * (count != 1)} of {epochs} epoch{'s' * (epochs > 1)}, each in a process of its own"
        lines += [("data", data), ("runs", runs)]
        if self.limited:
            lines.append(("", f"{len(self.limited)} more under a limit of {format_bytes(self.limit or 0)}"))
        stop = "Ctrl-C ends it and keeps what was measured"
        lines.append(("time", f"about {format_duration(seconds)}, estimated for 2 cores; {stop}"))
        for one in (one for one in self.rows if not one.runs):
            name = f"{title(one.row.strategy)} ({one.row.form}, {one.row.kind})"
            lines.append(("not run", f"{name} {one.row.why}{'' if one.is_missing else ' (--run-all)'}"))
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
        forms = chosen_words(options.form, "--form", [*_ARRAYS, "folder"], [*_ARRAYS, "folder"])
        sizes = [parse_bytes(size.strip(), "--size") for size in (options.size or DEFAULT_SIZE).split(",")]
        tasks = [
            planned(kind, form, nbytes, data_directory(options), options.seed, options.batch)
            for nbytes in ([2 * limit] if limit is not None and not options.size else sizes)
            for kind in chosen_words(options.task, "--task", list(_GENERATED_FORMS), ["next"])
            for form in forms
            if form in _GENERATED_FORMS[kind]
        ]

    def rows_of(names: Sequence[str]) -> list[Planned]:
        chosen = [(name, task) for task in tasks for name in names if strategies.load(name).serves(task.kind, task.form)]
        return [plan_row(name, task, available, run_all=options.run_all) for name, task in chosen]

    rows = rows_of(names)
    if not rows:
        raise InvalidValueError(
            f"None of {', '.join(names)} is for {' or '.join(f'{task.kind} from {task.form}' for task in tasks)}. "
            "`mmapstore bench --list` has the tasks of each strategy."
        )
    possible = [one for one in rows if not one.is_missing]
    limited: list[Planned] = []
    if limit is not None:
        limited = possible + _controls(possible, rows_of(strategies.names()), notes)
        if limit < FRAMEWORK:
            least = format_bytes(FRAMEWORK)
            notes.append(f"a limit of {format_bytes(limit)} may be less than TensorFlow takes by itself; {least} are enough.")
    return Workload(rows, limit, limited, [] if own else tasks, notes)


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
    for data in dict.fromkeys(data_of(one.row) for one in possible):
        asked, others = (
            [one for one in rows if data_of(one.row) == data and not one.is_missing and holds_the_data(one.row)]
            for rows in (possible, candidates)
        )
        if others and not asked:
            found.append(min(others, key=lambda one: one.row.predicted or 0))
        elif not asked:
            notes.append(f"no strategy for these data ({data[0]}) holds them in memory, so no row under the limit will count.")
    return found
