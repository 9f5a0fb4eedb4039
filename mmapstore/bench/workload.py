"""What a command line of `mmapstore bench` asks for: ways, the data they need, and further questions, with nothing run yet."""

from __future__ import annotations

import argparse
import inspect
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..plain.errors import InvalidValueError, MmapstoreError
from ..plain.memory_budget import format_bytes, parse_bytes
from . import strategies
from .arm import strategy_module
from .contract import KINDS, Task, name_of
from .findings import grouped, title
from .generated_data import generated, planned
from .limits import RUNS, SHARES, holds_the_data
from .plan import DEFAULT_SIZE, FRAMEWORK, LARGEST_OF_SCALE, Planned, Stage, format_duration, plan_rows, seconds_of
from .scaling import LOOK_AHEAD, REPEATS, Setting, batch_settings, data_settings, data_sizes, look_ahead_settings
from .selection import chosen_forms, chosen_kinds, chosen_strategies, serving, unwritable
from .tasks import of_user

DEFAULT_DIRECTORY = "mmapstore-bench"  # in the temporary directory


@dataclass(frozen=True)
class Growth:
    """One line of memory against a knob."""

    strategy: str
    knob: str
    settings: list[Setting]

    @property
    def seconds(self) -> float:
        return REPEATS * sum(seconds_of(self.strategy, setting.task, 1) for setting in self.settings)


@dataclass(frozen=True)
class Workload:
    """Everything that is to be measured, and why some of it is not.

    Attributes
    ----------
    rows : without a limit
    limited : under `limit` bytes, with a way that holds the data in memory among them if there is one
    bisected, swept, growth : ways and lines of the further questions
    to_make : data that has to be there; empty for the user's own
    notes : what was asked for and is left out
    """

    rows: list[Planned]
    limit: int | None = None
    limited: list[Planned] = field(default_factory=list)
    bisected: list[Planned] = field(default_factory=list)
    swept: list[Planned] = field(default_factory=list)
    growth: list[Growth] = field(default_factory=list)
    to_make: list[Task] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def tasks(self) -> list[Task]:
        return list(dict.fromkeys(each.task for each in self.rows))

    def stages(self, epochs: int) -> list[Stage]:
        """What is done beside the rows."""

        def cold(ways: Sequence[Planned], epochs: int) -> float:
            return sum(seconds_of(one.strategy, one.task, epochs, cold=True) for one in ways)

        runs = REPEATS * sum(len(each.settings) for each in self.growth)
        found = [
            Stage(f"under a limit of {format_bytes(self.limit or 0)}", len(self.limited), cold(self.limited, epochs)),
            Stage("in search of the smallest limit", RUNS * len(self.bisected), RUNS * cold(self.bisected, 1)),
            Stage(
                "for throughput against the limit", len(SHARES) * len(self.swept), len(SHARES) * cold(self.swept, max(2, epochs))
            ),
            Stage("for the growth of memory", runs, sum(each.seconds for each in self.growth)),
        ]
        return [stage for stage in found if stage.runs]

    def seconds(self, epochs: int) -> float:
        """An estimate of all that is run; making the data comes before it."""
        return sum(one.seconds for one in self.rows if one.runs) + sum(stage.seconds for stage in self.stages(epochs))

    def to_text(self, epochs: int, data: str, seconds: float) -> str:
        """What will be run, what will not, and how long it takes, for people; `data` says where they are or will be."""
        lines: list[tuple[str, str]] = []
        for (kind, nbytes), tasks in grouped(self.tasks, lambda task: (task.kind, task.nbytes)).items():
            task = tasks[0]
            shape = f"({', '.join(map(str, task.shape))}{',' * (len(task.shape) == 1)})"
            lines += [
                (kind, KINDS[kind]),
                (
                    "",
                    f"{format_bytes(nbytes)}: {task.samples:,} samples of {task.dtype} {shape}, batches of {task.batch}; "
                    f"stored as {', '.join(each.form for each in tasks)}",
                ),
            ]
        running = sum(one.runs for one in self.rows)
        lines += [
            ("data", data),
            ("runs", f"{running} row{'s' * (running != 1)} of {epochs} epoch{'s' * (epochs > 1)}, each in a process of its own"),
            *(
                ("", f"{stage.runs} more {stage.words}, {format_duration(stage.seconds)} of the time")
                for stage in self.stages(epochs)
            ),
            ("time", f"about {format_duration(seconds)}, estimated for 2 cores; Ctrl-C ends it and keeps what was measured"),
        ]
        reasons = grouped((one for one in self.rows if not one.runs), lambda one: one.missing or "")
        for missing, ways in reasons.items():
            names = ", ".join(_words(one) for one in ways)
            if missing:
                lines.append(("not run", f"{names}: {missing}"))
            else:
                lines += [("not run", f"{_words(one)} {one.too_large} (--run-all runs it)") for one in ways]
        lines += [("note", note) for note in self.notes]
        return "\n".join(
            textwrap.fill(words, 120, initial_indent=f"  {name:<9} ", subsequent_indent=" " * 12, break_on_hyphens=False)
            for name, words in lines
        )


def workload(options: argparse.Namespace, available: int) -> Workload:
    """What these options mean on a machine with so many bytes of memory available.

    Raises InvalidValueError for what cannot be meant, and what `tasks.of_user` raises.
    """
    _require_sensible(options)
    names = chosen_strategies(options.only)
    limit = None if options.limit is None else parse_bytes(options.limit, "--limit")
    if limit is not None and limit > available:
        raise InvalidValueError(
            f"--limit {options.limit} limits nothing here: {format_bytes(available)} of memory are available. Take a smaller one."
        )
    if options.path is None:
        tasks = _generated_tasks(options, limit)
    else:
        tasks = of_user(
            options.path, labels=options.labels, batch=options.batch, seed=options.seed, directory=data_directory(options)
        )  # fmt: skip
    own = options.path is not None

    def rows_of(ways: list[tuple[str, Task]]) -> list[Planned]:
        return plan_rows(
            ways,
            epochs=options.epochs,
            available=available,
            predict=predicted,
            missing=lambda strategy, task: _missing(strategy, task, own),
            cold=options.cold,
            run_all=options.run_all,
        )

    rows = rows_of([(name, task) for task in tasks for name in serving(names, task.kind, task.form)])
    if not rows:
        raise InvalidValueError(
            f"None of {', '.join(names)} is for {' or '.join(f'{task.kind} from {task.form}' for task in tasks)}. "
            "`mmapstore bench --list` says what each is for."
        )
    possible = [one for one in rows if not one.missing]
    limited: list[Planned] = []
    growth: list[Growth] = []
    notes: list[str] = []
    if limit is not None:
        controls = rows_of([(name, task) for task in tasks for name in serving(strategies.names(), task.kind, task.form)])
        limited = possible + _controls(possible, controls, notes)
        if limit < FRAMEWORK:
            least = format_bytes(FRAMEWORK)
            notes.append(f"a limit of {format_bytes(limit)} may be less than TensorFlow takes by itself; {least} are enough.")
    if options.scale:
        growth = _growth(options, possible, available, notes)
    to_make = [] if own else [*tasks, *(setting.task for each in growth if each.knob == "data" for setting in each.settings)]
    return Workload(
        rows=rows,
        limit=limit,
        limited=limited,
        bisected=possible if options.bisect else [],
        swept=possible if options.sweep else [],
        growth=growth,
        to_make=list(dict.fromkeys(task for task in to_make if not unwritable(task))),
        notes=notes,
    )


def make(task: Task, directory: Path) -> None:
    """Generate the data of a task of `workload`, unless they are there."""
    generated(task.kind, task.form, task.nbytes, directory, task.seed, task.batch, progress=False)


def data_directory(options: argparse.Namespace) -> Path:
    return Path(options.data) if options.data else Path(tempfile.gettempdir()) / DEFAULT_DIRECTORY


def predicted(strategy: str, task: Task) -> int | None:
    """Bytes of private memory; None where the data that this depends on are not there yet."""
    try:
        return int(strategy_module(strategy).private(task))
    except MmapstoreError:
        return None


def _words(one: Planned) -> str:
    return f"{title(name_of(one.strategy))} ({one.task.form}, {one.task.kind})"


def _require_sensible(options: argparse.Namespace) -> None:
    for name, least in (("epochs", 1), ("batch", 1), ("seed", 0), ("timeout", 1)):
        if getattr(options, name) < least:
            raise InvalidValueError(f"--{name} {getattr(options, name)} cannot be meant; expected {least} or more.")
    if options.path is None:
        if options.labels is not None:
            raise InvalidValueError(f"--labels {options.labels} without the data that they belong to: name their PATH as well.")
        return
    for name in ("size", "form", "task", "scale"):
        if getattr(options, name):
            raise InvalidValueError(f"--{name} is of data that is made, and {options.path} is as it is. Leave one of them out.")


def _generated_tasks(options: argparse.Namespace, limit: int | None) -> list[Task]:
    if options.size is not None:
        nbytes = parse_bytes(options.size, "--size")
    else:
        nbytes = parse_bytes(DEFAULT_SIZE) if limit is None else 2 * limit
    return [
        planned(kind, form, nbytes, data_directory(options), options.seed, options.batch)
        for kind in chosen_kinds(options.task)
        for form in chosen_forms(options.form, kind)
    ]


def _missing(strategy: str, task: Task, own: bool) -> str:
    absent = "" if strategy.endswith(".py") else strategies.missing(strategy)
    return absent or ("" if own else unwritable(task))


def _controls(possible: Sequence[Planned], candidates: Sequence[Planned], notes: list[str]) -> list[Planned]:
    """For each kind and size of data the cheapest way that holds it in memory, where none is among those asked for."""
    found = []
    for kind, nbytes in dict.fromkeys((one.task.kind, one.task.nbytes) for one in possible):

        def holding(ways: Sequence[Planned], kind: str = kind, nbytes: int = nbytes) -> list[Planned]:
            return [
                one for one in ways
                if (one.task.kind, one.task.nbytes) == (kind, nbytes) and not one.missing and holds_the_data(one.predicted, nbytes)
            ]  # fmt: skip

        if holding(possible):
            continue
        if others := holding(candidates):
            found.append(min(others, key=lambda one: one.predicted or 0))
        else:
            notes.append(f"no way that holds the data in memory is for these data ({kind}), so no row under the limit will count.")
    return found


def _growth(options: argparse.Namespace, possible: Sequence[Planned], available: int, notes: list[str]) -> list[Growth]:
    largest = parse_bytes(options.size or LARGEST_OF_SCALE, "--size")
    forms = dict.fromkeys(one.task.form for one in possible) if options.form else ("npy", "folder")
    found = []
    left_out: dict[str, list[str]] = {}  # sizes: ways
    for one in possible:
        task = one.task
        if task.form not in forms:
            continue
        sizes = [
            planned(task.kind, task.form, size, data_directory(options), task.seed, task.batch) for size in data_sizes(largest)
        ]  # fmt: skip
        fitting = [size for size in sizes if options.run_all or (predicted(one.strategy, size) or 0) + FRAMEWORK <= available]
        if len(fitting) > 1:
            found.append(Growth(one.strategy, "data", data_settings(fitting)))
        if len(fitting) < len(sizes):
            left_out.setdefault(", ".join(format_bytes(size.nbytes) for size in sizes[len(fitting) :]), []).append(_words(one))
        if one.too_large:
            continue
        found.append(Growth(one.strategy, "batch", [each for each in batch_settings(task) if task.pairs >= 2 * each.task.batch]))
        if LOOK_AHEAD in inspect.signature(strategy_module(one.strategy).fit_arguments).parameters:
            found.append(Growth(one.strategy, "look-ahead", look_ahead_settings(task)))
    for words, ways in left_out.items():
        notes.append(f"memory against data leaves out {words}, which would not fit (--run-all), of {'; '.join(ways)}.")
    return found
