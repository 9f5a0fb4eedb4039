"""`mmapstore preview PATH OUT.png`: the command line's side of `preview`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from . import preview


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of `mmapstore preview` to a parser made for it."""
    parser.add_argument("path", metavar="PATH", help="a file, file::/inside, a glob or a directory")
    parser.add_argument("out", metavar="OUT.png", help="the picture to write; one of that name is replaced")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--samples", metavar="RANGE", help="a range such as 100:116, or numbers such as 3,17,42 (default: 0:16)")
    which.add_argument("--random", metavar="COUNT", type=int, help="so many samples from all over the data")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives others at random (default: 0)")
    parser.add_argument("--next-frame", action="store_true", help="below each frame the next one, and the change between them")
    parser.add_argument("--columns", type=int, help="samples next to each other (default: a balanced sheet)")
    parser.add_argument("--field", help="which of several fields is shown (default: the first with height and width)")
    parser.add_argument("--layout", help="how the array is stored, such as NHWC, if not by the usual axes")
    parser.add_argument("--max-memory", default="256MB", help="bound for private memory (default: 256MB)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> int:
    """Draw, and say what was drawn. Returns 0; raises what `preview` raises."""
    made = preview(
        args.path,
        args.out,
        samples=args.samples,
        random=args.random,
        seed=args.seed,
        next_frame=args.next_frame,
        columns=args.columns,
        field=args.field,
        layout=args.layout,
        max_memory=args.max_memory,
    )
    if args.json:
        print(json.dumps(asdict(made)))
    else:
        print("\n".join([f"{made.out}: {made.width} x {made.height} pixels", *(f"  {line}" for line in made.lines)]))
    return 0
