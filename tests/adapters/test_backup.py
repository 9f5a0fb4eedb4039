"""Runs of `fit` that end early and go on, on TensorFlow; benchmarks/killed_run.py kills them, on every backend."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from backends import require_backend

import mmapstore as mm
from mmapstore.adapters import checkpoint_files
from mmapstore.plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError, StateMismatchError, TrainingWarning

keras = pytest.importorskip("keras")
if keras.backend.backend() != "tensorflow":
    pytest.skip("in-process tests want Keras on TensorFlow; benchmarks/killed_run.py is for the others", allow_module_level=True)

# Keras reads variables of TensorFlow so, when it saves a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
slow = pytest.mark.slow  # about half a second for each `fit`
SAMPLES, BATCHES = 23, 6


class Counter(keras.layers.Layer):
    """Counts the batches that went through it, in a variable."""

    def __init__(self):
        super().__init__()
        self.counter = self.add_weight(shape=(), initializer="zeros", dtype="float32", trainable=False)

    def call(self, x, training=False):
        if training:
            self.counter.assign_add(1)
        return x


class At(keras.callbacks.Callback):
    """Does something after batch number `batch` of all, counted from 1; notes (epoch, batch) of each, and of each validation."""

    def __init__(self, batch=0, do=None):
        super().__init__()
        self.left, self.do, self.batches, self.validated, self.ended = batch, do, [], [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append((self.epoch, batch))
        self.left -= 1
        if self.left == 0:
            self.do(self)

    def on_test_batch_end(self, batch, logs=None):
        self.validated.append(self.epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.ended.append(epoch)


def interrupt(_):
    raise RuntimeError("interrupted")


def batches(**more):
    x = np.random.default_rng(1).normal(size=(SAMPLES, 3)).astype("f4")
    ds = mm.open({"x": x, "y": x[:, :1] + more.pop("shift", 0)})
    return ds.batches(more.pop("batch_size", 4), inputs="x", target="y", shuffle=True, **more)


def model(width=2, **more):
    keras.utils.set_random_seed(7)
    made = keras.Sequential(
        [keras.Input((3,)), Counter(), keras.layers.Dense(width), keras.layers.Dropout(0.3), keras.layers.Dense(1)]
    )
    made.compile("sgd", "mse", metrics=["mae"], **{"run_eagerly": True, **more})
    return made


def fit(folder, at=None, *others, b=None, m=None, data=None, epochs=3, save_freq=2, backup=None, **more):
    """(history, model, backup, at) of a run as a new process would make it: a new model, new batches, a new callback."""
    b = batches() if b is None else b
    m = model() if m is None else m
    at = at or At()
    backup = backup or mm.BackupAndRestore(folder / "run", save_freq, batches=b)
    history = m.fit(
        data(b) if data else b.to_keras(),
        epochs=epochs,
        callbacks=[backup, *others, at],
        **{"verbose": 0, "shuffle": False, **more},
    )
    return history, m, backup, at


def bits(m):
    return [np.asarray(one).tobytes() for one in [*m.variables, *m.optimizer.variables]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted run."""
    history, m, _, at = fit(tmp_path_factory.mktemp("whole"))
    assert at.batches == [(epoch, batch) for epoch in range(3) for batch in range(BATCHES)]
    return history, bits(m)


def interrupted(folder, batch, *others, **more):
    at = At(batch, interrupt)
    with pytest.raises(RuntimeError, match="interrupted"):
        fit(folder, at, *others, **more)
    for one in others:
        if isinstance(one, keras.callbacks.CSVLogger):
            one.csv_file.close()  # as the end of a process would
    return at


# --- going on -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [9, *(pytest.param(batch, marks=slow) for batch in (1, 5, 6, 7, 13))])
def test_a_run_goes_on_with_the_next_batch(tmp_path, whole, batch):
    interrupted(tmp_path, batch)
    history, m, _, at = fit(tmp_path)
    assert bits(m) == whole[1]
    assert history.history == whole[0].history and history.epoch == [0, 1, 2], "earlier epochs are in it"
    saved = (batch - 1) // 2 * 2 if batch < BATCHES + 1 else BATCHES + (batch - 1 - BATCHES) // 2 * 2
    saved = BATCHES if batch == BATCHES + 1 else saved
    assert at.batches == [divmod(number, BATCHES) for number in range(saved, 3 * BATCHES)], "numbered as in the whole run"
    assert at.ended == [0, 1, 2][saved // BATCHES :]
    assert not (tmp_path / "run").exists(), "a run that is done needs no checkpoint"


def test_other_callbacks_go_on(tmp_path):
    def others(folder):
        folder.mkdir(exist_ok=True)
        return [
            keras.callbacks.EarlyStopping("loss", patience=2, min_delta=100, restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=100, factor=0.5, cooldown=1),
            keras.callbacks.ModelCheckpoint(folder / "best.keras", "loss", save_best_only=True),
            keras.callbacks.CSVLogger(folder / "rows.csv"),
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
        ]

    ran = others(tmp_path / "a")
    history, m, *_ = fit(tmp_path / "a", None, *ran, epochs=5)
    interrupted(tmp_path / "b", 8, *others(tmp_path / "b"), epochs=5)
    rows = tmp_path / "b" / "rows.csv"
    rows.write_bytes(rows.read_bytes() + b"1,a row of an epoch that comes again\r\n")
    again = others(tmp_path / "b")
    resumed, n, *_ = fit(tmp_path / "b", None, *again, epochs=5)
    assert resumed.history == history.history and len(history.epoch) == 3, "stopped early"
    assert bits(n) == bits(m)
    assert (tmp_path / "b" / "rows.csv").read_text() == (tmp_path / "a" / "rows.csv").read_text()
    for one, other, names in zip(
        ran, again, (["wait", "best", "best_epoch", "stopped_epoch"], ["wait", "best", "cooldown_counter"], ["best"]), strict=False
    ):
        assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]
    assert not again[3].append, "and a later fit() begins a new file, as it was asked to"


@slow
def test_a_callback_that_is_not_there_any_more(tmp_path, whole):
    interrupted(tmp_path, 4, keras.callbacks.EarlyStopping("loss"))
    with pytest.warns(TrainingWarning, match="a state of the callback EarlyStopping, which fit.. was not given"):
        assert bits(fit(tmp_path)[1]) == whole[1]


@pytest.mark.parametrize("steps", [4, 9])
@slow
def test_keras_epochs_of_other_lengths(tmp_path, steps):
    _, m, _, at = fit(tmp_path / "a", data=lambda b: b.to_keras(steps=steps))
    interrupted(tmp_path / "b", 7, data=lambda b: b.to_keras(steps=steps))
    _, n, _, resumed = fit(tmp_path / "b", data=lambda b: b.to_keras(steps=steps))
    assert bits(n) == bits(m) and at.batches[-len(resumed.batches) :] == resumed.batches and resumed.ended[-1] == 2
    interrupted(tmp_path / "b", 7, data=lambda b: b.to_keras(steps=steps))
    with pytest.raises(StateMismatchError, match=rf"a run with {steps} batches in a Keras epoch, and this one has 6"):
        fit(tmp_path / "b")


@pytest.mark.parametrize("adapter", ["to_keras", "to_tf"])
@slow
def test_several_steps_in_one_execution(tmp_path, adapter):
    more = {"data": lambda b: getattr(b, adapter)(), "validation_freq": 2, "validation_data": (np.ones((5, 3)), np.ones(5))}
    compiled = {"run_eagerly": False, "steps_per_execution": 4}  # of 6: the last execution of an epoch is shorter
    history, m, _, at = fit(tmp_path / "a", m=model(**compiled), **more)
    interrupted(tmp_path / "b", 3, m=model(**compiled), **more)
    resumed, n, _, at = fit(tmp_path / "b", m=model(**compiled), **more)
    assert bits(n) == bits(m) and history.history == resumed.history
    assert at.batches[0][0] == 1 and set(at.validated) == {1}


@slow
@pytest.mark.parametrize("kind", ["text", "not built yet", "float16", "moving averages"])
def test_other_models(tmp_path, kind):
    """Their variables are made by the first step of a process, or are of other types."""
    words = np.array([b"a b", b"c d e", b"b b a", b"e"] * 6)
    numbers = np.arange(24 * 3, dtype="f4").reshape(-1, 3) / 72
    ds = mm.open({"x": words if kind == "text" else numbers, "y": numbers[:, :1]})
    layers = keras.layers

    def make():
        keras.utils.set_random_seed(7)
        first = [] if kind == "not built yet" else [keras.Input((3,))]
        if kind == "text":
            vectorised = layers.TextVectorization(vocabulary=["a", "b", "c", "d"], output_sequence_length=3)
            first = [keras.Input((), dtype="string"), vectorised, layers.Embedding(9, 2), layers.GlobalAveragePooling1D()]
        dtype = "mixed_float16" if kind == "float16" else "float32"
        m = keras.Sequential([*first, layers.Dense(2, dtype=dtype), layers.Dropout(0.3), layers.Dense(1)])
        optimizer = keras.optimizers.Adam()
        if kind == "moving averages":
            optimizer = keras.optimizers.Adam(use_ema=True, gradient_accumulation_steps=3)
        elif kind == "float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        m.compile(optimizer, "mse", metrics=["mae", keras.metrics.RootMeanSquaredError()])
        b = ds.batches(4, inputs="x", target="y", shuffle=True)
        return {"m": m, "b": b}

    history, m, *_ = fit(tmp_path / "a", **make())
    interrupted(tmp_path / "b", 9, **make())
    resumed, n, *_ = fit(tmp_path / "b", **make())
    assert bits(n) == bits(m) and resumed.history == history.history


@slow
def test_initial_epoch_and_a_second_fit(tmp_path):
    _, m, _, at = fit(tmp_path, initial_epoch=1)
    assert at.batches[0] == (1, 0)
    history = m.fit(batches().to_keras(), epochs=1, verbose=0, shuffle=False)
    assert history.epoch == [0], "where the resumed run began is forgotten"


@slow
def test_time_between_checkpoints(tmp_path, monkeypatch):
    now = iter(range(0, 10**6, 7))
    monkeypatch.setattr("mmapstore.adapters.backup.time.monotonic", lambda: next(now))
    written = []
    monkeypatch.setattr(
        checkpoint_files.CheckpointFiles, "write", lambda self, state: written.append((state["epoch"], state["step"]))
    )
    fit(tmp_path, save_freq="0.5min", epochs=1)
    assert written == [(0, 5)], "each look at the clock is 7 s later than the one before"
    fit(tmp_path, save_freq=False)
    assert len(written) == 1


# --- where it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGUSR1", marks=slow)])
def test_signals_end_a_run_with_a_checkpoint(tmp_path, whole, name):
    number, called = getattr(signal, name), []
    before = signal.signal(number, lambda *found: called.append(found))
    try:
        mine = signal.getsignal(number)
        more = {"validation_data": batches(seed=3).to_keras(), "save_freq": "epoch"}
        log = keras.callbacks.CSVLogger(tmp_path / "rows.csv")
        at = At(9, lambda _: os.kill(os.getpid(), number))
        with pytest.warns(TrainingWarning, match=f"Training was stopped by {name} after 3 of {BATCHES} batches of epoch 2\\."):
            history, _, backup, _ = fit(tmp_path, at, log, **more)
        assert backup.stopped_by == name and [found[0] for found in called] == [number] and signal.getsignal(number) is mine
        assert history.epoch == at.ended == [0] and at.validated.count(0) == BATCHES and at.validated.count(1) <= 1
        history, m, backup, at = fit(tmp_path, None, keras.callbacks.CSVLogger(tmp_path / "rows.csv"), **more)
        assert bits(m) == whole[1] and at.batches[0] == (1, 3) and backup.stopped_by is None
        assert history.history["loss"] == whole[0].history["loss"]
        assert [row[0] for row in (tmp_path / "rows.csv").read_text().split()] == ["e", "0", "1", "2"]
    finally:
        signal.signal(number, before)


@slow
def test_a_signal_at_the_end_of_an_epoch(tmp_path, whole):
    with pytest.warns(TrainingWarning, match="stopped by SIGUSR1 after 0 of 6 batches of epoch 2"):
        _, _, _, at = fit(tmp_path, At(BATCHES, lambda _: os.kill(os.getpid(), signal.SIGUSR1)), save_freq=False)
    assert at.ended == [0] and signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert bits(fit(tmp_path)[1]) == whole[1]


def test_handlers_are_put_back_when_fit_raises(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    interrupted(tmp_path, 3)
    assert signal.getsignal(signal.SIGTERM) is before


@slow
def test_no_handlers_outside_of_the_main_thread(tmp_path, whole):
    found = []
    thread = threading.Thread(target=lambda: found.append(bits(fit(tmp_path)[1])))
    thread.start()
    thread.join()
    assert found == [whole[1]]


@slow
def test_a_stop_in_mid_epoch_keeps_a_checkpoint(tmp_path, whole):
    def stop(at):
        at.model.stop_training = True

    _, _, backup, at = fit(tmp_path, At(9, stop), save_freq="epoch")
    assert at.ended == [0, 1] and backup.stopped_by is None, "Keras ends the epoch then"
    _, m, _, at = fit(tmp_path)
    assert bits(m) == whole[1] and at.batches[0] == (1, 3)


@slow
def test_not_a_number_is_not_saved(tmp_path):
    def spoil(at):
        at.model.layers[1].kernel.assign(at.model.layers[1].kernel * np.nan)

    fit(tmp_path, At(8, spoil), keras.callbacks.TerminateOnNaN(), save_freq="epoch")
    at = fit(tmp_path)[3]
    assert at.batches[0] == (1, 0)


@slow
def test_keeping_a_finished_run(tmp_path):
    for epochs, expected in ((2, BATCHES * 2), (3, BATCHES)):
        b = batches()
        backup = mm.BackupAndRestore(tmp_path / "run", batches=b, delete_checkpoint=False, double_checkpoint=False)
        *_, at = fit(tmp_path, b=b, backup=backup, epochs=epochs)
        assert len(at.batches) == expected
        assert len(list((tmp_path / "run").iterdir())) == 1


# --- what cannot be ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ("other batches", r"fit\(\) is fed from Sequence.*, and the checkpoints are to be of <Batches"),
        ("permuted", r"fit\(\) permutes the batches, .*shuffle=False"),
        ("an array", r"fed from other batches, or something else iterates"),
        pytest.param("other batches as a dataset", r"fed from other batches, or something else iterates", marks=slow),
        pytest.param("a range of epochs", r"whose to_keras\(\) or to_tf\(\) fit\(\) gets, not to_tf\(epochs=\)", marks=slow),
        pytest.param("validation too", r"validation batches of its own", marks=slow),
    ],
)
def test_fit_fed_from_something_else(tmp_path, other, text):
    b = batches()
    x = np.zeros((SAMPLES, 3), "f4")
    data = {
        "other batches": lambda: (batches().to_keras(),),
        "other batches as a dataset": lambda: (batches().to_tf(),),
        "an array": lambda: (x, x[:, :1]),
        "a range of epochs": lambda: (b.to_tf(epochs=4),),
    }.get(other, lambda: (b.to_keras(),))()
    more = {"validation_data": b.to_keras()} if other == "validation too" else {}
    backup = mm.BackupAndRestore(tmp_path, batches=b)
    with pytest.raises(StateMismatchError, match=text):
        model().fit(*data, verbose=0, epochs=4, shuffle=other == "permuted", callbacks=[backup], **more)


@pytest.mark.parametrize(
    ("now", "text"),
    [
        ({"shift": 1}, r"other data .*fingerprint saved \w+, now \w+"),
        pytest.param({"seed": 1}, "seed: saved 0, now 1", marks=slow),
        pytest.param({"batch_size": 8}, "batches of another size, or of another number of workers", marks=slow),
    ],
)
def test_a_checkpoint_of_other_batches(tmp_path, now, text):
    interrupted(tmp_path, 4, data=lambda b: b.to_keras(steps=3))
    m = model()
    before = bits(m)
    with pytest.raises(StateMismatchError, match=text):
        fit(tmp_path, b=batches(**now), m=m, data=lambda b: b.to_keras(steps=3))
    assert bits(m) == before


@pytest.mark.parametrize(("drop_last", "left"), [(False, [2]), pytest.param(True, [], marks=slow)])
def test_a_run_of_two_workers_goes_on_with_one(tmp_path, drop_last, left):
    """Each has trained on 4 batches of 2: 7 of 23 samples are left of epoch 0, which make no full batch of 8."""
    interrupted(tmp_path, 5, b=batches(batch_size=2, shard=(1, 2)), save_freq=4)
    one = batches(batch_size=8, drop_last=drop_last)
    _, _, _, at = fit(tmp_path, b=one)
    assert at.batches == [*((0, batch) for batch in left), *((epoch, batch) for epoch in (1, 2) for batch in range(len(one)))]
    assert one.position == (3, 0)


@slow
def test_a_checkpoint_of_another_model(tmp_path):
    interrupted(tmp_path, 4)
    m = model(width=5)
    before = bits(m)
    with pytest.raises(StateMismatchError, match=r"of another model: it has float32 \(3, 2\) in the model, .* float32 \(3, 5\)"):
        fit(tmp_path, m=m)
    assert bits(m) == before
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    other.compile("adam", "mse")
    with pytest.raises(StateMismatchError, match=r"it has 6 variables of the model, and this model 2"):
        fit(tmp_path, m=other)


@slow
def test_a_damaged_checkpoint(tmp_path, whole):
    interrupted(tmp_path, 10)
    newest = sorted((tmp_path / "run").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-30])
    with pytest.warns(TrainingWarning, match="is damaged or half written .* the checkpoint before it is used"):
        _, m, _, at = fit(tmp_path)
    assert bits(m) == whole[1] and at.batches[0] == (1, 0)
    interrupted(tmp_path, 4)
    for path in (tmp_path / "run").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DamagedFileError, match=r"There is no other checkpoint\. Delete the directory"):
        fit(tmp_path)


@slow
def test_a_full_disk(tmp_path, whole, monkeypatch):
    interrupted(tmp_path, 6)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_files, "replace", full)
    with pytest.warns(
        TrainingWarning, match=r"after \d+ of \d+ batches of epoch \d cannot be written: .*No space left.* Training goes on"
    ):
        fit(tmp_path, At(8, lambda at: setattr(at.model, "stop_training", True)))
    monkeypatch.undo()
    assert bits(fit(tmp_path)[1]) == whole[1]


@pytest.mark.parametrize("save_freq", ["batch", 0.15, 0, -3, True, "10 days", "0min", None])
def test_save_freq_that_cannot_be_meant(save_freq):
    with pytest.raises(InvalidValueError, match=r"Invalid value for argument `save_freq`.* a number of batches"):
        mm.BackupAndRestore("run", save_freq, batches=batches())


def test_arguments_that_cannot_be_meant():
    with pytest.raises(InvalidTypeError, match=r"batches=ndarray has no position to save; expected the Batches"):
        mm.BackupAndRestore("run", batches=np.zeros(3))
    with pytest.raises(InvalidTypeError, match=r"batches=Sequence has no position to save"):
        mm.BackupAndRestore("run", batches=batches().to_keras())


# --- the tests of keras.callbacks.BackupAndRestore (keras/src/callbacks/backup_and_restore_test.py, 3.15) --------


@pytest.mark.parametrize("backup_dir", ["", None])
def test_backup_dir_error(backup_dir):
    with pytest.raises(ValueError, match="Empty `backup_dir` argument passed"):
        mm.BackupAndRestore(backup_dir=backup_dir, save_freq="epoch", batches=batches())


@pytest.mark.parametrize(
    ("save_freq", "interrupting", "damage"),
    [(1, At(2, interrupt), False), ("epoch", At(15, interrupt), False), ("epoch", At(15, interrupt), True)],
    ids=["best_case_step", "best_case_epoch", "backup_corrupted"],
)
@slow
def test_keras_own(tmp_path, save_freq, interrupting, damage):
    b = batches()
    m = model()
    backup = mm.BackupAndRestore(backup_dir=tmp_path / "subdir", save_freq=save_freq, batches=b)
    assert not (tmp_path / "subdir").exists()
    with pytest.raises(RuntimeError, match="interrupted"):
        fit(tmp_path, interrupting, b=b, m=m, backup=backup, epochs=6)
    assert (tmp_path / "subdir").exists()
    assert int(m.layers[0].counter.value) == {1: 2, "epoch": 15}[save_freq]
    if damage:
        sorted((tmp_path / "subdir").iterdir())[-1].write_text("0")
    with pytest.warns(TrainingWarning, match="damaged") if damage else contextlib.nullcontext():
        history, *_ = fit(tmp_path, b=b, m=m, backup=backup, epochs=5)  # the same objects, as in Keras's test
    assert history.epoch[-1] == 4
    # Keras's counter after best_case_step has also the batches that its callback trains on twice.
    assert int(m.layers[0].counter.value) == 5 * BATCHES
    assert not (tmp_path / "subdir").exists(), "test_model_deleted_case_epoch"


# --- figures, progress ------------------------------------------------------------------------------------------------------


def test_the_state_of_the_data_is_small_and_quick_at_any_size():
    many = np.broadcast_to(np.arange(2, dtype=np.uint8), (10**9, 2))
    b = mm.open(many).batches(32, shuffle=True)
    began = time.perf_counter()
    state = b.state_at(3, 10**7)
    assert time.perf_counter() - began < 0.1
    assert len(repr(state)) < 1000
    b.load_state_dict(state)


@slow
def test_progress_bars(tmp_path, capsys):
    tqdm = pytest.importorskip("tqdm.keras")
    interrupted(tmp_path, 4)
    tqdm.tqdm_auto.monitor_interval = 0  # no thread
    bars = []

    class Bar(tqdm.tqdm_auto):
        def __init__(self, *arguments, **more):
            super().__init__(*arguments, **{**more, "file": sys.stderr, "mininterval": 0})
            self.seen = []
            bars.append(self)

        def update(self, n=1):
            super().update(n)
            self.seen.append((self.n, self.total))

    fit(tmp_path, None, tqdm.TqdmCallback(tqdm_class=Bar), epochs=2, verbose=1)
    epoch_bar, batch_bar = bars
    assert epoch_bar.seen == [(1, 2), (2, 2)]
    assert batch_bar.seen == [(number, BATCHES) for number in [3, 4, 5, 6, 1, 2, 3, 4, 5, 6]]
    out = capsys.readouterr().out
    first, second = out.split("Epoch 2/2")
    assert re.findall(r"\d/6", first)[0] == "3/6" and re.findall(r"\d/6", second)[0] == "1/6"
    assert re.findall(r"\d/6", first)[-1] == re.findall(r"\d/6", second)[-1] == "6/6"


# --- kills ------------------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "adapter", "steps_per_execution"),
    [("tensorflow", "keras", 1), ("tensorflow", "tf", 3), ("jax", "keras", 3), ("torch", "keras", 1)],
)
def test_kills(tmp_path, backend, adapter, steps_per_execution):
    """kill -9 at random batches, three times: every batch, epoch, validation and variable is that of the uninterrupted run."""
    require_backend(backend)
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    here = {
        **os.environ,
        **cache,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONWARNINGS": "",
        "OMP_NUM_THREADS": "1",
    }
    job = [sys.executable, "-m", "benchmarks.killed_run", str(tmp_path), adapter, "3", "0", str(steps_per_execution)]
    done = subprocess.run(job, env=here, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["backend"], found["kills"]) == (backend, 3) and found["trained"] > found["batches"], "some batches came twice"
