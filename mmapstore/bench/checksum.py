"""The checksum of an epoch: every sample arrived whole, and every y beside its own x, in any order.

For each sample the sum sx of the words of x, and sy of those of y or, of a class, its number (0 without y); over all samples the
sum of `sx * (2 * sy + 1)`, all of it modulo 2**64. Words have 64 bits where the bytes of a sample divide so, else 8. Floats are
taken as Keras computes with them (float32). Image files are decoded and resized by each strategy in its own manner: sx is their
number of values, or 0 if these are not all from 0 to 255.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..files.durable_writes import write_text_atomically
from ..formats.registry import split_inside
from ..operations.ingest.images.files import images_in_folder
from .contract import Task

Array = np.ndarray[Any, np.dtype[Any]]
RECORD = "mmapstore-bench.json"  # beside generated data: that it is generated, and its checksums by what is asked of it
_FLOAT = np.dtype("float32")
_BLOCK = 16 << 20  # bytes read at a time


def checksum(task: Task) -> int:
    """Return the checksum of an epoch over `task`, signed, of 64 bits. Reads all of the data once; kept beside generated data."""
    record = Path(split_inside(task.path)[0]).parent / RECORD
    kept = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    key = f"{task.kind}, {task.samples} of {task.shape} {task.dtype}"  # the same in any form
    if key not in kept:
        kept[key] = signed(sum(of_batch(task, *batch) for batch in _batches(task)))
        if record.exists():
            write_text_atomically(record, json.dumps(kept, indent=1) + "\n")
    return int(kept[key])


def of_batch(task: Task, x: Array, y: Array | None = None) -> int:
    """Return the checksum of the samples of one batch.

    >>> task = Task("labelled", "npy", "a.npy", 2, (4,), "uint8", "labels.npy")
    >>> of_batch(task, np.array([[1, 2, 3, 4], [0, 0, 0, 1]], np.uint8), np.array([0, 3]))
    17
    """
    with np.errstate(over="ignore"):
        sums = sample_sums(task, x)
        if y is None:
            return int(sums.sum())
        weights = y.reshape(-1).astype(np.int64) if task.kind != "next" else sample_sums(task, y)
        return int((sums * (weights * 2 + 1)).sum())


def in_training_step(task: Task, x: Any, y: Any = None) -> Any:
    """Return `of_batch` of tensors, inside a `tf.function`: an int64 scalar to add up over an epoch. Reads every bit."""
    import tensorflow as tf

    def words(one: Any) -> Any:
        count, size = tf.shape(one)[0], one.dtype.size
        if values * size % 8:
            found = tf.bitcast(one, tf.uint8)
        elif size == 8:
            found = tf.bitcast(one, tf.int64)
        else:
            found = tf.bitcast(tf.reshape(one, (count, values * size // 8, 8 // size)), tf.int64)
        return tf.reshape(found, (count, -1))

    def sums(one: Any) -> Any:
        one = tf.cast(one, tf.uint8) if one.dtype == tf.bool else one
        if task.kind == "images":
            # By the least and the greatest: counting takes four bytes of memory a value. All bytes are in range, and are just read.
            rows = words(one) if one.dtype == tf.uint8 else tf.reshape(one, (tf.shape(one)[0], -1))
            least, most = (rows.dtype.min, rows.dtype.max) if one.dtype == tf.uint8 else (0, 255)
            inside = (tf.reduce_min(rows, axis=1) >= least) & (tf.reduce_max(rows, axis=1) <= most)
            return tf.where(inside, tf.constant(values, tf.int64), 0)
        if one.dtype.is_floating:
            one = tf.cast(one, tf.float32)
        return tf.reduce_sum(tf.cast(words(one), tf.int64), axis=1)

    values = int(np.prod(task.shape, dtype=np.int64))
    if y is None:
        return tf.reduce_sum(sums(x))
    weights = tf.cast(tf.reshape(y, (-1,)), tf.int64) if task.kind != "next" else sums(y)
    return tf.reduce_sum(sums(x) * (weights * 2 + 1))


def signed(total: int) -> int:
    """
    >>> signed(2**64 - 1), signed(2**63), signed(-1)
    (-1, -9223372036854775808, -1)
    """
    return (total + 2**63) % 2**64 - 2**63


def sample_sums(task: Task, samples: Array) -> Array:
    """Return sx of each sample, int64. Reads every byte once."""
    if task.kind == "images":
        rows = samples.reshape(len(samples), -1)
        inside: Array = (rows.min(axis=1) >= 0) & (rows.max(axis=1) <= 255)
        return inside * np.int64(rows.shape[1])
    if samples.dtype.kind == "f":
        samples = samples.astype(_FLOAT, copy=False)
    return word_sums(samples)


def word_sums(samples: Array) -> Array:
    """Return the sum of the words of each sample, int64, modulo 2**64."""
    rows = np.ascontiguousarray(samples.reshape(len(samples), -1).astype(samples.dtype.newbyteorder("="), copy=False))
    rows = rows.view(np.int64 if rows.shape[1] * rows.itemsize % 8 == 0 else np.uint8)
    return np.asarray(rows.sum(axis=1, dtype=np.int64))


def _batches(task: Task) -> Iterator[tuple[Array, ...]]:
    """Read all batches in the plainest manner."""
    if task.kind == "images":
        listed = images_in_folder(task.path)
        assert listed.labels is not None
        image = np.zeros((1, *task.shape), np.uint8)  # images are counted
        yield from ((image, np.array([label])) for label in listed.labels)
        return
    import mmapstore as mm

    step = max(1, _BLOCK * task.samples // max(1, task.nbytes))
    samples = mm.open(task.path, episodes=task.samples)
    labels = None if task.labels is None else np.load(task.labels, mmap_mode="r")
    for start in range(0, task.pairs, step):
        stop = min(start + step, task.pairs)
        if task.kind == "next":
            frames = samples[start : stop + 1]
            yield frames[:-1], frames[1:]
        else:
            yield (samples[start:stop],) if labels is None else (samples[start:stop], labels[start:stop])
