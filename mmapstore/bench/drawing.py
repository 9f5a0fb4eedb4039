"""The drawing that all plots share: colours, a figure in pixels, labels beside lines, SVG for a page, and PNG."""

from __future__ import annotations

import contextlib
import io
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ..plain.errors import MissingPackageError, WriteError

WIDE, NARROW = 880, 360  # CSS pixels: on a desk, on a phone; texts have the same size in both
# Blue and orange are told apart by every kind of eye, and by their lightness in print. (on paper, on a dark screen)
COLOURS = {
    "ink": ("#1c1c1f", "#ececef"),
    "pale": ("#6b6b73", "#a5a5ad"),
    "rule": ("#dadade", "#3c3c42"),
    "ours": ("#0067a5", "#5ab4ec"),
    "other": ("#b85c00", "#f2a154"),
}
INK, PALE, RULE, OURS, OTHER = (light for light, _ in COLOURS.values())
_PAPER = "#ffffff"
SMALL, TEXT, _TITLE = 8.0, 9.0, 12.0  # points, three quarters of CSS pixels
_CHARACTER, _LINE = 6.4, 12  # pixels, in SMALL: of a character about, of a line
_DPI = 96

_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib; browsers without it take Verdana, of the same widths, or a narrower one
    "font.size": TEXT,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": RULE,
    "axes.labelcolor": PALE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": PALE,
    "ytick.labelcolor": PALE,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "mmapstore",
}


@dataclass(frozen=True)
class Plot:
    """One picture, drawn anew for each width. `name` is the name of its file; `caption` explains how to read it."""

    name: str
    title: str
    caption: str
    make: Callable[[int], Any]  # CSS pixels of width -> matplotlib.figure.Figure

    def svg(self, width: int = WIDE) -> str:
        """Return an <svg> element for HTML, whose colours are CSS variables `--ink`, `--pale`, `--rule`, `--ours`, `--other`."""
        out = io.StringIO()
        with drawn(self, width) as figure:
            figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        return _inline(out.getvalue(), f"{self.name}-{width}", f"{self.title}. {self.caption}")

    def save_png(self, path: Path, width: int = WIDE) -> None:
        """Write two pixels for each CSS pixel. Raises WriteError."""
        try:
            with drawn(self, width) as figure:
                high = figure.get_size_inches()[1] * _DPI
                figure.text(0, 1 + 14 / high, self.title, fontsize=_TITLE, fontweight="bold", va="bottom")  # a page has its own
                figure.savefig(path, format="png", facecolor=_PAPER, dpi=2 * _DPI, bbox_inches="tight", pad_inches=0.2)
        except OSError as error:
            raise WriteError(f"the picture {path} cannot be written ({error}). Name another directory.") from error


@contextlib.contextmanager
def drawn(plot: Plot, width: int) -> Iterator[Any]:
    """Draw the figure in our style, and restore the caller's settings of matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingPackageError("the plots need matplotlib. Install it with: pip install 'mmapstore[bench]'") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield plot.make(width)


def _inline(svg: str, name: str, label: str) -> str:
    """Cut the head of `svg`, and make its ids unique, its coordinates short, and its colours variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", path[0]), svg)
    for colour, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{colour})")
    view = re.search(r'viewBox="[^"]*"', svg)
    start = f'<svg {view[0] if view else ""} role="img" aria-label="{escape(label)}">'
    return start + svg[svg.index(">") + 1 :].strip()


# --- in pixels ----------------------------------------------------------------------------------------------------------


def new_figure(width: int, height: int) -> Any:
    """Return an empty figure of that many CSS pixels, which `matplotlib.pyplot` does not know."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)


def axes_at(figure: Any, left: float, top: float, width: float, height: float) -> Any:
    """Add axes with this inner area, in CSS pixels from the figure's upper left corner."""
    wide, high = (side * _DPI for side in figure.get_size_inches())
    return figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high))


def folded(text: str, width: float, lines: int = 3, bold: bool = False) -> str:
    """Wrap `text` to `width` CSS pixels in SMALL; at most `lines` lines, the last with an ellipsis."""
    letters = int(width / (_CHARACTER * (1.1 if bold else 1)))
    return "\n".join(textwrap.wrap(text, max(8, letters), max_lines=lines, placeholder=" …", break_on_hyphens=False))


def height_of(text: str) -> int:
    """Return CSS pixels, in SMALL."""
    return _LINE * (text.count("\n") + 1)


def spread_out(wanted: Sequence[float], heights: Sequence[float], low: float, high: float) -> list[float]:
    """Return middles of labels near where they are wanted, none over another, all between `low` and `high`.

    >>> spread_out([50, 52, 10], [10, 10, 10], 0, 100)
    [50, 60.0, 10]
    """
    order = sorted(range(len(wanted)), key=lambda each: wanted[each])
    middles, edge = list(wanted), low
    for each in order:  # down, each below the one above it
        middles[each] = max(middles[each], edge + heights[each] / 2)
        edge = middles[each] + heights[each] / 2
    edge = high
    for each in reversed(order):  # and up again, where the last ones went too far
        middles[each] = min(middles[each], edge - heights[each] / 2)
        edge = middles[each] - heights[each] / 2
    return middles


def label_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]], width: float) -> None:
    """Draw labels in the `width` CSS pixels right of the axes, each with a line to its end: (x, y, text, colour) in data."""
    if not ends:
        return
    from matplotlib.lines import Line2D

    figure = axes.get_figure()
    box = axes.get_window_extent()  # display pixels, upwards; of _DPI to the inch, so CSS pixels
    pixels = axes.transData.transform([(x, y) for x, y, _, _ in ends])
    texts = [folded(text, width - 22) for _, _, text, _ in ends]
    middles = spread_out([box.y1 - y for _, y in pixels], [height_of(text) + 3 for text in texts], -10, box.height + 14)
    wide, high = (side * _DPI for side in figure.get_size_inches())
    for (x, y), text, middle, (_, _, _, colour) in zip(pixels, texts, middles, ends, strict=True):
        at = (box.y1 - middle) / high
        line = ([x / wide, (box.x1 + 6) / wide, (box.x1 + 15) / wide], [y / high, y / high, at])
        figure.add_artist(Line2D(*line, transform=figure.transFigure, color=colour, linewidth=0.6, alpha=0.7))
        figure.text((box.x1 + 18) / wide, at, text, va="center", fontsize=SMALL, color=colour, linespacing=1.1)


def set_ticks(axis: Any, places: Sequence[float], words: Callable[[float], str]) -> None:
    """Put ticks at these places alone."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.set_major_locator(FixedLocator(places))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda place, _: words(place)))


def tick_bytes(size: float) -> str:
    """
    >>> tick_bytes(0), tick_bytes(1e7), tick_bytes(2.5e9)
    ('0', '10 MB', '2.5 GB')
    """
    power = min(4, int(math.log10(abs(size)) / 3 + 1e-9)) if abs(size) >= 1 else 0
    return f"{size / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}" if size else "0"
