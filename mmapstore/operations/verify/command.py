"""The command `mmapstore verify A [B]`."""

from __future__ import annotations

import argparse

from ...files.crashes import step
from ..command_options import add_options, engine_of, keywords, print_result
from . import verify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of `mmapstore verify`."""
    parser.add_argument("path", metavar="A", help="a file, file::/inside, a store or a directory")
    parser.add_argument("other", metavar="B", nargs="?", help="data to compare A with (default: check A against its manifest)")
    add_options(parser, "--layout", layout="axes of A, such as NCHW, to compare arrays whose axes are in another order")
    parser.add_argument("--other-layout", metavar="AXES", help="axes of B, such as NHWC")
    parser.add_argument(
        "--cast", action="store_true", help="compare different dtypes: values of A are cast to the dtype of B, floats rounded"
    )
    parser.add_argument(
        "--independent", action="store_true", help="read with h5py, zarr and NumPy instead of mmapstore: slower, a second opinion"
    )
    parser.add_argument(
        "--allow-links", action="store_true", help="follow links to other files, as `convert --allow-links`; for trusted files only"
    )
    add_options(parser, "--max-memory", "--engine", "--scheduler", "--json")


def is_supervised(args: argparse.Namespace) -> bool:
    """True for a comparison, so that `verify` survives every file that `convert` survived."""
    return args.other is not None


def run(args: argparse.Namespace) -> int:
    """Print the verdict. Returns 0 if the data is as expected, else 1; raises what `verify` raises."""
    with step(f"verifying {args.path}"):
        found = verify(**keywords(verify, args, engine=engine_of(args)))
    print_result(found, args)
    return 0 if found else 1
