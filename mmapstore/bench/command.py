"""`mmapstore bench [PATH]`: the command line's side of the benchmark."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..plain.display import format_duration
from ..plain.errors import InvalidValueError, MissingPackageError, MmapstoreError, NotFoundError, WriteError
from ..plain.memory_budget import format_bytes
from .contract import FINISHED, Report
from .workload import DEFAULT_SIZE, data_directory, to_write, workload

FAILED = 1
_CALIBRATION_SECONDS = 5.0
_WIDTH = 120, 160  # columns of the table at least and at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of `mmapstore bench` to a parser made for it."""
    parser.add_argument(
        "path",
        nargs="?",
        metavar="PATH",
        help="your own data: a .npy file, an array in HDF5 or Zarr (a.h5::/frames), or a folder with a folder of images for each "
        "class (default: generated data)",
    )
    parser.add_argument("--labels", metavar="FILE", help="the y of PATH: a whole number for each sample")
    add = parser.add_argument_group("measurements").add_argument
    add("--only", metavar="NAMES", help="strategies, with commas between and * for anything; each takes 10 s to a minute")
    add(
        "--task",
        metavar="KINDS",
        help="next, labelled, images, or several with commas between (default: next); each takes the time and disk of the default",
    )
    add(
        "--form",
        metavar="FORMS",
        help="npy, h5, h5-gzip, zarr, zarr-zstd, or several with commas between (default: all); fewer save time and disk",
    )
    add(
        "--size",
        metavar="BYTES",
        help=f"size of the generated data (default: {DEFAULT_SIZE}; with --limit twice the limit), or several with commas between, "
        "to see how memory grows with the data; all forms together take 4 to 5 times as much disk",
    )
    add("--batch", type=int, default=32, help="number of samples in a batch (default: 32)")
    add("--epochs", type=int, default=2, help="number of epochs in each process (default: 2); the first of several only warms up")
    add("--seed", type=int, default=0, help="seed of the data and of all orders (default: 0)")
    add("--cold", action="store_true", help="drop the data from the page cache first, to read at the speed of the disk")
    add(
        "--run-all",
        action="store_true",
        help="also run strategies that are predicted not to fit in memory: the system may swap for a long time, or kill this or "
        "other programs",
    )
    add("--timeout", type=float, default=600.0, metavar="SECONDS", help="give up a process after this time (default: 600)")
    add(
        "--limit",
        metavar="BYTES",
        help="also run each strategy under this hard limit of memory, framework included, cold cache; doubles the time and more",
    )
    add = parser.add_argument_group("output, beside the table").add_argument
    add("--json", dest="json_file", type=Path, metavar="FILE", help="write all measurements here, after each row")
    add("--html", type=Path, metavar="FILE", help="write a report with pictures, in one file")
    add("--data", metavar="DIRECTORY", help="directory of the generated data, kept for the next run (default: temporary directory)")
    add = parser.add_argument_group("without measuring anything").add_argument
    add("--list", action="store_true", help="list the strategies, their tasks, and the packages missing to run them")
    add("--show", metavar="NAME", help="print the source of a strategy, some ten lines")
    add("--dry-run", action="store_true", help="print the plan: rows, time, disk, and the rows that would not fit")
    add("--read", metavar="FILE", help="read an earlier --json instead of a run: its table, --html")


def run(options: argparse.Namespace) -> int:
    """Measure and report. Returns 0; 1 where a strategy delivered wrong data, or none finished; 130 after Ctrl-C, with
    the measurements until then printed and saved."""
    from . import strategies
    from .table import read
    from .workload import chosen_strategies

    if options.list:
        for name in strategies.names():
            strategy = strategies.load(name)
            summary = (strategy.fit_arguments.__doc__ or "").strip().splitlines()[0]
            stored = ", ".join(strategy.stored)
            print(f"{name:<24} {strategy.title}\n    {summary}\n    {', '.join(strategy.kinds)}; {stored}")
            if missing := strategies.missing(name):
                print(f"    cannot run: {missing}")
        print("\nTo read one: mmapstore bench --show NAME. To run some: mmapstore bench --only NAME,NAME")
        return 0
    if options.show is not None:
        print("\n\n".join(map(strategies.source, chosen_strategies(options.show))), end="")
        return 0
    _require_places(options)
    if options.read is None:
        return _measure(options)
    if options.path is not None:
        raise InvalidValueError(f"--read {options.read} measures nothing, so {options.path} is not used. Leave one of them out.")
    return _deliver(options, read(Path(options.read)))


def _measure(options: argparse.Namespace) -> int:
    from ..files.process_memory import memory_available
    from ..operations.progress import progress_bar, shows_bar
    from . import running
    from .generated_data import generated
    from .machine import machine

    _require_framework()
    available = memory_available()
    work = workload(options, available)
    if options.limit and running.can_limit() is None:
        raise InvalidValueError(
            f"--limit needs a limit of memory that holds, and {sys.platform} offers none. Leave it out, or run inside a Linux "
            "container."
        )
    directory = data_directory(options)
    disk, write_seconds = to_write(work.to_make)
    seconds = _CALIBRATION_SECONDS + work.seconds(options.epochs) + write_seconds
    print("mmapstore bench: memory and time of each strategy of feeding Keras\n")
    print(work.to_text(options.epochs, _data_words(options, directory, disk, write_seconds), seconds), flush=True)
    if options.dry_run:
        return 0
    _require_disk(directory, disk)
    began = time.monotonic()
    tasks = [
        {name: value for name, value in asdict(task).items() if name not in ("path", "labels", "prepared")} for task in work.tasks
    ]
    instruments = {"private memory": running.method(), "limit": running.can_limit() or "none"}
    report = Report(machine() | instruments, options.seed, tasks=tasks)
    ended: KeyboardInterrupt | MmapstoreError | None = None
    with progress_bar("runs", work.runs, disable=not shows_bar(None)) as bar:
        measuring = running.Measuring(report, running.run, bar, options.epochs, options.timeout, options.cold, options.json_file)
        try:
            for task in work.to_make:
                bar.set_description_str(f"making {format_bytes(task.nbytes)} as {task.form}, {task.kind}")
                generated(task.kind, task.form, task.nbytes, directory, task.seed, task.batch)
            if work.to_make:
                work = workload(options, available)  # some predictions depend on the data
            bar.set_description_str("calibrating the instruments")
            report.calibration = running.calibrate()
            measuring.rows(work.rows)
            if work.limit is not None:
                measuring.under_limit(work.limited, work.limit)
        except (KeyboardInterrupt, MmapstoreError) as error:
            ended = error
    if ended is not None and not report.rows:
        raise ended
    print(flush=True)
    code = _deliver(options, report, work.notes)
    print(f"\nIt took {format_duration(time.monotonic() - began)}.", end="")
    print(f" The data are still in {directory}, for the next run; delete them when you like." if work.to_make else "")
    if ended is not None:
        print("It ended early: above are the measurements until then.", file=sys.stderr)
        raise ended
    return code


def _require_framework() -> None:
    absent = [name for name in ("tensorflow", "keras") if importlib.util.find_spec(name) is None]
    if absent:
        raise MissingPackageError(
            f"The benchmark trains with Keras on TensorFlow, and {' and '.join(absent)} cannot be found. "
            'Install them with: pip install "mmapstore[tensorflow]". Without them, --list, --show and --read work.'
        )


def _data_words(options: argparse.Namespace, directory: Path, disk: int, seconds: float) -> str:
    if options.path is not None:
        return str(options.path)
    made = f"made from seed {options.seed}"
    if not disk:
        return f"{made} by an earlier run, in {directory}"
    return f"{made} in {directory}: about {format_bytes(disk)} of disk and {format_duration(seconds)}; kept for the next run"


def _require_disk(directory: Path, nbytes: int) -> None:
    existing = next(place for place in (directory, *directory.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if nbytes > free:
        raise WriteError(
            f"The data take about {format_bytes(nbytes)} of disk, and {directory} has {format_bytes(free)} left. Name another "
            "directory with --data, or ask for less: --size 100MB, --form npy."
        )


def _require_places(options: argparse.Namespace) -> None:
    """Raise NotFoundError for files that cannot be written, before anything runs."""
    for path in filter(None, (options.json_file, options.html)):
        if path.is_dir() or not path.parent.is_dir():
            found = "is a directory" if path.is_dir() else f"would lie in {path.parent}, which does not exist"
            raise NotFoundError(f"{path} {found}; expected the name of a file to write, in a directory that exists.")


def _deliver(options: argparse.Namespace, report: Report, notes: Sequence[str] = ()) -> int:
    """Print the table and write the files. Returns the exit code of the report."""
    from ..files.durable_writes import write_text_atomically
    from ..files.system_errors import explaining_write_errors
    from .derived import is_right, title
    from .report_html import html
    from .table import table

    width = min(max(shutil.get_terminal_size((_WIDTH[0], 24)).columns, _WIDTH[0]), _WIDTH[1])
    print(table(report, width))
    for note in notes:
        print(f"note: {note}")
    outputs = {
        path: text for path, text in ((options.json_file, report.to_json), (options.html, lambda: html(report))) if path is not None
    }
    for path, text in outputs.items():
        with explaining_write_errors(path):
            write_text_atomically(path, text())
    if outputs:
        print(f"\nwritten: {', '.join(map(str, outputs))}")
    finished = [row for row in report.everything if row.outcome == FINISHED]
    if wrong := [f"{title(row.strategy)} ({row.form}, {row.kind})" for row in finished if not is_right(row)]:
        print(f"mmapstore: wrong data came from {', '.join(dict.fromkeys(wrong))}", file=sys.stderr)
    elif report.rows and not finished:
        print("mmapstore: nothing finished; the table has the reason for each row.", file=sys.stderr)
    else:
        return 0
    return FAILED
