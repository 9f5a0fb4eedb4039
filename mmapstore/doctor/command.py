"""`mmapstore doctor PATH`: the command line's side of `examine`."""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of `mmapstore doctor` to a parser made for it."""
    parser.add_argument("path", help="a file, file::/inside, a glob, a directory that mmapstore wrote, or a folder of images")
    parser.add_argument("--key", help="the array inside PATH, instead of ::")
    parser.add_argument("--layout", help="how the array is stored, such as TNHW, if not by the usual axes")
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="samples in a batch (default: 32)")
    parser.add_argument("--target", help="what y is: next, none, or a field (default: the second field if there is one, else next)")
    parser.add_argument("--max-memory", help="what an epoch may take, such as 64MB; tells how well it is then shuffled")
    parser.add_argument("--quick", action="store_true", help="measure nothing, read headers alone")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> int:
    """Print what was found. Returns 0, whatever it is; raises what `examine` raises."""
    from .examination import examine

    found = examine(
        args.path,
        key=args.key,
        layout=args.layout,
        batch=args.batch,
        target=args.target,
        max_memory=args.max_memory,
        quick=args.quick,
    )
    print(json.dumps(found.to_json(), indent=1) if args.json else found.to_text())
    return 0
