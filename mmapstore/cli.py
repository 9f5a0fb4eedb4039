"""The command `mmapstore`: each subcommand a thin call of what `import mmapstore` offers."""

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
    "exit codes: 0 done; 1 it failed, and the reason was printed; "
    "2 invalid arguments, or arguments that do not fit the data; 130 interrupted"
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
            _flush()  # here, where it can still be said what is wrong, and not when Python ends
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
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _flush() -> None:
    if sys.stdout is not None:  # None where the shell closed it: `>&-`
        sys.stdout.flush()


def _drop_output() -> None:
    """What is still buffered must go somewhere when Python ends."""
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

    command("demo", "train a small next-frame model on real video from a memory-mapped file, and show what it took", demo)
    command("info", "tell what a file, a place inside one, or a directory holds, and how it will be read", _Info)
    command("ingest", "write arrays, images or videos to one .npy, HDF5 or Zarr store that trains fast", ingest)
    command("convert", "copy an array into another format, check what was written, and say what is not as it was", convert)
    command("verify", "check data against its manifest, or against other data, block by block and value by value", verify)
    command("stats", "tell what the values of each channel are like, and how they change from sample to sample", statistics)
    command("preview", "draw samples as a PNG contact sheet, or frames, the next ones and the change between them", preview)
    command("bench", "measure what each way of feeding Keras takes in memory and time, each in a process of its own", bench)
    command("doctor", "tell what is wrong with how data is stored, what training takes, and the command that mends it", doctor)
    return parser


class _Info:
    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("path", help="a file, file::/inside, a glob or a directory")
        from .operations.ingest.archive_options import add_raw_arguments

        parser.add_argument("--layout", help="how the array is stored, such as TNHW, if not by the usual axes")
        parser.add_argument("--json", action="store_true", help="print JSON instead of text")
        add_raw_arguments(parser.add_argument_group("files without a header", "numbers as they lie in memory"))

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        from .operations.describe import describe
        from .operations.ingest.archive_options import raw_form

        found = describe(options.path, options.layout, **raw_form(options))
        print(json.dumps(found.to_json(), indent=1) if options.json else found.to_text())
        return FAILED if found.arrays and all(array.refused for array in found.arrays) else OK
