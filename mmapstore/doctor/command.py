"""The command `mmapstore doctor PATH`."""

from __future__ import annotations

import argparse

from ..operations.command_options import add_options, keywords, print_result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of `mmapstore doctor`."""
    add_options(parser, "path", "--key", "--layout", path="a file, file::/inside, a quoted glob, a directory or folder of images")
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="number of samples in a batch (default: 32)")
    parser.add_argument(
        "--target", help="y: next, none, or the name of a field (default: the second field if there is one, else next)"
    )
    add_options(parser, "--max-memory", max_memory="upper bound of an epoch's memory, such as 64MB (default: none)")
    parser.set_defaults(max_memory=None)
    parser.add_argument("--quick", action="store_true", help="measure nothing, and read headers only")
    add_options(parser, "--json")


def run(args: argparse.Namespace) -> int:
    """Print the diagnosis. Returns 0, also where something is wrong with the data; raises what `examine` raises."""
    from .examination import examine

    print_result(examine(**keywords(examine, args)), args)
    return 0
