"""The command `mmapstore convert SRC DST`: one array, all of a file or store (`--all`), or a directory of archives."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from typing import Any

from ...files.crashes import has_restarted
from ...plain.errors import InvalidValueError, PackedValuesWarning
from ..command_options import RESUMABLE, add_options, engine_of, keywords, print_result
from ..flow.casts import CASTINGS
from ..flow.receipts import part_of_job
from . import convert
from .archives import TO, convert_directory, is_directory_of_archives
from .tree import convert_all
from .tree_report import TreeReport

# Options for one array alone, by their name in the parsed arguments.
_ONE_ARRAY = (
    "key", "layout", "source_layout", "dtype", "samples", "compression", "chunks", "chunk_samples", "unpack", "dry_run",
    "part", "parts", "finish",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of `mmapstore convert`."""
    parser.add_argument("source", metavar="SRC", help="a.npy, a.h5::/frames, a.nc::/t2m, a.mat::/x, a.zarr or a quoted glob")
    parser.add_argument("out", metavar="DST", help="b.npy, b.h5, b.h5::/name, b.zarr or b.zarr::/name")
    layout = "axes of the output, such as NCHW (default: as stored)"
    add_options(parser, "--key", "--layout", "--source-layout", "--dtype", layout=layout)
    parser.add_argument(
        "--casting",
        choices=CASTINGS,
        default="exact",
        help="values that the dtype cannot hold: exact is an error, round takes the nearest value and is an error out of range, "
        "clip also clips to the range; changed values are counted (default: exact)",
    )
    parser.add_argument("--samples", metavar="START:STOP", help="copy only these samples, such as 0:1000 or -100:")
    add_options(parser, "--compression", compression="gzip, zstd, blosc ... or none (default: that of the source, if possible)")
    parser.add_argument("--chunks", metavar="N,N,...", help="chunk shape of the output (default: that of the source)")
    parser.add_argument("--chunk-samples", type=int, metavar="N", help="number of whole samples in a chunk of the output")
    parser.add_argument(
        "--unpack",
        action="store_true",
        help="write unpacked values (scale_factor, add_offset, _Unsigned), and NaN for missing ones (_FillValue, missing_value, "
        "valid_range ...)",
    )
    add_options(parser, "--max-memory", "--overwrite", "--no-resume")
    parser.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="skip reading the output back: saves some 10%% of the time for .npy, up to half for compressed output",
    )
    add_options(parser, "--dry-run", "--json", "--engine", "--scheduler")
    parser.add_argument(
        "--part",
        metavar="I/N",
        help="convert part I of N (from 0) of one array, in any order and on any machine that sees the paths; 'auto' takes I from "
        "SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX, and N from --parts",
    )
    parser.add_argument("--parts", type=int, metavar="N", help="number of parts, with --part auto")
    parser.add_argument("--finish", action="store_true", help="publish DST once all parts are converted")
    parser.add_argument(
        "--all",
        action="store_true",
        help="copy everything in SRC: groups, arrays, attributes, links; to b.h5, b.zarr, or b or b/, a directory of .npy files",
    )
    parser.add_argument("--to", choices=TO, help="output format of each archive, if SRC is a directory of them (default: .zarr)")
    parser.add_argument("--report", metavar="CSV", help="with --all or a directory: write one line per object to this file")
    parser.add_argument(
        "--allow-links",
        action="store_true",
        help="with --all or a directory: follow links to other files, and read data stored in other files; only for trusted "
        "sources, as such links may name any file of yours",
    )
    parser.set_defaults(interrupted=RESUMABLE)


def is_supervised(args: argparse.Namespace) -> bool:
    """Return True if these arguments ask for more than one array."""
    return bool(args.all) or is_directory_of_archives(args.source)


def run(args: argparse.Namespace) -> int:
    """Convert, and print what was done. Returns 0, or 1 if an object was refused; raises what `convert` raises."""
    if is_supervised(args):
        return _run_tree(args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PackedValuesWarning)  # the notes below repeat it
        changed = {
            "samples": _samples(args.samples),
            "chunks": _chunks(args.chunks),
            "engine": engine_of(args),
            "part": _part(args),
        }
        done = convert(**keywords(convert, args, **changed))
    for note in done.notes:
        print(f"mmapstore: {note}", file=sys.stderr)
    print_result(done, args, indent=None)
    return 0


def _run_tree(args: argparse.Namespace) -> int:
    given = [f"--{name.replace('_', '-')}" for name in _ONE_ARRAY if getattr(args, name)] + ["--no-verify"] * (not args.verify)
    if given:
        raise InvalidValueError(
            f"{', '.join(given)} can be meant for one array alone, and {args.source} is converted with all that is in it."
        )
    resume, engine = args.resume or has_restarted(), engine_of(args)
    done: TreeReport
    if is_directory_of_archives(args.source):
        done = convert_directory(**keywords(convert_directory, args, to=args.to or TO[0], resume=resume, engine=engine))
    else:
        if args.to:
            raise InvalidValueError(f"--to is for a directory of archives; {args.source} is one. Give DST that suffix.")
        done = convert_all(**keywords(convert_all, args, resume=resume, engine=engine))
        if args.report:
            done.write_csv(args.report)
    print_result(done, args, indent=None)
    return done.exit_code


def _part(args: argparse.Namespace) -> str | None:
    """Return `part=` as the options give it. Raises InvalidValueError for options that do not go together."""
    if args.finish and args.part:
        raise InvalidValueError(f"--finish and --part {args.part} were both given: finish once all parts are converted.")
    if args.parts is not None and args.part != "auto":
        raise InvalidValueError("--parts goes with --part auto; otherwise give --part I/N.")
    if args.part == "auto":
        return str(part_of_job(os.environ, args.parts))
    return "finish" if args.finish else args.part


def _samples(text: str | None) -> slice | None:
    if text is None:
        return None
    start, colon, stop = text.partition(":")
    if not colon:
        raise InvalidValueError(f"--samples {text} is not a range; expected START:STOP, such as 0:1000, 500: or :500.")
    return slice(_whole("--samples", start) if start else None, _whole("--samples", stop) if stop else None)


def _chunks(text: str | None) -> tuple[int, ...] | None:
    return None if text is None else tuple(_whole("--chunks", part) for part in text.strip("()").split(",") if part.strip())


def _whole(option: str, text: Any) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidValueError(f"{option}: {text!r} is not a whole number.") from None
