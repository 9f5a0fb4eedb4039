"""The data side of the demo: an opened array checked for frames, cut into parts, and turned into batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..batches.batches import Batches
from ..batches.dataset import Dataset
from ..plain.errors import InvalidTypeError, InvalidValueError
from ..plain.windows import Window

HISTORY = 2  # frames the model sees: motion shows in two
PARTS = (0.7, 0.15, 0.15)
_TARGET = Window(history=HISTORY, horizon=None, lead=1)
_LEAST_FRAMES = 27  # leaves the shortest part 4
_LEAST_PIXELS = 8
_BATCH_BYTES = 48_000_000  # of x and y in a batch, at most
_LARGEST_BATCH = 16
_LONGEST_EPOCH = 100  # batches in a Keras epoch; longer data goes on in the next
_MOST_VALIDATED = 64  # batches of validation after each epoch
_MOST_STATISTICS = 500_000_000  # bytes read for the range of values


@dataclass(frozen=True)
class Frames:
    """What the model needs to know of the data.

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
    """Three runs of frames, one after the other, that share none; and batches of (x, y) of them.

    x is (B, 2, C, H, W), y is (B, C, H, W), in the stored dtype, or float32 where that has more than 2 bytes. `test_start`
    is the number of the first frame of `test`; a Keras epoch of training has `steps` batches.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    train_batches: Batches
    validation_batches: Batches
    test_batches: Batches
    steps: int
    test_start: int

    @property
    def predicted_bytes(self) -> int:
        """Of private memory, for training and validating: both sets of batches at their peak."""
        return self.train_batches.memory.total + self.validation_batches.memory.total


def require_frames(ds: Dataset, name: str) -> None:
    """Raise InvalidTypeError or InvalidValueError, with what to do, unless `ds` holds enough pictures one can train on."""
    letters = ds.layout[1:]
    if set(letters) not in ({"H", "W"}, {"C", "H", "W"}):
        raise InvalidTypeError(
            f"{name} holds no pictures: each sample has axes {letters or '(none)'}, shape {ds.shape[1:]}; "
            "the demo needs H and W, and C if there are channels. "
            "If the axes are others than that, say what each one is: --layout NHWC, --layout NTCHW, ..."
        )
    if ds.dtype.kind not in "biuf":
        raise InvalidTypeError(f"{name} has dtype {ds.dtype}; the demo needs real numbers: bool, integers or floats.")
    sizes = dict(zip(letters, ds.shape[1:], strict=True))
    if min(sizes["H"], sizes["W"]) < _LEAST_PIXELS:
        hint = " If these are not height and width, say what each axis is with --layout, such as NHWC."
        raise InvalidValueError(f"{name} has pictures of {sizes['H']}x{sizes['W']} (height x width); expected at least 8x8.{hint}")
    if len(ds) < _LEAST_FRAMES:
        raise InvalidValueError(
            f"{name} has {len(ds)} frames; the demo needs at least {_LEAST_FRAMES}, to learn from some and to be judged on others. "
            "If the frames run along another axis, say so with --layout, such as NTCHW."
        )


def described(ds: Dataset) -> Frames:
    """Reads the training part for the range of its values, unless it is uint8; `ds` is that part."""
    sizes = dict(zip(ds.layout, ds.shape, strict=True))
    channels = sizes.get("C", 1)
    if ds.dtype == np.uint8:
        low, high, how = np.zeros(channels), np.full(channels, 255.0), "x / 255"
    else:
        sample = ds.nbytes // len(ds)
        looked_at = ds.split(max(1, min(len(ds), _MOST_STATISTICS // sample)))[0]
        seen = looked_at.statistics()
        low = np.maximum(seen.minimum, seen.mean - 3 * seen.std)
        high = np.minimum(seen.maximum, seen.mean + 3 * seen.std)
        if not np.isfinite([low, high]).all() or seen.nans.any():
            raise InvalidValueError(
                f"{int(seen.nans.sum())} of the values are NaN, or some are infinite: "
                "a model that learns from them predicts NaN everywhere. "
                "Replace them first (np.nan_to_num) and store the result."
            )
        how = "each channel to 0 .. 1 by its range within 3 standard deviations of its mean, from statistics() of the training part"
    span = np.where(high > low, high - low, 1.0)
    return Frames(channels, sizes["H"], sizes["W"], _delivered(ds), low.astype(np.float32), (1 / span).astype(np.float32), how)


def parted(ds: Dataset) -> Parts:
    """Training, then validation, then test frames, and their batches; the training batches are shuffled."""
    train, validation, test = ds.split(*PARTS)
    test_start = len(train) + len(validation)
    itemsize = _delivered(ds).itemsize
    pair = (HISTORY + 1) * int(np.prod(ds.shape[1:])) * itemsize
    windows = len(train) - HISTORY
    size = _power_of_two(min(_LARGEST_BATCH, _BATCH_BYTES // pair, windows // 4))
    validation = validation.split(min(len(validation), size * _MOST_VALIDATED + HISTORY))[0]
    test = test.split(min(len(test), size * _MOST_VALIDATED + HISTORY))[0]

    def batches(part: Dataset, **options: Any) -> Batches:
        return part.batches(size, target=_TARGET, layout="NCHW", dtype=_delivered(ds), **options)

    shuffled = batches(train, shuffle=True, drop_last=True)
    steps = min(len(shuffled), _LONGEST_EPOCH)
    return Parts(train, validation, test, shuffled, batches(validation), batches(test), steps, test_start)


def in_ram_bytes(parts: Parts, frames: Frames) -> tuple[int, int]:
    """What `fit` on the array in RAM takes: (all frames as float32, the x and y that Keras copies into tensors)."""
    frame = frames.channels * frames.height * frames.width * 4
    pairs = parts.train_batches.samples + parts.validation_batches.samples
    held = len(parts.train) + len(parts.validation) + len(parts.test)
    return held * frame, pairs * (HISTORY + 1) * frame


def _delivered(ds: Dataset) -> np.dtype[Any]:
    # Keras would make float32 of everything anyway, and the model does it on its way in: small numbers travel as they are.
    small = ds.dtype.itemsize <= 2 or ds.dtype == np.float32
    return ds.dtype if small else np.dtype(np.float32)


def _power_of_two(number: int) -> int:
    return 1 << max(0, number.bit_length() - 1)
