"""The plots of a report: memory by strategy, memory over time, throughput against the limit, memory against the size of the data.

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
from . import derived
from .contract import FINISHED, KILLED, NOT_RUN, Fit, Report, Row
from .derived import data_of, finished, format_seconds, grouped, is_ours, labels, rate, share_of, signed, variant_of
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
    set_ticks,
    tick_bytes,
)

_FLOOR = 1e6  # bytes: less than this is within the error of the instruments, and a logarithm needs an end
_PANEL = 205  # pixels of width that a panel should have


def plots(report: Report) -> list[Plot]:
    """Return all plots for which the report has rows; nothing is drawn, and matplotlib is not loaded, before they are asked for."""
    found: list[Plot] = []
    several = len({data_of(row) for row in report.rows}) > 1
    kinds = derived.has_kinds(report)
    for data, rows in grouped(report.rows, data_of).items():
        rows = derived.by_memory(rows)
        about = f", {data[0]}, {format_bytes(data[1])}" if several else ""
        suffix = data if several else ()
        if told := [row for row in rows if row.private is not None or row.predicted is not None]:
            found.append(_memory_plot(told, _name("memory", *suffix), about))
        if looked := [row for row in rows if row.looks]:
            found.append(_time_plot(looked, _name("over-time", *suffix), about))
    for (kind, nbytes, limit, _), rows in grouped(report.limited, derived.limit_of).items():
        if looked := [row for row in derived.by_memory(rows) if row.looks]:
            about = f"{f', {kind}' if kinds else ''}, {format_bytes(nbytes)}"
            found.append(_time_plot(looked, _name("limit", kind, nbytes, limit), about, limit))
    for data, rows in grouped((row for row in report.swept if row.limit), data_of).items():
        about = f", {data[0]}, {format_bytes(data[1])}" if kinds else ""
        found.append(_sweep_plot(rows, derived.framework_of(report), _name("sweep", *data), about))
    for (knob, kind), fits in grouped((fit for fit in report.fits if fit.points), lambda fit: (fit.knob, fit.kind)).items():
        name = _name("scaling", knob, kind) if kinds else _name("scaling", knob)
        found.append(_scaling_plot(knob, fits, name, f", {kind}" if kinds else ""))
    return found


def save_pngs(report: Report, directory: str | Path) -> list[Path]:
    """Write every plot as NAME.png into `directory`, which is made if need be; return the paths.

    Raises MissingPackageError without matplotlib, WriteError.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"the directory {directory} for the plots cannot be made ({error}). Name another.") from error
    found = {directory / f"{plot.name}.png": plot for plot in plots(report)}
    for path, plot in found.items():
        plot.save_png(path)
    return list(found)


def _name(*parts: str | int) -> str:
    """Name a file: sizes in short, and no characters that a file system or a link would misread.

    >>> _name("limit", "next", 8_000_000_000, "a/b c")
    'limit-next-8GB-a-b-c'
    """
    words = (tick_bytes(part).replace(" ", "") if isinstance(part, int) else part for part in parts)
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(words)).strip("-")


def _colour(strategy: str) -> str:
    return OURS if is_ours(strategy) else OTHER


def _weight(strategy: str) -> str:
    return "bold" if is_ours(strategy) else "normal"


def _line_style(strategy: str) -> dict[str, Any]:
    strong = is_ours(strategy)
    return {"color": _colour(strategy), "linewidth": 2 if strong else 1.2, "zorder": 3 if strong else 2}


def _byte_ticks(axis: Any, high: float, factor: int) -> None:
    """Put ticks at decades of bytes; the lowest stands for all that is less."""
    count = math.floor(math.log(high / _FLOOR, factor) + 1e-9) + 1
    places = [_FLOOR * factor**power for power in range(count)]
    set_ticks(axis, places, lambda size: ("≤ " if size <= _FLOOR else "") + tick_bytes(size))


# --- memory by strategy -------------------------------------------------------------------------------------------------


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
        _byte_ticks(axes.xaxis, high, 100 if narrow else 10)
        axes.spines["left"].set_visible(False)
        if data:
            axes.axvline(data, color=PALE, linewidth=1, linestyle=(0, (3, 2)))
            words = {"ha": "center", "fontsize": SMALL, "color": PALE}
            axes.annotate(f"all data, {format_bytes(data)}", (data, 1), (0, 5), ("data", "axes fraction"), "offset points", **words)
        for place, row in enumerate(shown):
            colour = _colour(row.strategy)
            at = place + (0.2 if narrow else 0)
            points = [max(size, _FLOOR) for size in (row.private, row.predicted) if size is not None]
            axes.plot(points, [at] * len(points), color=colour, linewidth=1, alpha=0.6)
            if row.predicted is not None:
                axes.plot([points[-1]], [at], "|", color=INK, markersize=10, markeredgewidth=1.4)
            if row.private is not None:
                axes.plot([points[0]], [at], "o" if row.outcome == FINISHED else "X", color=colour, markersize=6, zorder=3)
            words = {"fontsize": SMALL, "fontweight": _weight(row.strategy), "clip_on": False, "va": "center"}
            label = names[variant_of(row)]
            if narrow:
                axes.annotate(label, (0, place - 0.22), xycoords=("axes fraction", "data"), color=colour, **words)
            else:
                text = folded(label, left - 16, 1, is_ours(row.strategy))
                axes.annotate(text, (-10, at), xycoords=("axes points", "data"), ha="right", color=colour, **words)
            taken = (
                row.outcome
                if row.private is None or row.outcome != FINISHED
                else signed(row.private)
                if finished(row)
                else "wrong data"
            )
            axes.annotate(taken, (1, at), (6, 0), ("axes fraction", "data"), "offset points", color=INK, **words)
        return figure

    return Plot(
        name,
        f"Private memory, measured and predicted{about}",
        "Dot: measured, over the memory of the started framework (a cross: until it was ended). Upright stroke: as predicted. "
        "Logarithmic; figures below 1 MB are drawn there.",
        make,
    )


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
            "\n".join(folded(words, panel, 2, is_ours(row.strategy)) for words in (names[variant_of(row)], _course(row)))
            for row in rows
        ]
        pitch = high + 38 + max(map(height_of, heads))
        tall = pitch * math.ceil(len(rows) / columns)
        figure = new_figure(width, tall)
        for place, (row, head) in enumerate(zip(rows, heads, strict=True)):
            x, y = left + (place % columns) * (panel + gap), (place // columns) * pitch + pitch - high - 24
            words = {"color": _colour(row.strategy), "fontweight": _weight(row.strategy), "fontsize": SMALL}
            figure.text(x / width, 1 - (y - 4) / tall, head, va="bottom", linespacing=1.15, **words)
            axes = axes_at(figure, x, y, panel, high)
            _draw_course(axes, row, limit)
            axes.set_ylim(0, top_bytes)
            if limit and place == 0:
                axes.annotate("limit", (0, limit), (3, 2), textcoords="offset points", fontsize=SMALL)
            axes.yaxis.set_major_locator(_at_most(3))
            axes.yaxis.set_major_formatter(lambda size, _: tick_bytes(size))
            axes.grid(axis="x", visible=False)
            axes.tick_params(length=0, labelleft=place % columns == 0)
        return figure

    line = f" The dashed line is the limit, {format_bytes(limit)}; a cross where the process was killed." if limit else ""
    return Plot(
        name,
        f"Memory over time{f' under a limit of {format_bytes(limit)}' if limit else ''}{about}",
        "Grey: private memory of the started framework. Coloured: private memory that came on top. Dotted: RSS, which also "
        f"counts pages of mapped files that the kernel can take back.{line} Each panel has its own time; all have the same height.",
        make,
    )


def _at_most(count: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(count)


def _course(row: Row) -> str:
    """Describe the end of a row in a few words."""
    if finished(row):
        return f"{signed(row.private)}, {format_seconds(derived.epoch_seconds(row))} an epoch"
    return "wrong data" if row.outcome == FINISHED else f"{row.outcome} after {format_seconds(row.looks[-1].seconds)}"


def _draw_course(axes: Any, row: Row, limit: int | None) -> None:
    colour, base = _colour(row.strategy), row.baseline or 0
    looks = [look for look in row.looks if look.seconds >= 0] or row.looks
    if row.outcome == KILLED:  # looks while the kernel took the process apart do not show the memory it held
        looks = list(itertools.dropwhile(lambda look: look.private < base, reversed(looks)))[::-1] or looks
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


# --- throughput against the limit, and memory against the size ----------------------------------------------------------


def _line_axes(width: int, count: int) -> tuple[Any, float]:
    """Return axes with room for `count` labels right of them, and the width of that room."""
    narrow = width < WIDE * 0.6
    left, room = (60, 134) if narrow else (64, 250)
    high = max(230 if narrow else 300, count * (40 if narrow else 28))
    figure = new_figure(width, high + 72)
    return axes_at(figure, left, 18, width - left - room, high), room


def _sweep_plot(rows: Sequence[Row], framework: int, name: str, about: str) -> Plot:
    names = labels(rows)
    shares = sorted({share_of(row, framework) for row in rows})

    def make(width: int) -> Any:
        axes, room = _line_axes(width, len(names))
        low, high = shares[0] * 0.88, shares[-1] * 1.06
        best = max((rate(row) or 0 for row in rows), default=0) or 1e6
        axes.set(xscale="log", xlim=(low, high), ylim=(0, best * 1.1))
        ticks = [each for each in (0.1, 0.2, 0.5, 1, 2, 5, 10) if low <= each <= high] or shares
        set_ticks(axes.xaxis, ticks, lambda share: f"{share:.0%}")
        axes.yaxis.set_major_formatter(lambda speed, _: f"{tick_bytes(speed)}/s" if speed else "0")
        under = f"limit, over the framework's {format_bytes(framework)}, in % of the data"
        axes.set_xlabel(folded(under, width - room, 2), fontsize=SMALL)
        ends = []
        for variant, own in grouped(rows, variant_of).items():
            style = _line_style(variant[0])
            ran = sorted((row for row in own if row.outcome != NOT_RUN), key=lambda row: share_of(row, framework))
            good = [(share_of(row, framework), rate(row) or 0.0) for row in ran if finished(row)]
            bad = [share_of(row, framework) for row in ran if not finished(row)]
            axes.plot([share for share, _ in good], [speed for _, speed in good], "o-", markersize=4.5, **style)
            if good and bad:
                axes.plot([max(bad), good[0][0]], [0, good[0][1]], color=style["color"], linewidth=0.9, linestyle=(0, (2, 2)))
            axes.plot(bad, [0] * len(bad), "X", color=style["color"], markersize=8, clip_on=False, zorder=4)
            if good or bad:
                ends.append((*(good[-1] if good else (max(bad), 0.0)), names[variant], style["color"]))
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
    names, by_data = labels(fits), knob == "data"
    words = {"data": "the size of the data", "batch": "samples in a batch", "look-ahead": "batches of look-ahead"}.get(knob, knob)
    values = [value for fit in fits for value, _ in fit.points]

    def make(width: int) -> Any:
        axes, room = _line_axes(width, len(fits))
        low, high = min(values) / 1.3, max(values) * 1.3
        peak = max(size for fit in fits for _, size in fit.points)
        top = 10 ** math.ceil(math.log10(max(peak, 10 * _FLOOR, high if by_data else 0)))
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(_FLOOR * 0.8, top))
        set_ticks(axes.xaxis, sorted(set(values)), tick_bytes if by_data else lambda value: f"{value:g}")
        _byte_ticks(axes.yaxis, top, 10)
        axes.set_xlabel("data" if by_data else words, fontsize=SMALL)
        if by_data:
            axes.plot([low, high], [low, high], color=PALE, linewidth=1, linestyle=(0, (3, 2)))
            at = (low * 1.1, low * 1.1)
            axes.annotate("as much as the data", at, (0, 8), textcoords="offset points", fontsize=SMALL, color=PALE)
        ends = []
        for fit in fits:
            style = _line_style(fit.strategy)
            first, last = min(value for value, _ in fit.points), max(value for value, _ in fit.points)
            xs = [first * (last / first) ** (step / 40) for step in range(41)]
            ys = [max(fit.intercept + fit.slope * x, _FLOOR) for x in xs]
            axes.plot(xs, ys, **style)
            dots = [(value, max(size, _FLOOR)) for value, size in fit.points]
            axes.plot(*zip(*dots, strict=True), "o", color=style["color"], markersize=4.5)
            label = f"{names[variant_of(fit)]}: {derived.slope_words(fit, fit.slope)}"
            ends.append((xs[-1], ys[-1], label, style["color"]))
        label_ends(axes, ends, room)
        return axes.get_figure()

    return Plot(
        name,
        f"Private memory against {words}{about}",
        f"Dots: measured peaks over the started framework. Lines: the straight lines fitted to them, on logarithmic scales, and "
        f"beside each name its bytes of memory for each {derived.EACH.get(knob, knob)}. Figures below 1 MB are drawn there.",
        make,
    )
