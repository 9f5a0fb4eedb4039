"""Private memory that Keras 3 on TensorFlow keeps for the usual strategies of feeding it: arithmetic on a task, no framework.

Measured with Keras 3.15 and TensorFlow 2.21, and explained by their sources where these say it:

- An array that becomes a tensor is copied whole (`convert_to_eager_tensor` in constant_op.py), and at the peak each was seen twice:
  beside the tensor, what it was copied through, or what tf.data copies when it rewrites a dataset of tensors. `fit(x, y)` makes
  such a dataset too (array_data_adapter.py), and casts floats that are not float32 before that, all at once (array_slicing.py).
- A generator's arrays become tensors without a copy where they begin at a multiple of 64 bytes (ndarray_tensor.cc), also pages of
  a map; others are copied. Of samples taken one by one, the share that is copied follows from the bytes of a sample.
- A shuffle buffer holds samples. From the second epoch on up to two of them were seen: most likely the next is filled from
  another thread, while malloc gives back the first.
- Queues are short: with `prefetch(AUTOTUNE)` some 6 batches were seen alive. A queue that was full and is found empty doubles
  (prefetch_autotuner.cc), so decoding in bursts, in many threads, was seen to take it to 16.

Where chance decides, the prediction is the most that was seen.
"""

from __future__ import annotations

import math

import numpy as np

from ..contract import Task

ALIGNMENT = 64
ALIVE = 6  # batches: in queues, in training, being made
GROWN = 16  # batches: in a queue that has doubled as often as was seen
_STARTED = 4_000_000  # threads, arenas of malloc, functions that are traced
_ELEMENT = 1_000  # of a sample that tf.data holds, beside its values


def sizes(task: Task) -> tuple[int, int]:
    """Return the bytes of one x and of one y, as stored; a class takes 8.

    >>> sizes(Task("labelled", "npy", "x.npy", 1000, (3, 4), "float64", "y.npy"))
    (96, 8)
    """
    x = math.prod(task.shape) * np.dtype(task.dtype).itemsize
    return x, {"next": x, "input": 0}.get(task.kind, 8)


def copied_share(sample: int, step: int = 1, first: int = 0) -> float:
    """The share of slices that begin at samples first, first + step, ... of a map and are copied: not at multiples of 64 bytes.

    >>> copied_share(30_000), copied_share(12_288), copied_share(30_000, step=32), copied_share(30_000, step=32, first=1)
    (0.75, 0.0, 0.0, 1.0)
    """
    period = ALIGNMENT // math.gcd(sample * step, ALIGNMENT)
    return sum((first + i * step) * sample % ALIGNMENT != 0 for i in range(period)) / period


def from_tensor_slices(task: Task) -> int:
    """Predict the bytes of x and y as tensors in a tf.data.Dataset.

    >>> from_tensor_slices(Task("next", "npy", "x.npy", 10_001, (7500,), "float32")) // 300_000_000
    4
    """
    return 2 * task.pairs * sum(sizes(task)) + _STARTED


def fit_arrays(task: Task) -> int:
    """Predict the bytes that `fit(x, y)` takes beside its arrays; floats that are not float32 are cast first."""
    dtype, (x, y) = np.dtype(task.dtype), sizes(task)
    if dtype.kind != "f" or dtype.itemsize == 4:
        return from_tensor_slices(task)
    cast = x * 4 // dtype.itemsize
    return task.pairs * (3 * cast + (3 * cast if task.kind == "next" else 2 * y)) + _STARTED


def array_in_ram(task: Task) -> int:
    """Predict the bytes of `fit(x, y)` with an array that was read into memory, and of the array."""
    return task.nbytes + fit_arrays(task)


def from_generator_args(task: Task) -> int:
    """Predict the bytes of `from_generator(args=[array])`: a tensor, and the NumPy array that each pass makes of it."""
    return 2 * task.nbytes + by_sample(task)


def by_sample(task: Task) -> int:
    """Predict the bytes of samples that tf.data collects into batches, or of batches that are read into arrays of their own."""
    return ALIVE * task.batch * sum(sizes(task)) + _STARTED


def shuffle_buffer(task: Task) -> int:
    """Predict the bytes of a buffer with all samples of a generator over a map, and of the buffer of the epoch before.

    >>> shuffle_buffer(Task("next", "npy", "x.npy", 10_001, (7500,), "float32")) // 300_000_000
    3
    """
    x, y = sizes(task)
    share = copied_share(x)
    kept = x * share + y * (share if task.kind == "next" else 1) + _ELEMENT
    return round(2 * task.pairs * kept) + by_sample(task)


def by_slice(task: Task) -> int:
    """Predict the bytes of batches that are slices of a map; only copied batches count."""
    x, y = sizes(task)
    y_share = copied_share(x, task.batch, first=1) if task.kind == "next" else 1
    return round(ALIVE * task.batch * (x * copied_share(x, task.batch) + y * y_share)) + _STARTED


def decoded_images(task: Task, alive: int = ALIVE) -> int:
    """Predict the bytes of batches of float32 images, decoded as they are asked for."""
    return alive * task.batch * math.prod(task.shape) * 4 + _STARTED


def decoded_in_threads(task: Task, queues: int = 1) -> int:
    """Predict the bytes of batches of images that tf.data decodes; `queues` in a row have grown to their limit.

    >>> images = Task("images", "folder", "photos", 10_000, (100, 100, 3), "uint8")
    >>> decoded_in_threads(images, queues=2) / decoded_images(images) > 4
    True
    """
    return decoded_images(task, 2 + min(queues * GROWN, math.ceil(task.pairs / task.batch)))


def cached_images(task: Task) -> int:
    """Predict the bytes of float32 images that `.cache()` keeps, and of the queue before it.

    >>> cached_images(Task("images", "folder", "photos", 10_000, (100, 100, 3), "uint8")) // 300_000_000
    4
    """
    return task.pairs * (math.prod(task.shape) * 4 + sizes(task)[1]) + decoded_in_threads(task)
