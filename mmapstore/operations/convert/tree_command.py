"""`mmapstore convert SRC DST --all`, and a directory of archives: the command line's side."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ...files.crashes import has_restarted
from ...plain.errors import InvalidValueError
from .archives import TO, convert_directory, is_directory_of_archives
from .tree import convert_all
from .tree_report import TreeReport

INTERRUPTED = 130
# Options that mean one array, by their name in the parsed arguments.
_ONE_ARRAY = (
    "key", "layout", "source_layout", "dtype", "samples", "compression", "chunks", "chunk_samples", "unpack", "dry_run",
    "no_verify",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of trees and directories."""
    parser.add_argument(
        "--all",
        action="store_true",
        help="convert all of SRC: groups, arrays, attributes, links; to b.h5, b.zarr, or b or b/, a directory of .npy files",
    )
    parser.add_argument("--to", choices=TO, help="where SRC is a directory of archives: what each of them becomes (default: .zarr)")
    parser.add_argument("--report", metavar="CSV", help="with --all or a directory: write a line for each object to this file")
    parser.add_argument(
        "--allow-links",
        action="store_true",
        help="with --all or a directory: follow links to other files, and read datasets kept in other files; only for sources you "
        "trust, as these may name any file of yours",
    )


def is_tree(args: argparse.Namespace) -> bool:
    """Whether these arguments ask for more than one array."""
    return bool(args.all) or is_directory_of_archives(args.source)


def run(args: argparse.Namespace) -> int:
    """Convert, print what became of each object, and return 0, 1 if something was refused or failed, 130 after Ctrl-C."""
    given = [name for name in _ONE_ARRAY if getattr(args, name, None)]
    if given:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InvalidValueError(f"{named} can be meant for one array alone, and {args.source} is converted with all that is in it.")
    options: dict[str, Any] = {
        "max_memory": args.max_memory,
        "overwrite": args.overwrite,
        "resume": not args.no_resume or has_restarted(),
        "allow_links": args.allow_links,
        "progress": False if args.json else None,
    }
    try:
        if is_directory_of_archives(args.source):
            done = convert_directory(args.source, args.out, to=args.to or TO[0], report=args.report, **options)
        else:
            if args.to:
                raise InvalidValueError(f"--to is for a directory of archives; {args.source} is one. Give DST that suffix.")
            done = convert_all(args.source, args.out, **options)
            if args.report:
                done.write_csv(args.report)
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to go on from here.", file=sys.stderr)
        return INTERRUPTED
    _print(done, args.json)
    return done.exit_code


def _print(done: TreeReport, as_json: bool) -> None:
    print(json.dumps(done.to_json()) if as_json else done.to_text())
