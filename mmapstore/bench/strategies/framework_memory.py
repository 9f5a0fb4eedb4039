"""Private memory that Keras 3 on TensorFlow keeps for the usual strategies of feeding it: arithmetic on bytes, no framework.

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
from dataclasses import dataclass

ALIGNMENT = 64
ALIVE = 6  # batches: in queues, in training, being made
GROWN = 16  # batches: in a queue that has doubled as often as was seen
_STARTED = 4_000_000  # threads, arenas of malloc, functions that are traced
_ELEMENT = 1_000  # of a sample that tf.data holds, beside its values


@dataclass(frozen=True)
class Feed:
    """The data that goes through a framework in an epoch. Bytes, all but `pairs`, `batch` and `shift`.

    Attributes
    ----------
    array : of all samples as stored, from which x and, for the next frame, y are cut
    pairs, batch : samples of x in an epoch; in a batch
    x, y : of one, as stored
    x_cast, y_cast : of one, as Keras casts it, where it does: floats that are not float32
    x_float : of one x whose values are float32
    shift : how many samples y lies behind x in the array; None where it is not of the array
    """

    array: int
    pairs: int
    batch: int
    x: int
    y: int
    x_cast: int | None = None
    y_cast: int | None = None
    x_float: int = 0
    shift: int | None = None


def copied_share(sample: int, step: int = 1, first: int = 0) -> float:
    """The share of slices that begin at samples first, first + step, ... of a map and are copied: not at multiples of 64 bytes.

    >>> copied_share(30_000), copied_share(12_288), copied_share(30_000, step=32), copied_share(30_000, step=32, first=1)
    (0.75, 0.0, 0.0, 1.0)
    """
    period = ALIGNMENT // math.gcd(sample * step, ALIGNMENT)
    return sum((first + i * step) * sample % ALIGNMENT != 0 for i in range(period)) / period


# --- whole arrays --------------------------------------------------------------------------------------------------------


def from_tensor_slices(feed: Feed) -> int:
    """Predict the bytes of x and y as tensors in a tf.data.Dataset.

    >>> from_tensor_slices(Feed(300_000_000, pairs=10_000, batch=32, x=30_000, y=30_000)) // 300_000_000
    4
    """
    return 2 * feed.pairs * (feed.x + feed.y) + _STARTED


def fit_arrays(feed: Feed) -> int:
    """Predict the bytes that `fit(x, y)` takes beside its arrays."""
    x, y = feed.x_cast or feed.x, feed.y_cast or feed.y
    cast = (feed.x_cast or 0) + (feed.y_cast or 0)
    return feed.pairs * (2 * (x + y) + cast) + _STARTED


def array_in_ram(feed: Feed) -> int:
    """Predict the bytes of `fit(x, y)` with an array that was read into memory, and of the array."""
    return feed.array + fit_arrays(feed)


def from_generator_args(feed: Feed) -> int:
    """Predict the bytes of `from_generator(args=[array])`: a tensor, and the NumPy array that each pass makes of it."""
    return 2 * feed.array + by_sample(feed)


# --- samples and batches -------------------------------------------------------------------------------------------------


def by_sample(feed: Feed) -> int:
    """Predict the bytes of single samples that tf.data collects into batches."""
    return ALIVE * feed.batch * (feed.x + feed.y) + _STARTED


def shuffle_buffer(feed: Feed) -> int:
    """Predict the bytes of a buffer with all samples of a generator over a map, and of the buffer of the epoch before.

    >>> shuffle_buffer(Feed(300_000_000, pairs=10_000, batch=32, x=30_000, y=30_000, shift=1)) // 300_000_000
    3
    """
    y = feed.y if feed.shift is None else feed.y * copied_share(feed.x)
    return round(2 * feed.pairs * (feed.x * copied_share(feed.x) + y + _ELEMENT)) + by_sample(feed)


def by_slice(feed: Feed) -> int:
    """Predict the bytes of batches that are slices of a map; only copied batches count."""
    x = feed.x * copied_share(feed.x, feed.batch)
    y = feed.y if feed.shift is None else feed.y * copied_share(feed.x, feed.batch, feed.shift)
    return round(ALIVE * feed.batch * (x + y)) + _STARTED


def by_read(feed: Feed, scratch: int = 0) -> int:
    """Predict the bytes of batches that a library reads into arrays of their own; `scratch` are its bytes for decoding."""
    return ALIVE * feed.batch * (feed.x + feed.y) + scratch + _STARTED


# --- images --------------------------------------------------------------------------------------------------------------


def decoded_images(feed: Feed, alive: int = ALIVE) -> int:
    """Predict the bytes of batches of float32 images, decoded as they are asked for."""
    return alive * feed.batch * feed.x_float + _STARTED


def decoded_in_threads(feed: Feed, queues: int = 1) -> int:
    """Predict the bytes of batches of images that tf.data decodes; `queues` in a row have grown to their limit.

    >>> images = Feed(0, pairs=10_000, batch=32, x=30_000, y=4, x_float=120_000)
    >>> decoded_in_threads(images, queues=2) / decoded_images(images) > 4
    True
    """
    return decoded_images(feed, 2 + min(queues * GROWN, math.ceil(feed.pairs / feed.batch)))


def cached_images(feed: Feed) -> int:
    """Predict the bytes of float32 images that `.cache()` keeps, and of the queue before it.

    >>> cached_images(Feed(0, pairs=10_000, batch=32, x=30_000, y=4, x_float=120_000)) // 300_000_000
    4
    """
    return feed.pairs * (feed.x_float + feed.y) + decoded_in_threads(feed)
