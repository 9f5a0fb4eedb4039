"""What all plots share: colours, a figure in pixels, labels that stand beside what they name, SVG for a page and PNG."""

from __future__ import annotations

import contextlib
import io
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
    """One picture, drawn anew for each width. `name` serves as the name of its file; `caption` says how to read it."""

    name: str
    title: str
    caption: str
    make: Callable[[int], Any]  # CSS pixels of width -> matplotlib.figure.Figure

    def svg(self, width: int = WIDE) -> str:
        """An <svg> element to stand in HTML, whose colours are CSS variables `--ink`, `--pale`, `--rule`, `--ours`, `--other`."""
        out = io.StringIO()
        with drawn(self, width) as figure:
            figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        return _inline(out.getvalue(), f"{self.name}-{width}", f"{self.title}. {self.caption}")

    def save_png(self, path: Path, width: int = WIDE) -> None:
        """Two pixels for each CSS pixel. Raises WriteError."""
        try:
            with drawn(self, width) as figure:
                high = figure.get_size_inches()[1] * _DPI
                figure.text(0, 1 + 14 / high, self.title, fontsize=_TITLE, fontweight="bold", va="bottom")  # a page has its own
                figure.savefig(path, format="png", facecolor=_PAPER, dpi=2 * _DPI, bbox_inches="tight", pad_inches=0.2)
        except OSError as error:
            raise WriteError(f"the picture {path} cannot be written ({error}). Name another directory.") from error


@contextlib.contextmanager
def drawn(plot: Plot, width: int) -> Iterator[Any]:
    """The figure, under our style; the caller's settings of matplotlib are as they were afterwards."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingPackageError("the plots need matplotlib. Install it with: pip install 'mmapstore[bench]'") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield plot.make(width)


def _inline(svg: str, name: str, label: str) -> str:
    """`svg` without its head, with ids that no other picture has, coordinates to a hundredth, and colours by name."""
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
    """An empty figure of that many CSS pixels; of no window system, and unknown to `matplotlib.pyplot`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)


def axes_at(figure: Any, left: float, top: float, width: float, height: float) -> Any:
    """Axes whose inner area lies there, in CSS pixels from the figure's upper left corner."""
    wide, high = (side * _DPI for side in figure.get_size_inches())
    return figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high))


def text_at(figure: Any, left: float, top: float, text: str, **style: Any) -> None:
    """Text whose upper left corner lies there, in CSS pixels from the figure's."""
    wide, high = (side * _DPI for side in figure.get_size_inches())
    figure.text(left / wide, 1 - top / high, text, **{"va": "top", "fontsize": SMALL, **style})


def folded(text: str, width: float, lines: int = 3, bold: bool = False) -> str:
    """`text` over as many lines as `width` CSS pixels need, in SMALL; at most `lines`, and then with an ellipsis."""
    letters = int(width / (_CHARACTER * (1.1 if bold else 1)))
    return "\n".join(textwrap.wrap(text, max(8, letters), max_lines=lines, placeholder=" …", break_on_hyphens=False))


def height_of(text: str) -> int:
    """CSS pixels, in SMALL."""
    return _LINE * (text.count("\n") + 1)


def spread_out(wanted: Sequence[float], heights: Sequence[float], low: float, high: float) -> list[float]:
    """Middles of labels as near as can be to where they are wanted, none over another, all between `low` and `high`.

    >>> spread_out([50, 52, 10], [10, 10, 10], 0, 100)
    [46.0, 56.0, 10.0]
    """
    order = sorted(range(len(wanted)), key=lambda each: wanted[each])
    runs: list[tuple[list[int], float, float]] = []  # members, upper end, height: labels that touch move as one
    for each in order:
        members, size = [each], float(heights[each])
        top = _kept(wanted[each] - size / 2, size, low, high)
        while runs and runs[-1][1] + runs[-1][2] > top:
            before, _, above = runs.pop()
            members, size = before + members, above + size
            top = _kept(_best_top(members, wanted, heights), size, low, high)
        runs.append((members, top, size))
    middles = [0.0] * len(wanted)
    for members, top, _ in runs:
        for each in members:
            middles[each] = top + heights[each] / 2
            top += heights[each]
    return middles


def _best_top(members: Sequence[int], wanted: Sequence[float], heights: Sequence[float]) -> float:
    """Of the labels as one column, the upper end from which they are off by least."""
    offsets, down = [], 0.0
    for each in members:
        offsets.append(wanted[each] - (down + heights[each] / 2))
        down += heights[each]
    return sum(offsets) / len(offsets)


def _kept(top: float, size: float, low: float, high: float) -> float:
    return max(low, min(top, high - size))


def label_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]], width: float) -> None:
    """Labels in the `width` CSS pixels right of the axes, each with a line to its end: (x, y, text, colour), x and y in data."""
    if not ends:
        return
    figure = axes.get_figure()
    box = axes.get_window_extent()  # display pixels, upwards; of _DPI to the inch, so CSS pixels
    pixels = axes.transData.transform([(x, y) for x, y, _, _ in ends])
    texts = [folded(text, width - 22) for _, _, text, _ in ends]
    middles = spread_out([box.y1 - y for _, y in pixels], [height_of(text) + 3 for text in texts], -10, box.height + 14)
    wide, high = (side * _DPI for side in figure.get_size_inches())
    for (x, y), text, middle, (_, _, _, colour) in zip(pixels, texts, middles, ends, strict=True):
        from matplotlib.lines import Line2D

        at = box.y1 - middle
        way = ([x / wide, (box.x1 + 6) / wide, (box.x1 + 15) / wide], [y / high, y / high, at / high])
        figure.add_artist(Line2D(*way, transform=figure.transFigure, color=colour, linewidth=0.6, alpha=0.7))
        figure.text((box.x1 + 18) / wide, at / high, text, va="center", fontsize=SMALL, color=colour, linespacing=1.1)


def tick_bytes(size: float, _: Any = None) -> str:
    """
    >>> tick_bytes(0), tick_bytes(1e7), tick_bytes(2.5e9)
    ('0', '10 MB', '2.5 GB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < 1000 or unit == "TB":
            return f"{size:.3g} {unit}" if size else "0"
        size /= 1000
    raise AssertionError("unreachable")
