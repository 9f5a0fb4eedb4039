"""Small batches, which TensorFlow gathers itself, from what Python fetches once for many of them.

A call from tf.data into Python costs some tenths of a millisecond, and waits for the lock that the training loop holds. Where the
bytes lie in a mapped file, or in a window of decoded frames, a tensor can look at them: then Python only says at which rows.

What TensorFlow gathers lies in memory of its own, which malloc keeps when the batch is gone, for each thread that has made some;
and every epoch has new threads. That is little for small batches. Those of 2 MB came to 100 MB in ten epochs: larger ones than
`GATHERED_BYTES` are read into lent buffers, each by a call, which for them takes no longer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from ..batches.assembly import Gather

if TYPE_CHECKING:
    from .tf_dataset import Source

GATHERED_BYTES = 2**17  # of x and y of a batch, at most
GROUP_BYTES = 64 * 2**20  # of batches in a group that looks at the mapped file; none of it is private memory
GROUP_SAMPLES = 2**16  # at most, for where each lies is held: 8 bytes for every array
NO_END = 2**48  # batches: at a million a second, nine years
Array = np.ndarray[Any, np.dtype[Any]]
Make = Callable[["Source", "int | None"], Any]
# For each array of the batches [batch, batch + batches) of an epoch: the rows of its samples, and what they are rows of.
Fetch = Callable[[int, int, int], "list[tuple[Array, Array]]"]


def in_groups(source: Source) -> Make | None:
    """The cheapest way that TensorFlow can make these batches in; None where each is to be asked for."""
    if source.batch_nbytes > GATHERED_BYTES:
        return None
    batches, gathers = source.batches, source.batches.gathers()
    if gathers is not None and all(_casts_alike(one.stored, one.dtype) for one in gathers):
        held = batches.held_together
        group = min(GROUP_BYTES // max(1, source.batch_nbytes), GROUP_SAMPLES // source.batch_size) if held is None else held
        return partial(_grouped, gathers, partial(_lying, source, gathers), max(1, group), held is None)
    if batches.together > 1:
        read = [
            Gather("", tuple(one.shape[1:]), one.dtype.as_numpy_dtype, range(1), False, one.dtype, None) for one in source.specs
        ]
        return partial(_grouped, read, partial(_read, source), batches.together, True)
    return None


def _casts_alike(have: np.dtype[Any], want: np.dtype[Any]) -> bool:
    """True where TensorFlow casts to the very bits that NumPy does: for values out of range of an integer they differ."""
    return have == want or (have.kind in "biuf" and want.kind == "f" and want.itemsize >= 4)


def _lying(source: Source, gathers: list[Gather], epoch: int, batch: int, batches: int) -> list[tuple[Array, Array]]:
    """Rows of mapped files, or of windows of decoded frames. No tensor of them enters the graph, where tf.data would copy it."""
    found = source.batches.rows(epoch, batch, batches)
    # The rows of each array are an array of their own: TensorFlow may compute in them.
    return [(found[one.field][0] + one.offsets.start, found[one.field][1]) for one in gathers]


def _read(source: Source, epoch: int, batch: int, batches: int) -> list[tuple[Array, Array]]:
    """Small batches, many of which are read by one call."""
    return [(np.arange(len(array)), array) for array in source.batches.read_together(epoch, batch, batches, aligned=True)]


def _gathered(rows: Any, frames: Any, one: Gather) -> Any:
    """An array of a batch, as a tensor of its own.

    Not `tf.slice`: what it gives may share the memory of a NumPy array, and TensorFlow does not know that any more. Once it is the
    last to look there, it computes in place: in somebody's array, or in a mapped file, which ends the process.
    """
    if one.has_time_axis:
        rows = rows[:, None] + np.arange(len(one.offsets)) * one.offsets.step
    array = tf.gather(frames, rows)
    if one.axes is not None:
        leading = 2 if one.has_time_axis else 1
        array = tf.transpose(array, [*range(leading), *(axis + leading for axis in one.axes if axis >= 0)])
        for place, axis in enumerate(one.axes):
            if axis < 0:
                array = tf.expand_dims(array, place + leading)
    return tf.cast(array, one.dtype)


def _grouped(gathers: list[Gather], fetch: Fetch, group: int, ahead: bool, source: Source, epochs: int | None) -> Any:
    """Batches gathered from what is fetched for groups of up to `group`, none of which reaches into the next epoch.

    Not `ahead`: a group is fetched when the one before is used up, for what `fetch` gives was read ahead, and would be held twice.
    """
    count = source.count
    groups = -(-count // group)  # in an epoch
    types = [tf.int64, *(kind for one in gathers for kind in (tf.int64, tf.as_dtype(one.stored)))]

    def fetch_noting(claimed: Any, begin: Any, stop: Any) -> list[Any]:
        epoch, batch = divmod(int(begin), count)
        places, end = source.samples_of(batch, batch + int(stop - begin))
        found = fetch(epoch, batch, len(places))
        if int(stop) == source.first + (int(claimed) + 1) * count:
            source.finish_pass(int(claimed))
        cuts = np.stack([places - places[0], np.diff(np.append(places, end))], axis=1)
        return [cuts[:, :, None], *(array for both in found for array in both)]

    def group_of(place: Any) -> Any:
        return place // count * groups + place % count // group

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def one_pass(number: Any) -> Any:
        """The groups of a pass, as (number of the pass, first place, last place + 1)."""
        claimed = tf.numpy_function(source.next_pass, [], tf.int64) if epochs == 1 else tf.constant(-1, tf.int64)
        claimed = tf.ensure_shape(claimed, [])
        low = source.first + tf.maximum(claimed, 0) * count
        high = NO_END if epochs is None else low + count if epochs == 1 else source.end_of(epochs)

        @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
        def ends(number: Any) -> Any:
            epoch, part = number // groups, number % groups
            begin = tf.maximum(epoch * count + part * group, low)
            return claimed, begin, tf.minimum(epoch * count + tf.minimum((part + 1) * group, count), high)

        return tf.data.Dataset.range(group_of(low), group_of(high - 1) + 1).map(ends)

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def fetched(*place: Any) -> Any:
        cuts, *found = tf.numpy_function(fetch_noting, place, types, stateful=False)
        cuts.set_shape([None, 2, 1])
        for one, rows, frames in zip(gathers, found[::2], found[1::2], strict=True):
            rows.set_shape([None])
            frames.set_shape([None, *one.shape])
        return cuts, tuple(found)

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def batches_of(cuts: Any, found: Any) -> Any:
        @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
        def batch_of(cut: Any) -> Any:
            # Few operations: each costs some microseconds, for every batch.
            arrays, (first, length) = [], tf.unstack(cut, 2)
            for one, rows, frames, spec in zip(gathers, found[::2], found[1::2], source.specs, strict=True):
                array = _gathered(tf.slice(rows, first, length), frames, one)
                array.set_shape(spec.shape)
                arrays.append(array)
            return source.packed(arrays)

        return tf.data.Dataset.from_tensor_slices(cuts).map(batch_of)

    passes = tf.data.Dataset.range(1).flat_map(one_pass)
    groups_of = passes.map(fetched, num_parallel_calls=1, deterministic=True).prefetch(1) if ahead else passes.map(fetched)
    dataset = groups_of.flat_map(batches_of)
    last = source.first + count if epochs == 1 else source.end_of(epochs or 1)
    cardinality = tf.data.INFINITE_CARDINALITY if epochs is None else last - source.first
    return dataset.apply(tf.data.experimental.assert_cardinality(cardinality)).prefetch(2)
