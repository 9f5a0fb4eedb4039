"""`preview`: samples as one picture, to check the data by eye."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...batches.opening import open_dataset
from ...plain.errors import InvalidValueError
from ...plain.memory_budget import MemoryPlan, parse_bytes
from . import colours, sheet
from .colours import Array, Picture
from .selection import Look, captions, numbers_to_show, picture_field, without_next_frame

_BOOKKEEPING = 24 << 20  # Pillow, fonts, and what malloc rounds up


@dataclass(frozen=True)
class Preview:
    """The result of `preview`: the file, its size in pixels, the samples shown, and their range of colours in words."""

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

    One channel is grey, three are RGB, four of uint8 are RGB and opacity; other channels stand side by side, at most 8 of them. Of
    volumes the middle slice is shown. uint8 is shown as it is; of other dtypes, percentiles 1 and 99 of the samples shown are
    black and white, for each channel where channels stand side by side. NaN has a colour of its own. Small frames are enlarged by
    whole factors, large ones are averaged. The sheet states all of that. Other fields of one value are printed below each sample,
    classes by name.

    Parameters
    ----------
    path : what `mmapstore.open` takes
    out : "x.png"; an existing picture is replaced
    samples : a range such as "0:16", numbers such as "3,17" or a list; None shows the first 16
    random : number of samples to draw at random with `seed`, instead of `samples`
    next_frame : draw below each frame the next one, and the change between them: grey for none, orange where values rise, blue
        where they fall
    columns : samples in a row; None balances the sheet
    field : the field to draw; None draws the first with height and width
    layout : axes of the stored array, where neither its manifest nor the number of axes says so
    max_memory : upper bound of private memory

    Raises
    ------
    InvalidTypeError (samples are no pictures), OutOfRangeError, InvalidValueError, MissingPackageError (Pillow), WriteError,
    MemoryBudgetError, and what `mmapstore.open` raises

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
    last = without_next_frame(dataset) if next_frame else np.zeros(0, np.int64)
    numbers = numbers_to_show(samples, random, seed, len(dataset), last)
    shown = dataset[shown_field]
    reader = shown.readers[shown_field]
    rows = 3 if next_frame else 1
    look = Look.of(reader.spec, len(numbers) * rows)
    plan = {
        "a sample": reader.spec.sample_nbytes + 3 * look.frame_nbytes,
        "decoding": reader.scratch_nbytes,
        "values shown": 6 * len(numbers) * min(rows, 2) * look.tile_nbytes,
        "pictures": 11 * look.pixels * len(numbers) * rows,
        "drawing": _BOOKKEEPING,
    }
    advice = "Show fewer samples, or give a larger max_memory= (--max-memory)."
    MemoryPlan(plan).require(budget, f"A preview of {name}", advice)
    frames = [np.stack([look.tile(shown[number + step]) for number in numbers]) for step in range(1 + next_frame)]
    cells, words = _painted(look, frames)
    facts = f"{len(dataset):,} samples of {shown.shape[1:]} {shown.dtype}, {shown.layout}"
    lines = [f"{facts}; shown: {', '.join([_shown_words(numbers, random, seed), *look.words()])}", *words]
    made = sheet.Sheet(
        title=f"{os.path.basename(name.rstrip('/'))}{f', field {shown_field}' if len(dataset.fields) > 1 else ''}",
        lines=lines,
        row_names=("frame", "next", "change") if next_frame else (),
        cells=cells,
        captions=captions(dataset, shown_field, numbers),
        columns=columns,
    )
    width, height = sheet.save(made, target)
    return Preview(target, width, height, tuple(numbers), tuple(lines))


def _shown_words(numbers: list[int], at_random: int | None, seed: int) -> str:
    if at_random is not None:
        return f"{len(numbers)} at random (seed {seed})"
    if set(np.diff(numbers).tolist()) == {1}:
        return f"{numbers[0]} to {numbers[-1]}"
    return f"{len(numbers)} chosen" if len(numbers) > 6 else ", ".join(map(str, numbers))


def _painted(look: Look, frames: list[Array]) -> tuple[list[list[list[Picture]]], list[str]]:
    """Return the panels of each row of each sample, and in words the ranges of their colours.

    `frames` are (samples, channels, height, width) values, and the same of the next frames, if these are shown.
    """
    groups = [slice(0, look.read_channels)] if look.colour else [slice(number, number + 1) for number in range(look.panels)]
    ranges = [colours.range_of(np.concatenate(frames)[:, group][:, :3], look.spec.dtype) for group in groups]

    def panels(values: Array) -> list[Picture]:
        parts = zip((values[group] for group in groups), ranges, strict=True)
        return [colours.painted(part, shown) for part, shown in parts]

    cells = [[panels(frame[sample]) for frame in frames] for sample in range(len(frames[0]))]
    words = [f"values, from black to white: {', '.join(dict.fromkeys(shown.why for shown in ranges))}"]
    words.append("values: " + _by_channel([f"{shown.low:.4g} to {shown.high:.4g}" for shown in ranges]))
    if len(frames) == 2:
        with np.errstate(invalid="ignore"):
            steps = [(frames[1][:, group][:, :3] - frames[0][:, group][:, :3]).mean(axis=1) for group in groups]
        most = [colours.most_change(step) for step in steps]
        for sample, rows in enumerate(cells):
            rows.append([colours.change(step[sample], size) for step, size in zip(steps, most, strict=True)])
        mean = "mean of the channels, " * look.colour
        words.append(f"change, from blue over grey to orange: {mean}up to percentile 99 of its size")
        words.append("change: " + _by_channel([f"-{size:.4g} to +{size:.4g}" for size in most]))
    if any(bool(np.isnan(each).any()) for each in frames):
        words.append("pink: NaN")
    down, across = look.up
    return [[[each.repeat(down, axis=0).repeat(across, axis=1) for each in row] for row in rows] for rows in cells], words


def _by_channel(ranges: list[str]) -> str:
    """Return the range of each channel, or one if all are alike."""
    return ranges[0] if len(set(ranges)) == 1 else "; ".join(f"channel {number} {each}" for number, each in enumerate(ranges))
