"""`preview`: samples as one picture that tells whether the data is what one thinks it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ...batches.opening import open_dataset
from ...plain.errors import InvalidValueError, MmapstoreError
from ...plain.memory_budget import MemoryPlan, parse_bytes
from ...readers.contract import NeedsScratch
from ..verify.manifest_check import described_arrays
from . import colours, sheet
from .arrangement import columns_for
from .colours import Array, Picture, Range
from .selection import Choice, Look, captions, numbers_to_show, picture_field

_Shown = TypeVar("_Shown", Range, float)
_BOOKKEEPING = 24 << 20  # Pillow, fonts, and what malloc rounds up
_BAR_STEPS = 132


@dataclass(frozen=True)
class Preview:
    """What was drawn: the file, its size in pixels, the samples shown, and how their values became colours."""

    out: str
    width: int
    height: int
    samples: tuple[int, ...]
    lines: tuple[str, ...]


def preview(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    samples: str | Sequence[int] | None = None,
    random: int | None = None,
    seed: int = 0,
    next_frame: bool = False,
    columns: int | None = None,
    field: str | None = None,
    layout: str | None = None,
    max_memory: int | str = "256MB",
) -> Preview:
    """Draw samples of a dataset as a contact sheet, and write it as a PNG.

    One channel is grey, three are RGB, four of uint8 are RGB and opacity; others stand side by side, at most 8 of them. Of
    volumes the middle slice is shown. uint8 is shown as it is; of other dtypes, percentiles 1 and 99 of what is shown are black
    and white, for each channel where they stand side by side. NaN has a colour of its own. Small frames are enlarged by whole
    factors, large ones are averaged. The sheet states all of that. Other fields of one value are printed below each sample,
    classes by name.

    Parameters
    ----------
    path : what `mmapstore.open` takes
    out : "x.png"; a picture of that name is replaced
    samples : a range such as "0:16", numbers such as "3,17" or a list; None shows the first 16
    random : so many samples from all over the data instead; the same for the same `seed`
    next_frame : below each frame the next one, and the change between them: grey where there is none, orange where values rise,
        blue where they fall
    columns : samples next to each other; None balances the sheet
    field : which of several is shown; None is the first with height and width
    layout : how the array is stored, where neither its manifest nor the number of axes says so
    max_memory : bound for private memory

    Raises
    ------
    InvalidTypeError (samples are no pictures), OutOfRangeError, InvalidValueError, MissingPackageError (Pillow), WriteError, and
    what `mmapstore.open` raises

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(os.path.join(folder, "x.npy"), np.random.default_rng(0).random((20, 3, 24, 32), np.float32))
    ...     made = preview(os.path.join(folder, "x.npy"), os.path.join(folder, "x.png"), samples="4:8")
    >>> made.samples, made.lines[0]
    ((4, 5, 6, 7), '20 samples of (3, 24, 32) float32, NCHW; shown: 4 to 7, enlarged 8 times')
    """
    budget = parse_bytes(max_memory)
    name, target = os.fspath(path), os.fspath(out)
    if not target.lower().endswith(".png"):
        raise InvalidValueError(f"{target} does not end in .png; a preview is written as PNG. Give it such a name.")
    if columns is not None and columns < 1:
        raise InvalidValueError(f"columns={columns} cannot be drawn; expected 1 or more.")
    sheet.pillow()
    dataset = open_dataset(name, layout=layout, mapped=False)
    shown_field = picture_field(dataset, field)
    numbers = numbers_to_show(samples, random, seed, Choice.of(dataset, next_frame))
    shown = dataset[shown_field]
    reader = shown.readers[shown_field]
    rows = 3 if next_frame else 1
    look = Look.of(reader.spec, len(numbers) * rows)
    scratch = reader.scratch_nbytes if isinstance(reader, NeedsScratch) else 0
    _plan(look, len(numbers), rows, reader.spec.sample_nbytes, scratch).require(
        budget, f"A preview of {name}", "Show fewer samples, or give a larger max_memory= (--max-memory)."
    )
    tiles = np.stack([look.tile(shown[number]) for number in numbers])
    later = np.stack([look.tile(shown[number + 1]) for number in numbers]) if next_frame else None
    painted = _painted(look, tiles, later)
    facts = f"{len(dataset):,} samples of {shown.shape[1:]} {shown.dtype}, {shown.layout}"
    lines = [f"{facts}; shown: {', '.join([_shown_words(numbers, random, seed), *look.words()])}", painted.words]
    made = sheet.Sheet(
        title=f"{os.path.basename(name.rstrip('/'))}{f', field {shown_field}' if len(dataset.fields) > 1 else ''}",
        lines=lines,
        bars=painted.bars,
        row_names=("frame", "next", "change") if next_frame else (),
        cells=painted.cells,
        captions=captions(dataset, shown_field, numbers, _notes(name)),
        columns=columns_for(look.scale.size, look.panels, len(numbers), rows, columns),
        has_nan=bool(np.isnan(tiles).any() or (later is not None and np.isnan(later).any())),
    )
    width, height = sheet.save(made, target)
    ranges = tuple(f"{bar.name}: {bar.low} to {bar.high}" for bar in painted.bars)
    return Preview(target, width, height, tuple(numbers), (*lines, *ranges))


def _shown_words(numbers: list[int], at_random: int | None, seed: int) -> str:
    if at_random is not None:
        return f"{len(numbers)} at random (seed {seed})"
    steps = set(np.diff(numbers).tolist())
    if steps == {1}:
        return f"{numbers[0]} to {numbers[-1]}"
    return f"{len(numbers)} chosen" if len(numbers) > 6 else ", ".join(map(str, numbers))


def _plan(look: Look, samples: int, rows: int, sample_nbytes: int, scratch: int) -> MemoryPlan:
    pixels = look.scale.size[0] * look.scale.size[1] * look.panels * samples * rows
    return MemoryPlan(
        {
            "a sample": sample_nbytes + 3 * look.frame_nbytes,
            "decoding": scratch,
            "values shown": 6 * samples * min(rows, 2) * look.tile_nbytes,
            "pictures": 3 * pixels + 8 * pixels,
            "drawing": _BOOKKEEPING,
        }
    )


def _notes(path: str) -> dict[str, Any]:
    """What the manifest keeps of each field, by name."""
    try:
        return {(each.name.partition("::/")[2] or "data"): each.entry.notes for each in described_arrays(path) if each.entry.notes}
    except MmapstoreError:
        return {}


@dataclass(frozen=True)
class _Painted:
    cells: list[list[list[Picture]]]
    bars: list[sheet.Bar]
    words: str


def _painted(look: Look, tiles: Array, later: Array | None) -> _Painted:
    """`tiles` are (samples, channels, height, width); `later` the same of the next frames."""
    both = tiles if later is None else np.concatenate([tiles, later])
    groups = [slice(0, look.read_channels)] if look.colour else [slice(number, number + 1) for number in range(look.panels)]
    dtype = look.spec.dtype
    ranges = [colours.range_of(both[:, group][:, :3], dtype) for group in groups]
    lines = [f"values: {', '.join(dict.fromkeys(shown.why for shown in ranges))}"]
    bars = _bars(ranges, _range_bar, "values")
    frames = [tiles] if later is None else [tiles, later]
    cells = [
        [[_panel(frame[sample, group], shown, look) for group, shown in zip(groups, ranges, strict=True)] for frame in frames]
        for sample in range(len(tiles))
    ]
    if later is not None:
        with np.errstate(invalid="ignore"):
            steps = [(later[:, group][:, :3] - tiles[:, group][:, :3]).mean(axis=1) for group in groups]
        most = [colours.most_change(step) for step in steps]
        lines.append(f"change: {'mean of the channels, ' if look.colour else ''}up to percentile 99 of its size")
        bars += _bars(most, _change_bar, "change")
        for sample, rows in enumerate(cells):
            rows.append([_enlarged(colours.change(step[sample], size), look) for step, size in zip(steps, most, strict=True)])
    return _Painted(cells, bars, "; ".join(lines))


def _bars(shown: list[_Shown], bar: Callable[[_Shown, str], sheet.Bar], what: str) -> list[sheet.Bar]:
    """One for each channel, or one where all are alike."""
    if len(set(shown)) == 1:
        return [bar(shown[0], what)]
    return [bar(each, f"{what}, channel {number}") for number, each in enumerate(shown)]


def _panel(values: Array, shown: Range, look: Look) -> Picture:
    return _enlarged(colours.rgb(values, shown) if look.colour else colours.grey(values[0], shown), look)


def _enlarged(picture: Picture, look: Look) -> Picture:
    return colours.enlarged(picture, look.scale.up)


def _range_bar(shown: Range, name: str) -> sheet.Bar:
    ramp = np.linspace(shown.low, shown.high, _BAR_STEPS)[None]
    return sheet.Bar(colours.grey(ramp, shown), f"{shown.low:.4g}", f"{shown.high:.4g}", name)


def _change_bar(most: float, name: str) -> sheet.Bar:
    ramp = np.linspace(-most, most, _BAR_STEPS)[None]
    return sheet.Bar(colours.change(ramp, most), f"{-most:.4g}" if most else "0", f"+{most:.4g}" if most else "0", name)
