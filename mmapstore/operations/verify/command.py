"""`mmapstore verify A [B]`: the command line's side of `verify`."""

from __future__ import annotations

import argparse
import json

from ...files.crashes import step
from . import verify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of `mmapstore verify` to a parser made for it."""
    parser.add_argument("path", metavar="A", help="a file, file::/inside, a store or a directory")
    parser.add_argument(
        "other", metavar="B", nargs="?", help="what A is to be equal to; left out, A is checked against its manifest"
    )
    parser.add_argument("--layout", help="the axes of A, such as NCHW, to compare arrays whose axes are in another order")
    parser.add_argument("--other-layout", help="the axes of B, such as NHWC")
    parser.add_argument(
        "--cast", action="store_true", help="compare other dtypes as well: A's values as B's dtype, floats rounded to the nearest"
    )
    parser.add_argument(
        "--independent", action="store_true", help="read through h5py, zarr and NumPy themselves: slower, and a second opinion"
    )
    parser.add_argument(
        "--allow-links", action="store_true", help="follow links to other files, as `convert --allow-links` did; for trusted files"
    )
    parser.add_argument("--max-memory", default="256MB", help="bound for private memory (default: 256MB)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def is_supervised(args: argparse.Namespace) -> bool:
    """True for a comparison: what `convert` survived, the `verify` after it survives as well."""
    return args.other is not None


def run(args: argparse.Namespace) -> int:
    """Print the verdict. Returns 0 where all is right, else 1; raises what `verify` raises."""
    with step(f"verifying {args.path}"):
        found = verify(
            args.path,
            args.other,
            layout=args.layout,
            other_layout=args.other_layout,
            cast=args.cast,
            independent=args.independent,
            allow_links=args.allow_links,
            max_memory=args.max_memory,
            progress=False if args.json else None,
        )
    print(json.dumps(found.to_json(), indent=1) if args.json else found.to_text())
    return 0 if found else 1
