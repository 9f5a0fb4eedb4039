"""The command `mmapstore convert` for all that a file or store holds (`--all`), or for a directory of archives."""

from __future__ import annotations

import argparse

from ...files.crashes import has_restarted
from ...plain.errors import InvalidValueError
from ..command_options import keywords, print_result
from .archives import TO, convert_directory, is_directory_of_archives
from .tree import convert_all
from .tree_report import TreeReport

# Options for one array alone, by their name in the parsed arguments.
_ONE_ARRAY = (
    "key", "layout", "source_layout", "dtype", "samples", "compression", "chunks", "chunk_samples", "unpack", "dry_run",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for trees and directories."""
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


def is_tree(args: argparse.Namespace) -> bool:
    """True if these arguments ask for more than one array."""
    return bool(args.all) or is_directory_of_archives(args.source)


def run(args: argparse.Namespace) -> int:
    """Convert, and print what became of each object. Returns 0, or 1 if something was refused or failed."""
    given = [f"--{name.replace('_', '-')}" for name in _ONE_ARRAY if getattr(args, name)] + ["--no-verify"] * (not args.verify)
    if given:
        raise InvalidValueError(
            f"{', '.join(given)} can be meant for one array alone, and {args.source} is converted with all that is in it."
        )
    resume = args.resume or has_restarted()
    done: TreeReport
    if is_directory_of_archives(args.source):
        done = convert_directory(**keywords(convert_directory, args, to=args.to or TO[0], resume=resume))
    else:
        if args.to:
            raise InvalidValueError(f"--to is for a directory of archives; {args.source} is one. Give DST that suffix.")
        done = convert_all(**keywords(convert_all, args, resume=resume))
        if args.report:
            done.write_csv(args.report)
    print_result(done, args, indent=None)
    return done.exit_code
