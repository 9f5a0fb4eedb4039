"""Parts of a dataset: contiguous and random ones, folds, selections; and the classes that samples are divided by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from ..plain.errors import InvalidTypeError, InvalidValueError
from ..plain.selection import Selection
from ..plain.windows import Episodes
from ..readers.contract import Array
from .labels import MOST_CLASSES, Labels, class_weights_of, read_labels
from .notes import class_names_of
from .samples import Samples
from .split import Dealing, Place, fold_points, split_points

_MOST_STEPS = 1.5  # to the next sample: more is a gap, less is jitter


class Parts(Samples):
    """Samples that can be cut into parts. See `Dataset`."""

    # --- parts -------------------------------------------------------------------------------------------------------

    def split(
        self,
        *parts: float,
        by: str = "sample",
        gap: int = 0,
        shuffle: bool = False,
        stratify: str | None = None,
        groups: str | None = None,
        seed: int = 0,
    ) -> tuple[Self, ...]:
        """Return parts that share no sample: contiguous, or random with classes in proportion or groups in one piece.

        Samples stay in stored order in each part, and no window reaches from one into another. A part of a random split takes 16
        bytes of memory for each run of neighbours in it; reading costs the bytes of the runs. Equal arguments give equal parts on
        every machine.

        A LabelWarning reports parts that lack a class. The classes are those of `stratify`, else of the first field that has class
        names or is called like labels ("label", "class", "category", "target", "y"); it is read if it has at most 10**6 samples and
        16 MB. Other splits read nothing.

        Parameters
        ----------
        parts : floats are fractions, ints are counts; what they leave over (of contiguous parts, the end) is in no part
        by : "sample", or "episode": then fractions and counts are of episodes, and none is cut
        gap : samples (or episodes) left out between contiguous parts, where neighbouring frames are alike
        shuffle : True deals samples (or episodes) at random
        stratify : the name of a field of classes: integers, bool, text (fixed-width bytes) or one-hot rows. Each class is divided
            among the parts as all samples are, to less than one sample, at random. The class of an episode is that of most of its
            samples
        groups : the name of a field of group numbers or names, such as the patient of each picture. All samples of a group are
            dealt to one part, so that sizes (and classes, with `stratify`) come as near to the fractions as whole groups allow
        seed : any whole number; another one deals other random parts

        Raises
        ------
        InvalidValueError, InvalidTypeError : parts that are empty or more than there is, `gap` between random parts, fewer groups
            than parts, labels that are no classes, episodes of several groups
        KeyNotFoundError : `stratify` or `groups` names no field

        >>> import mmapstore as mm
        >>> [len(part) for part in mm.open(np.zeros((10, 3))).split(0.6, 0.2, 0.2)]
        [6, 2, 2]
        >>> pets = mm.open({"x": np.zeros((360, 2)), "label": np.repeat([0, 1], [300, 60])})
        >>> train, val = pets.split(0.8, 0.2, stratify="label")
        >>> np.bincount(train["label"][:]), np.bincount(val["label"][:])
        (array([240,  48]), array([60, 12]))
        """
        dealing = Dealing(self, by, shuffle, stratify, groups, seed)
        if gap and not dealing.is_contiguous:
            raise InvalidValueError(
                f"gap={gap!r} is room between contiguous parts, and shuffle=, stratify= and groups= deal samples from all over. "
                "Neighbours that are alike stay in one part if whole episodes are dealt (by='episode'), or groups (groups=...)."
            )
        points = split_points(dealing.total, parts, gap, dealing.unit)
        where = dealing.places(points)
        dealing.warn(f"split({', '.join(map(repr, parts))}", where, folds=False)
        return tuple(self._at(place, dealing.cuts_neighbours) for place in where)

    def kfold(
        self,
        k: int,
        *,
        by: str = "sample",
        shuffle: bool = False,
        stratify: str | None = None,
        groups: str | None = None,
        seed: int = 0,
    ) -> Iterator[tuple[Self, Self]]:
        """Yield (train, val) for each of k folds: every sample is in `val` once, and in `train` the other times.

        Folds differ by at most one sample (or episode) in size, where whole groups allow it. The arguments are those of `split`;
        without them folds are contiguous, and `train` is what lies before and behind, without a window over the hole.

        >>> import mmapstore as mm
        >>> ds = mm.open(np.arange(6))
        >>> [(train[:].tolist(), val[:].tolist()) for train, val in ds.kfold(3)]
        [([2, 3, 4, 5], [0, 1]), ([0, 1, 4, 5], [2, 3]), ([0, 1, 2, 3], [4, 5])]
        """
        dealing = Dealing(self, by, shuffle, stratify, groups, seed)
        where = dealing.places(fold_points(dealing.total, k, dealing.unit))
        dealing.warn(f"kfold({k!r}", where, folds=True)
        one_by_one = dealing.cuts_neighbours
        return ((self._at(place, one_by_one, others=True), self._at(place, one_by_one)) for place in where)

    def _at(self, place: Place, one_by_one: bool, others: bool = False) -> Self:
        """Return the samples at a place; those at all other places with `others`."""
        if not isinstance(place, slice):
            found = self.select(~place.mask if others else place.mask)
            found._dealt = found._dealt or one_by_one
            return found
        runs = [(0, place.start), (place.stop, len(self))] if others else [(place.start, place.stop)]
        first, *rest = [run for run in runs if run[0] < run[1]]
        selection, episodes = self._selection.between(*first), self._episodes.between(*first)
        for run in rest:
            selection, episodes = selection.then(self._selection.between(*run)), episodes.then(self._episodes.between(*run))
        return self._selected(selection, episodes)

    def select(self, samples: Any) -> Self:
        """Return the dataset of these samples, in stored order: a class, all but the bad frames, an index of scikit-learn's.

        No window reaches over samples that were left out. Reading costs the bytes of the samples. Each run of neighbours takes
        16 bytes of memory, which `repr` states where there is more than one.

        Parameters
        ----------
        samples : a mask of booleans of shape (len(self),), or sample numbers in any order, each once; negative numbers count
            from the end

        Raises
        ------
        InvalidValueError : no sample is selected, or one is named twice (to repeat samples see `sampling_weight` of `batches`)

        >>> import mmapstore as mm
        >>> ds = mm.open({"x": np.arange(6.0), "label": np.array([0, 1, 0, 1, 0, 1])})
        >>> ones = ds.select(ds["label"][:] == 1)
        >>> len(ones), ones["x"][:]
        (3, array([1., 3., 5.]))
        """
        given = np.asarray(samples)
        if given.dtype == bool and given.shape != (len(self),):
            raise InvalidValueError(f"the mask has the shape {given.shape}; expected ({len(self)},), one for each sample.")
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iub"):
            raise InvalidTypeError(
                f"select() was given an array of {given.dtype} and shape {given.shape}; expected a mask of "
                "booleans, or whole sample numbers, along one axis."
            )
        if not (given.any() if given.dtype == bool else given.size):
            raise InvalidValueError(f"select() was given no sample of the {len(self)} of {self._name}; expected at least one.")
        chosen = Selection.of_mask(given) if given.dtype == bool else Selection.of(self._each_once(given))
        return self._selected(self._selection.take(chosen), self._episodes.of_selected(chosen))

    def _each_once(self, numbers: Array) -> Array:
        """Return sample numbers, rising. Raises OutOfRangeError, and InvalidValueError for one that is named twice."""
        numbers = self._checked_numbers(numbers)
        if not (np.diff(numbers) > 0).all():
            numbers = np.sort(numbers)
            twice = np.flatnonzero(np.diff(numbers) == 0)
            if twice.size:
                raise InvalidValueError(
                    f"select() was given sample {numbers[twice[0]]} more than once; expected each once. To draw samples more often "
                    "than others give batches(sampling_weight=...) or batches(balance=...)."
                )
        return numbers

    def break_at_gaps(self, field: str, step: float | None = None) -> Self:
        """Return the same samples with an episode's end wherever the time stamps jump, so that no window reaches over a gap.

        Parameters
        ----------
        field : time stamps, one number for each sample
        step : time from one sample to the next, in the unit of the field; None is the median of all. A gap is more than 1.5
            steps, no step at all, a step back, or a stamp that is not a number

        `repr` of `batches(...)` states how many samples begin no window.

        >>> import mmapstore as mm
        >>> ds = mm.open({"x": np.arange(6.0), "time": np.array([0, 10, 20, 50, 60, 70])})
        >>> ds.break_at_gaps("time", step=10).episodes
        array([0, 3, 6])
        """
        offsets = _ends_at_gaps(self[field], f"break_at_gaps({field!r})", step)
        return self._like(episodes=self._episodes.common(Episodes(offsets)))

    def _selected(self, selection: Selection, episodes: Episodes) -> Self:
        opened = self._name.partition("[")[0] if self._name.endswith("]") else self._name
        samples = len(self._first.spec)
        start, stop = selection.bounds
        name = f"{opened}[{start}:{stop}]" if selection.is_one_run else f"{opened}[{len(selection)} of {samples}]"
        return self._like(selection=selection, episodes=episodes, name=name)

    # --- classes -----------------------------------------------------------------------------------------------------

    @property
    def class_names(self) -> list[str]:
        """The name of each class, by the number that stands for it in the field of labels, as in Keras. The parts of a dataset have
        the names of the whole.

        Of a field "label" of text, the texts that occur in the whole dataset, sorted; the samples are read for that. Where several
        fields have different class names, ask one of them: `ds["label"].class_names`.

        Raises NoClassNamesError, an AttributeError, where labels have no names.
        """
        return class_names_of(self, self._whole)

    def _labels(self, field: str, argument: str, most: int = MOST_CLASSES) -> Labels:
        """Return the class of each sample by that field, read once. `argument` is what errors call the argument that named it."""
        if not isinstance(field, str) or field not in self._labels_read:
            # Anything but the name of a field raises where it is read; it may have no hash.
            names = {name: note.classes for name, note in self._notes.items()}
            read = read_labels(self, field, argument, most, names)
            self._labels_read[field] = read
        return self._labels_read[field]

    def class_weights(self, field: str) -> dict[int, float]:
        """Return the weight of each class for `fit(class_weight=)`: samples / (classes * samples of the class).

        So all classes count alike in the loss, as with scikit-learn's `compute_class_weight("balanced", ...)`. Keys are integers,
        as Keras has them: the labels themselves; the place of the 1 in one-hot rows; of text the place in `class_names`, which is
        how a transform should number it. A class that has a name or a column and no sample gets no weight, with a LabelWarning.

        Raises what `split` does for a field that holds no classes.

        >>> import mmapstore as mm
        >>> pets = mm.open({"x": np.zeros((360, 2)), "label": np.repeat([0, 1], [300, 60])})
        >>> pets.class_weights("label")
        {0: 0.6, 1: 3.0}
        """
        return class_weights_of(self, self._labels(field, "class_weights"), field)

    def _whole(self, field: str) -> Self:
        """Return all samples of this field, also where this is a part."""
        reader = self._readers[field]
        everything = Episodes.equal(len(reader.spec), len(reader.spec))
        return self._like(readers={field: reader}, episodes=everything, selection=None)


def _ends_at_gaps(stamps: Parts, where: str, step: float | None) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the offsets of the runs without a gap, from 0 to the number of samples, in 16 bytes of memory for each sample."""
    if stamps.shape != (len(stamps),) or stamps.dtype.kind not in "iuf":
        raise InvalidTypeError(f"{where}: the field holds {stamps.shape[1:]} {stamps.dtype}; expected one number for each sample.")
    times = stamps[:]
    if times.dtype.kind == "u":
        times = times.astype(np.int64)
    steps = np.diff(times)
    if step is None:
        step = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    if not 0 < step < np.inf:
        raise InvalidValueError(f"{where}: step={step}; expected the time from one sample to the next, a number above 0.")
    gaps = np.flatnonzero(~((steps > 0) & (steps <= _MOST_STEPS * step))) + 1
    return np.concatenate([[0], gaps, [len(times)]]).astype(np.int64)
