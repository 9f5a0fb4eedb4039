"""Parts of a dataset: how large they are, and which samples go to which. Arithmetic, and reading of labels and groups."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plain.dealing import dealt, dealt_groups, majorities
from ..plain.errors import InvalidTypeError, InvalidValueError, LabelWarning
from ..plain.windows import whole_number
from ..readers.contract import Array
from .labels import Labels, counts_of, label_field, read_labels, warn_of_missing_classes

if TYPE_CHECKING:
    from .parts import Parts

_FAR = 0.1  # of all samples, that a part of whole groups may have more or fewer than it should


def split_points(total: int, parts: Sequence[Any], gap: Any, unit: str) -> list[tuple[int, int]]:
    """Return [start, stop) of each part: floats are fractions of what the gaps leave, ints are counts.

    >>> split_points(100, (0.6, 0.2, 0.2), gap=0, unit="samples"), split_points(100, (0.5, 10), gap=4, unit="samples")
    ([(0, 60), (60, 80), (80, 100)], [(0, 48), (52, 62)])
    """
    if not parts:
        raise InvalidValueError("split() was given no parts; expected fractions such as split(0.6, 0.2, 0.2), or counts.")
    if isinstance(gap, bool) or not isinstance(gap, numbers.Integral) or gap < 0:
        raise InvalidValueError(f"gap={gap!r} is not a number of {unit} to leave out; expected 0 or more.")
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, numbers.Real):
            raise InvalidTypeError(f"{part!r} is not a part; expected a fraction such as 0.2, or a count such as 1000.")
        if not float(part) > 0:
            raise InvalidValueError(f"a part of {part} is empty; expected a fraction above 0 or a count of at least 1.")
    fractions = [float(part) for part in parts if not isinstance(part, numbers.Integral)]
    if sum(fractions) > 1 + 1e-9:
        raise InvalidValueError(f"the fractions {fractions} add up to {sum(fractions):.6g}; expected at most 1.")
    room = total - int(gap) * (len(parts) - 1)
    counts, shared, so_far = [], 0.0, 0
    for part in parts:
        if isinstance(part, numbers.Integral):
            counts.append(int(part))
        else:
            # Rounding the running sum, not each part, so that fractions which add up to 1 leave nothing over.
            shared += float(part)
            counts.append(round(shared * room) - so_far)
            so_far += counts[-1]
    if sum(counts) > room:
        raise InvalidValueError(f"the parts take {sum(counts)} {unit} and the gaps {total - room}, but there are {total}.")
    if min(counts) < 1:
        raise InvalidValueError(f"the parts {tuple(parts)} of {total} {unit} come to {counts}: one is empty. Make it larger.")
    points, start = [], 0
    for count in counts:
        points.append((start, start + count))
        start += count + int(gap)
    return points


def fold_points(total: int, folds: Any, unit: str) -> list[tuple[int, int]]:
    """Return [start, stop) of each fold; the first ones have one more where they cannot be equal.

    >>> fold_points(10, 3, "samples")
    [(0, 4), (4, 7), (7, 10)]
    """
    count = whole_number("k", folds, least=2)
    if count > total:
        raise InvalidValueError(f"kfold({count}) of {total} {unit} leaves folds empty; expected k of at most {total}.")
    size, more = divmod(total, count)
    ends = [size * fold + min(fold, more) for fold in range(count + 1)]
    return list(pairwise(ends))


@dataclass(frozen=True)
class Dealt:
    """The samples that were dealt to one part."""

    part_of_samples: Array  # (samples,) the part of each
    number: int  # of this part

    @property
    def mask(self) -> Array:
        """(samples,) bool."""
        found: Array = self.part_of_samples == self.number
        return found


Place = slice | Dealt  # of a part among the samples of a dataset


@dataclass(frozen=True)
class Dealing:
    """A rule that gives samples to parts: the arguments of `Dataset.split` and `Dataset.kfold`, checked.

    Raises InvalidValueError, InvalidTypeError for what cannot be meant.
    """

    dataset: Parts
    by: str
    shuffle: bool
    stratify: str | None
    groups: str | None
    seed: int

    def __post_init__(self) -> None:
        if self.by not in ("sample", "episode"):
            raise InvalidValueError(f"by={self.by!r} is not understood; expected 'sample' or 'episode'.")
        if not isinstance(self.shuffle, (bool, np.bool_)):
            raise InvalidTypeError(
                f"shuffle={self.shuffle!r} is not understood; expected True or False (batches() takes a number of samples)."
            )
        whole_number("seed", self.seed)

    @property
    def is_contiguous(self) -> bool:
        return not self.shuffle and self.stratify is None and self.groups is None

    @property
    def cuts_neighbours(self) -> bool:
        """True if samples are dealt one by one, so that neighbours lie in different parts."""
        return not self.is_contiguous and self.by == "sample" and self.groups is None

    @property
    def total(self) -> int:
        """Samples, or episodes, that are dealt."""
        return len(self.dataset) if self.by == "sample" else len(self.dataset.episodes) - 1

    @property
    def unit(self) -> str:
        return f"{self.by}s"

    def places(self, points: Sequence[tuple[int, int]]) -> list[Place]:
        """Return the samples of each part, of which `points` gives the size or, for contiguous parts, the units [start, stop)."""
        ends = self.dataset.episodes
        if self.is_contiguous:
            is_whole = self.by == "sample"
            return [slice(start, stop) if is_whole else slice(int(ends[start]), int(ends[stop])) for start, stop in points]
        found = self._dealt([stop - start for start, stop in points])
        part_of_samples = found if self.by == "sample" else np.repeat(found, np.diff(ends))
        return [Dealt(part_of_samples, part) for part in range(len(points))]

    def _dealt(self, wanted: list[int]) -> Array:
        """Return the part of each unit, for parts of these sizes; units left over have the number after."""
        sizes = np.array([*wanted, *([self.total - sum(wanted)] if sum(wanted) < self.total else [])])
        labels = None if self.stratify is None else self.dataset._labels(self.stratify, "stratify")
        codes = None if labels is None else labels.codes
        if self.by == "episode" and codes is not None:
            codes, _ = majorities(self._episode_of_samples(), codes)
        if self.groups is not None:
            return self._grouped(sizes, len(wanted), codes)
        if codes is None or labels is None:
            return dealt(sizes, self.seed)
        return dealt(sizes, self.seed, codes, counts_of(codes, len(labels.values)))

    def _episode_of_samples(self) -> Array:
        numbers = np.arange(self.total, dtype=np.min_scalar_type(self.total))
        return np.repeat(numbers, np.diff(self.dataset.episodes))

    def _grouped(self, sizes: Array, parts: int, codes: Array | None) -> Array:
        """Return the part of each unit; all units of a group are in one."""
        labels = read_labels(self.dataset, self.groups, "groups", most=len(self.dataset))
        groups, names = labels.codes, len(labels.values)
        if self.by == "episode":
            groups, pure = majorities(self._episode_of_samples(), groups)
            if not pure.all():
                raise InvalidValueError(
                    f"groups={self.groups!r}: episode {int(pure.argmin())} has samples of several groups, and by='episode' keeps "
                    "it whole. Leave out by='episode', or cut the episodes where groups change."
                )
            names, groups = len(np.unique(groups)), np.unique(groups, return_inverse=True)[1].reshape(-1)
        if names < parts:
            raise InvalidValueError(
                f"groups={self.groups!r}: there {'is 1 group' if names == 1 else f'are {names} groups'} for {parts} parts, and a "
                "group is in one part only; expected at least one for each. Ask for fewer parts, or split without groups=."
            )
        part_of_groups = dealt_groups(sizes, self.seed, groups, codes)
        found: Array = part_of_groups[groups]
        self._check_sizes(sizes[:parts], counts_of(found, len(sizes))[:parts], labels, groups)
        return found

    def _check_sizes(self, wanted: Array, found: Array, labels: Labels, groups: Array) -> None:
        largest = int(counts_of(groups, int(groups.max()) + 1).max())
        sizes = (
            f"{', '.join(map(str, found))} {self.unit} instead of {', '.join(map(str, wanted))}; the largest group has {largest}"
        )
        if not found.all():
            raise InvalidValueError(
                f"groups={self.groups!r}: {len(labels.values)} whole groups make parts of {sizes}: one is empty. Make it larger, "
                "or ask for fewer parts."
            )
        if (abs(found - wanted) > _FAR * self.total).any() or (found * 2 < wanted).any() or (found > wanted * 2).any():
            warnings.warn(
                f"groups={self.groups!r}: whole groups do not fit the sizes asked for: the parts have {sizes}. Ask for fractions "
                "that whole groups can make, or divide groups that need not stay together.",
                LabelWarning,
                stacklevel=7,
            )

    def warn(self, call: str, places: Sequence[Place], folds: bool) -> None:
        """Warn of parts that lack a class. `call` is the line that made them, up to the arguments of this object."""
        if self.stratify is not None:
            field, labels = self.stratify, self.dataset._labels(self.stratify, "stratify")
        elif (found := label_field(self.dataset)) is not None:
            field, labels = found
        else:
            return
        parts: list[tuple[str, Array]] = []
        for number, place in enumerate(places, 1):
            counts = counts_of(labels.codes[place if isinstance(place, slice) else place.mask], len(labels.values))
            if folds:
                parts.append((f"the training part of fold {number}", labels.counts - counts))
            parts.append((f"{'fold' if folds else 'part'} {number}", counts))
        if self.stratify is not None:
            unit = "group" if self.groups else self.by
            remedy = (
                f"Each part needs a {unit} of each class: leave such classes out (ds.select), merge them, or ask for fewer parts."
            )
        else:
            # Samples of a video are alike: where there are many, whole ones are dealt.
            many = len(self.dataset.episodes) > 2 * len(labels.values) and not (self.dataset.mixed or self.dataset._dealt)
            others = {
                "by": "episode" if self.is_contiguous and many else self.by,
                "groups": self.groups,
                "shuffle": self.shuffle and self.groups is None,
            }
            shown = [f"{name}={value!r}" for name, value in others.items() if value and value != "sample"]
            line = ", ".join([call, *shown, f"stratify={field!r}"])
            whole = " as near as whole ones allow" if self.groups or "by=" in line else ""
            remedy = f"Write ds.{line}) for parts in which all classes are in proportion{whole}."
        warn_of_missing_classes(
            field, labels, parts, f"{call}{')' if self.stratify is None else ', ...)'}", remedy, self.stratify is not None
        )


def windows_of_dealt(name: str) -> InvalidValueError:
    """Return the error for windows of several samples where samples were dealt to parts one by one."""
    return InvalidValueError(
        f"{name} holds samples that split() or kfold() dealt one by one, so neighbours are in different parts; NextFrame() and "
        "Window() of several samples need some that follow each other. Write split(..., by='episode', shuffle=True) for whole "
        "episodes, groups=... for whole groups, or leave out shuffle= and stratify=: contiguous parts keep neighbours together."
    )
