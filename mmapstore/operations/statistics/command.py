"""The command `mmapstore stats PATH`: a table for each field, or for each part of a split."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence

from ...plain.channel_statistics import ChannelStatistics
from ...plain.display import text_table
from ...plain.errors import InvalidValueError
from ..command_options import add_options, engine_of, keywords
from . import FieldStatistics, statistics_at

_ROWS = 16  # channels printed; --json has all
_HEADINGS: tuple[str, ...] = ("channel", "count", "min", "max", "mean", "std", "NaN")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of `mmapstore stats`."""
    add_options(parser, "path")
    parser.add_argument("--split", metavar="PARTS", help="statistics of each part: fractions or counts, such as 0.6,0.2,0.2")
    add_options(parser, "--layout")
    parser.add_argument("--recompute", action="store_true", help="read the data, even if the manifest has its statistics")
    add_options(parser, "--max-memory", "--engine", "--scheduler", "--json", json="print JSON, with every channel, instead of text")


def run(args: argparse.Namespace) -> int:
    """Print the statistics. Returns 0; raises what `statistics_at` raises."""
    found = statistics_at(**keywords(statistics_at, args, split=_parts(args.split), engine=engine_of(args)))
    print(json.dumps([each.to_json() for each in found], indent=1) if args.json else to_text(args.path, found))
    return 0


def _parts(text: str | None) -> list[float]:
    try:
        return [int(part) if part.strip().isdecimal() else float(part) for part in text.split(",")] if text else []
    except ValueError as error:
        raise InvalidValueError(f"--split {text} is not understood; expected fractions or counts such as 0.6,0.2,0.2.") from error


def to_text(path: str, found: Sequence[FieldStatistics]) -> str:
    lines: list[str] = []
    several = len({each.field for each in found}) > 1
    for each in found:
        first, last = each.samples
        part = f"{each.part}, samples [{first}, {last}) of " if each.part else ""
        shape = f" of {each.sample_shape}" if each.sample_shape else ""
        named = f"{part}{path}{f', field {each.field}' if several else ''}"
        lines.append(f"{named}: {last - first:,} samples{shape} {each.dtype}, {each.layout}; {each.origin}")
        if each.classes:
            lines += ["", f"  {each.classes}", ""]
            continue
        lines += ["", *_table(each.values, "C" in each.layout)]
        if each.differences.channels and each.differences.count.any():
            lines += ["", "  change to the next sample, x[t+1] - x[t]", "", *_table(each.differences, "C" in each.layout)]
            if each.change is not None:
                lines += ["", f"  a model that predicts no change has a mean squared error of {each.change:.6g}"]
        if each.keras_line():
            lines += ["", f"  {each.keras_line()}"]
        lines.append("")
    return "\n".join(lines[:-1])


def _table(found: ChannelStatistics, has_channels: bool) -> list[str]:
    columns = (found.count, found.minimum, found.maximum, found.mean, found.std, found.nans)
    rows = [_HEADINGS]
    for number, figures in enumerate(zip(*(values[:_ROWS].tolist() for values in columns), strict=True)):
        count, *values, nans = figures
        rows.append((str(number) if has_channels else "all", f"{count:,}", *map(_number, values), f"{nans:,}"))
    lines = text_table(rows, ">" * len(_HEADINGS))
    more = len(found.count) - _ROWS
    return [*lines, f"  and {more:,} more channels; --json prints all"] if more > 0 else lines


def _number(value: float) -> str:
    """
    >>> _number(255), _number(0.1234567), _number(float("nan")), _number(123456.789)
    ('255', '0.123457', '-', '123457')
    """
    if isinstance(value, int):
        return str(value)
    return "-" if math.isnan(value) else f"{value:.6g}"
