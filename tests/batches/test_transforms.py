"""Transforms: reproducible generators, several at a time and in order, and failures that are named."""

from __future__ import annotations

import functools
import hashlib
import pickle
import threading
import time

import h5py
import numpy as np
import pytest

import mmapstore as mm
from mmapstore.batches.look_ahead import LookAhead
from mmapstore.batches.transforms import generator_of
from mmapstore.files.worker_threads import _IDLE_SECONDS
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError, TransformError

NUMBERS = np.arange(100, dtype="f4").reshape(100, 1)
DS = mm.open({"x": NUMBERS, "label": np.arange(100) % 3, "w": np.ones(100)})


def noisy(x, *, rng):
    return x + rng.random(x.shape)


def values(b):
    return [np.array(batch) for batch in b]


def transform_threads():
    return [thread for thread in threading.enumerate() if thread.name == "mmapstore-transform"]


# --- generators ----------------------------------------------------------------------------------------------------------


def test_a_batch_has_the_same_random_numbers_however_it_is_asked_for():
    b = DS.batches(8, transform=noisy, seed=5)
    first = values(b)
    key = hashlib.blake2b(b"5 0 2 0", digest_size=16).digest()  # seed, epoch, batch, shard
    by_hand = np.random.Generator(np.random.PCG64(np.random.SeedSequence(int.from_bytes(key, "little"))))
    np.testing.assert_array_equal(first[2], NUMBERS[16:24] + by_hand.random((8, 1)))
    np.testing.assert_array_equal(b.read(0, 2)[0], first[2])
    np.testing.assert_array_equal(b.read(0, 2, aligned=True)[0], b.read(0, 2)[0])
    sent = pickle.loads(pickle.dumps(DS.batches(8, transform=noisy, seed=5)))
    for again in (DS.batches(8, transform=noisy, seed=5, transform_workers=3), sent):
        assert all(map(np.array_equal, values(again), first))
    resumed = DS.batches(8, transform=noisy, seed=5, transform_workers=2)
    resumed.load_state_dict(b.state_at(0, 4))
    assert all(map(np.array_equal, values(resumed), first[4:]))
    assert not any(map(np.array_equal, values(b), first)), "another epoch, other numbers"
    others = [DS.batches(8, transform=noisy, seed=6)[2], DS.batches(8, transform=noisy, seed=5, shard=(1, 2))[2]]
    noise = [first[2] - NUMBERS[16:24], first[1] - NUMBERS[8:16], *(other - np.floor(other) for other in others)]
    assert len({one.tobytes() for one in noise}) == 4
    np.testing.assert_array_equal(DS.batches(8, transform=noisy, seed=5, shard=(0, 2))[2], first[2])
    assert len(generator_of(2**200, 0, 0).spawn(2)) == 2, "a seed of any size, and generators of one's own"


def test_rng_is_given_by_keyword_wherever_it_stands():
    def last(x, y, w, rng):
        return x, y, rng.random(len(w))

    def optional(x, y, rng=None):
        return x, rng.random(len(y))

    expected = generator_of(0, 0, 1).random(10)
    np.testing.assert_array_equal(DS.batches(10, "label", sample_weight="w", transform=last)[1][2], expected)
    np.testing.assert_array_equal(DS.batches(10, "label", transform=functools.partial(optional))[1][1], expected)


# --- what is returned ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_any_structure_with_or_without_weights(workers):
    made = {
        "weights made": ({}, lambda x, y: ({"a": x, "b": (x, [y])}, [y], {"w": np.ones(len(y))})),
        "weights used": ({"sample_weight": "w"}, lambda x, y, w: (x * w[:, None], {"class": y})),
        "weights kept": ({"sample_weight": {"class": "w"}}, lambda x, y, w: (x, {"class": y}, w)),
        "numbers and text": ({}, lambda x, y: ([f"é{n}" for n in y], [int(n) for n in y])),
    }
    for name, (asked, transform) in made.items():
        for number, (x, y, *w) in enumerate(DS.batches(32, "label", transform=transform, transform_workers=workers, **asked)):
            rows = np.arange(100)[32 * number : 32 * number + 32]
            if name == "weights made":
                np.testing.assert_array_equal(x["b"][0], NUMBERS[rows])
                np.testing.assert_array_equal(x["b"][1][0], rows % 3)
                assert isinstance(y, list) and (w[0]["w"] == 1).all()
            elif name == "weights used":
                np.testing.assert_array_equal(y["class"], rows % 3)
                assert not w
            elif name == "weights kept":
                assert list(w[0]) == ["class"] and len(w[0]["class"]) == len(rows)
            else:
                assert x.tolist() == [f"é{n % 3}".encode() for n in rows]
                np.testing.assert_array_equal(y, rows % 3)


def bad_none(x, y):
    x + 1


def bad_shape(x, y):
    return x.mean(axis=0), y


def bad_scalar(x, y):
    return x, y, 1.0


def bad_objects(x, y):
    return x, np.array([{}] * len(y))


def bad_error(x, y):
    raise ZeroDivisionError("no")


def bad_stop(x, y):
    return next(iter(())), y


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    "transform, error, said",
    [
        (bad_none, InvalidTypeError, r"bad_none returned None \(is a return missing\?\) for {}; expected the tuple \(x, y\) or"),
        (lambda x, y: x, InvalidTypeError, r"<lambda> returned ndarray for {}; expected the tuple"),
        (lambda x, y: [x, y], InvalidTypeError, r"<lambda> returned a list of 2 for {}; expected the tuple"),
        (lambda x, y: (x, y, y, y), InvalidTypeError, r"<lambda> returned a tuple of 4 for {}; expected the tuple"),
        (bad_shape, InvalidValueError, r"bad_shape returned an array of shape \(1,\) for {}; expected 8 samples along"),
        (bad_scalar, InvalidValueError, r"bad_scalar returned an array of shape \(\) for {}; expected 8 samples along"),
        (bad_objects, InvalidTypeError, r"bad_objects returned Python objects .* for {}; expected arrays of numbers"),
        (bad_error, TransformError, r"bad_error raised ZeroDivisionError: no, for {}. Expected"),
        (bad_stop, TransformError, r"bad_stop raised StopIteration: , for {}. Expected"),
    ],
)
def test_failures_are_named(transform, error, said, workers):
    batches = DS.select(np.arange(100) % 5 != 0).batches(8, "label", transform=transform, transform_workers=workers)
    where = r"batch 0 of epoch 0 \(8 samples, those at 1, 2, 3, 4, 6, 7, 8, 9 in the store\)"
    with pytest.raises(error, match=f"transform=.*{said.format(where)}") as raised:
        list(batches)
    if error is TransformError:
        assert isinstance(raised.value.__cause__, (ZeroDivisionError, StopIteration)) and isinstance(raised.value, RuntimeError)


@pytest.mark.parametrize(
    "asked, error, said",
    [
        ({"transform": 5}, InvalidTypeError, r"transform=5 cannot be called; expected a function of \(x\)"),
        ({"transform": lambda x, y: x}, InvalidTypeError, r"parameters \(x, y\), but batches have the parts \(x\): missing"),
        ({"transform": lambda x: x, "target": "label"}, InvalidTypeError, r"have the parts \(x, y\): too many positional"),
        ({"transform": lambda x, rng: x, "target": "label"}, InvalidTypeError, r"\(x, y, \*, rng\), which gives it"),
        ({"transform_workers": 2}, InvalidValueError, r"transform_workers=2 without transform="),
        ({"transform": noisy, "transform_workers": 0}, InvalidValueError, r"transform_workers=0 is too small"),
        ({"transform": noisy, "transform_workers": 1.5}, InvalidTypeError, r"transform_workers=1.5 is not a whole number"),
    ],
)
def test_what_cannot_be_called_is_refused_at_once(asked, error, said):
    with pytest.raises(error, match=said):
        DS.batches(8, **asked)


# --- several at a time ---------------------------------------------------------------------------------------------------


def test_as_many_as_asked_for_run_at_a_time_and_come_in_order():
    lock, running, most, begun = threading.Lock(), 0, 0, 0
    meet = threading.Barrier(3)

    def slow(x):
        nonlocal running, most, begun
        with lock:
            running, begun = running + 1, begun + 1
            most = max(most, running)
        if x[0, 0] > 0:  # the first is made by the loop itself
            meet.wait(10)  # passes only if three are in here together
        with lock:
            running -= 1
        return x

    b = DS.batches(10, transform=slow, transform_workers=3)
    seen = []
    for number, x in enumerate(b):
        seen += x[:, 0].tolist()
        assert begun <= number + 1 + 3, "no more are made ahead"
    assert most == 3 and seen == list(range(100))


def test_batches_are_read_in_order_by_several_workers(tmp_path):
    """Otherwise windows of decoded frames would be left and come back to: each chunk is decoded once, and nothing warns."""
    data = np.random.default_rng(0).random((4000, 50), "f4")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=data, chunks=(64, 50), compression="gzip")
    ds = mm.open(tmp_path / "x.h5")
    asked = {"target": mm.NextFrame(), "shuffle": 300, "seed": 1}
    plain = [(x.copy(), y.copy()) for x, y in ds.batches(32, **asked)]
    rng = np.random.default_rng(0)
    waits = iter(rng.random(1000) * 0.002)

    def jittery(x, y):
        time.sleep(next(waits))
        return x.copy(), y.copy()

    for one, other in zip(ds.batches(32, **asked, transform=jittery, transform_workers=5), plain, strict=True):
        assert all(map(np.array_equal, one, other))


@pytest.mark.parametrize("workers", [1, 4])
def test_an_epoch_left_early_leaves_no_thread_behind(workers):
    calls = []

    def slow(x):
        calls.append(len(calls))
        time.sleep(0.01)
        return x

    for number, _ in enumerate(DS.batches(2, transform=slow, transform_workers=workers)):
        if number == 5:
            break
    made = len(calls)
    assert made <= 6 + workers
    deadline = time.monotonic() + 10
    while transform_threads() and time.monotonic() < deadline:
        time.sleep(_IDLE_SECONDS / 4)
    assert not transform_threads() and len(calls) == made, "nothing is made any more"


def test_an_error_comes_where_its_batch_does():
    def fifth(x):
        if x[0, 0] == 50:
            raise LookupError("fifth")
        return x

    seen = []
    with pytest.raises(TransformError, match="fifth raised LookupError: fifth, for batch 5 of epoch 0"):
        for x in DS.batches(10, transform=fifth, transform_workers=4):
            seen.append(x[0, 0])
    assert seen == [0, 10, 20, 30, 40]


def test_look_ahead_reads_in_order_whoever_finishes_first():
    begun, finished, hold = [], [], threading.Event()

    def begin(number):
        begun.append(number)

        def finish():
            if number == 1:
                hold.wait(10)
            finished.append(number)
            return number

        return finish

    ahead = LookAhead(begin, workers=3)
    assert ahead.get(0, range(1, 6)) == 0
    deadline = time.monotonic() + 10
    while finished != [0, 2, 3] and time.monotonic() < deadline:
        time.sleep(0.001)
    assert begun == [0, 1, 2, 3] and sorted(finished) == [0, 2, 3], "2 and 3 are made beside 1"
    hold.set()
    assert [ahead.get(n, range(n + 1, 6)) for n in range(1, 6)] == [1, 2, 3, 4, 5] and begun == list(range(6))
    assert ahead.get(3, [9]) == 3 and ahead.get(4) == 4, "out of order too"
    ahead.close()


def test_memory_says_what_workers_hold():
    one, four = (DS.batches(10, "label", transform=lambda x, y: (x, y), transform_workers=n).memory for n in (1, 4))
    assert four.parts["transforms under way"] == 3 * 2 * 10 * (4 + 8) and four.total - one.total == 720
