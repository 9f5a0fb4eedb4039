"""The command `mmapstore`: each subcommand is a thin call of a function of the package."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from .plain.errors import InvalidTypeError, InvalidValueError, MmapstoreError, SourceWarning
from .supervised import can_be_supervised, run_supervised

OK, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
EXIT_CODES = (
    "exit codes: 0 success; 1 failure, with its reason printed; 2 invalid arguments, or arguments that do not fit the data; "
    "130 interrupted"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; without `arguments`, those of this process, in a child where it may crash."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    try:
        try:
            return _run(arguments)
        finally:
            if sys.stdout is not None:  # None where the shell closed it: `>&-`
                sys.stdout.flush()  # here, where it can still be said what is wrong, and not when Python ends
    except BrokenPipeError:
        _drop_output()  # `mmapstore info x | head`: the reader left, which is no error
        return OK
    except OSError as error:
        try:
            print(flush=True)
        except OSError:  # so it was the output that failed
            _drop_output()
            print(f"mmapstore: the output cannot be written: {error.strerror or error}. Send it elsewhere.", file=sys.stderr)
            return FAILED
        raise


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", SourceWarning)
            shown = warnings.showwarning
            warnings.showwarning = lambda message, category, *place: (
                print(f"mmapstore: {message}", file=sys.stderr)
                if issubclass(category, SourceWarning)
                else shown(message, category, *place)
            )
            if arguments is None and options.is_supervised(options) and can_be_supervised():
                return run_supervised(sys.argv[1:])
            return int(options.run(options))
    except (InvalidValueError, InvalidTypeError) as error:
        return _refused(error, options, WRONG_USE)
    except MmapstoreError as error:
        return _refused(error, options, FAILED)
    except KeyboardInterrupt:
        print(getattr(options, "interrupted", "interrupted"), file=sys.stderr)
        return INTERRUPTED


def _drop_output() -> None:
    """Send what is still buffered to nowhere, so that Python can end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _refused(error: Exception, options: argparse.Namespace, code: int) -> int:
    if getattr(options, "json", False):
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
    print(f"mmapstore: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    from . import __version__
    from .bench import command as bench
    from .demo import command as demo
    from .doctor import command as doctor
    from .operations.convert import command as convert
    from .operations.ingest import command as ingest
    from .operations.preview import command as preview
    from .operations.statistics import command as statistics
    from .operations.verify import command as verify

    parser = argparse.ArgumentParser(
        prog="mmapstore",
        description="Train Keras from arrays on disk that do not fit in memory, in a memory bound stated beforehand.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"mmapstore {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, summary: str, module: Any) -> None:
        sub = commands.add_parser(name, help=summary, description=f"{summary}.", epilog=EXIT_CODES)
        module.add_arguments(sub)
        sub.set_defaults(run=module.run, is_supervised=getattr(module, "is_supervised", lambda args: False))

    command("demo", "train a small next-frame model on real video from a memory-mapped file, and report its memory", demo)
    command("info", "list the arrays in a file or directory, and how each is read", _Info)
    command("ingest", "write arrays, images or videos to one .npy, HDF5 or Zarr store that trains fast", ingest)
    command("convert", "copy an array or a whole archive into another format, and verify the copy", convert)
    command("verify", "check data against its manifest, or compare it with other data, value by value", verify)
    command("stats", "print minimum, maximum, mean and deviation of each channel, and of its change to the next sample", statistics)
    command("preview", "draw samples as a PNG contact sheet; with --next-frame also the next ones and the difference", preview)
    command("bench", "measure memory and time of each strategy to feed Keras, each in a process of its own", bench)
    command("doctor", "find what slows down training in how data is stored, and print the commands that fix it", doctor)
    return parser


class _Info:
    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        from .operations.command_options import add_options, add_raw_options

        add_options(parser, "path", "--layout", "--json")
        add_raw_options(parser)

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        from .operations.command_options import print_result, raw_form
        from .operations.describe import describe

        found = describe(options.path, options.layout, **raw_form(options))
        print_result(found, options)
        return FAILED if found.arrays and all(array.refused for array in found.arrays) else OK
