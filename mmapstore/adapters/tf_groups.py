"""Small batches, which TensorFlow gathers itself, from what Python fetches once for many of them.

A call from tf.data into Python costs some tenths of a millisecond, and waits for the lock that the training loop holds. Where the
bytes lie in a mapped file, or in a window of decoded frames, a tensor can look at them: then Python only says at which rows.

What TensorFlow gathers lies in memory of its own, which malloc keeps when the batch is gone, for each thread that has made some;
and every epoch has new threads. Small batches add up to little. Batches larger than `GATHERED_BYTES` are read into lent buffers,
each by a call, which takes no longer for them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from ..batches.batch_source import GroupedReads
from ..batches.plan import Frames

if TYPE_CHECKING:
    from .tf_dataset import Source

GATHERED_BYTES = 2**17  # of x and y of a batch, at most
GROUP_BYTES = 64 * 2**20  # of batches in a group that looks at the mapped file; none of it is private memory
GROUP_SAMPLES = 2**16  # at most, for where each lies is held: 8 bytes for every array
NO_END = 2**48  # batches: at a million a second, nine years


def in_groups(source: Source) -> Callable[[Source], Any] | None:
    """Return the function that makes a dataset of these batches in groups; None where each is to be asked for."""
    reads = source.batches.grouped(_casts_alike) if source.batch_nbytes <= GATHERED_BYTES else None
    return None if reads is None else partial(_grouped, reads)


def _casts_alike(have: np.dtype[Any], want: np.dtype[Any]) -> bool:
    """Return True where TensorFlow casts to the very bits of NumPy; values out of range of an integer differ."""
    return have == want or (have.kind in "biuf" and want.kind == "f" and want.itemsize >= 4)


def _gathered(rows: Any, frames: Any, one: Frames) -> Any:
    """Return an array of a batch, as a tensor of its own."""
    # Not tf.slice, whose result may share the memory of a NumPy array without TensorFlow's knowing. Once it is the last to look
    # there, TensorFlow computes in place: in somebody's array, or in a mapped file, which ends the process.
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


def _grouped(reads: GroupedReads, source: Source) -> Any:
    """Return the batches gathered from the frames of groups, none of which reaches into the next epoch."""
    # No tensor of frames enters the graph, where tf.data would copy it.
    gathers, count, size = reads.arrays, source.count, source.batches.batch_size
    by_memory = min(GROUP_BYTES // max(1, source.batch_nbytes), GROUP_SAMPLES // size)
    group = max(1, by_memory if reads.most is None else reads.most)
    groups = -(-count // group)  # in an epoch
    types = [tf.int64, *(kind for one in gathers for kind in (tf.int64, tf.as_dtype(one.spec.dtype)))]

    def fetch(begin: Any, end: Any) -> list[Any]:
        found = reads.fetch(*divmod(int(begin), count), int(end - begin))
        starts = np.arange(0, len(found[0][0]), size)
        cuts = np.stack([starts, np.minimum(size, len(found[0][0]) - starts)], axis=1)
        return [cuts[:, :, None], *(array for both in found for array in both)]

    def group_of(place: Any) -> Any:
        return place // count * groups + place % count // group

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def groups_of(span: Any) -> Any:
        """Return the groups of a span, as (first place, last place + 1)."""
        first, stop = span[0], span[1]

        @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
        def ends(number: Any) -> Any:
            epoch, part = number // groups, number % groups
            begin = tf.maximum(epoch * count + part * group, first)
            return begin, tf.minimum(epoch * count + tf.minimum((part + 1) * group, count), stop)

        return tf.data.Dataset.range(group_of(first), group_of(stop - 1) + 1).map(ends)

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def fetched(*place: Any) -> Any:
        cuts, *found = tf.numpy_function(fetch, place, types, stateful=False)
        cuts.set_shape([None, 2, 1])
        for one, rows, frames in zip(gathers, found[::2], found[1::2], strict=True):
            rows.set_shape([None])
            frames.set_shape([None, *one.spec.sample_shape])
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

    numbers = source.spans().flat_map(groups_of)
    if reads.is_read_ahead:  # one that is fetched ahead, too, would be held twice
        return numbers.map(fetched).flat_map(batches_of).prefetch(2)
    return numbers.map(fetched, num_parallel_calls=1, deterministic=True).prefetch(1).flat_map(batches_of).prefetch(2)
