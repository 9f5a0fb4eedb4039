"""The model of the demo, and its training, measured.

The model looks for motion: for each pixel it compares the last frame with shifted copies of the one before, lets a
small network weigh the shifts that fit, and moves the last frame on by them. It begins as "repeat the last frame".
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..plain.errors import MissingPackageError
from .footprint import PrivatePeak
from .frames import HISTORY, Frames, Parts
from .video import INSTALL

REACH = 3  # pixels of motion per frame, after down-sampling, that the model can follow
_SMALL = (90, 160)  # height and width that frames are brought down to, about
_FEATURES = 24
_RATE = 5e-3
_STEPS = 140  # batches to learn from, at least
_CONTROL_STEPS, _CONTROL_BATCHES = 12, 48  # in a Keras epoch and in all: figures of fewer are unsteady


@dataclass(frozen=True)
class Trained:
    """How training went. Losses are mean squared errors of down-sampled frames with values of 0 to 1; bytes are private memory.

    `framework_bytes` is the growth while the same steps ran on one batch held in RAM, `measured_bytes` the growth while
    they ran on batches from the store, each over a baseline taken just before and
    after a warm-up; None where the system tells no figure.
    """

    epochs: int
    losses: list[float]
    baseline: float
    test_loss: float
    test_baseline: float
    samples_per_second: float
    framework_bytes: int | None
    measured_bytes: int | None
    small: tuple[int, int]
    parameters: int
    seconds: float
    strip: Strip = field(repr=False)

    @property
    def data_path_bytes(self) -> int | None:
        """What batches from the store took over one batch in RAM."""
        if self.measured_bytes is None or self.framework_bytes is None:
            return None
        return max(0, self.measured_bytes - self.framework_bytes)


@dataclass(frozen=True)
class Strip:
    """Frames for the picture, each (height, width, channels) float32 of 0 to 1, with the name of the frame predicted."""

    titles: list[str]
    last: list[np.ndarray[Any, Any]]
    truth: list[np.ndarray[Any, Any]]
    predicted: list[np.ndarray[Any, Any]]


def epochs_for(steps: int) -> int:
    """Epochs that give the model enough batches to learn from.

    >>> epochs_for(23), epochs_for(6), epochs_for(100)
    (7, 24, 3)
    """
    return min(24, max(3, -(-_STEPS // steps)))


def started_keras() -> Any:
    """The `keras` module, imported without the framework's greetings. Raises MissingPackageError."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with quiet_stderr():
            import keras

            # Loads the backend, which talks at its first use as well.
            keras.ops.convert_to_numpy(keras.ops.zeros(1) + 1)
    except ImportError as error:
        raise MissingPackageError(f"Keras, or the backend it is set to, cannot be imported: {error}. {INSTALL}") from error
    return keras


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Nothing below Python reaches standard error, unless the block fails: then all of it does.

    TensorFlow 2.21 writes its first lines before its own TF_CPP_MIN_LOG_LEVEL counts; drop this when it no longer does.
    """
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, AttributeError, ValueError):  # no standard error to keep quiet
        yield
        return
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


# --- the model -----------------------------------------------------------------------------------------------------------


def shrink_factor(frames: Frames) -> int:
    """Pixels along each side that become one."""
    return max(1, round(min(frames.height / _SMALL[0], frames.width / _SMALL[1])))


def shrunk(frames: Any, about: Frames) -> Any:
    """(B, C, H, W) of the stored dtype as (B, h, w, C) float32 of 0 to 1: the one way into the model, for x and for y.

    Channels go last: convolutions on NCHW fail on many CPUs. But only after shrinking, by means over rows and then over columns:
    pooling works on channels last alone, and to bring them there at full size takes a processor longer than the model does.
    """
    from keras import ops

    factor = shrink_factor(about)
    height, width = about.height // factor, about.width // factor
    cut = ops.cast(frames[:, :, : height * factor, : width * factor], "float32")
    rows = ops.mean(ops.reshape(cut, (-1, about.channels, height, factor, width * factor)), axis=3)
    small = ops.mean(ops.reshape(rows, (-1, about.channels, height, width, factor)), axis=4)
    return (ops.transpose(small, (0, 2, 3, 1)) - about.offset) * about.scale


def next_frame_models(about: Frames) -> tuple[Any, Any]:
    """Two models of (B, 2, C, H, W): the one to train, and "repeat the last frame". Both give (B, h, w, C)."""
    import keras
    from keras import layers, ops

    inputs = keras.Input((HISTORY, about.channels, about.height, about.width), dtype=about.dtype.name, name="frames")
    before, last = (shrunk(inputs[:, number], about) for number in range(HISTORY))
    height, width = last.shape[1:3]
    shifts = [(y, x) for y in range(-REACH, REACH + 1) for x in range(-REACH, REACH + 1)]

    def shifted(frame: Any) -> list[Any]:
        padded = ops.pad(frame, ((0, 0), (REACH, REACH), (REACH, REACH), (0, 0)), mode="symmetric")
        return [padded[:, REACH + y : REACH + y + height, REACH + x : REACH + x + width] for y, x in shifts]

    def conv(features: Any, dilation: int = 1, count: int = _FEATURES) -> Any:
        return layers.Conv2D(count, 3, dilation_rate=dilation, padding="same", activation="relu", kernel_initializer="he_normal")(
            features
        )

    # How badly each shift of the frame before fits, pixel by pixel.
    misfit = ops.stack([ops.mean(ops.abs(moved - last), axis=-1) for moved in shifted(before)], axis=-1)
    misfit = layers.AveragePooling2D(5, 1, padding="same", data_format="channels_last")(misfit)
    context = layers.AveragePooling2D(2, 2, padding="same", data_format="channels_last")(misfit) * 10.0
    for dilation in (1, 2, 4):
        context = conv(context, dilation)
    stay = np.where([shift == (0, 0) for shift in shifts], 8.0, 0.0).astype(np.float32)
    votes = layers.Conv2D(len(shifts), 3, padding="same", kernel_initializer="zeros")(context)
    votes = layers.UpSampling2D(2, interpolation="bilinear", data_format="channels_last")(votes)[:, :height, :width] + stay
    # Times 1000 so that the one learning rate suits these weights as well: they end near -70.
    votes = votes + layers.DepthwiseConv2D(1, use_bias=False, depthwise_initializer="zeros")(misfit * 1000.0)
    # Split, not sliced: the gradient of each slice would be as large as all of them.
    weights = ops.split(ops.softmax(votes, axis=-1), len(shifts), axis=-1)
    predicted = sum(moved * weight for moved, weight in zip(shifted(last), weights, strict=True))
    details = conv(ops.concatenate([predicted - last, last - before, last - 0.5], axis=-1), count=12)
    predicted = predicted + layers.Conv2D(about.channels, 3, padding="same", kernel_initializer="zeros")(details)
    return keras.Model(inputs, predicted, name="next_frame"), keras.Model(inputs, last, name="repeat_the_last_frame")


# --- training ------------------------------------------------------------------------------------------------------------


def train(parts: Parts, about: Frames, epochs: int, say: Callable[[str], object], columns: int = 4) -> Trained:
    """Train on `parts.train_batches`, validate after each epoch, and measure what private memory that takes."""
    keras = started_keras()
    keras.utils.set_random_seed(0)  # once: TensorFlow throws away all compiled functions at it, which would show as memory
    say("First what the framework takes by itself: the same steps on one batch held in RAM ...")
    with quiet_stderr():
        model, repeat = next_frame_models(about)

        def error(truth: Any, predicted: Any) -> Any:
            return keras.ops.mean(keras.ops.square(shrunk(truth, about) - predicted), axis=(1, 2, 3))

        rate = keras.optimizers.schedules.CosineDecay(_RATE, epochs * parts.steps)
        model.compile(keras.optimizers.Adam(rate), loss=error)
        repeat.compile(loss=error)
        held = _HeldBatch(model, repeat, parts)
        held.warm_up()
        framework = held.growth(epochs)

    began = time.monotonic()
    with PrivatePeak() as peak:
        baseline = float(repeat.evaluate(parts.validation_batches.to_keras(), verbose=0))
        say(f"Repeating the last frame has a validation loss of {baseline:.3g}; the model starts there. Training:")
        progress = _Progress(epochs, parts, baseline, say)
        model.fit(
            parts.train_batches.to_keras(steps=parts.steps),
            validation_data=parts.validation_batches.to_keras(),
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=[progress.callback(keras)],
        )
    seconds = time.monotonic() - began
    del held  # until here, so that it is in both baselines
    return Trained(
        epochs=epochs,
        losses=progress.losses,
        baseline=baseline,
        test_loss=float(model.evaluate(parts.test_batches.to_keras(), verbose=0)),
        test_baseline=float(repeat.evaluate(parts.test_batches.to_keras(), verbose=0)),
        samples_per_second=progress.samples / progress.training_seconds,
        framework_bytes=framework,
        measured_bytes=peak.growth,
        small=tuple(model.output_shape[1:3]),
        parameters=int(model.count_params()),
        seconds=seconds,
        strip=_strip(model, repeat, parts, about, columns),
    )


class _HeldBatch:
    """The steps of training and validation on one batch in RAM: what they take, the framework takes."""

    def __init__(self, model: Any, repeat: Any, parts: Parts) -> None:
        self._models = model, repeat
        self._x, self._y = (np.array(array) for array in parts.train_batches.read(0, 0))
        # The same sizes of batches, as each size has memory of its own in the framework.
        samples, size = parts.validation_batches.samples, len(self._x)
        self._sizes = [size] * min(samples // size, 4) + [samples % size] * (samples % size > 0)
        self._steps = min(parts.steps, _CONTROL_STEPS)

    def warm_up(self) -> None:
        """Run everything once. The model is as it was afterwards."""
        self._models[0].optimizer.build(self._models[0].trainable_variables)
        with self._kept():
            self._run(1, epochs=2)

    def growth(self, epochs: int) -> int | None:
        """Bytes of private memory that training on this batch adds at its peak. The model is as it was afterwards."""
        with self._kept(), PrivatePeak() as peak:
            self._run(self._steps, min(epochs, max(2, _CONTROL_BATCHES // self._steps)))
        return peak.growth

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        from keras import ops

        model, _ = self._models
        variables = [*model.variables, *model.optimizer.variables]
        before = [ops.copy(variable) for variable in variables]
        yield
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)

    def _run(self, steps: int, epochs: int) -> None:
        model, repeat = self._models
        repeat.evaluate(self._given(self._sizes), verbose=0)
        training = self._given([len(self._x)] * steps)
        model.fit(training, validation_data=self._given(self._sizes), epochs=epochs, shuffle=False, verbose=0)

    def _given(self, sizes: list[int]) -> Any:
        """Batches of these sizes, on the way that batches from the store take: on others Keras compiles the model again."""
        import keras

        x, y = self._x, self._y

        class Held(keras.utils.PyDataset):  # type: ignore[misc]
            def __len__(self) -> int:
                return len(sizes)

            def __getitem__(self, index: int) -> tuple[Any, Any]:
                return x[: sizes[index]], y[: sizes[index]]

        return Held()


class _Progress:
    """One line per epoch in plain words, and the time that training alone takes."""

    def __init__(self, epochs: int, parts: Parts, baseline: float, say: Callable[[str], object]) -> None:
        self.losses: list[float] = []
        self.samples = 0
        self.training_seconds = 0.0
        self._epochs = epochs
        self._samples = parts.steps * parts.train_batches.batch_size
        self._baseline = baseline
        self._say = say
        self._began = self._last = 0.0

    def callback(self, keras: Any) -> Any:
        return keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: self._begin(),
            on_train_batch_end=lambda batch, logs: self._batch(),
            on_epoch_end=self._end,
        )

    def _begin(self) -> None:
        self._began = self._last = time.monotonic()

    def _batch(self) -> None:
        self._last = time.monotonic()

    def _end(self, epoch: int, logs: dict[str, float]) -> None:
        seconds = max(1e-9, self._last - self._began)
        self.samples += self._samples
        self.training_seconds += seconds
        loss = float(logs["val_loss"])
        self.losses.append(loss)
        self._say(
            f"  epoch {epoch + 1} of {self._epochs}: training loss {float(logs['loss']):.3g}, validation loss {loss:.3g}, "
            f"{compared(loss, self._baseline)}; {self._samples / seconds:.3g} samples a second"
        )


def compared(loss: float, baseline: float) -> str:
    """
    >>> compared(0.6, 1.0), compared(1.5, 1.0)
    ('40 % below repeating the last frame', '50 % above repeating the last frame')
    """
    if not baseline > 0:
        return "and repeating the last frame makes no error at all"
    share = 100 * (loss / baseline - 1)
    return f"{abs(share):.0f} % {'below' if share < 0 else 'above'} repeating the last frame"


def _strip(model: Any, repeat: Any, parts: Parts, about: Frames, columns: int) -> Strip:
    """From stretches of the validation and the test part, none of which was learned from, the frames in which most happens."""
    import keras

    chosen: list[tuple[str, Sequence[Any]]] = []
    runs = [
        ("validation", parts.validation_batches, parts.validation, len(parts.train)),
        ("test", parts.test_batches, parts.test, parts.test_start),
    ]
    for part, batches, ds, start in runs:
        stretches = min(columns // 2, batches.samples)
        best: list[tuple[float, str, Sequence[Any]]] = [(-1.0, "", ())] * stretches
        for number in range(len(batches)):
            x, y = batches.read(0, number)
            truth = keras.ops.convert_to_numpy(shrunk(keras.ops.convert_to_tensor(y), about))
            # Called, not predict_on_batch: TensorFlow would compile once more for each size of batch, and complain that it did.
            last, predicted = (keras.ops.convert_to_numpy(each(x, training=False)) for each in (repeat, model))
            for row, change in enumerate(np.square(truth - last).mean(axis=(1, 2, 3)).tolist()):
                at = number * batches.batch_size + row
                stretch = at * stretches // batches.samples
                if change > best[stretch][0]:
                    # Counting windows gives frame numbers only where no episode ends: no window begins just before one does.
                    name = f"frame {start + HISTORY + at}, {part}" if len(ds.episodes) == 2 else f"{part} sample {at}"
                    best[stretch] = (change, name, tuple(np.array(array[row]) for array in (last, truth, predicted)))
        chosen += [(name, frames) for _, name, frames in best if frames]
    return Strip([name for name, _ in chosen], *([frames[k] for _, frames in chosen] for k in range(3)))
