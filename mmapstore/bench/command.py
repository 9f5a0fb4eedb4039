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
from typing import Any

from ..plain.errors import InvalidValueError, MissingPackageError, MmapstoreError, NotFoundError, WriteError
from ..plain.memory_budget import format_bytes
from .contract import FINISHED, Report, Task
from .plan import DEFAULT_SIZE, LARGEST_OF_SCALE, TimeLeft, format_duration, to_write

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
        "class (default: data made from a seed)",
    )
    parser.add_argument("--labels", metavar="FILE", help="of PATH: a whole number for each sample, which then is y")
    what = parser.add_argument_group("what is measured")
    what.add_argument("--only", metavar="NAMES", help="strategies with commas between, * for anything; each is 10 s to a minute")
    what.add_argument(
        "--task",
        metavar="KINDS",
        help="next, labelled, images, or several with commas between (default: next); each takes the time and disk of the default",
    )
    what.add_argument(
        "--form",
        metavar="FORMS",
        help="npy, h5, h5-gzip, zarr, zarr-zstd, or several with commas between (default: all); fewer save time and disk",
    )
    what.add_argument(
        "--size",
        metavar="BYTES",
        help=f"of the data that is made (default: {DEFAULT_SIZE}; with --limit twice that; {LARGEST_OF_SCALE} for the largest of "
        "--scale); all forms together take 4 to 5 times as much disk",
    )
    what.add_argument("--batch", type=int, default=32, help="samples in a batch (default: 32)")
    what.add_argument(
        "--epochs", type=int, default=2, help="in each process (default: 2); where there are several, the first only warms up"
    )
    what.add_argument("--seed", type=int, default=0, help="of the data and of all orders (default: 0)")
    what.add_argument("--cold", action="store_true", help="drop the data from the page cache first: as slow as the disk is")
    what.add_argument(
        "--run-all",
        action="store_true",
        help="run also what is predicted not to fit in memory: the system may swap for a long time, or kill this or other programs",
    )
    what.add_argument(
        "--timeout", type=float, default=600.0, metavar="SECONDS", help="after which a process is given up (default: 600)"
    )
    more = parser.add_argument_group("further questions, each beside the rows without a limit")
    more.add_argument(
        "--limit",
        metavar="BYTES",
        help="each strategy also under this hard limit of memory, framework included, cold cache; doubles the time and more",
    )
    more.add_argument(
        "--bisect", action="store_true", help="the smallest limit that an epoch finishes under, to 5 %%: 7 runs of each strategy"
    )
    more.add_argument(
        "--sweep",
        action="store_true",
        help="throughput under limits of 10 %% to 200 %% of the data beside the framework: up to 8 runs of each strategy",
    )
    more.add_argument(
        "--scale",
        action="store_true",
        help="how memory grows with the data, the batch and the look-ahead, with intervals: some 18 runs of each strategy; "
        f"without --size and --form, .npy of up to {LARGEST_OF_SCALE}",
    )
    out = parser.add_argument_group("what comes of it, beside the table")
    out.add_argument("--json", dest="json_file", metavar="FILE", help="everything that was measured, written after each row")
    out.add_argument("--html", metavar="FILE", help="a report with plots, in one file")
    out.add_argument("--png", metavar="DIRECTORY", help="the plots alone; needs matplotlib")
    out.add_argument("--compare", metavar="OLD.json", help="say what changed since that run")
    out.add_argument(
        "--data", metavar="DIRECTORY", help="where data is made, and kept for the next run (default: the temporary directory)"
    )
    without = parser.add_argument_group("without measuring anything")
    without.add_argument("--list", action="store_true", help="the strategies, their tasks, and what is missing to run them")
    without.add_argument("--show", metavar="NAME", help="the source of a strategy: some fifteen lines to judge")
    without.add_argument("--dry-run", action="store_true", help="what would run, how long it takes, and what would not fit")
    without.add_argument("--read", metavar="FILE", help="an earlier --json instead of a run: its table, --html, --png, --compare")


def run(options: argparse.Namespace) -> int:
    """Measure and tell. Returns 0; 1 where a strategy delivered wrong data, or none finished; 130 stopped by Ctrl-C, with
    what was measured printed and saved."""
    if options.list:
        return _list()
    if options.show is not None:
        return _show(options.show)
    outputs = Outputs(options)
    if options.read is not None:
        from .table import read

        if options.path is not None:
            raise InvalidValueError(f"--read {options.read} measures nothing, also not {options.path}. Leave one of them out.")
        return outputs.deliver(read(Path(options.read)))
    return _measure(options, outputs)


def _list() -> int:
    from . import strategies

    for name in strategies.names():
        strategy = strategies.load(name)
        summary = (strategy.__doc__ or "").strip().splitlines()[0]
        stored = ", ".join(strategy.STORED) if any(strategy.STORED) else "any form"
        print(f"{name:<24} {strategy.NAME}")
        print(f"    {summary}")
        print(f"    {', '.join(strategy.KINDS)}; {stored}")
        if missing := strategies.missing(name):
            print(f"    cannot run: {missing}")
    print("\nTo read one: mmapstore bench --show NAME. To run some: mmapstore bench --only NAME,NAME")
    return 0


def _show(word: str) -> int:
    from . import strategies
    from .selection import strategy_named

    print(strategies.source(strategy_named(word)), end="")
    return 0


# --- a run --------------------------------------------------------------------------------------------------------------


def _measure(options: argparse.Namespace, outputs: Outputs) -> int:
    from ..files.process_memory import memory_available
    from . import running
    from .machine import machine
    from .measuring import Measuring
    from .workload import data_directory, make, workload

    _require_framework()
    available = memory_available()
    work = workload(options, available)
    if (options.limit or options.bisect or options.sweep) and running.can_limit() is None:
        raise InvalidValueError(
            f"--limit, --bisect and --sweep need a limit of memory that holds, and {sys.platform} offers none. Leave them out, or "
            "run inside a Linux container."
        )
    directory = data_directory(options)
    disk, write_seconds = to_write(work.to_make, lambda path: Path(path).exists())
    left = TimeLeft(_CALIBRATION_SECONDS + work.seconds(options.epochs))
    data = _data_words(options, directory, disk, write_seconds)
    print("mmapstore bench: what each way of feeding Keras takes in memory and time\n")
    print(work.to_text(options.epochs, data, left.seconds + write_seconds), flush=True)
    if options.dry_run:
        return 0
    _require_disk(directory, disk)
    began = time.monotonic()
    report = Report(machine() | running.instruments(), options.seed, tasks=[_without_paths(task) for task in work.tasks])
    measuring = Measuring(report, running.run, left, options.epochs, options.timeout, options.cold, outputs.json)
    ended: KeyboardInterrupt | MmapstoreError | None = None
    try:
        for task in work.to_make:
            measuring.progress.says(f"making {format_bytes(task.nbytes)} as {task.form}, {task.kind}")
            make(task, directory)
        if work.to_make:
            work = workload(options, available)  # some predictions look at the data
        measuring.progress.says("calibrating the instruments")
        report.calibration = running.calibrate()
        measuring.rows(work.rows)
        if work.limit is not None:
            measuring.under_limit(work.limited, work.limit)
        measuring.smallest_limits(work.bisected, available)
        measuring.throughput_against_limit(work.swept, available)
        for growth in work.growth:
            measuring.growth(growth.strategy, growth.knob, growth.settings)
    except (KeyboardInterrupt, MmapstoreError) as error:
        ended = error
    finally:
        measuring.progress.clear()
    if ended is not None and not report.rows:
        raise ended
    print(flush=True)
    code = outputs.deliver(report, [*work.notes, *measuring.notes])
    print(f"\nIt took {format_duration(time.monotonic() - began)}.", end="")
    print(f" The data are still in {directory}, for the next run; delete them when you like." if work.to_make else "")
    if ended is not None:
        print("It ended early: above is what was measured until then.", file=sys.stderr)
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
    if not disk:
        return f"made from seed {options.seed} by an earlier run, in {directory}"
    return (
        f"made from seed {options.seed} in {directory}: about {format_bytes(disk)} of disk and {format_duration(seconds)}; "
        "kept for the next run"
    )


def _require_disk(directory: Path, nbytes: int) -> None:
    existing = next(place for place in (directory, *directory.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if nbytes > free:
        raise WriteError(
            f"The data take about {format_bytes(nbytes)} of disk, and {directory} has {format_bytes(free)} left. Name another "
            "directory with --data, or ask for less: --size 100MB, --form npy."
        )


def _without_paths(task: Task) -> dict[str, Any]:
    return {name: value for name, value in asdict(task).items() if name not in ("path", "labels", "prepared")}


# --- what comes of it ---------------------------------------------------------------------------------------------------


class Outputs:
    """Where the report goes beside the terminal; what cannot be written, or not be read, is found out before anything is run."""

    def __init__(self, options: argparse.Namespace) -> None:
        from .table import read

        self.json, self.html, self.png = (
            None if given is None else Path(given) for given in (options.json_file, options.html, options.png)
        )
        for path in filter(None, (self.json, self.html)):
            if path.is_dir() or not path.parent.is_dir():
                found = "is a directory" if path.is_dir() else f"would lie in {path.parent}, which is not there"
                raise NotFoundError(f"{path} {found}; expected the name of a file to write, in a directory that exists.")
        if (self.html or self.png) and importlib.util.find_spec("matplotlib") is None:
            raise MissingPackageError('--html and --png draw plots, which needs matplotlib: pip install "mmapstore[bench]"')
        self.old = None if options.compare is None else read(Path(options.compare))

    def deliver(self, report: Report, notes: Sequence[str] = ()) -> int:
        """Print the table, write the files, compare. Returns the exit code that the report deserves."""
        from ..files.durable_writes import explaining_write_errors, write_text_atomically
        from .comparison import compare
        from .findings import is_right, title
        from .plots import save_pngs
        from .report_html import html
        from .table import table

        width = min(max(shutil.get_terminal_size((_WIDTH[0], 24)).columns, _WIDTH[0]), _WIDTH[1])
        print(table(report, width))
        for note in notes:
            print(f"note: {note}")
        if self.old is not None:
            print(f"\n{compare(self.old, report, width)}")
        written: list[Path] = []
        for path, text in ((self.json, report.to_json), (self.html, lambda: html(report))):
            if path is not None:
                with explaining_write_errors(path):
                    write_text_atomically(path, text())
                written.append(path)
        if self.png is not None:
            written += save_pngs(report, self.png)
        if written:
            print(f"\nwritten: {', '.join(map(str, written))}")
        everything = [*report.rows, *report.limited, *report.swept]
        wrong = [
            f"{title(row.strategy)} ({row.form}, {row.kind})" for row in everything if row.outcome == FINISHED and not is_right(row)
        ]
        if wrong:
            print(f"mmapstore: wrong data came from {', '.join(dict.fromkeys(wrong))}", file=sys.stderr)
        elif report.rows and not any(row.outcome == FINISHED for row in everything):
            print("mmapstore: nothing finished; the table says of each row why.", file=sys.stderr)
        else:
            return 0
        return FAILED
