"""Episodes, windows over them, and anchors: the starts of windows that fit. Arithmetic only."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import InvalidTypeError, InvalidValueError
from .runs import Numbers, Runs, cut
from .selection import Selection


def whole_number(name: str, value: Any, least: int | None = None) -> int:
    """Return an argument as an int. Raises InvalidTypeError or InvalidValueError, naming the argument."""
    try:
        if isinstance(value, bool):
            raise TypeError("a bool")
        number = operator.index(value)
    except TypeError as error:
        raise InvalidTypeError(f"{name}={value!r} is not a whole number.") from error
    if least is not None and number < least:
        raise InvalidValueError(f"{name}={number} is too small; expected {least} or more.")
    return number


@dataclass(frozen=True)
class Window:
    """x is `history` frames, y is `horizon` frames, `lead` samples after the last of them.

    Parameters
    ----------
    history, horizon : frames in x and in y, as an axis after the batch axis: x is (B, history, C, H, W). None: one
        frame, without that axis.
    lead : distance, in samples, from the last frame of x to the first frame of y. 1 is the next frame at
        `sampling_rate=1`; 0 and less reach back into x.
    stride : samples from the start of one window to the start of the next
    sampling_rate : samples from one frame of a window to the next, in x and in y
    field : where y is taken from; None is the (first) input itself
    start_index, end_index : only windows inside samples [start_index, end_index); `end_index=len(data)` and None are
        the end.

    Everything `keras.utils.timeseries_dataset_from_array` can express is a Window: `sequence_length` is history,
    `sequence_stride` is stride, and a target that stands at the first frame has `lead=-(history - 1) * sampling_rate`.

    >>> Window(history=4).offsets()                       # four frames, then the one after them
    (range(0, 4), range(4, 5))
    >>> Window(history=4, horizon=4, lead=-2).offsets()   # many to many: y is x one step later
    (range(0, 4), range(1, 5))
    """

    history: int | None = 4
    horizon: int | None = 1
    lead: int = 1
    stride: int = 1
    sampling_rate: int = 1
    field: str | None = None
    start_index: int = 0
    end_index: int | None = None

    def __post_init__(self) -> None:
        for name in ("history", "horizon"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name), 1)
        for name in ("stride", "sampling_rate"):
            whole_number(name, getattr(self, name), 1)
        whole_number("start_index", self.start_index, 0)
        if self.end_index is not None:
            whole_number("end_index", self.end_index, self.start_index + 1)
        whole_number("lead", self.lead)

    def offsets(self) -> tuple[range, range]:
        """Return the offsets of the frames of x and of y, in samples from the first frame of x."""
        history, horizon, rate = self.history or 1, self.horizon or 1, self.sampling_rate
        first = (history - 1) * rate + self.lead
        return range(0, (history - 1) * rate + 1, rate), range(first, first + (horizon - 1) * rate + 1, rate)


def NextFrame(lead: int = 1, field: str | None = None) -> Window:
    """x is a frame, y is the frame `lead` samples later; neither has a time axis.

    >>> NextFrame()
    Window(history=None, horizon=None, lead=1, stride=1, sampling_rate=1, field=None, start_index=0, end_index=None)
    """
    if isinstance(lead, (int, np.integer)) and not isinstance(lead, bool) and lead < 1:
        raise InvalidValueError(
            f"lead={lead} is not a later frame; expected 1 or more. For the frame itself, give its name as target."
        )
    return Window(history=None, horizon=None, lead=lead, field=field)


class Episodes:
    """Runs of samples that belong together, as int64 offsets of length E + 1.

    >>> episodes = Episodes.of(np.array([0, 10, 15, 40]))
    >>> episodes.between(5, 20).offsets.tolist()
    [0, 5, 10, 15]
    """

    def __init__(self, offsets: Numbers) -> None:
        self.offsets = offsets

    @classmethod
    def of(cls, offsets: Any, samples: int | None = None, where: str = "episodes") -> Episodes:
        """Checked offsets: rising from 0, up to `samples`. Raises InvalidValueError."""
        found = np.asarray(offsets)
        if (
            found.ndim != 1
            or found.dtype.kind not in "iu"
            or len(found) < 2
            or found[0] != 0
            or (np.diff(found.astype(np.int64)) <= 0).any()
        ):
            raise InvalidValueError(
                f"{where} must be whole numbers rising from 0, one more than there are episodes; found {offsets!r}."
            )
        if samples is not None and found[-1] != samples:
            raise InvalidValueError(f"{where} end at sample {found[-1]}, but there are {samples} samples.")
        return cls(found.astype(np.int64))

    @classmethod
    def equal(cls, samples: int, length: int) -> Episodes:
        return cls(np.arange(0, samples + 1, length, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def between(self, start: int, stop: int) -> Episodes:
        """Return the episodes of samples [start, stop), counted from `start`. Cut ones stay, shorter."""
        inside = self.offsets[(self.offsets > start) & (self.offsets < stop)]
        return Episodes(np.concatenate([[start], inside, [stop]]).astype(np.int64) - start)

    def then(self, other: Episodes) -> Episodes:
        """Return these episodes and, after them, those of another."""
        return Episodes(np.concatenate([self.offsets, other.offsets[1:] + self.offsets[-1]]))

    def of_selected(self, chosen: Selection) -> Episodes:
        """Return the episodes of the samples chosen among these, counted among themselves. Episodes without any are left out."""
        offsets = chosen.count_before(self.offsets)
        return Episodes(offsets[np.append(True, offsets[1:] != offsets[:-1])].astype(np.int64))

    def common(self, other: Episodes) -> Episodes:
        """Cut wherever either is cut."""
        offsets = np.sort(np.concatenate([self.offsets, other.offsets]))  # union1d loads numpy.ma, which takes longer than opening
        return Episodes(offsets[np.append(True, offsets[1:] != offsets[:-1])])


class Anchors:
    """Window starts that fit into one episode and one run of the selection each, numbered 0 .. V-1.

    Parameters
    ----------
    episodes : in the numbers of the selection
    reach : (lowest, highest) offset of a frame from the anchor
    stride : windows start at every `stride`-th sample of an episode, counted from its first sample at which one fits
    start, stop : only windows inside these numbers of the selection
    selection : the samples of the store that are numbered; None is all of them
    numbered : `starts` are numbers of the selection, not samples of the store; the windows are the same

    >>> anchors = Anchors(Episodes.of([0, 5, 7, 10]), reach=(0, 2))
    >>> len(anchors), anchors.starts(np.arange(4)).tolist(), anchors.samples_without
    (4, [0, 1, 2, 7], 6)
    """

    def __init__(
        self,
        episodes: Episodes,
        reach: tuple[int, int],
        stride: int = 1,
        start: int = 0,
        stop: int | None = None,
        selection: Selection | None = None,
        numbered: bool = False,
    ) -> None:
        low, high = reach
        offsets = _limits(episodes, selection, alone=reach == (0, 0) and stride == 1)
        firsts, ends = offsets[:-1], offsets[1:]
        firsts = np.maximum(firsts, start)
        ends = ends if stop is None else np.minimum(ends, stop)
        fitting = np.maximum(0, -(-(ends - firsts - (high - low)) // stride))
        kept = fitting > 0
        self.stride = stride
        self.reach = reach
        self._firsts = (firsts if selection is None or numbered else selection.places(np.minimum(firsts, offsets[-1] - 1)))[
            kept
        ] - low
        self._before = np.concatenate([[0], np.cumsum(fitting[kept])]).astype(np.int64)
        self.samples_without = int(np.maximum(ends - firsts, 0).sum()) - len(self)
        self.longest_episode = int((ends - firsts).max(initial=0))

    def __len__(self) -> int:
        return int(self._before[-1])

    @property
    def nbytes(self) -> int:
        """Bytes these numbers take: episodes with windows, twice."""
        return int(self._before.nbytes + self._firsts.nbytes)

    def starts(self, numbers: Numbers) -> Numbers:
        """Return the sample of the store at which each of these anchors lies."""
        if len(self._firsts) == 1:
            return int(self._firsts[0]) + numbers * self.stride
        episode = np.searchsorted(self._before, numbers, side="right") - 1
        found: Numbers = self._firsts[episode] + (numbers - self._before[episode]) * self.stride
        return found

    def runs(self, numbers: Runs) -> Runs:
        """Return where runs of anchors lie: samples [start, stop) from the first to the last of them in each episode."""
        pieces, _ = cut(numbers, self._before)
        return np.stack([self.starts(pieces[:, 0]), self.starts(pieces[:, 1] - 1) + 1], axis=1)

    def most_cuts(self, block: int) -> int:
        """Return the most episode ends inside any block of that many anchors."""
        inner = self._before[1:-1]
        inside = inner[inner % block != 0] // block  # rising: equal ones stand together
        begins = np.flatnonzero(np.append(True, inside[1:] != inside[:-1])) if len(inside) else inside
        return int(np.diff(np.append(begins, len(inside))).max(initial=0))

    def most_runs(self, count: int) -> int:
        """Return the most episodes that `count` consecutive anchors can lie in."""
        return min(count, len(self._firsts))

    def longest_span(self, count: int) -> int:
        """Return the most samples of the store from the first to the last of `count` consecutive anchors."""
        count = min(count, len(self))
        # The span grows where it begins with the last anchor before a jump, or ends with the first one behind it.
        begins = np.concatenate([self._before[1:] - 1, self._before[:-1] - (count - 1)]).clip(0, len(self) - count)
        return int((self.starts(begins + count - 1) - self.starts(begins)).max()) + 1

    def is_run(self, first: int, last: int) -> bool:
        """True if anchors [first, last) are consecutive samples of one episode."""
        if self.stride != 1:
            return False
        a, b = np.searchsorted(self._before, (first, last - 1), side="right")
        return bool(a == b)


def _limits(episodes: Episodes, selection: Selection | None, alone: bool) -> Numbers:
    """Return the numbers between which windows lie; samples that stand `alone` may lie over several episodes."""
    if selection is None:
        return episodes.offsets[[0, -1]] if alone else episodes.offsets
    if alone:
        return selection.before
    return episodes.offsets if selection.is_one_run else episodes.common(Episodes(selection.before)).offsets
