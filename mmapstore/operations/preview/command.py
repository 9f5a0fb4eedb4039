"""The command `mmapstore preview PATH OUT.png`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from ..command_options import add_options, keywords
from . import preview


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of `mmapstore preview`."""
    add_options(parser, "path")
    parser.add_argument("out", metavar="OUT.png", help="the picture to write; an existing one is replaced")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--samples", metavar="RANGE", help="a range such as 100:116, or numbers such as 3,17,42 (default: 0:16)")
    which.add_argument("--random", metavar="COUNT", type=int, help="number of samples to draw at random")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed of --random (default: 0)")
    parser.add_argument("--next-frame", action="store_true", help="below each frame, draw the next one and the difference")
    parser.add_argument("--columns", type=int, metavar="N", help="number of samples in a row (default: a balanced sheet)")
    parser.add_argument("--field", metavar="NAME", help="field to draw (default: the first with height and width)")
    add_options(parser, "--layout", "--max-memory", "--json")


def run(args: argparse.Namespace) -> int:
    """Draw, and print what was drawn. Returns 0; raises what `preview` raises."""
    made = preview(**keywords(preview, args))
    lines = [f"{made.out}: {made.width} x {made.height} pixels", *(f"  {line}" for line in made.lines)]
    print(json.dumps(asdict(made)) if args.json else "\n".join(lines))
    return 0
