"""Durations and tables as text for people; `memory_budget.format_bytes` is the formatter of bytes."""

from __future__ import annotations

from collections.abc import Sequence


def format_duration(seconds: float) -> str:
    """
    >>> [format_duration(seconds) for seconds in (12e-6, 0.004, 0.25, 12.34, 90, 5400, 86400 * 3)]
    ['12 µs', '4 ms', '250 ms', '12.3 s', '1.5 min', '1.5 h', '72 h']
    """
    for unit, size, below in (("µs", 1e-6, 0.9995e-3), ("ms", 1e-3, 0.9995), ("s", 1, 59.97), ("min", 60, 3598.2)):
        if seconds < below:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 3600:.4g} h"


def text_table(rows: Sequence[Sequence[str]], align: str, indent: str = "  ", gap: str = "  ") -> list[str]:
    """Return one line for each row, in columns as wide as their widest cell.

    `align` has "<" (left) or ">" (right) for each column; a row may have fewer cells than that.

    >>> print("\\n".join(text_table([("name", "bytes"), ("x", "12"), ("label", "3")], "<>")))
      name   bytes
      x         12
      label      3
    """
    widths = [max((len(row[column]) for row in rows if column < len(row)), default=0) for column in range(len(align))]
    lines = (gap.join(f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=False)) for row in rows)
    return [f"{indent}{line}".rstrip() for line in lines]
