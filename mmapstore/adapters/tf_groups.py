"""Batches that TensorFlow cuts or gathers itself, from what Python fetches once for many of them.

A call from tf.data into Python costs some 0.1 ms, and waits for the lock that the training loop holds. Where the bytes lie in a
mapped file, or in a window of decoded frames, a tensor can look at them: then Python only says where each batch is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from ..batches.assembly import Gather, Slice
    from .tf_dataset import Source

GROUP_BYTES = 64 * 2**20  # of batches in a group that looks at the mapped file; none of it is private memory
NO_END = 2**48  # batches: at a million a second, nine years
Array = np.ndarray[Any, np.dtype[Any]]
Make = Callable[["Source", "int | None"], Any]
# For the batches at places [begin, stop) in the row of all epochs: an int64 array (batches, k) of what cutting each needs to
# know, and the arrays, each of one axis, that all are cut from.
Fetch = Callable[[int, int], "tuple[Array, list[Array]]"]
# The arrays of one batch, from its k numbers, each a tensor of shape (1,), and those arrays as tensors.
Cut = Callable[["list[Any]", "list[Any]"], "list[Any]"]


def in_groups(source: Source) -> Make | None:
    """The cheapest way that TensorFlow can make these batches in; None where each has to be asked for."""
    slices, gathers = source.batches.slices(), source.batches.gathers()
    if slices is not None and all(_casts_alike(one.stored, one.dtype) for one in slices):
        return partial(_sliced, slices)
    if gathers is not None and all(_casts_alike(one.whole.dtype, one.dtype) for one in gathers):
        return partial(_gathered, gathers)
    return _read_together if source.batches.together > 1 else None


def _casts_alike(have: np.dtype[Any], want: np.dtype[Any]) -> bool:
    """True where TensorFlow casts to the very bits that NumPy does: for values out of range of an integer they differ."""
    return have == want or (have.kind in "biuf" and want.kind == "f" and want.itemsize >= 4)


def _sliced(slices: list[Slice], source: Source, epochs: int | None) -> Any:
    """Every batch is a slice of the mapped file, or of a window of decoded frames. No tensor of the whole file enters the graph,
    where tf.data would copy it."""
    fields = list(dict.fromkeys(one.field for one in slices))
    kinds = [next(one.stored for one in slices if one.field == name) for name in fields]

    def fetch(begin: int, stop: int) -> tuple[Array, list[Array]]:
        epoch, batch = divmod(begin, source.count)
        places, end = source.samples_of(batch, batch + stop - begin)
        runs = source.batches.runs(epoch, batch, stop - begin)
        firsts = [runs[one.field][1] + places - places[0] + one.row for one in slices]
        return np.stack([*firsts, np.diff(np.append(places, end))], axis=1), [runs[name][0].reshape(-1) for name in fields]

    def cut(known: list[Any], flat: list[Any]) -> list[Any]:
        *firsts, length = known
        return [
            _converted(_rows(flat[fields.index(one.field)], first, length, one.shape), one)
            for one, first in zip(slices, firsts, strict=True)
        ]

    held = source.batches.held_together
    group = held or GROUP_BYTES // max(1, source.batch_nbytes)
    return _grouped(source, epochs, group, fetch, cut, kinds, 1 + len(slices), ahead=held is None)


def _rows(flat: Any, first: Any, length: Any, shape: tuple[int, ...]) -> Any:
    """Rows [first, first + length) of `shape`, as a tensor of their own.

    Not `tf.slice`: what it gives may share the memory of a NumPy array, and TensorFlow does not know that any more. Once it is the
    last to look there, it computes in place: in somebody's array, or in a mapped file, which ends the process.
    """
    table = tf.reshape(flat, (-1, math.prod(shape)))
    return tf.reshape(tf.gather(table, tf.range(first[0], first[0] + length[0])), (-1, *shape))


def _gathered(gathers: list[Gather], source: Source, epochs: int | None) -> Any:
    """Every frame is a row of the mapped file, which is one tensor; it is made anew for each group, at no cost."""
    wholes = {id(one.whole): one.whole for one in gathers}
    slots = {key: slot for slot, key in enumerate(wholes)}
    flat_wholes = [whole.reshape(-1) for whole in wholes.values()]

    def fetch(begin: int, stop: int) -> tuple[Array, list[Array]]:
        epoch, batch = divmod(begin, source.count)
        places, end = source.samples_of(batch, batch + stop - begin)
        starts = source.batches.starts(epoch, batch, stop - begin)
        known = np.stack([places - places[0], np.diff(np.append(places, end))], axis=1)
        return known, [starts, *flat_wholes]

    def cut(known: list[Any], shared: list[Any]) -> list[Any]:
        starts, arrays = tf.slice(shared[0], known[0], known[1]), []
        for one in gathers:
            shape = one.whole.shape[1:]
            offsets = np.array(one.offsets, np.int64) if one.has_time_axis else one.offsets.start
            wanted = starts[:, None] + offsets if one.has_time_axis else starts + offsets
            table = tf.reshape(shared[1 + slots[id(one.whole)]], (-1, math.prod(shape)))
            leading = (-1, len(one.offsets)) if one.has_time_axis else (-1,)
            arrays.append(_converted(tf.reshape(tf.gather(table, wanted), (*leading, *shape)), one, len(leading)))
        return arrays

    group = GROUP_BYTES // max(1, source.batch_nbytes)
    return _grouped(source, epochs, group, fetch, cut, [np.int64, *(whole.dtype for whole in wholes.values())], 2)


def _read_together(source: Source, epochs: int | None) -> Any:
    """Small batches, many of which are read by one call."""
    shapes = [tuple(spec.shape[1:]) for spec in source.specs]

    def fetch(begin: int, stop: int) -> tuple[Array, list[Array]]:
        epoch, batch = divmod(begin, source.count)
        places, end = source.samples_of(batch, batch + stop - begin)
        arrays = source.batches.read_together(epoch, batch, stop - begin)
        return np.stack([places - places[0], np.diff(np.append(places, end))], axis=1), [array.reshape(-1) for array in arrays]

    def cut(known: list[Any], flat: list[Any]) -> list[Any]:
        first, length = known
        return [_rows(one, first, length, shape) for one, shape in zip(flat, shapes, strict=True)]

    return _grouped(source, epochs, source.batches.together, fetch, cut, [spec.dtype for spec in source.specs], 2)


def _grouped(
    source: Source, epochs: int | None, group: int, fetch: Fetch, cut: Cut, kinds: Sequence[Any], width: int, ahead: bool = True
) -> Any:
    """Batches cut from what is fetched for groups of up to `group`, none of which reaches into the next epoch.

    `kinds` are the dtypes of the arrays that `fetch` gives, `width` is how many numbers it gives for each batch. Not `ahead`: a
    group is fetched when the one before is used up, for what `fetch` gives was read ahead, and would be held twice.
    """
    group, count = max(1, group), source.count
    groups = -(-count // group)  # in an epoch
    types = [tf.int64, *map(tf.as_dtype, kinds)]

    def fetch_noting(claimed: Any, begin: Any, stop: Any) -> list[Any]:
        known, shared = fetch(int(begin), int(stop))
        if int(stop) == source.first + (int(claimed) + 1) * count:
            source.finish_pass(int(claimed))
        return [known[:, :, None], *shared]

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
        known, *shared = tf.numpy_function(fetch_noting, place, types, stateful=False)
        known.set_shape([None, None, 1])
        for one in shared:
            one.set_shape([None])
        return known, tuple(shared)

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def batches_of(known: Any, shared: Any) -> Any:
        @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
        def batch_of(numbers: Any) -> Any:
            # Few operations: each costs some microseconds, for every batch.
            arrays = cut(tf.unstack(numbers, width), list(shared))
            for array, spec in zip(arrays, source.specs, strict=True):
                array.set_shape(spec.shape)
            return source.packed(arrays)

        return tf.data.Dataset.from_tensor_slices(known).map(batch_of)

    passes = tf.data.Dataset.range(1).flat_map(one_pass)
    groups_of = passes.map(fetched, num_parallel_calls=1, deterministic=True).prefetch(1) if ahead else passes.map(fetched)
    dataset = groups_of.flat_map(batches_of)
    last = source.first + count if epochs == 1 else source.end_of(epochs or 1)
    cardinality = tf.data.INFINITE_CARDINALITY if epochs is None else last - source.first
    return dataset.apply(tf.data.experimental.assert_cardinality(cardinality)).prefetch(2)


def _converted(array: Any, one: Slice | Gather, leading: int = 1) -> Any:
    """In the axis order and dtype delivered; `leading` axes come before those of a sample."""
    if one.axes is not None:
        array = tf.transpose(array, [*range(leading), *(axis + leading for axis in one.axes if axis >= 0)])
        for place, axis in enumerate(one.axes):
            if axis < 0:
                array = tf.expand_dims(array, place + leading)
    return tf.cast(array, one.dtype)
