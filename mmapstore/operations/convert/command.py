"""The command `mmapstore convert SRC DST`."""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

from ...plain.errors import InvalidValueError, PackedValuesWarning
from ..command_options import RESUMABLE, add_options, keywords, print_result
from . import convert, tree_command
from .casts import CASTINGS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of `mmapstore convert`."""
    parser.add_argument("source", metavar="SRC", help="a.npy, a.h5::/frames, a.nc::/t2m, a.mat::/x, a.zarr or a quoted glob")
    parser.add_argument("out", metavar="DST", help="b.npy, b.h5, b.h5::/name, b.zarr or b.zarr::/name")
    add_options(
        parser, "--key", "--layout", "--source-layout", "--dtype", layout="axes of the output, such as NCHW (default: as stored)"
    )
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
        "--no-verify", dest="verify", action="store_false", help="skip reading the output back: saves some 10%% of the "
        "time for .npy, up to half for compressed output",
    )  # fmt: skip
    add_options(parser, "--dry-run", "--json")
    tree_command.add_arguments(parser)
    parser.set_defaults(interrupted=RESUMABLE)


is_supervised = tree_command.is_tree


def run(args: argparse.Namespace) -> int:
    """Convert, and print what was done. Returns 0; raises what `convert` raises."""
    if tree_command.is_tree(args):
        return tree_command.run(args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PackedValuesWarning)  # the notes below repeat it
        done = convert(**keywords(convert, args, samples=_samples(args.samples), chunks=_chunks(args.chunks)))
    for note in done.notes:
        print(f"mmapstore: {note}", file=sys.stderr)
    print_result(done, args, indent=None)
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
