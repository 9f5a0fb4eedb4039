"""The samples of a contact sheet, the panels of each, and its caption."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...batches.dataset import Dataset
from ...batches.notes import mixed_samples
from ...plain.array_spec import ArraySpec
from ...plain.errors import InvalidTypeError, InvalidValueError, KeyNotFoundError, OutOfRangeError
from .colours import Array, reduced

MOST_SAMPLES = 400
_MOST_PANELS = 8  # channels side by side
_LEAST_SIDE = 12  # pixels of a picture, so that a line of values is still seen


def numbers_to_show(samples: str | Sequence[int] | None, at_random: int | None, seed: int, total: int, last: Array) -> list[int]:
    """Return sample numbers: those of a range as text or of a list, or so many at random, or the first 16; without those in `last`.

    >>> [numbers_to_show(text, None, 0, 10, np.array([3])) for text in ("2:5", "8:", "7,1")]
    [[2, 4], [8, 9], [7, 1]]
    """
    left_out = set(last.tolist())
    if samples is not None and at_random is not None:
        raise InvalidValueError("samples and random both say what to show; give one of them.")
    if at_random is not None:
        if not 1 <= at_random <= MOST_SAMPLES:
            raise InvalidValueError(f"random={at_random} samples cannot be shown in one picture; expected 1 to {MOST_SAMPLES}.")
        drawn = random.Random(seed).sample(range(total), min(total, at_random + len(left_out)))
        return sorted([number for number in drawn if number not in left_out][:at_random])
    wanted = _wanted("0:16" if samples is None else samples, total)
    if len(wanted) > MOST_SAMPLES:
        raise InvalidValueError(
            f"{len(wanted)} samples are too many for one picture; expected at most {MOST_SAMPLES}. "
            "Ask for fewer, or for some at random."
        )
    found = [number for number in wanted if number not in left_out]
    if not found:
        what = ", and the last of an episode has no next frame" * bool(left_out)
        raise OutOfRangeError(f"samples={samples!r} holds no sample to show: they are counted from 0 to {total - 1}{what}.")
    return found


def without_next_frame(dataset: Dataset) -> Array:
    """Return the last sample of each episode. Raises InvalidValueError if these are all, or if the order of samples is mixed."""
    if dataset.mixed:
        raise mixed_samples(dataset.name)
    last: Array = dataset.episodes[1:] - 1
    if len(last) == len(dataset):
        raise InvalidValueError(
            f"no sample of {dataset.name} has a next frame: every episode has one sample. Leave --next-frame out."
        )
    return last


def _wanted(samples: str | Sequence[int], total: int) -> Sequence[int]:
    """Return the numbers of a list, which must exist, or of a range, which ends where the data does."""
    try:
        if isinstance(samples, str) and ":" in samples:
            return range(*slice(*(int(part) if part.strip() else None for part in samples.split(":"))).indices(total))
        numbers = [int(number) for number in (samples.split(",") if isinstance(samples, str) else samples)]
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            f"samples={samples!r} is not understood; expected a range such as '0:16', or numbers such as '3,17,42'."
        ) from error
    for number in numbers:
        if not 0 <= number < total:
            raise OutOfRangeError(f"there is no sample {number} to show: they are counted from 0 to {total - 1}.")
    return numbers


def picture_field(dataset: Dataset, wanted: str | None) -> str:
    """Return the field to show: `wanted`, else the first with height and width."""
    specs = {name: reader.spec for name, reader in dataset.readers.items()}
    if wanted is not None and wanted not in specs:
        raise KeyNotFoundError(f"there is no field {wanted!r} in {dataset.name}; the fields are {', '.join(map(repr, specs))}.")
    pictures = [name for name, spec in specs.items() if {"H", "W"} <= set(spec.layout) and spec.dtype.kind in "biuf"]
    found = wanted or next(iter([*pictures, *specs]))
    if found not in pictures:
        spec = specs[found]
        raise InvalidTypeError(
            f"samples of {dataset.name} are no pictures: {spec.sample_shape} {spec.dtype}, stored as {spec.layout}; "
            "expected numbers with a height H and a width W. Say what the axes are with layout=."
        )
    return found


@dataclass(frozen=True)
class Look:
    """The panels of a sample: each is reduced to (height, width) values, and each value then enlarged to whole pixels."""

    spec: ArraySpec  # of the field
    panels: int  # panels of a sample; 1 for grey and colour
    colour: bool  # True if 3 or 4 channels are the red, green, blue (and opacity) of one panel
    slice: int | None  # the position along D that is shown; None without D
    height: int  # values of a panel
    width: int
    down: int  # values of a frame along each axis that become one
    up: tuple[int, int]  # pixels of a value down and across

    @classmethod
    def of(cls, spec: ArraySpec, pictures: int) -> Look:
        lengths = dict(zip(spec.layout, spec.shape, strict=True))
        channels = lengths.get("C", 1)
        colour = channels == 3 or (channels == 4 and spec.dtype == np.uint8)
        panels = 1 if colour else min(channels, _MOST_PANELS)
        # About `longest` pixels along the longer side: never more if reduced, at least one per value.
        wanted = 256 if pictures <= 9 else 192 if pictures <= 24 else 128 if pictures <= 64 else 96
        longest = max(48, min(wanted, 1200 // panels))
        down = -(-max(lengths["H"], lengths["W"]) // longest)
        height, width = (max(1, -(-lengths[letter] // down)) for letter in "HW")
        up = max(1, longest // max(height, width))
        tall, wide = (max(up, -(-_LEAST_SIDE // side)) for side in (height, width))
        depth = lengths["D"] // 2 if "D" in lengths else None
        return cls(spec, panels, colour, depth, height, width, down, (tall, wide))

    def _length(self, letter: str) -> int:
        return self.spec.shape[self.spec.layout.index(letter)] if letter in self.spec.layout else 1

    @property
    def read_channels(self) -> int:
        return self._length("C") if self.colour else self.panels

    @property
    def tile_nbytes(self) -> int:
        """Bytes of the values of one sample that are kept."""
        return self.read_channels * self.height * self.width * 8

    @property
    def frame_nbytes(self) -> int:
        """Bytes of the part of one sample that is read, in float64."""
        return self.read_channels * self._length("H") * self._length("W") * 8

    @property
    def pixels(self) -> int:
        """Number of pixels of all panels of one sample."""
        return self.height * self.up[0] * self.width * self.up[1] * self.panels

    def tile(self, sample: Array) -> Array:
        """Return (channels, height, width) float64 of a sample as it is stored."""
        letters = self.spec.layout[1:]
        if self.slice is not None:
            sample = np.take(sample, self.slice, axis=letters.index("D"))
            letters = letters.replace("D", "")
        if "C" not in letters:
            sample, letters = sample[None], "C" + letters
        frame = sample.transpose([letters.index(letter) for letter in "CHW"])[: self.read_channels]
        with np.errstate(invalid="ignore", over="ignore"):
            return reduced(frame.astype(np.float64), self.height, self.width)

    def words(self) -> list[str]:
        channels, found = self._length("C"), []
        if 1 < channels == self.panels:
            found.append(f"{channels} channels side by side")
        elif channels > self.panels and not self.colour:
            found.append(f"channels 0 to {self.panels - 1} of {channels} side by side")
        if self.slice is not None:
            found.append(f"slice {self.slice} of {self._length('D')}")
        if self.down > 1:
            found.append(f"reduced {self.down} times")
        elif self.up[0] != self.up[1]:
            found.append(f"enlarged {self.up[1]} times across, {self.up[0]} times down")
        elif self.up[0] > 1:
            found.append(f"enlarged {self.up[0]} times")
        return found


def captions(dataset: Dataset, shown: str, numbers: Sequence[int]) -> list[tuple[str, str]]:
    """Return for each sample its number, and its values in the other fields: a class by name, a number, a text."""
    labels: list[list[str]] = [[] for _ in numbers]
    for name, field in dataset.fields.items():
        shape, kind = field.shape[1:], field.dtype.kind
        classes = dataset.notes[name].classes if name in dataset.notes else ()
        is_one_hot = len(shape) == 1 and shape[0] == len(classes) and kind in "biuf"
        if name != shown and kind in "biufS" and (not shape or is_one_hot):
            for words, number in zip(labels, numbers, strict=True):
                words.append(_label(field[number], classes))
    return [(str(number), ", ".join(words)) for number, words in zip(numbers, labels, strict=True)]


def _label(value: Any, classes: Sequence[str]) -> str:
    if getattr(value, "shape", ()) != ():
        return classes[int(np.argmax(value))] if np.any(value) else "no class"
    item = value.item() if hasattr(value, "item") else value
    if isinstance(item, bytes):
        return item.decode("utf-8", "replace")
    if isinstance(item, int) and 0 <= item < len(classes):
        return classes[item]
    return f"{item:.4g}" if isinstance(item, float) else str(item)
