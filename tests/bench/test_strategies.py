"""The ways of feeding Keras: each gives the model what the task says, and takes the memory that it says."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmapstore.bench import child, running, strategies
from mmapstore.bench.checksum import checksum, in_training_step, of_batch
from mmapstore.bench.contract import FINISHED, FORMS, KINDS, Task
from mmapstore.bench.generated_data import generated
from mmapstore.bench.tasks import of_user
from mmapstore.plain.errors import KeyNotFoundError

pytest.importorskip("tensorflow")

SMALL = 3_000_000
BATCH = 16
TASKS = [
    *(("next", form, None) for form in ("npy", "h5", "h5-gzip", "zarr", "zarr-zstd")),
    *(("labelled", form, None) for form in ("npy", "h5-gzip", "zarr")),
    ("labelled", "npy", "float32"),
    ("next", "npy", "float64"),
    ("input", "npy", None),
    ("input", "h5-gzip", None),
    ("images", "folder", None),
]


@pytest.fixture(scope="module")
def tasks():
    pytest.importorskip("h5py"), pytest.importorskip("zarr"), pytest.importorskip("PIL")
    # Not below pytest's own directory: TensorFlow keeps the generator of a fit, and so its open files, until the process ends.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        yield all_tasks(Path(home))


def all_tasks(home: Path) -> dict[tuple[str, str, str | None], Task]:
    made = {
        (kind, form, dtype): generated(kind, form, SMALL, home, batch=BATCH, dtype=dtype)
        for kind, form, dtype in TASKS
        if kind != "input"
    }
    made |= {("input", form, None): replace(made["next", form, None], kind="input") for form in ("npy", "h5-gzip")}
    return made


WAYS = [
    (name, key)
    for key in TASKS
    for name in strategies.serving(Task(key[0], key[1], "", 1, (1,), "uint8"))
]  # fmt: skip


# Keras says so of every generator that does not know its length: the documentation's own do not.
@pytest.mark.filterwarnings("ignore:.*ran out of data.*:UserWarning")
@pytest.mark.parametrize(("name", "key"), WAYS, ids=lambda part: part if isinstance(part, str) else "-".join(filter(None, part)))
def test_every_way_gives_the_model_the_same(tasks, name, key):
    import keras

    task = tasks[key]
    strategy = strategies.load(name)
    if strategy.prepare:
        strategy.prepare(task)
    model = child.started_model(task)
    totals = []

    class Reading(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            model.sum.assign(0)

        def on_epoch_end(self, epoch, logs=None):
            totals.append(int(model.sum.numpy()))

    arguments = {"shuffle": False, **strategy.fit_arguments(task)}
    model.fit(**arguments, epochs=2, verbose=0, callbacks=[Reading()])
    assert totals == [checksum(task)] * 2


@pytest.mark.parametrize("name", [name for name, key in WAYS if key[0] == "images"])
def test_images_without_loss_are_those_of_the_files(tmp_path, name):
    """All decoders make the same of PNG files."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (5, 12, 10, 3)).astype(np.uint8)
    for number, image in enumerate(pixels):
        folder = tmp_path / "png" / "ab"[number // 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    task = of_user(tmp_path / "png", batch=2, directory=tmp_path / "made")
    strategy = strategies.load(name)
    if strategy.prepare:
        strategy.prepare(task)
    fed = strategy.fit_arguments(task)["x"]
    batches = list(fed) if hasattr(fed, "as_numpy_iterator") else [fed[number] for number in range(len(fed))]
    np.testing.assert_array_equal(np.concatenate([np.asarray(x) for x, _ in batches]), pixels)
    assert np.concatenate([np.asarray(y) for _, y in batches]).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int16", "int32", "int64", "uint64", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 5), (8,)])
@pytest.mark.parametrize("kind", ["next", "labelled", "images", "input"])
def test_the_checksum_of_tensors_is_that_of_arrays(dtype, shape, kind):
    import tensorflow as tf

    x = np.random.default_rng(0).integers(-100 if dtype[0] in "if" else 0, 100, (6, *shape)).astype(dtype)
    y = x[::-1].copy() if kind == "next" else np.arange(6)
    task = Task(kind, "npy", "x.npy", 6, shape, dtype)
    given = (x,) if kind == "input" else (x, y)
    step = tf.function(lambda *given: in_training_step(task, *given))
    assert int(step(*map(tf.constant, given))) == of_batch(task, *given)


def test_names_are_in_the_order_of_the_table():
    names = strategies.names()
    assert names[0] == "array_in_ram" and names[1] == "fit_memmap"
    ours = [name.startswith("mmapstore") for name in names]
    assert ours == sorted(ours) and sum(ours) == 4
    titles = [strategies.load(name).title for name in names]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("name", strategies.names())
def test_each_is_what_the_contract_says(name):
    strategy = strategies.load(name)
    assert strategy.fit_arguments.__doc__.split("\n")[0].endswith("."), "the first line says what the strategy is"
    assert set(strategy.kinds) <= set(KINDS) and strategy.kinds
    assert all(any(form.startswith(stored) for form in FORMS) for stored in strategy.stored)
    source = strategies.source(name)
    assert f"def {name}(" in source and len(source.splitlines()) <= 55, "short enough to be judged at a glance"
    assert ("def arrays(" in source) == ("arrays(task" in source)


def test_a_name_that_there_is_not():
    with pytest.raises(
        KeyNotFoundError, match=r"no strategy 'fit_mmap'. `mmapstore bench --list` tells them: array_in_ram, fit_memmap"
    ):
        strategies.load("fit_mmap")


def test_every_task_has_naive_ways_and_ours(tasks):
    for task in tasks.values():
        names = strategies.serving(task)
        ours = [name for name in names if name.startswith("mmapstore")]
        assert ours and len(names) > len(ours)
    assert "h5py_sequence" in strategies.serving(tasks["next", "h5-gzip", None])
    assert "h5py_sequence" not in strategies.serving(tasks["next", "npy", None])
    assert "timeseries" not in strategies.serving(tasks["labelled", "npy", None])
    assert strategies.serving(replace(tasks["next", "h5", None], form="h5-own")) == strategies.serving(tasks["next", "h5", None])


def test_what_is_missing_is_named(monkeypatch):
    import importlib.util

    assert strategies.missing("h5py_sequence") == "" == strategies.missing("fit_memmap")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("h5py", "keras") else object())
    assert strategies.missing("h5py_sequence") == 'needs keras and h5py: pip install "mmapstore[tensorflow]" "mmapstore[hdf5]"'
    assert strategies.missing("fit_memmap") == 'needs keras: pip install "mmapstore[tensorflow]"'


def test_predicting_imports_no_framework(tasks):
    task = tasks["next", "npy", None]
    code = f"""
import sys
from mmapstore.bench import running, strategies
from mmapstore.bench.contract import Task
task = {task!r}
found = {{name: strategies.load(name).private(task) for name in strategies.serving(task)}}
assert min(found.values()) > 0, found
assert not {{"keras", "tensorflow", "h5py", "zarr"}} & set(sys.modules), "imported"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- predictions ---------------------------------------------------------------------------------------------------------


def test_naive_ways_are_predicted_to_hold_the_data_and_careful_ones_not():
    frames = Task("next", "npy", "none.npy", 100_000, (3, 50, 50), "float32")
    held = {
        name: strategies.load(name).private(frames) / frames.nbytes for name in strategies.serving(frames) if "mmap" not in name[:5]
    }
    for name in ("array_in_ram", "fit_memmap", "from_tensor_slices", "from_generator_args", "shuffle_n", "timeseries"):
        assert held[name] > 0.9, name
    for name in ("from_generator", "batched_generator", "sequence", "sequence_shuffled", "sequence_workers"):
        assert held[name] < 0.1, name


@pytest.mark.parametrize("name", ["fit_memmap", "from_tensor_slices", "shuffle_n"])
def test_predictions_grow_with_the_data(name):
    small = Task("labelled", "npy", "none.npy", 100_000, (3, 65, 64), "float32", "y.npy")
    large = replace(small, samples=200_000)
    way = strategies.load(name)
    assert way.private(large) - way.private(small) == pytest.approx(way.private(small), rel=0.1)


LARGE = 120_000_000
_MARGIN = 20 << 20  # bytes by which a prediction may be wrong whatever its size: arenas of malloc, threads that start late


def least_of(name: str, task: Task, predicted: int) -> int:
    """The least that may be measured: nothing of a bound, and half of a shuffle buffer, of which chance decides if there are two.

    How many batches tf.data decodes ahead is chance as well, beside the images that `.cache()` keeps.
    """
    if name == "image_dataset_cached":
        return 4 * task.nbytes
    return predicted // 2 if name == "shuffle_n" else 0 if name.startswith(("mmapstore", "image")) else predicted


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="private memory is read from /proc")
@pytest.mark.parametrize(
    ("kind", "form", "dtype"),
    [("next", "npy", None), ("next", "npy", "float64"), ("next", "h5-gzip", None), ("next", "zarr-zstd", None),
     ("labelled", "npy", None), ("images", "folder", None)],
)  # fmt: skip
def test_predictions_agree_with_what_is_measured(tmp_path, kind, form, dtype):
    task = generated(kind, form, LARGE if kind != "images" else LARGE // 2, tmp_path, dtype=dtype)
    wrong = []
    for name in strategies.serving(task):
        row = running.run(name, task, epochs=2)
        assert row.outcome == FINISHED, (name, row.why)
        assert all(epoch.right for epoch in row.epochs), name
        low = least_of(name, task, row.predicted) * 0.9 - _MARGIN
        if not low <= row.private <= row.predicted * 1.1 + _MARGIN:
            wrong.append((name, row.private, row.predicted))
    assert not wrong
