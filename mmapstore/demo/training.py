"""The model of the demo, and its training, measured.

The model looks for motion: for each pixel, a small network weighs shifted copies of the frame before by how well they fit the last
frame, and moves the last frame on by those shifts. It begins as "repeat the last frame".
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..bench.instruments.process_tree import Watch
from ..files.process_memory import give_back_free_memory
from ..plain.errors import MissingPackageError
from .frames import HISTORY, Frames, Parts
from .video import INSTALL

REACH = 3  # pixels of motion per frame, after down-sampling, that the model can follow
_SMALL = (90, 160)  # height and width that frames are brought down to, about
_FEATURES = 24
_RATE = 5e-3
LEAST_STEPS = 140  # batches to learn from
_CONTROL_STEPS, _CONTROL_BATCHES = 12, 48  # in a Keras epoch and in all: fewer give unsteady figures

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Trained:
    """The result of training. Losses are mean squared errors of down-sampled frames of 0 to 1; bytes are private memory."""

    losses: list[float]  # validation loss after each epoch; `baseline` and `test_baseline` are those of repeating the last frame
    baseline: float
    test_loss: float
    test_baseline: float
    samples_per_second: float
    framework_bytes: int | None  # growth while the same steps ran on one batch held in RAM; None where the system has no figure
    measured_bytes: int | None  # growth while they ran on batches from the store, in both cases after a warm-up
    seconds: float
    # frames for the picture: (name, last input, truth, prediction), each (height, width, channels) float32
    shown: list[tuple[str, Array, Array, Array]] = field(repr=False)

    @property
    def data_path_bytes(self) -> int | None:
        """Bytes that batches from the store took more than one batch in RAM."""
        if self.measured_bytes is None or self.framework_bytes is None:
            return None
        return max(0, self.measured_bytes - self.framework_bytes)


def started_keras() -> Any:
    """Return the `keras` module, imported without the framework's greetings. Raises MissingPackageError."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with quiet_stderr():
            import keras

            keras.ops.convert_to_numpy(keras.ops.zeros(1) + 1)  # loads the backend, which prints at its first use as well
    except ImportError as error:
        raise MissingPackageError(f"Keras, or the backend it is set to, cannot be imported: {error}. {INSTALL}") from error
    return keras


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what libraries write to standard error, and write it if the block fails.

    TensorFlow 2.21 writes its first lines before its own TF_CPP_MIN_LOG_LEVEL counts; drop this when it no longer does.
    """
    sys.stderr.flush()
    kept = os.dup(2)
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
    """Return the pixels along each side that become one."""
    return max(1, round(min(frames.height / _SMALL[0], frames.width / _SMALL[1])))


def shrunk(frames: Any, about: Frames) -> Any:
    """Shrink (B, C, H, W) of the stored dtype to (B, h, w, C) float32 of 0 to 1, for x and for y alike.

    Channels go last, as convolutions on NCHW fail on many CPUs; but only after shrinking, by means over rows and then columns, as
    a transpose at full size takes a processor longer than the model.
    """
    from keras import ops

    factor = shrink_factor(about)
    height, width = about.height // factor, about.width // factor
    cut = ops.cast(frames[:, :, : height * factor, : width * factor], "float32")
    rows = ops.mean(ops.reshape(cut, (-1, about.channels, height, factor, width * factor)), axis=3)
    small = ops.mean(ops.reshape(rows, (-1, about.channels, height, width, factor)), axis=4)
    return (ops.transpose(small, (0, 2, 3, 1)) - about.offset) * about.scale


def next_frame_models(about: Frames) -> tuple[Any, Any]:
    """Return two models from (B, 2, C, H, W) to (B, h, w, C): the one to train, and "repeat the last frame"."""
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
        options = {"padding": "same", "activation": "relu", "kernel_initializer": "he_normal"}
        return layers.Conv2D(count, 3, dilation_rate=dilation, **options)(features)

    # The misfit of each shift of the frame before, pixel by pixel.
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
    """Train on `parts.train_batches`, validate after each epoch, and measure the private memory of that."""
    keras = started_keras()
    keras.utils.set_random_seed(0)  # once: TensorFlow then discards all compiled functions, which would show as memory
    say("First what the framework takes by itself: the same steps on one batch held in RAM ...")
    with quiet_stderr():
        model, repeat = next_frame_models(about)

        def error(truth: Any, predicted: Any) -> Any:
            return keras.ops.mean(keras.ops.square(shrunk(truth, about) - predicted), axis=(1, 2, 3))

        rate = keras.optimizers.schedules.CosineDecay(_RATE, epochs * parts.steps)
        model.compile(keras.optimizers.Adam(rate), loss=error)
        repeat.compile(loss=error)
        held = [np.array(array) for array in parts.train_batches.read(0, 0)]  # until the end, so that both baselines have it
        framework = _framework_growth(model, repeat, held, parts, epochs)

    began = time.monotonic()
    losses: list[float] = []

    def end_of_epoch(epoch: int, logs: dict[str, float]) -> None:
        losses.append(float(logs["val_loss"]))
        say(
            f"  epoch {epoch + 1} of {epochs}: training loss {float(logs['loss']):.3g}, validation loss {losses[-1]:.3g}, "
            f"{compared(losses[-1], baseline)}"
        )

    with watched() as watch:
        baseline = float(repeat.evaluate(parts.validation_batches.to_keras(), verbose=0))
        say(f"Repeating the last frame has a validation loss of {baseline:.3g}; the model starts there. Training:")
        model.fit(
            parts.train_batches.to_keras(steps=parts.steps),
            validation_data=parts.validation_batches.to_keras(),
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=end_of_epoch)],
        )
    seconds = time.monotonic() - began
    samples = epochs * (parts.steps * len(held[0]) + parts.validation_batches.samples)
    return Trained(
        losses=losses,
        baseline=baseline,
        test_loss=float(model.evaluate(parts.test_batches.to_keras(), verbose=0)),
        test_baseline=float(repeat.evaluate(parts.test_batches.to_keras(), verbose=0)),
        samples_per_second=samples / seconds,
        framework_bytes=framework,
        measured_bytes=watch.private,
        seconds=seconds,
        shown=_shown(model, repeat, parts, about, columns),
    )


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Watch the private memory of this process above that at the beginning of the block."""
    with Watch(os.getpid()) as watch:
        give_back_free_memory()
        watch.mark()
        yield watch


def _framework_growth(model: Any, repeat: Any, held: list[Array], parts: Parts, epochs: int) -> int | None:
    """Return the growth of private memory in training and validating on one batch held in RAM, which is the framework's own.

    Everything runs once before, and the model is afterwards as it was.
    """
    import keras

    class Held(keras.utils.PyDataset):  # type: ignore[misc]
        """Batches of these sizes, fed like batches from the store: Keras compiles the model again for another route."""

        def __init__(self, sizes: list[int]) -> None:
            super().__init__()
            self.sizes = sizes

        def __len__(self) -> int:
            return len(self.sizes)

        def __getitem__(self, index: int) -> tuple[Any, ...]:
            return tuple(array[: self.sizes[index]] for array in held)

    # The same sizes of batches, as the framework keeps memory for each size.
    samples, size = parts.validation_batches.samples, len(held[0])
    sizes = [size] * min(samples // size, 4) + [samples % size] * (samples % size > 0)

    def run(steps: int, epochs: int) -> None:
        repeat.evaluate(Held(sizes), verbose=0)
        model.fit(Held([size] * steps), validation_data=Held(sizes), epochs=epochs, shuffle=False, verbose=0)

    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    before = [keras.ops.copy(variable) for variable in variables]
    run(1, epochs=2)
    steps = min(parts.steps, _CONTROL_STEPS)
    with watched() as watch:
        run(steps, min(epochs, max(2, _CONTROL_BATCHES // steps)))
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)
    return watch.private


def compared(loss: float, baseline: float) -> str:
    """
    >>> compared(0.6, 1.0), compared(1.5, 1.0)
    ('40 % below repeating the last frame', '50 % above repeating the last frame')
    """
    if not baseline > 0:
        return "and repeating the last frame makes no error at all"
    share = 100 * (loss / baseline - 1)
    return f"{abs(share):.0f} % {'below' if share < 0 else 'above'} repeating the last frame"


def _shown(model: Any, repeat: Any, parts: Parts, about: Frames, columns: int) -> list[tuple[str, Array, Array, Array]]:
    """Return frames that were not learned from, at even distances in the validation and test parts."""
    import keras

    chosen = []
    for name, batches in (("validation", parts.validation_batches), ("test", parts.test_batches)):
        count = min(columns // 2, batches.samples)
        for at in ((2 * place + 1) * batches.samples // (2 * count) for place in range(count)):
            number, row = divmod(at, batches.batch_size)
            x, y = (array[row : row + 1] for array in batches.read(0, number))
            # Called, not predict_on_batch, for which TensorFlow would compile this size of batch as well, with a warning.
            tensors = repeat(x, training=False), shrunk(keras.ops.convert_to_tensor(y), about), model(x, training=False)
            last, truth, predicted = (keras.ops.convert_to_numpy(each)[0] for each in tensors)
            chosen.append((f"{name} sample {at}", last, truth, predicted))
    return chosen
