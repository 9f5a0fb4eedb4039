"""Count, minimum, maximum, mean and standard deviation of each channel, from blocks that pass once."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .errors import InvalidTypeError, InvalidValueError

Array = np.ndarray[Any, np.dtype[Any]]
_SLICE = 1 << 16  # elements looked at together: 512 KiB as float64, so the three passes over them stay in the cache
_CHANNELS = 512  # channels looked at together: a slice of thousands would hold a few values of each, and merge at the cost of all
_MOST_CHANNELS = 8192  # the same where a block has few values of each channel in any case: then calls are what costs
_SMALL = 255  # values of 8 bits, and their differences
_EXACT = 256  # squares of these: 256 * 255**2 < 2**24


_COMBINED = 16  # arrays of a number for each channel, while a slice is merged with those before


def scratch_nbytes(dtype: np.dtype[Any], channels: int) -> int:
    """Return the most private memory, in bytes, that statistics of values of `dtype` take beside a block, whatever its size."""
    return _slice_of(dtype) * _nbytes_each(dtype) + _nbytes_of(channels)


def difference_nbytes(dtype: np.dtype[Any], channels: int) -> int:
    """Return the same of `DifferenceStatistics`, without the sample that it keeps."""
    wide = _difference_dtype(dtype)
    # Of 8 bits they are small, of 64 made of both orders of a pair. The pairs are copied where some lie between episodes.
    moments = wide.itemsize + 4 if dtype.itemsize == 1 else _nbytes_each(wide)
    difference = max(33 if dtype.kind != wide.kind == "f" else 0, wide.itemsize + moments)
    return _slice_of(dtype) * (2 * dtype.itemsize + 2 + difference) + _nbytes_of(channels)


def _nbytes_each(dtype: np.dtype[Any]) -> int:
    """Of a contiguous slice as it comes, and as float32, or as float64 with a mask of NaNs and a copy without them."""
    return dtype.itemsize + (17 if dtype.kind == "f" else 4 if dtype.itemsize == 1 else 8)


def _nbytes_of(channels: int) -> int:
    return 8 * (_COMBINED * min(channels, _MOST_CHANNELS) + 6 * channels)


def _slice_of(dtype: np.dtype[Any]) -> int:
    """Return how many elements are looked at together: more where float32 holds their moments."""
    return _SLICE * (4 if dtype.itemsize == 1 else 1)


class _Moments(NamedTuple):
    """Of the values of each channel in a slice, (channels,). Where all are NaN, the extremes are inf and -inf."""

    counted: Array
    nans: Array
    low: Array
    high: Array
    mean: Array
    deviations: Array


class ChannelStatistics:
    """Statistics of each channel, gathered block by block.

    NaN is no value: it is counted in `nans`, and enters nothing else. Infinities are values: they show in minimum and
    maximum, and leave no finite mean. Sums are float64 and deviations are taken from the mean of a small slice before slices are
    merged (Chan, Golub, LeVeque), so a large offset costs no digits. Integers keep exact minima and maxima.

    Attributes
    ----------
    count, nans : values and NaNs seen in each channel, int64, (channels,)

    >>> seen = ChannelStatistics()
    >>> seen.update(np.array([[1, 10], [3, 30]]), channel_axis=1)
    >>> seen.mean.tolist(), seen.std.tolist(), seen.minimum.tolist()
    ([2.0, 20.0], [1.0, 10.0], [1, 10])
    """

    def __init__(self) -> None:
        self._reserve(0, np.dtype(np.float64))

    def _reserve(self, channels: int, extreme: np.dtype[Any]) -> None:
        self.count, self.nans = np.zeros((2, channels), np.int64)
        self._minimum, self._maximum = np.zeros((2, channels), extreme)
        self._mean, self._deviations = np.zeros((2, channels), np.float64)

    @property
    def channels(self) -> int:
        """0 until the first block."""
        return len(self.count)

    @property
    def minimum(self) -> Array:
        """Smallest value of each channel, (channels,): int64 or uint64 of integers and bool, else float64; NaN where count is 0."""
        return self._where_counted(self._minimum)

    @property
    def maximum(self) -> Array:
        """Largest value of each channel, (channels,); dtype as `minimum`."""
        return self._where_counted(self._maximum)

    @property
    def mean(self) -> Array:
        """float64, (channels,); NaN where count is 0."""
        return self._where_counted(self._mean)

    @property
    def std(self) -> Array:
        """Standard deviation of the population (divided by count, as Keras's Normalization does): float64, (channels,)."""
        with np.errstate(invalid="ignore"):
            return np.sqrt(self._deviations / np.where(self.count == 0, np.nan, self.count))

    def _where_counted(self, values: Array) -> Array:
        empty = self.count == 0
        return np.where(empty, np.nan, values) if empty.any() else values.copy()

    def update(self, block: Array, channel_axis: int | None) -> None:
        """Take in a block of any shape; axis `channel_axis` of it holds the channels, None makes it one channel.

        Takes `scratch_nbytes` beside the block. Raises InvalidTypeError unless the block holds bool, integers or floats,
        and InvalidValueError if it has another number of channels than the blocks before.
        """
        if block.dtype.kind not in "biuf":
            raise InvalidTypeError(f"Statistics of dtype {block.dtype} mean nothing; expected bool, integers or floats.")
        channels = 1 if channel_axis is None else block.shape[channel_axis]
        self._expect(channels, _extreme_dtype(block.dtype))
        if block.size == 0:
            return
        whole = _channels_first(block, channel_axis)
        self._merge((box[0], _moments(whole[box])) for box in _boxes(whole.shape, _slice_of(block.dtype)))

    def update_differences(self, later: Array, earlier: Array, channel_axis: int | None) -> None:
        """Take in `later - earlier`, two blocks of one shape and dtype, without a copy of either.

        Integers are subtracted exactly; where they have 64 bits, the difference is then rounded to float64.
        """
        wide = _difference_dtype(later.dtype)
        self._expect(1 if channel_axis is None else later.shape[channel_axis], _extreme_dtype(wide))
        if later.size == 0:
            return
        after, before = _channels_first(later, channel_axis), _channels_first(earlier, channel_axis)
        boxes = _boxes(after.shape, _slice_of(later.dtype))
        self._merge((box[0], _moments(_difference(after[box], before[box], wide))) for box in boxes)

    def _expect(self, channels: int, extreme: np.dtype[Any]) -> None:
        if self.channels == 0:
            self._reserve(channels, extreme)
        elif channels != self.channels:
            raise InvalidValueError(
                f"This block has {channels} channels, the blocks before had {self.channels}. Check its channel axis."
            )
        elif extreme != self._minimum.dtype:
            common = np.promote_types(extreme, self._minimum.dtype)
            self._minimum, self._maximum = self._minimum.astype(common), self._maximum.astype(common)

    def _merge(self, slices: Iterable[tuple[slice, _Moments]]) -> None:
        """Take in the moments of slices, several of the same channels at a time."""
        for start, group in itertools.groupby(slices, lambda each: (each[0].start, each[0].stop)):
            at = slice(*start)
            together = max(1, _CHANNELS // (at.stop - at.start))
            while some := [moments for _, moments in itertools.islice(group, together)]:
                self._combine(at, *(some[0] if len(some) == 1 else _joined(some)))

    def _combine(self, at: slice, count: Array, nans: Array, low: Array, high: Array, mean: Array, deviations: Array) -> None:
        before = self.count[at]
        total = before + count
        some = np.maximum(total, 1)
        with np.errstate(invalid="ignore", over="ignore"):
            shift = np.where(before == 0, 0, mean - self._mean[at])
            between = shift * shift * (before * (count / some))
            self._mean[at] = np.where(
                count == 0, self._mean[at], np.where(before == 0, mean, self._mean[at] + shift * (count / some))
            )
            self._deviations[at] += np.where(count == 0, 0, deviations + between)
        # `_expect` has made the dtype kept wide enough for both.
        low, high = low.astype(self._minimum.dtype), high.astype(self._maximum.dtype)
        self._minimum[at] = np.where(before == 0, low, np.where(count == 0, self._minimum[at], np.minimum(self._minimum[at], low)))
        self._maximum[at] = np.where(
            before == 0, high, np.where(count == 0, self._maximum[at], np.maximum(self._maximum[at], high))
        )
        self.count[at] = total
        self.nans[at] += nans

    def merge(self, other: ChannelStatistics) -> None:
        """Take in all that `other` has seen; `other` is left as it is."""
        if other.channels == 0:
            return
        self._expect(other.channels, other._minimum.dtype)
        self._combine(slice(None), other.count, other.nans, other._minimum, other._maximum, other._mean, other._deviations)

    def to_json(self) -> dict[str, Any]:
        """Return plain lists by name, one entry per channel; numbers that JSON lacks are the texts "nan", "inf", "-inf".

        `deviations` is the sum of squared deviations from the mean, from which `from_json` goes on without losing a bit.
        """
        return {
            "count": self.count.tolist(),
            "nans": self.nans.tolist(),
            "min": _texts(self.minimum),
            "max": _texts(self.maximum),
            "mean": _texts(self.mean),
            "std": _texts(self.std),
            "deviations": _texts(self._deviations),
        }

    @classmethod
    def from_json(cls, found: dict[str, Any], dtype: np.dtype[Any] | None = None) -> ChannelStatistics:
        """Read the JSON of `to_json`, of values of `dtype` where it is known. Raises InvalidValueError for anything else.

        >>> seen = ChannelStatistics()
        >>> seen.update(np.arange(6.0), channel_axis=None)
        >>> ChannelStatistics.from_json(seen.to_json()).to_json() == seen.to_json()
        True
        """
        statistics = cls()
        try:
            statistics.count = np.array(found["count"], np.int64)
            statistics.nans = np.array(found["nans"], np.int64)
            extremes = _numbers(found["min"]), _numbers(found["max"])
            wide = None if dtype is None else _extreme_dtype(dtype)  # small values of uint64 look like those of int64
            statistics._minimum, statistics._maximum = (each.astype(wide or each.dtype) for each in extremes)
            statistics._mean = np.array([float(x) for x in found["mean"]], np.float64)
            statistics._deviations = np.array([float(x) for x in found["deviations"]], np.float64)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InvalidValueError(
                f"These are not statistics of channels ({type(error).__name__}: {error}); expected what to_json gave. "
                "Compute them again."
            ) from error
        parts = (statistics.nans, statistics._minimum, statistics._maximum, statistics._mean, statistics._deviations)
        if any(part.shape != statistics.count.shape for part in parts) or statistics.count.ndim != 1:
            raise InvalidValueError(
                "These statistics name different numbers of channels; expected what to_json gave. Compute them again."
            )
        empty = statistics.count == 0
        statistics._mean[empty] = 0
        return statistics


def _moments(box: Array) -> _Moments:
    """Return the moments of (channels, ...), a slice."""
    with np.errstate(invalid="ignore", over="ignore"):
        box = np.ascontiguousarray(box).reshape(len(box), -1)  # one row each channel: reductions over strides are 7x slower
        low, high = box.min(axis=1), box.max(axis=1)
        count = np.full(len(box), box.shape[1], np.int64)
        nans = np.zeros(len(box), np.int64)
        if box.dtype.kind in "biu" and (box.dtype.itemsize == 1 or (low.min() >= -_SMALL and high.max() <= _SMALL)):
            return _Moments(count, nans, low, high, *_moments_of_small(box))
        values = box.astype(np.float64)
        if box.dtype.kind == "f" and np.isnan(low).any():
            missing = np.isnan(values)
            nans = missing.sum(axis=1)
            count -= nans
            low = np.where(missing, np.inf, values).min(axis=1)
            high = np.where(missing, -np.inf, values).max(axis=1)
            values[missing] = 0
            mean = values.sum(axis=1) / np.maximum(count, 1)
            values -= mean[:, None]
            values[missing] = 0
        else:
            mean = values.sum(axis=1) / count
            values -= mean[:, None]
        return _Moments(count, nans, low, high, mean, np.einsum("ij,ij->i", values, values))


def _joined(slices: list[_Moments]) -> _Moments:
    """Return the moments of several slices of the same channels."""
    counts, nans, lows, highs, means, deviations = (np.stack(each) for each in zip(*slices, strict=True))
    count = counts.sum(axis=0)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = (counts * means).sum(axis=0) / np.maximum(count, 1)
        shifts = np.where(counts == 0, 0, means - mean)
        deviation = deviations.sum(axis=0) + (counts * shifts * shifts).sum(axis=0)
    return _Moments(count, nans.sum(axis=0), lows.min(axis=0), highs.max(axis=0), mean, deviation)


def _moments_of_small(rows: Array) -> tuple[Array, Array]:
    """Return (mean, sum of squared deviations) of each row of integers up to `_SMALL`, rounded once.

    In float32, which is twice as fast: sums stay below 2**24, up to which it holds every integer, as do squares `_EXACT` at a time.
    """
    values = rows.astype(np.float32)
    count = values.shape[1]
    whole = count // _EXACT * _EXACT
    groups, rest = values[:, :whole].reshape(len(values), -1, _EXACT), values[:, whole:]
    squares = np.einsum("ijk,ijk->ij", groups, groups).sum(axis=1, dtype=np.float64) + np.einsum("ij,ij->i", rest, rest)
    total = (groups @ np.ones(_EXACT, np.float32)).sum(axis=1, dtype=np.float64) + rest.sum(axis=1)
    total, squares = total.astype(np.int64), squares.astype(np.int64)
    return total / count, (count * squares - total * total) / count


def _extreme_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind == "f":
        return np.dtype(np.float64)
    return np.dtype(np.uint64) if dtype.kind == "u" and dtype.itemsize == 8 else np.dtype(np.int64)


def _channels_first(block: Array, channel_axis: int | None) -> Array:
    return block[None] if channel_axis is None else np.moveaxis(block, channel_axis, 0)


def _boxes(shape: tuple[int, ...], most: int) -> Iterator[tuple[slice, ...]]:
    """Cut (channels, ...) into boxes of at most `most` elements.

    The outermost of the other axes are cut first, so that a box takes long runs of memory; the channels last.
    """
    order = [*range(1, len(shape)), 0]
    values = math.prod(shape[1:])
    sizes = [min(shape[0], max(_CHANNELS, min(_MOST_CHANNELS, most // values))), *shape[1:]]
    for axis in order:
        others = math.prod(sizes) // sizes[axis]
        sizes[axis] = min(sizes[axis], max(1, most // others))
        if math.prod(sizes) <= most:
            break
    starts = [range(0, length, size) for length, size in zip(shape, sizes, strict=True)]
    for corner in itertools.product(*starts):
        yield tuple(slice(at, min(at + size, length)) for at, size, length in zip(corner, sizes, shape, strict=True))


def _difference_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a dtype that holds every difference of two such values, exactly for bool and integers up to 32 bits."""
    if dtype.kind == "f" or dtype.itemsize == 8:
        return np.dtype(np.float64)
    return np.dtype({1: np.int16, 2: np.int32, 4: np.int64}[dtype.itemsize])


def _difference(later: Array, earlier: Array, wide: np.dtype[Any]) -> Array:
    found: Array
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN, which is counted as such
        if later.dtype.kind == "f" or wide.kind != "f":
            found = np.subtract(later, earlier, dtype=wide)
            return found
        # Both as float64 would lose the digits in which large neighbours differ. Modulo 2**64 none is lost, but for the sign.
        size = np.where(later >= earlier, later - earlier, earlier - later).astype(np.uint64, copy=False)
        found = size.astype(np.float64)
        return np.where(later >= earlier, found, -found)


class DifferenceStatistics:
    """Statistics of x[t+1] - x[t] of consecutive samples, also over the borders of blocks, never over those of episodes.

    >>> seen = DifferenceStatistics()
    >>> seen.update(np.array([[1], [3]], "i2"), [0], channel_axis=1)
    >>> seen.update(np.array([[7], [100], [99]], "i2"), [1], channel_axis=1)      # 100 begins another episode
    >>> seen.statistics.count.tolist(), seen.statistics.minimum.tolist(), seen.statistics.mean.tolist()
    ([3], [-1], [1.6666666666666667])
    """

    def __init__(self) -> None:
        self.statistics = ChannelStatistics()
        self._last: Array | None = None

    def update(self, block: Array, starts: Sequence[int], channel_axis: int | None) -> None:
        """Take in a block, (samples, ...), that follows the one before; `starts` are the samples of it that begin an episode.

        Keeps a copy of its last sample, and takes `difference_nbytes` beside. `starts` rise, and are counted from the block's
        first. Raises InvalidTypeError unless the block holds bool, integers or floats.
        """
        if block.dtype.kind not in "biuf":
            raise InvalidTypeError(f"Differences of dtype {block.dtype} mean nothing; expected bool, integers or floats.")
        if len(block) == 0:
            return
        if self._last is not None and (not starts or starts[0] > 0):
            self.statistics.update_differences(block[:1], self._last, channel_axis)
        cuts = starts[bisect_left(starts, 1) : bisect_left(starts, len(block))]
        step = max(1, _slice_of(block.dtype) // max(1, block[0].size))
        if len(cuts) * step <= len(block):
            for first, stop in itertools.pairwise([0, *cuts, len(block)]):
                if stop - first > 1:
                    self.statistics.update_differences(block[first + 1 : stop], block[first : stop - 1], channel_axis)
        else:  # short episodes: copies of a slice at most, without the pairs between two of them
            for at in range(1, len(block), step):
                later = block[at : at + step]
                earlier = block[at - 1 : at - 1 + len(later)]
                kept = np.ones(len(later), np.bool_)
                kept[np.asarray(cuts[bisect_left(cuts, at) : bisect_left(cuts, at + len(later))], np.int64) - at] = False
                if kept.any():
                    self.statistics.update_differences(later[kept], earlier[kept], channel_axis)
        self._last = block[-1:].copy()


def _texts(values: Array) -> list[Any]:
    return [value if isinstance(value, int) or math.isfinite(value) else str(value) for value in values.tolist()]


def _numbers(values: list[Any]) -> Array:
    if all(isinstance(value, int) for value in values):
        wide = any(value > np.iinfo(np.int64).max for value in values)
        return np.array(values, np.uint64 if wide else np.int64)
    return np.array([float(value) for value in values], np.float64)
