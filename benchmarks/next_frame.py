"""Next-frame training from a warm .npy: time and private memory of every usual way, beside mmapstore.

    python -m benchmarks.next_frame                       all arms, float32
    python -m benchmarks.next_frame --dtype uint8 --json out.json

Each arm is a function of a few lines that a reader can judge. The training step reads every byte of x and y once (a
sum over both) and learns nothing, so that what differs between arms is the way the data takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mmapstore.demo.footprint import PrivatePeak

from .measure import machine, random_frames, run_arm, spread, timed, warm

B = 32
SAMPLES, SHAPE = 20_000, (3, 50, 50)


# --- the ways -----------------------------------------------------------------------------------------------------------
# Each returns what `fit` takes: (arguments, keyword arguments), and how to iterate it alone, if it can be.


def fit_arrays(path: Path, deliver: str) -> tuple[Any, dict[str, Any]]:
    """Array in RAM, fit(x, y)."""
    a = np.load(path)
    return (a[:-1], a[1:]), {"batch_size": B}


def tensor_slices(path: Path, deliver: str) -> tuple[Any, dict[str, Any]]:
    """Array in RAM, from_tensor_slices."""
    import tensorflow as tf

    a = np.load(path)
    ds = tf.data.Dataset.from_tensor_slices((a[:-1], a[1:])).batch(B)
    if a.dtype != deliver:
        ds = ds.map(lambda x, y: (tf.cast(x, deliver), tf.cast(y, deliver)))
    return (ds.prefetch(tf.data.AUTOTUNE),), {}


def fit_memmap(path: Path, deliver: str) -> tuple[Any, dict[str, Any]]:
    """fit(memmap): the usual mistake."""
    a = np.load(path, mmap_mode="r")
    return (a[:-1], a[1:]), {"batch_size": B}


def six_lines(path: Path, deliver: str) -> tuple[Any, dict[str, Any]]:
    """A careful hand-written Sequence over the memmap."""
    import keras

    class Frames(keras.utils.PyDataset):
        def __init__(self) -> None:
            super().__init__()
            self.a = np.load(path, mmap_mode="r")

        def __len__(self) -> int:
            return -(-(len(self.a) - 1) // B)

        def __getitem__(self, i: int) -> Any:
            stop = min((i + 1) * B, len(self.a) - 1)
            x, y = self.a[i * B : stop], self.a[i * B + 1 : stop + 1]
            return (x, y) if x.dtype == deliver else (x.astype(deliver), y.astype(deliver))

    return (Frames(),), {}


def batched_generator(path: Path, deliver: str) -> tuple[Any, dict[str, Any]]:
    """from_generator over batches, not samples, with prefetch."""
    import tensorflow as tf

    a = np.load(path, mmap_mode="r")

    def batches() -> Any:
        for i in range(0, len(a) - 1, B):
            stop = min(i + B, len(a) - 1)
            x, y = a[i:stop], a[i + 1 : stop + 1]
            yield (x, y) if x.dtype == deliver else (x.astype(deliver), y.astype(deliver))

    spec = tf.TensorSpec((None, *SHAPE), deliver)
    ds = tf.data.Dataset.from_generator(batches, output_signature=(spec, spec))
    ds = ds.apply(tf.data.experimental.assert_cardinality(-(-(len(a) - 1) // B)))
    return (ds.prefetch(tf.data.AUTOTUNE),), {}


def range_map(path: Path, deliver: str) -> tuple[Any, dict[str, Any]]:
    """Dataset.range(...).map(numpy_function), with prefetch."""
    import tensorflow as tf

    a = np.load(path, mmap_mode="r")

    def read(i: int) -> Any:
        stop = min((i + 1) * B, len(a) - 1)
        x, y = a[i * B : stop], a[i * B + 1 : stop + 1]
        return (x, y) if x.dtype == deliver else (x.astype(deliver), y.astype(deliver))

    def shaped(i: Any) -> Any:
        pair = tf.numpy_function(read, (i,), (deliver, deliver))
        for one in pair:
            one.set_shape((None, *SHAPE))
        return tuple(pair)

    ds = tf.data.Dataset.range(-(-(len(a) - 1) // B)).map(shaped, num_parallel_calls=tf.data.AUTOTUNE)
    return (ds.prefetch(tf.data.AUTOTUNE),), {}


def _ours(path: Path, deliver: str, shuffle: bool) -> Any:
    import mmapstore as mm

    ds = mm.open(path)
    return ds.batches(B, mm.NextFrame(), shuffle=shuffle, dtype=None if ds.dtype == deliver else deliver)


def to_keras(path: Path, deliver: str) -> tuple[Any, dict[str, Any]]:
    """mmapstore, to_keras()."""
    return (_ours(path, deliver, False).to_keras(),), {}


def to_tf(path: Path, deliver: str) -> tuple[Any, dict[str, Any]]:
    """mmapstore, to_tf()."""
    return (_ours(path, deliver, False).to_tf(),), {}


def to_keras_shuffled(path: Path, deliver: str) -> tuple[Any, dict[str, Any]]:
    """mmapstore, to_keras(), shuffled."""
    return (_ours(path, deliver, True).to_keras(),), {}


def to_tf_shuffled(path: Path, deliver: str) -> tuple[Any, dict[str, Any]]:
    """mmapstore, to_tf(), shuffled."""
    return (_ours(path, deliver, True).to_tf(),), {}


Way = Callable[[Path, str], tuple[Any, dict[str, Any]]]
WAYS: dict[str, Way] = {
    way.__name__: way
    for way in (
        fit_arrays,
        tensor_slices,
        fit_memmap,
        six_lines,
        batched_generator,
        range_map,
        to_keras,
        to_tf,
        to_keras_shuffled,
        to_tf_shuffled,
    )
}
IN_RAM, BY_HAND = ("fit_arrays", "tensor_slices"), ("six_lines", "batched_generator", "range_map")
OURS, OURS_SHUFFLED = ("to_keras", "to_tf"), ("to_keras_shuffled", "to_tf_shuffled")


# --- one arm, in its own process ----------------------------------------------------------------------------------------


def reading_model() -> Any:
    """A model whose step sums every value of x and y and learns nothing."""
    import keras
    import tensorflow as tf

    class Reading(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.total = keras.metrics.Sum(name="total")

        def train_step(self, data: Any) -> Any:
            x, y = data
            self.total.update_state(tf.reduce_sum(tf.cast(x, "float32")) + tf.reduce_sum(tf.cast(y, "float32")))
            return {"total": self.total.result()}

    model = Reading()
    model.compile(loss=None)
    model.built = True
    return model


def run_fit(way: Way, path: Path, deliver: str, epochs: int) -> dict[str, Any]:
    """Seconds of each epoch of `fit` from the second on, and private memory over a baseline with TensorFlow started."""
    import keras

    model = reading_model()
    tiny = np.zeros((B, *SHAPE), deliver)
    model.fit(tiny, tiny, batch_size=B, verbose=0)
    seconds: list[float] = []
    totals: list[float] = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            import time

            self.start = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            import time

            seconds.append(time.perf_counter() - self.start)
            totals.append(float(logs["total"]))

    with PrivatePeak(interval=0.002) as memory:
        arguments, options = way(path, deliver)
        model.fit(*arguments, **options, shuffle=False, epochs=epochs, verbose=0, callbacks=[Clock()])
    return {"seconds": seconds[1:], "growth": memory.growth, "total": totals[-1]}


def run_pipeline(way: Way, path: Path, deliver: str, epochs: int) -> dict[str, Any]:
    """Seconds of each pass over the tf.data pipeline alone, from the second on."""
    import tensorflow as tf

    def add(total: Any, pair: Any) -> Any:
        x, y = pair
        return total + tf.reduce_sum(tf.cast(x, "float32")) + tf.reduce_sum(tf.cast(y, "float32"))

    totals = []
    with PrivatePeak(interval=0.002) as memory:
        (ds,), _ = way(path, deliver)
        seconds = [timed(lambda: totals.append(float(ds.reduce(np.float32(0), add)))) for _ in range(epochs)]
    return {"seconds": seconds[1:], "growth": memory.growth, "total": totals[-1]}


# --- the comparison -----------------------------------------------------------------------------------------------------


def compare(kind: str, names: tuple[str, ...], path: Path, deliver: str, rounds: int, epochs: int) -> dict[str, Any]:
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            runs[name].append(run_arm("benchmarks.next_frame", ["--arm", kind, name, str(path), deliver, str(epochs)]))
    print(f"\n{kind}: {path.stem} delivered as {deliver}, {rounds} rounds of {epochs - 1} counted epochs, seconds an epoch")
    print(f"  {'':44}{'median (min to max)':>28}{'private memory':>18}")
    result = {}
    for name, all_runs in runs.items():
        failed = [run for run in all_runs if "failed" in run]
        if failed:
            print(f"  {WAYS[name].__doc__:44}{'failed: ' + str(failed[0]['error']):>28}")
            continue
        seconds = [second for run in all_runs for second in run["seconds"]]
        growth = max(run["growth"] for run in all_runs)
        result[name] = {"median": statistics.median(seconds), "seconds": seconds, "growth": growth, "total": all_runs[0]["total"]}
        print(f"  {(WAYS[name].__doc__ or name).rstrip('.'):44}{spread(seconds):>28}{growth / 2**20:>+14.0f} MiB")
    return result


def ratio(result: dict[str, Any], ours: tuple[str, ...], peers: tuple[str, ...], words: str) -> None:
    """The median of our fastest arm over that of the fastest peer, and the same round by round."""
    mine = min((result[name] for name in ours if name in result), key=lambda run: run["median"], default=None)
    peer = min((result[name] for name in peers if name in result), key=lambda run: run["median"], default=None)
    if mine and peer:
        print(f"  {words}: {mine['median'] / peer['median']:.2f}x the time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", help="stored dtype: float32, float64 (delivered as float32) or uint8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--only", nargs="*", help="names of arms")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "mmapstore-benchmarks")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--arm", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        kind, name, path, deliver, epochs = options.arm
        print(json.dumps({"fit": run_fit, "pipeline": run_pipeline}[kind](WAYS[name], Path(path), deliver, int(epochs))))
        return
    deliver = "float32" if options.dtype == "float64" else options.dtype
    path = random_frames(options.data / f"frames-{options.dtype}.npy", SAMPLES, SHAPE, options.dtype)
    warm(path)
    chosen = tuple(name for name in WAYS if not options.only or name in options.only)
    fit = compare("fit", chosen, path, deliver, options.rounds, options.epochs)
    ratio(fit, OURS, IN_RAM, "mmapstore against the fastest in RAM")
    ratio(fit, OURS, BY_HAND, "mmapstore against the fastest by hand")
    ratio(fit, OURS_SHUFFLED, IN_RAM, "mmapstore shuffled against the fastest in RAM, unshuffled")
    iterable = ("tensor_slices", "batched_generator", "range_map", "to_tf", "to_tf_shuffled")
    pipeline = compare("pipeline", tuple(n for n in iterable if n in chosen), path, deliver, options.rounds, options.epochs)
    ratio(pipeline, ("to_tf",), ("tensor_slices",), "mmapstore against from_tensor_slices in RAM")
    ratio(pipeline, ("to_tf_shuffled",), ("tensor_slices",), "mmapstore shuffled against from_tensor_slices in RAM, unshuffled")
    if options.json:
        options.json.write_text(
            json.dumps({"machine": machine(), "dtype": options.dtype, "fit": fit, "pipeline": pipeline}, indent=1)
        )


if __name__ == "__main__":
    main()
