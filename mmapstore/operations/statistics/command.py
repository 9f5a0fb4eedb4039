"""`mmapstore stats PATH`: a table for each field, or for each part of a split."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence

from ...plain.channel_statistics import ChannelStatistics
from ...plain.errors import InvalidValueError
from . import FieldStatistics, statistics_at

_ROWS = 16  # channels printed; --json has all
_HEADINGS = ("channel", "count", "min", "max", "mean", "std", "NaN")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of `mmapstore stats` to a parser made for it."""
    parser.add_argument("path", help="a file, file::/inside, a glob or a directory")
    parser.add_argument("--split", metavar="PARTS", help="statistics of each part: fractions or counts, such as 0.6,0.2,0.2")
    parser.add_argument("--layout", help="how the array is stored, such as TNHW, if not by the usual axes")
    parser.add_argument("--recompute", action="store_true", help="read the data, also where the manifest has the figures")
    parser.add_argument("--max-memory", default="256MB", help="bound for private memory (default: 256MB)")
    parser.add_argument("--json", action="store_true", help="print JSON, with every channel, instead of text")


def run(args: argparse.Namespace) -> int:
    """Print the figures. Returns 0; raises what `statistics_at` raises."""
    found = statistics_at(
        args.path,
        split=_parts(args.split),
        layout=args.layout,
        recompute=args.recompute,
        max_memory=args.max_memory,
        progress=False if args.json else None,
    )
    print(json.dumps([each.to_json() for each in found], indent=1) if args.json else to_text(args.path, found))
    return 0


def _parts(text: str | None) -> list[float]:
    try:
        return [int(part) if part.strip().isdigit() else float(part) for part in text.split(",")] if text else []
    except ValueError as error:
        raise InvalidValueError(f"--split {text} is not understood; expected fractions or counts such as 0.6,0.2,0.2.") from error


def to_text(path: str, found: Sequence[FieldStatistics]) -> str:
    lines: list[str] = []
    several = len({each.field for each in found}) > 1
    for each in found:
        first, last = each.samples
        what = f"{path}{f', field {each.field}' if several else ''}"
        part = f"{each.part}, samples [{first}, {last}) of " if each.part else ""
        shape = f" of {each.sample_shape}" if each.sample_shape else ""
        lines += [f"{part}{what}: {last - first:,} samples{shape} {each.dtype}, {each.layout}; {each.origin}", ""]
        lines += _table(each.values, "C" in each.layout)
        if each.differences.channels and each.differences.count.any():
            lines += ["", "  change to the next sample, x[t+1] - x[t]", ""]
            lines += _table(each.differences, "C" in each.layout)
            if each.change is not None:
                lines += ["", f"  a model that predicts no change has a mean squared error of {each.change:.6g}"]
        if each.keras_line():
            lines += ["", f"  {each.keras_line()}"]
        lines.append("")
    return "\n".join(lines[:-1])


def _table(found: ChannelStatistics, has_channels: bool) -> list[str]:
    rows = [
        (
            str(number) if has_channels else "all",
            f"{count:,}",
            _number(low),
            _number(high),
            _number(mean),
            _number(std),
            f"{nans:,}",
        )
        for number, (count, low, high, mean, std, nans) in enumerate(
            zip(
                *(values.tolist() for values in (found.count, found.minimum, found.maximum, found.mean, found.std, found.nans)),
                strict=True,
            )
        )
    ]
    shown = [_HEADINGS, *rows[:_ROWS]]
    widths = [max(len(row[column]) for row in shown) for column in range(len(_HEADINGS))]
    lines = ["  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in shown]
    if len(rows) > _ROWS:
        lines.append(f"  and {len(rows) - _ROWS:,} more channels; --json prints all")
    return lines


def _number(value: float) -> str:
    """
    >>> _number(255), _number(0.1234567), _number(float("nan")), _number(123456.789)
    ('255', '0.123457', '-', '123457')
    """
    if isinstance(value, int):
        return str(value)
    return "-" if math.isnan(value) else f"{value:.6g}"
