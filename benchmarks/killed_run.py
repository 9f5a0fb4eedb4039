"""A run of `fit` that is killed again and again, compared with one that is not. Run by `benchmarks.kills` and by tests.

    KERAS_BACKEND=jax python -m benchmarks.killed_run FOLDER ADAPTER KILLS [SEED [STEPS_PER_EXECUTION]]

Each attempt is a process of its own, forked after imports, that ends itself with SIGKILL after a random batch.
"""

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import keras
import numpy as np

import mmapstore as mm

BACKEND = keras.backend.backend()
BATCHES, EVERY = 8, 2  # of an epoch; between two checkpoints
keras.utils.set_random_seed(0)  # imports TensorFlow for every backend, once, before the processes part


class Scheduled(keras.callbacks.LearningRateScheduler):
    """Each epoch makes of the rate of the one before: a resumed epoch must not do so again."""

    def __init__(self):
        super().__init__(lambda epoch, rate: float(rate) * 0.97)


class Counting(keras.callbacks.Callback):
    """A callback of a user, with a state of its own."""

    def __init__(self):
        super().__init__()
        self.begun = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.begun += 1

    def state_dict(self):
        return {"begun": self.begun}

    def load_state_dict(self, state):
        self.begun = state["begun"]


class Log(keras.callbacks.Callback):
    """Writes what each batch and epoch came to, and dies after a given number of batches."""

    def __init__(self, path, kill_after, counting):
        super().__init__()
        self.path, self.left, self.counting = path, kill_after, counting

    def write(self, kind, *numbers):
        with self.path.open("a") as file:
            file.write(json.dumps([kind, *numbers]) + "\n")

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.write("batch", self.epoch, batch, sorted(logs.items()))
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_epoch_end(self, epoch, logs=None):
        self.write("epoch", epoch, self.counting.begun, sorted(logs.items()))


def fit(folder, adapter, epochs, kill_after, steps_per_execution=1):
    """Train as a user's script would; write what came of it when it is done."""
    warnings.filterwarnings("error", message=".*ran out of data.*")
    keras.utils.set_random_seed(11)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4 * BATCHES + 9, 6)).astype("f4")
    ds = mm.open({"x": x, "y": x[:, :1] * x[:, 1:2] + rng.normal(size=(len(x), 1)).astype("f4")})
    train, val = ds.split(4 * BATCHES - 1, 10)  # the last batch is smaller
    b = train.batches(4, inputs="x", target="y", shuffle=True, seed=5)
    data = {"keras": b.to_keras, "tf": b.to_tf}[adapter]()
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, "tanh"),
            layers.BatchNormalization(),
            layers.Dropout(0.4),
            layers.GaussianNoise(0.1),
            layers.Dense(1),
        ]
    )
    more = {} if BACKEND == "torch" else {"steps_per_execution": steps_per_execution}
    model.compile("adam", "mse", metrics=["mae"], **more)
    counting = Counting()
    folder.mkdir(exist_ok=True)
    callbacks = [
        mm.BackupAndRestore(folder / "run", EVERY * steps_per_execution, batches=b),
        Log(folder / "log", kill_after, counting),
        Scheduled(),
        counting,
        keras.callbacks.EarlyStopping("loss", patience=10**6, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=0.4, factor=0.5),
        keras.callbacks.ModelCheckpoint(folder / "best.weights.h5", "loss", save_best_only=True, save_weights_only=True),
        keras.callbacks.CSVLogger(folder / "rows.csv"),
    ]
    history = model.fit(
        data,
        epochs=epochs,
        verbose=0,
        shuffle=False,
        callbacks=callbacks,
        validation_data=val.batches(5, inputs="x", target="y").to_keras(),
        validation_freq=2,
    )
    variables = [*model.variables, *model.optimizer.variables]
    best = keras.models.clone_model(model)
    best.load_weights(folder / "best.weights.h5")
    found = {
        "variables": [np.asarray(keras.ops.convert_to_numpy(one)).tobytes().hex() for one in variables],
        "best": [one.tobytes().hex() for one in best.get_weights()],
        "history": history.history,
        "epochs": history.epoch,
        "rows": (folder / "rows.csv").read_text(),
        "random": [random.random(), np.random.random()],
        "left": [path.name for path in folder.iterdir()],
    }
    (folder / "done").write_text(json.dumps(found))


def in_a_process(*arguments):
    """The exit status of a process that trains."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            fit(*arguments)
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def log_of(folder):
    """Return the sums of each batch and epoch; a batch that was trained on twice has the same sum twice."""
    found = {}
    for line in (folder / "log").read_text().splitlines():
        kind, epoch, number, logs = json.loads(line)
        key = (kind, epoch, number) if kind == "batch" else (kind, epoch)
        value = logs if kind == "batch" else [number, logs]
        assert found.setdefault(key, value) == value, (key, found[key], value)
    return found


def compare(folder, adapter, kills, seed=0, steps_per_execution=1):
    """Kill a run `kills` times, let it end, and compare it with a whole one: variables, logs, files, random numbers.

    Returns the numbers of epochs, of batches of the run, and of batches that all attempts trained on.
    """
    epochs = max(4, 2 * kills)
    steps = -(-BATCHES // steps_per_execution)  # calls at the end of a batch in an epoch
    assert in_a_process(folder / "whole", adapter, epochs, 0, steps_per_execution) == 0
    chosen = random.Random(seed)
    for _ in range(kills):
        after = chosen.randint(1, max(2, 2 * epochs * steps // (kills + 2)))
        status = in_a_process(folder / "killed", adapter, epochs, after, steps_per_execution)
        if status == 0:
            break  # it came to the end before
        assert status == -signal.SIGKILL, f"ended with {status}, not killed after {after} batches"
    assert in_a_process(folder / "killed", adapter, epochs, 0, steps_per_execution) == 0
    whole, killed = (json.loads((folder / name / "done").read_text()) for name in ("whole", "killed"))
    logs = log_of(folder / "whole"), log_of(folder / "killed")
    assert logs[0] == logs[1], [(key, logs[0].get(key), value) for key, value in logs[1].items() if logs[0].get(key) != value]
    for key in whole:
        assert whole[key] == killed[key], (key, whole[key], killed[key])
    assert len(logs[0]) == epochs * (steps + 1), "each batch and each epoch is there"
    trained = sum(json.loads(line)[0] == "batch" for line in (folder / "killed" / "log").read_text().splitlines())
    return {"epochs": epochs, "batches": epochs * steps, "trained": trained}


if __name__ == "__main__":
    where, how, times, *others = sys.argv[1:]
    began = time.perf_counter()
    found = compare(Path(where), how, int(times), *map(int, others))
    print(json.dumps({"backend": BACKEND, "adapter": how, "kills": int(times), **found, "seconds": time.perf_counter() - began}))
