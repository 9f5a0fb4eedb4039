"""`mmapstore convert SRC DST`: the command line's side of `convert`."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from typing import Any

from ...plain.errors import InvalidValueError, PackedValuesWarning
from . import convert, tree_command
from .casts import CASTINGS

INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of `mmapstore convert` to a parser made for it."""
    parser.add_argument("source", metavar="SRC", help="a.npy, a.h5::/frames, a.nc::/t2m, a.mat::/x, a.zarr or a quoted glob")
    parser.add_argument("out", metavar="DST", help="b.npy, b.h5, b.h5::/name, b.zarr or b.zarr::/name")
    parser.add_argument("--key", help="the array inside SRC, instead of ::")
    parser.add_argument("--layout", help="axes as written, one letter each, such as NCHW (default: as they are stored)")
    parser.add_argument("--source-layout", help="axes as they are stored (default: the usual ones for that many)")
    parser.add_argument("--dtype", help="of the target, such as uint8 or float32 (default: that of the source)")
    parser.add_argument(
        "--casting",
        choices=CASTINGS,
        default="exact",
        help="for values that the dtype does not hold: exact refuses them, round takes the nearest and refuses what is out of "
        "range, clip takes the end of the range for that; both are counted (default: exact)",
    )
    parser.add_argument("--samples", metavar="START:STOP", help="convert these samples alone, such as 0:1000 or -100:")
    parser.add_argument("--compression", help="gzip, zstd, blosc ... or none (default: that of the source, where DST has it)")
    parser.add_argument("--chunks", metavar="N,N,...", help="the shape of a chunk of DST (default: that of the source)")
    parser.add_argument("--chunk-samples", type=int, metavar="N", help="whole samples in a chunk of DST")
    parser.add_argument(
        "--unpack",
        action="store_true",
        help="write the values that packed numbers stand for (scale_factor, add_offset, _Unsigned), and NaN where there is none "
        "(_FillValue, missing_value, valid_range ...)",
    )
    parser.add_argument("--max-memory", default="256MB", help="bound for private memory (default: 256MB)")
    parser.add_argument("--overwrite", action="store_true", help="replace DST when the new data is whole")
    parser.add_argument("--no-resume", action="store_true", help="forget an interrupted run and start again")
    parser.add_argument(
        "--no-verify", action="store_true", help="do not read the target back: saves some 10%% of the time for .npy, up to half "
        "where it has to be decoded",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="write nothing: sizes, chunks, memory and time")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    tree_command.add_arguments(parser)


is_supervised = tree_command.is_tree


def run(args: argparse.Namespace) -> int:
    """Convert, and say what was done. Returns 0 or, stopped by Ctrl-C, 130; raises what `convert` raises."""
    if tree_command.is_tree(args):
        return tree_command.run(args)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PackedValuesWarning)  # among the notes, which are printed below
            done = convert(
                args.source,
                args.out,
                key=args.key,
                layout=args.layout,
                source_layout=args.source_layout,
                dtype=args.dtype,
                casting=args.casting,
                samples=_samples(args.samples),
                compression=args.compression,
                chunks=_chunks(args.chunks),
                chunk_samples=args.chunk_samples,
                max_memory=args.max_memory,
                overwrite=args.overwrite,
                resume=not args.no_resume,
                dry_run=args.dry_run,
                unpack=args.unpack,
                verify=not args.no_verify,
                progress=False if args.json else None,
            )
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to go on from here.", file=sys.stderr)
        return INTERRUPTED
    for note in done.notes:
        print(f"mmapstore: {note}", file=sys.stderr)
    print(json.dumps(done.to_json()) if args.json else done.to_text())
    return 0


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
