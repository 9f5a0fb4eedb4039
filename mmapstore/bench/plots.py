"""The plots of a report: memory by way, memory over time, throughput against the limit, memory against the size of the data.

mmapstore's rows are blue and strong, the others orange; every line is named beside it.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..plain.errors import WriteError
from ..plain.memory_budget import format_bytes
from .contract import FINISHED, KILLED, NOT_RUN, Fit, Look, Report, Row
from .drawing import (
    INK,
    OTHER,
    OURS,
    PALE,
    SMALL,
    WIDE,
    Plot,
    axes_at,
    folded,
    height_of,
    label_ends,
    new_figure,
    text_at,
    tick_bytes,
)
from .findings import (
    EACH,
    by_memory,
    epoch_seconds,
    finished,
    format_seconds,
    framework_of,
    grouped,
    has_kinds,
    is_ours,
    labels,
    limit_of,
    rate,
    share_of,
    signed,
    slope_words,
    task_of,
    way_of,
)

_FLOOR = 1e6  # bytes: less than this is within what the instruments can tell, and a logarithm needs an end
_LOOKS = 120  # of a line over time, in a panel that is some 170 pixels wide
_PANEL = 205  # pixels of width that a panel should have


def plots(report: Report) -> list[Plot]:
    """All plots for which the report has rows; nothing is drawn, and matplotlib is not loaded, before they are asked for."""
    found: list[Plot] = []
    several = len({task_of(row) for row in report.rows}) > 1
    kinds = has_kinds(report)
    for task, rows in grouped(report.rows, task_of).items():
        about = f", {task[0]}, {format_bytes(task[1])}" if several else ""
        suffix = task if several else ()
        if told := [row for row in by_memory(rows) if row.private is not None or row.predicted is not None]:
            found.append(_memory_plot(told, _name("memory", *suffix), about))
        if looked := [row for row in by_memory(rows) if row.looks]:
            found.append(_time_plot(looked, _name("over-time", *suffix), about))
    for (kind, nbytes, limit, _), rows in grouped(report.limited, limit_of).items():
        if looked := [row for row in by_memory(rows) if row.looks]:
            about = f"{f', {kind}' if kinds else ''}, {format_bytes(nbytes)}"
            found.append(_time_plot(looked, _name("limit", kind, nbytes, limit), about, limit))
    for task, rows in grouped((row for row in report.swept if row.limit), task_of).items():
        about = f", {task[0]}, {format_bytes(task[1])}" if kinds else ""
        found.append(_sweep_plot(rows, framework_of(report), _name("sweep", *task), about))
    for (knob, kind), fits in grouped((fit for fit in report.fits if fit.points), lambda fit: (fit.knob, fit.kind)).items():
        name = _name("scaling", knob, kind) if kinds else _name("scaling", knob)
        found.append(_scaling_plot(knob, fits, name, f", {kind}" if kinds else ""))
    return found


def save_pngs(report: Report, directory: str | Path) -> list[Path]:
    """Write every plot as NAME.png into `directory`, which is made if need be; returns the paths.

    Raises MissingPackageError without matplotlib, WriteError.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"the directory {directory} for the plots cannot be made ({error}). Name another.") from error
    found = []
    for plot in plots(report):
        found.append(directory / f"{plot.name}.png")
        plot.save_png(found[-1])
    return found


def _name(*parts: str | int) -> str:
    """The name of a file: sizes in short, and nothing that a file system or a link would read as more than a letter.

    >>> _name("limit", "next", 8_000_000_000, "a/b c")
    'limit-next-8GB-a-b-c'
    """
    words = (tick_bytes(part).replace(" ", "") if isinstance(part, int) else part for part in parts)
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(words)).strip("-")


def _colour(strategy: str) -> str:
    return OURS if is_ours(strategy) else OTHER


# --- memory by way ------------------------------------------------------------------------------------------------------


def _memory_plot(shown: Sequence[Row], name: str, about: str) -> Plot:
    names, data = labels(shown), shown[0].data_nbytes
    seen = [*(row.private or 0 for row in shown), *(row.predicted or 0 for row in shown), data]
    high = 10 ** math.ceil(math.log10(max(*seen, 10 * _FLOOR) * 1.05))

    def make(width: int) -> Any:
        narrow = width < WIDE * 0.6
        left, right, pitch, top = (18, 76, 34, 30) if narrow else (270, 90, 21, 30)
        figure = new_figure(width, top + pitch * len(shown) + 34)
        axes = axes_at(figure, left, top, width - left - right, pitch * len(shown))
        axes.set(xscale="log", xlim=(_FLOOR * 0.8, high), ylim=(len(shown) - 0.5, -0.5), yticks=[])
        _byte_ticks(axes.xaxis, _FLOOR, high, 100 if narrow else 10)
        axes.spines["left"].set_visible(False)
        _mark(axes, data, f"all data, {format_bytes(data)}")
        for place, row in enumerate(shown):
            colour, bold = _colour(row.strategy), "bold" if is_ours(row.strategy) else "normal"
            at = place + (0.2 if narrow else 0)
            points = [max(size, _FLOOR) for size in (row.private, row.predicted) if size is not None]
            axes.plot(points, [at] * len(points), color=colour, linewidth=1, alpha=0.6)
            if row.predicted is not None:
                axes.plot([points[-1]], [at], "|", color=INK, markersize=10, markeredgewidth=1.4)
            if row.private is not None:
                axes.plot([points[0]], [at], "o" if row.outcome == FINISHED else "X", color=colour, markersize=6, zorder=3)
            words = {"fontsize": SMALL, "color": colour, "fontweight": bold, "clip_on": False}
            if narrow:
                axes.annotate(names[way_of(row)], (0, place - 0.22), xycoords=("axes fraction", "data"), va="center", **words)
            else:
                text = folded(names[way_of(row)], left - 16, 1, is_ours(row.strategy))
                axes.annotate(text, (-10, at), xycoords=("axes points", "data"), ha="right", va="center", **words)
            axes.annotate(
                _taken(row), (1, at), (6, 0), ("axes fraction", "data"), "offset points", va="center", **{**words, "color": INK}
            )
        return figure

    return Plot(
        name,
        f"Private memory, measured and predicted{about}",
        "Dot: measured, over the memory of the started framework (a cross: until it was ended). Upright stroke: as predicted. "
        "Logarithmic; what is below 1 MB is drawn there.",
        make,
    )


def _taken(row: Row) -> str:
    if row.outcome == NOT_RUN or row.private is None:
        return row.outcome
    return signed(row.private) if finished(row) else row.outcome if row.outcome != FINISHED else "wrong data"


def _byte_ticks(axis: Any, low: float, high: float, factor: int) -> None:
    """Decades of bytes; the lowest stands for all that is less."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    count = math.floor(math.log(high / low, factor) + 1e-9) + 1
    axis.set_major_locator(FixedLocator([low * factor**power for power in range(count)]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda size, _: ("≤ " if size <= _FLOOR else "") + tick_bytes(size)))


def _mark(axes: Any, at: float, words: str) -> None:
    if at:
        axes.axvline(at, color=PALE, linewidth=1, linestyle=(0, (3, 2)))
        centred = {"ha": "center", "fontsize": SMALL, "color": PALE}
        axes.annotate(words, (at, 1), (0, 5), ("data", "axes fraction"), "offset points", **centred)


# --- memory over time ---------------------------------------------------------------------------------------------------


def _time_plot(rows: Sequence[Row], name: str, about: str, limit: int | None = None) -> Plot:
    names = labels(rows)
    highest = max(max(look.private, look.resident) for row in rows for look in row.looks)
    top_bytes = 1.25 * limit if limit else 1.1 * highest

    def make(width: int) -> Any:
        columns = max(2, width // _PANEL)
        left, gap, high = 54, 16, 96
        panel = (width - left - 8 - gap * (columns - 1)) / columns
        heads = [
            "\n".join(folded(words, panel, 2, is_ours(row.strategy)) for words in (names[way_of(row)], _course(row)))
            for row in rows
        ]
        pitch = high + 38 + max(map(height_of, heads))
        figure = new_figure(width, pitch * math.ceil(len(rows) / columns))
        for place, (row, head) in enumerate(zip(rows, heads, strict=True)):
            x, y = left + (place % columns) * (panel + gap), (place // columns) * pitch + pitch - high - 24
            text_at(
                figure, x, y - 4, head, va="bottom", color=_colour(row.strategy), linespacing=1.15,
                fontweight="bold" if is_ours(row.strategy) else "normal",
            )  # fmt: skip
            axes = axes_at(figure, x, y, panel, high)
            _draw_course(axes, row, limit)
            axes.set_ylim(0, top_bytes)
            if limit and place == 0:
                axes.annotate("limit", (0, limit), (3, 2), textcoords="offset points", fontsize=SMALL)
            _time_ticks(axes, place % columns == 0)
        return figure

    line = f" The dashed line is the limit, {format_bytes(limit)}; a cross where the process was killed." if limit else ""
    return Plot(
        name,
        f"Memory over time{f' under a limit of {format_bytes(limit)}' if limit else ''}{about}",
        "Grey: private memory of the started framework. Coloured: private memory that came on top. Dotted: RSS, which also "
        f"counts pages of mapped files that the kernel can take back.{line} Each panel has its own time; all have the same height.",
        make,
    )


def _course(row: Row) -> str:
    """What became of it, in a few words."""
    if finished(row):
        return f"{signed(row.private)}, {format_seconds(epoch_seconds(row))} an epoch"
    if row.outcome == FINISHED:
        return "wrong data"
    return f"{row.outcome} after {format_seconds(row.looks[-1].seconds)}"


def _draw_course(axes: Any, row: Row, limit: int | None) -> None:
    colour, base = _colour(row.strategy), row.baseline or 0
    looks = [look for look in row.looks if look.seconds >= 0] or row.looks
    if row.outcome == KILLED:  # what was seen while the kernel took its memory apart is not what it held
        looks = list(itertools.dropwhile(lambda look: look.private < base, reversed(looks)))[::-1] or looks
    looks = thinned(looks, _LOOKS)
    seconds, private = [look.seconds for look in looks], [look.private for look in looks]
    axes.fill_between(seconds, [min(base, each) for each in private], color=PALE, alpha=0.25, linewidth=0)
    axes.fill_between(seconds, base, [max(base, each) for each in private], color=colour, alpha=0.35, linewidth=0)
    axes.plot(seconds, [look.resident for look in looks], color=PALE, linewidth=1, linestyle=(0, (1, 1.5)))
    axes.plot(seconds, private, color=colour, linewidth=1.6 if is_ours(row.strategy) else 1.2)
    if limit:
        axes.axhline(limit, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    if row.outcome == KILLED:
        axes.plot([seconds[-1]], [private[-1]], "X", color=INK, markersize=8, zorder=4, clip_on=False)
    end = max(seconds[-1], 1e-3)
    axes.set_xlim(min(0, seconds[0]), end * 1.02)
    axes.set_xticks([0, end], ["0", format_seconds(end)])
    for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=True):
        label.set_horizontalalignment(side)


def _time_ticks(axes: Any, named: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_formatter(FuncFormatter(tick_bytes))
    axes.grid(axis="x", visible=False)
    axes.tick_params(length=0, labelleft=named)


def thinned(looks: Sequence[Look], most: int) -> list[Look]:
    """At most `most` looks, in order: of each stretch the one with the most private memory; the first and the last are kept.

    >>> looks = [Look(float(second), second % 10, 0, 0) for second in range(100)]
    >>> [look.private for look in thinned(looks, 6)]
    [0, 9, 9, 9, 9, 9]
    """
    if len(looks) <= most:
        return list(looks)
    inner, count = looks[1:-1], most - 2
    cuts = [len(inner) * place // count for place in range(count + 1)]
    peaks = [max(inner[start:stop], key=lambda look: look.private) for start, stop in itertools.pairwise(cuts)]
    return [looks[0], *peaks, looks[-1]]


# --- throughput against the limit, and memory against the size ----------------------------------------------------------


def _line_axes(width: int, count: int) -> tuple[Any, float]:
    """Axes with room for `count` labels right of them, and how wide that room is."""
    narrow = width < WIDE * 0.6
    left, room = (60, 134) if narrow else (64, 250)
    high = max(230 if narrow else 300, count * (40 if narrow else 28))
    figure = new_figure(width, high + 72)
    return axes_at(figure, left, 18, width - left - room, high), room


def _sweep_plot(rows: Sequence[Row], framework: int, name: str, about: str) -> Plot:
    ways, names = grouped(rows, way_of), labels(rows)
    shares = sorted({share_of(row, framework) for row in rows})

    def make(width: int) -> Any:
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        axes, room = _line_axes(width, len(ways))
        low, high = shares[0] * 0.88, shares[-1] * 1.06
        best = max((rate(row) or 0 for row in rows), default=0) or 1e6
        axes.set(xscale="log", xlim=(low, high), ylim=(0, best * 1.1))
        ticks = [each for each in (0.1, 0.2, 0.5, 1, 2, 5, 10) if low <= each <= high] or shares
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda speed, _: f"{tick_bytes(speed)}/s" if speed else "0"))
        under = f"limit, over the framework's {format_bytes(framework)}, in % of the data"
        axes.set_xlabel(folded(under, width - room, 2), fontsize=SMALL)
        ends = []
        for way, own in ways.items():
            colour, strong = _colour(way[0]), is_ours(way[0])
            ran = sorted((row for row in own if row.outcome != NOT_RUN), key=lambda row: share_of(row, framework))
            good = [(share_of(row, framework), rate(row) or 0.0) for row in ran if finished(row)]
            bad = [share_of(row, framework) for row in ran if not finished(row)]
            style = {"color": colour, "linewidth": 2 if strong else 1.2, "zorder": 3 if strong else 2}
            axes.plot([share for share, _ in good], [speed for _, speed in good], "o-", markersize=4.5, **style)
            if good and bad:
                axes.plot([max(bad), good[0][0]], [0, good[0][1]], color=colour, linewidth=0.9, linestyle=(0, (2, 2)))
            axes.plot(bad, [0] * len(bad), "X", color=colour, markersize=8, clip_on=False, zorder=4)
            if good or bad:
                ends.append((*(good[-1] if good else (max(bad), 0.0)), names[way], colour))
        label_ends(axes, ends, room)
        return axes.get_figure()

    return Plot(
        name,
        f"Throughput against the limit{about}",
        "Bytes of x and y a second under a hard limit, framework included. A cross: under this limit it was killed, or did not "
        "finish in its time.",
        make,
    )


def _scaling_plot(knob: str, fits: Sequence[Fit], name: str, about: str) -> Plot:
    names = labels(Row(fit.strategy, fit.form, fit.kind, FINISHED) for fit in fits)
    by_data = knob == "data"
    words = {"data": "the size of the data", "batch": "samples in a batch", "look-ahead": "batches of look-ahead"}.get(knob, knob)
    values = [value for fit in fits for value, _ in fit.points]

    def make(width: int) -> Any:
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        axes, room = _line_axes(width, len(fits))
        low, high = min(values) / 1.3, max(values) * 1.3
        peak = max(size for fit in fits for _, size in fit.points)
        top = 10 ** math.ceil(math.log10(max(peak, 10 * _FLOOR, high if by_data else 0)))
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(_FLOOR * 0.8, top))
        axes.xaxis.set_major_locator(FixedLocator(sorted(set(values))))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(tick_bytes if by_data else lambda value, _: f"{value:g}"))
        _byte_ticks(axes.yaxis, _FLOOR, top, 10)
        axes.set_xlabel(
            {"data": "data", "batch": "samples in a batch", "look-ahead": "batches of look-ahead"}.get(knob, knob), fontsize=SMALL
        )
        if by_data:
            axes.plot([low, high], [low, high], color=PALE, linewidth=1, linestyle=(0, (3, 2)))
            axes.annotate(
                "as much as the data", (low * 1.1, low * 1.1), (0, 8), textcoords="offset points", fontsize=SMALL, color=PALE
            )
        ends = []
        for fit in fits:
            colour, strong = _colour(fit.strategy), is_ours(fit.strategy)
            first, last = min(value for value, _ in fit.points), max(value for value, _ in fit.points)
            xs = [first * (last / first) ** (step / 40) for step in range(41)]
            ys = [max(fit.intercept + fit.slope * x, _FLOOR) for x in xs]
            axes.plot(xs, ys, color=colour, linewidth=2 if strong else 1.2, zorder=3 if strong else 2)
            axes.plot(
                *zip(*((value, max(size, _FLOOR)) for value, size in fit.points), strict=True), "o", color=colour, markersize=4.5
            )
            ends.append((xs[-1], ys[-1], f"{names[fit.strategy, fit.form]}: {slope_words(fit, fit.slope)}", colour))
        label_ends(axes, ends, room)
        return axes.get_figure()

    return Plot(
        name,
        f"Private memory against {words}{about}",
        f"Dots: measured peaks over the started framework. Lines: the straight lines fitted to them, on logarithmic scales, and "
        f"beside each name its bytes of memory for each {EACH.get(knob, knob)}. What is below 1 MB is drawn there.",
        make,
    )
