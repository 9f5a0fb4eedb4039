"""The data of the demo: an opened array, checked for frames, split into parts, and made into batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..batches.batches import Batches
from ..batches.dataset import Dataset
from ..plain.errors import InvalidTypeError, InvalidValueError
from ..plain.windows import Window

HISTORY = 2  # frames that the model sees, as motion shows in two
_TARGET = Window(history=HISTORY, horizon=None, lead=1)
_PARTS = (0.7, 0.15, 0.15)
_LEAST_FRAMES, _LEAST_PIXELS = 27, 8  # 27 frames leave 4 for the shortest part
_LARGEST_BATCH, _BATCH_BYTES = 16, 48_000_000  # bytes of x and y together
_LONGEST_EPOCH = 100  # batches; longer data goes on in the next epoch
_MOST_VALIDATED = 64  # batches after each epoch
_MOST_STATISTICS = 500_000_000  # bytes read for the range of values


@dataclass(frozen=True)
class Frames:
    """The form of frames.

    `offset` and `scale` are float32, (channels,): `(frame - offset) * scale` lies between 0 and 1, outliers aside.
    """

    channels: int
    height: int
    width: int
    dtype: np.dtype[Any]
    offset: np.ndarray[Any, np.dtype[np.float32]]
    scale: np.ndarray[Any, np.dtype[np.float32]]
    normalised_by: str


@dataclass(frozen=True)
class Parts:
    """Three contiguous parts that share no frame, and batches of (x, y) of each.

    x is (B, 2, C, H, W), y is (B, C, H, W), in the stored dtype, or float32 where that has more than 2 bytes. A Keras epoch of
    training has `steps` batches.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    train_batches: Batches
    validation_batches: Batches
    test_batches: Batches
    steps: int

    @property
    def predicted_bytes(self) -> int:
        """Predicted private memory of training and validation: both sets of batches at their peak."""
        return self.train_batches.memory.total + self.validation_batches.memory.total


def require_frames(ds: Dataset, name: str) -> None:
    """Raise InvalidTypeError or InvalidValueError unless `ds` holds enough pictures to train on."""
    letters = ds.layout[1:]
    if set(letters) not in ({"H", "W"}, {"C", "H", "W"}):
        raise InvalidTypeError(
            f"{name} holds no pictures: each sample has axes {letters or '(none)'}, shape {ds.shape[1:]}; expected H and W, and C "
            "for channels. If the axes mean something else, name them: --layout NHWC, --layout NTCHW, ..."
        )
    if ds.dtype.kind not in "biuf":
        raise InvalidTypeError(f"{name} has dtype {ds.dtype}; the demo needs real numbers: bool, integers or floats.")
    height, width = (ds.shape[ds.layout.index(letter)] for letter in "HW")
    if min(height, width) < _LEAST_PIXELS:
        raise InvalidValueError(
            f"{name} has pictures of {height}x{width} (height x width); expected at least 8x8. "
            "If these are not height and width, name the axes with --layout, such as NHWC."
        )
    if len(ds) < _LEAST_FRAMES:
        raise InvalidValueError(
            f"{name} has {len(ds)} frames; the demo needs at least {_LEAST_FRAMES}, to learn from some and to be judged on others. "
            "If the frames run along another axis, name the axes with --layout, such as NTCHW."
        )


def described(ds: Dataset) -> Frames:
    """Return the form of the frames of the training part `ds`, which is read for the range of its values unless it is uint8."""
    sizes = dict(zip(ds.layout, ds.shape, strict=True))
    channels = sizes.get("C", 1)
    low, high, how = np.zeros(channels), np.full(channels, 255.0), "x / 255"
    if ds.dtype != np.uint8:
        seen = ds.split(max(1, min(len(ds), _MOST_STATISTICS // (ds.nbytes // len(ds)))))[0].statistics()
        low = np.maximum(seen.minimum, seen.mean - 3 * seen.std)
        high = np.minimum(seen.maximum, seen.mean + 3 * seen.std)
        if not np.isfinite([low, high]).all() or seen.nans.any():
            raise InvalidValueError(
                f"{int(seen.nans.sum())} of the values are NaN, or some are infinite: a model that learns from them predicts NaN "
                "everywhere. Replace them first (np.nan_to_num) and store the result."
            )
        how = "each channel to 0 .. 1 by its range within 3 standard deviations of its mean, from statistics() of the training part"
    span = np.where(high > low, high - low, 1.0)
    return Frames(channels, sizes["H"], sizes["W"], _delivered(ds), low.astype(np.float32), (1 / span).astype(np.float32), how)


def parted(ds: Dataset) -> Parts:
    """Return training, validation and test frames, and their batches; the training batches are shuffled."""
    train, validation, test = ds.split(*_PARTS)
    dtype = _delivered(ds)
    pair = (HISTORY + 1) * int(np.prod(ds.shape[1:])) * dtype.itemsize
    size = 1 << max(0, min(_LARGEST_BATCH, _BATCH_BYTES // pair, (len(train) - HISTORY) // 4).bit_length() - 1)
    validation, test = (part.split(min(len(part), size * _MOST_VALIDATED + HISTORY))[0] for part in (validation, test))

    def batches(part: Dataset, **options: Any) -> Batches:
        return part.batches(size, target=_TARGET, layout="NCHW", dtype=dtype, **options)

    shuffled = batches(train, shuffle=True, drop_last=True)
    steps = min(len(shuffled), _LONGEST_EPOCH)
    return Parts(train, validation, test, shuffled, batches(validation), batches(test), steps)


def in_ram_bytes(parts: Parts, frames: Frames) -> tuple[int, int]:
    """Return the bytes of `fit` on the array in RAM: (all frames as float32, the x and y that Keras copies into tensors)."""
    frame = frames.channels * frames.height * frames.width * 4
    pairs = parts.train_batches.samples + parts.validation_batches.samples
    return (len(parts.train) + len(parts.validation) + len(parts.test)) * frame, pairs * (HISTORY + 1) * frame


def _delivered(ds: Dataset) -> np.dtype[Any]:
    # Keras casts everything to float32, and the model does so too: small numbers are delivered as they are stored.
    return ds.dtype if ds.dtype.itemsize <= 2 else np.dtype(np.float32)
