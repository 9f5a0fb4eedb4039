"""Command-line options that several commands have, declared once; and the way from parsed arguments to a call and its output."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable, Iterable
from typing import Any

from ..plain.errors import InvalidValueError

RESUMABLE = "Interrupted. Run the same command again to go on from here."
_OPTIONS: dict[str, dict[str, Any]] = {
    "path": {"metavar": "PATH", "help": "a file, file::/inside, a quoted glob or a directory"},
    "--key": {"metavar": "NAME", "help": "name of the array inside the file, instead of ::NAME"},
    "--layout": {
        "metavar": "AXES",
        "help": "axes of the stored array, such as NHWC or TNHW (default: from the manifest or the number of axes)",
    },
    "--source-layout": {
        "metavar": "AXES",
        "help": "axes of the source, such as NHWC or NTHWC (default: from the manifest or the number of axes)",
    },
    "--dtype": {"help": "dtype of the output, such as uint8 or float32 (default: that of the source)"},
    "--compression": {"metavar": "NAME", "help": "compression of HDF5 and Zarr output: gzip, zstd, blosc ..."},
    "--max-memory": {"metavar": "SIZE", "default": "256MB", "help": "upper bound of private memory (default: 256MB)"},
    "--overwrite": {"action": "store_true", "help": "replace existing output once the new data is complete"},
    "--no-resume": {"dest": "resume", "action": "store_false", "help": "discard an interrupted run and start again"},
    "--dry-run": {"action": "store_true", "help": "write nothing; print the predicted size, memory and time"},
    "--engine": {
        "choices": ("threads", "processes", "dask"),
        "default": "threads",
        "help": "workers: threads of this process, one process for each CPU, or the Dask cluster of --scheduler (default: threads)",
    },
    "--scheduler": {"metavar": "ADDRESS", "help": "address of the Dask scheduler, such as tcp://host:8786"},
    "--json": {"action": "store_true", "help": "print JSON instead of text"},
}


def add_options(parser: argparse.ArgumentParser, *names: str, **helps: str) -> None:
    """Add shared options by name, such as "--max-memory"; `helps` replace help texts, as in `layout="axes of the output"`."""
    for name in names:
        settings = dict(_OPTIONS[name])
        settings["help"] = helps.get(name.removeprefix("--").replace("-", "_"), settings["help"])
        parser.add_argument(name, **settings)


def add_raw_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe a file without a header."""
    group = parser.add_argument_group("files without a header", "plain numbers, as they lie in memory")
    group.add_argument("--raw-dtype", metavar="DTYPE", help="dtype of the numbers, such as uint8, or '>f4' for big-endian")
    group.add_argument("--raw-shape", metavar="SHAPE", help="shape, such as 1000,3,50,50; N,3,50,50 takes N from the file size")
    group.add_argument("--raw-offset", type=int, metavar="BYTES", help="number of bytes before the first number (default: 0)")


def raw_form(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments `dtype`, `shape` and `offset` of `mmapstore.open` for a file without a header; only those given."""
    form = {"dtype": args.raw_dtype, "shape": args.raw_shape and _shape(args.raw_shape), "offset": args.raw_offset}
    return {name: value for name, value in form.items() if value is not None}


def _shape(text: str) -> tuple[int, ...]:
    """
    >>> _shape("1000,3,50,50"), _shape("N,3,50")
    ((1000, 3, 50, 50), (-1, 3, 50))
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() or part in ("N", "n", "-1") for part in parts):
        raise InvalidValueError(f"--raw-shape {text} is not understood; expected lengths with commas, such as 1000,3,50,50.")
    return tuple(int(part) if part.isdecimal() else -1 for part in parts)


def engine_of(args: argparse.Namespace) -> str:
    """Return `engine=` of --engine and --scheduler. Raises InvalidValueError for one without the other."""
    if (args.engine == "dask") is (args.scheduler is not None):
        return str(args.scheduler or args.engine)
    raise InvalidValueError(
        "--engine dask and --scheduler ADDRESS go together: workers are those of a scheduler that runs already."
    )


def refuse_options(args: argparse.Namespace, names: Iterable[str], why: str) -> None:
    """Raise InvalidValueError, "--name why", if one of these options was given: is neither None nor False."""
    for name in names:
        if getattr(args, name) is not None and getattr(args, name) is not False:
            raise InvalidValueError(f"--{name.replace('_', '-')} {why}")


def keywords(function: Callable[..., Any], args: argparse.Namespace, **changed: Any) -> dict[str, Any]:
    """Return the arguments of `function`: the options that are named like its parameters, and `changed`.

    `progress`, where the function has it, shows a bar on a terminal, and nothing with `--json`.
    """
    parameters = inspect.signature(function).parameters
    found = {name: getattr(args, name) for name in parameters if hasattr(args, name)}
    if "progress" in parameters:
        found["progress"] = False if args.json else None
    return {**found, **changed}


def print_result(found: Any, args: argparse.Namespace, indent: int | None = 1) -> None:
    """Print a result that has `to_json()` and `to_text()`, as `--json` asks; JSON in one line where `indent` is None."""
    print(json.dumps(found.to_json(), indent=indent) if args.json else found.to_text())
