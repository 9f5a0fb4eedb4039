"""An epoch of a balanced, augmented set: augmented on the fly, in rounds, and through Keras's legacy ImageDataGenerator.

    python -m benchmarks.augmented_rounds
    python -m benchmarks.augmented_rounds --step-ms 20 --epochs 30 --json rounds.json

All ways call the same function for each sample: rotation, crop, flip and brightness by NumPy and SciPy, as albumentations does
it. Each trains a small network by `fit` with batches of 32; the callback that waits after each step stands for an accelerator,
which leaves the processors to the data. "longest wait" is the longest time between two of its steps: that in which the batch
is fetched, and the network, which takes 2 ms, is trained. The floor is `fit` of an array in RAM that was augmented before.

The timeline is that of the run in rounds: seconds and the longest wait of each epoch, and when each round was ready.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from .measure import machine, report_arm, spread, take_turns
from .peers.contract import Array

B = 32
SIZE = 96
CATS, DOGS = 1500, 150
MODULE = "benchmarks.augmented_rounds"


def augment(x: Array, rng: np.random.Generator) -> Array:
    """Rotate (3, H, W) uint8 by up to 20 degrees, crop to 80 % or more and scale back, mirror, and change the brightness."""
    angle, scale = np.deg2rad(rng.uniform(-20, 20)), rng.uniform(0.8, 1.0)
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = (np.array(x.shape[1:]) - 1) / 2
    offset = centre - matrix @ centre + rng.uniform(-0.1, 0.1, 2) * x.shape[1]
    turned = np.stack([ndimage.affine_transform(each, matrix, offset, order=1, mode="reflect") for each in x.astype(np.float32)])
    if rng.random() < 0.5:
        turned = turned[:, :, ::-1]
    return np.clip(turned * np.float32(rng.uniform(0.7, 1.3)), 0, 255).astype(np.uint8)


def make_data(directory: Path, cats: int, dogs: int) -> None:
    """Smooth pictures, x.npy of (samples, 3, 96, 96) uint8, and their classes, y.npy."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (cats + dogs, 3, SIZE // 8, SIZE // 8)).astype(np.float32)
    np.save(directory / "x.npy", coarse.repeat(8, 2).repeat(8, 3).astype(np.uint8))
    np.save(directory / "y.npy", np.repeat([0, 1], [cats, dogs]))


def opened(directory: Path) -> Any:
    import mmapstore as mm

    return mm.open({"image": directory / "x.npy", "label": directory / "y.npy"})


# --- the ways -----------------------------------------------------------------------------------------------------------
# Each returns what `fit` takes, its keyword arguments, and what has the times at which rounds were ready.


def in_ram(directory: Path, samples: int, epochs: int) -> tuple[Any, ...]:
    """augmented before, in RAM."""
    y = np.load(directory / "y.npy")
    chosen = np.random.default_rng(0).integers(0, len(y), samples)
    return (np.load(directory / "x.npy")[chosen], y[chosen]), {"batch_size": B}, None


def on_the_fly(directory: Path, samples: int, epochs: int, workers: int = 1) -> tuple[Any, ...]:
    """mmapstore, transform= on the fly."""

    def each(x: Array, y: Array, *, rng: np.random.Generator) -> tuple[Array, Array]:
        return np.stack([augment(one, rng) for one in x]), y

    b = opened(directory).batches(B, "label", shuffle=True, balance="label", transform=each, transform_workers=workers)
    return (b.to_keras(steps=-(-samples // B)),), {"shuffle": False}, None


def on_the_fly_2_threads(directory: Path, samples: int, epochs: int) -> tuple[Any, ...]:
    """mmapstore, transform= on the fly, transform_workers=2."""
    return on_the_fly(directory, samples, epochs, workers=2)


def in_rounds(directory: Path, samples: int, epochs: int) -> tuple[Any, ...]:
    """mmapstore, augmented rounds."""
    folder = tempfile.mkdtemp(dir=directory)  # a new one: in that of an earlier run rounds would be ready
    options = {"balance": "label", "samples_per_class": samples // 2, "epochs_per_round": epochs}
    rounds = opened(directory).augmented(augment, folder, **options)
    return (rounds.batches(B, target="label", shuffle=True).to_keras(),), {"shuffle": False}, rounds


def image_data_generator(directory: Path, samples: int, epochs: int) -> tuple[Any, ...]:
    """Keras's ImageDataGenerator, preprocessing_function=."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    x, y = np.load(directory / "x.npy"), np.load(directory / "y.npy")
    rng = np.random.default_rng(0)
    chosen = np.concatenate([rng.choice(np.flatnonzero(y == code), samples // 2) for code in (0, 1)])  # balanced, as others are

    def each(image: Array) -> Array:
        return augment(np.clip(image, 0, 255).astype(np.uint8), rng)

    generator = ImageDataGenerator(data_format="channels_first", preprocessing_function=each)
    return (generator.flow(x[chosen], y[chosen], batch_size=B, shuffle=True, seed=0),), {"shuffle": False}, None


WAYS: dict[str, Callable[[Path, int, int], tuple[Any, ...]]] = {
    way.__name__: way for way in (in_ram, in_rounds, on_the_fly, on_the_fly_2_threads, image_data_generator)
}


# --- one way, in its own process ----------------------------------------------------------------------------------------


def run(way: str, directory: Path, samples: int, epochs: int, epochs_per_round: int, step: float) -> dict[str, Any]:
    """Train; return for each epoch its seconds and those of the longest wait for a batch, and when each round was ready."""
    import keras

    rescaled, output = keras.layers.Rescaling(1 / 255), keras.layers.Dense(1, activation="sigmoid")
    model = keras.Sequential([keras.Input((3, SIZE, SIZE)), rescaled, keras.layers.Flatten(), output])
    model.compile("sgd", "binary_crossentropy")
    model.fit(np.zeros((B, 3, SIZE, SIZE), np.uint8), np.zeros(B), batch_size=B, verbose=0)
    began = time.perf_counter()
    arguments, options, rounds = WAYS[way](directory, samples, epochs_per_round)
    timeline: list[dict[str, float]] = []
    ready: dict[int, float] = {}

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.start = self.ended = time.perf_counter()
            self.waits: list[float] = []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.waits.append(time.perf_counter() - self.ended)  # Keras fetches the batch inside its training step
            number = len(ready)
            if rounds is not None and Path(rounds.path(number)).is_dir():
                ready[number] = time.perf_counter() - began
            time.sleep(step)  # the accelerator is at work, and the processors are free
            self.ended = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            now = time.perf_counter()
            timeline.append({"at": self.start - began, "seconds": now - self.start, "longest wait": max(self.waits)})

    model.fit(*arguments, **options, epochs=epochs, verbose=0, callbacks=[Clock()])
    waits = {} if rounds is None else rounds.waits
    return {"timeline": timeline, "ready": ready, "waits": waits}


# --- the comparison -----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=1600, help="in an epoch (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=24, help="of each run (default %(default)s)")
    parser.add_argument("--epochs-per-round", type=int, default=8, help="(default %(default)s)")
    parser.add_argument("--step-ms", type=float, default=20, help="of the accelerator for a batch (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each way (default %(default)s)")
    parser.add_argument("--only", nargs="*", default=list(WAYS), choices=list(WAYS), help="ways")
    parser.add_argument("--data", type=Path, help="directory for the data (default: temporary)")
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("way", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--arm", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.arm:
        how = (asked.samples, asked.epochs, asked.epochs_per_round, asked.step_ms / 1000)
        report_arm(lambda say: run(asked.way, asked.arm, *how))
        return
    with tempfile.TemporaryDirectory(dir=asked.data) as folder:
        make_data(Path(folder), CATS, DOGS)
        numbers = {"samples": asked.samples, "epochs": asked.epochs, "epochs-per-round": asked.epochs_per_round}
        options = [text for name, number in numbers.items() for text in (f"--{name}", str(number))]
        arms = [[way, "--arm", folder, *options, "--step-ms", str(asked.step_ms)] for way in asked.only]
        results = take_turns(MODULE, arms, asked.rounds)
    report(results)
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), **numbers, "step ms": asked.step_ms, "ways": results}, indent=1))


def report(results: dict[str, list[dict[str, Any]]]) -> None:
    """Print seconds and waits of the epochs after the first, and the timeline of the first run in rounds."""
    print(f"\n{'':56}{'seconds an epoch':>26}{'of the floor':>14}{'longest wait':>16}")
    floor = None
    for way, runs in results.items():
        failed = [run["error"] for run in runs if "failed" in run]
        if failed:
            print(f"{WAYS[way].__doc__:56}{'failed: ' + str(failed[0]):>26}")
            continue
        epochs = [epoch for run in runs for epoch in run["timeline"][1:]]
        seconds = [epoch["seconds"] for epoch in epochs]
        floor = floor or statistics.median(seconds)
        wait = statistics.median(epoch["longest wait"] for epoch in epochs)
        ratio = statistics.median(seconds) / floor
        print(f"{(WAYS[way].__doc__ or way).rstrip('.'):56}{spread(seconds):>26}{ratio:>13.2f}x{wait * 1000:>13.1f} ms")
    for run in results.get("in_rounds", [])[:1]:
        if "failed" in run:
            continue
        print(f"\nTimeline of a run in rounds; steps waited for rounds: {run['waits']} s")
        print("  round ready at " + ", ".join(f"{number}: {at:.1f} s" for number, at in run["ready"].items()))
        for number, epoch in enumerate(run["timeline"]):
            seconds, wait = epoch["seconds"], epoch["longest wait"] * 1000
            print(f"  epoch {number:3} at {epoch['at']:6.1f} s: {seconds:.2f} s, longest wait {wait:6.1f} ms")


if __name__ == "__main__":
    main()
