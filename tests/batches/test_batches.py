"""Batches against what NumPy makes of the whole array: every option, in every combination."""

from __future__ import annotations

import copy
import itertools
import json
import multiprocessing
import os
import pickle
import threading
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmapstore as mm
from mmapstore.batches import batch_reader, window_frames
from mmapstore.files.lent_buffers import is_aligned
from mmapstore.plain.errors import (
    DamagedFileError,
    InvalidTypeError,
    InvalidValueError,
    KeyNotFoundError,
    OutOfRangeError,
    SlowAccessWarning,
    StateMismatchError,
)
from mmapstore.plain.windows import Episodes
from mmapstore.readers import raw_reader
from mmapstore.readers.contract import Reader

FRAMES = np.random.default_rng(0).integers(0, 255, (97, 2, 3, 4)).astype("f4")
LABELS = np.arange(97, dtype="i8") * 10


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The same frames as plain bytes, as bytes of the other order, where values lie scattered, and in several files."""
    folder = tmp_path_factory.mktemp("frames")
    np.save(folder / "frames.npy", FRAMES)
    np.save(folder / "swapped.npy", FRAMES.astype(FRAMES.dtype.newbyteorder()))
    np.save(folder / "fortran.npy", np.asfortranarray(FRAMES))
    np.save(folder / "gray.npy", FRAMES[:, 0])
    np.save(folder / "label.npy", LABELS)
    for number, (start, stop) in enumerate(itertools.pairwise([0, 20, 21, 60, 97])):
        np.save(folder / f"part{number}.npy", FRAMES[start:stop])
    return folder


# --- a second way to the same batches --------------------------------------------------------------------------------------


def windows_of(episodes: list[int], x: list[int], y: list[int], stride: int) -> list[int]:
    """Every anchor, by trying all samples."""
    found = []
    for begin, end in itertools.pairwise(episodes):
        fits = [at for at in range(begin - 60, end) if all(begin <= at + k < end for k in [0, *x, *y])]
        found += fits[::stride]
    return found


def delivered(frames: np.ndarray, offsets: list[int], anchors, has_time: bool, dtype, layout) -> np.ndarray:
    """The frames at these offsets from each anchor, as they should come out."""
    out = np.stack([frames[anchors + k] for k in offsets], axis=1)
    if layout == "NHWC" and frames.ndim == 4:
        out = np.moveaxis(out, 2, -1)
    if layout == "NHWC" and frames.ndim == 3:
        out = out[..., None]
    return (out if has_time else out[:, 0]).astype(dtype)


@st.composite
def cases(draw):
    episodes = [0, *sorted(draw(st.sets(st.integers(1, 96), max_size=4))), 97]
    if draw(st.booleans()):
        target, x, y, x_time, y_time = mm.NextFrame(lead := draw(st.integers(1, 5))), [0], [lead], False, False
    else:
        rate = draw(st.integers(1, 3))
        target = mm.Window(
            history=draw(st.none() | st.integers(1, 4)),
            horizon=draw(st.none() | st.integers(1, 3)),
            lead=draw(st.integers(-4, 3)),
            sampling_rate=rate,
            stride=draw(st.integers(1, 4)),
        )
        x = [k * rate for k in range(target.history or 1)]
        y = [x[-1] + target.lead + k * rate for k in range(target.horizon or 1)]
        x_time, y_time = target.history is not None, target.horizon is not None
    shard_count = draw(st.integers(1, 3))
    options = {
        "shuffle": draw(st.sampled_from([False, True, 8, 40])),
        "seed": draw(st.integers(-5, 5)),
        "drop_last": draw(st.booleans()),
        "shard": (draw(st.integers(0, shard_count - 1)), shard_count),
        "layout": draw(st.sampled_from([None, "NCHW", "NHWC"])),
        "dtype": draw(st.sampled_from([None, "f4", "f8", "u1"])),
    }
    name = draw(st.sampled_from(["frames", "swapped", "fortran", "gray", "part*"]))
    return episodes, target, (x, y, x_time, y_time), options, name, draw(st.integers(1, 40))


@given(cases())
@settings(max_examples=250)
def test_batches_hold_the_frames_they_should(store, case):
    episodes, target, (x, y, x_time, y_time), options, name, batch_size = case
    ds = mm.open(store / f"{name}.npy", episodes=episodes)
    anchors = windows_of(episodes, x, y, target.stride)
    index, count = options["shard"]
    if len(anchors) < count or (options["drop_last"] and len(anchors) // count < batch_size):
        with pytest.raises(InvalidValueError, match=r"has no window|too few for|drop_last=True leaves no batch"):
            ds.batches(batch_size, target=target, **options)
        return
    b = ds.batches(batch_size, target=target, **options)
    frames = FRAMES[:, 0] if name == "gray" else FRAMES
    dtype = options["dtype"] or frames.dtype
    layout = "NHWC" if options["layout"] == "NHWC" else "NCHW" if name == "gray" and options["layout"] else None
    length = len(anchors) // count
    full = length // batch_size
    assert (b.samples, len(b)) == (length, full if options["drop_last"] else -(-length // batch_size))
    order = b._order.anchors_at(0, 0, length)
    if options["shuffle"] is False:
        assert order.tolist() == list(range(index * length, (index + 1) * length))
    for number in range(len(b)):
        at = np.array(anchors)[order[number * batch_size : (number + 1) * batch_size]]
        got_x, got_y = b[number]
        expected_x = delivered(frames, x, at, x_time, dtype, layout)
        expected_y = delivered(frames, y, at, y_time, dtype, layout)
        if layout == "NCHW":
            expected_x, expected_y = np.expand_dims(expected_x, -3), np.expand_dims(expected_y, -3)
        np.testing.assert_array_equal(got_x, expected_x, strict=True)
        np.testing.assert_array_equal(got_y, expected_y, strict=True)
        for got, expected in zip(b.read(0, number, aligned=True), (expected_x, expected_y), strict=True):
            assert is_aligned(got)
            np.testing.assert_array_equal(got, expected, strict=True)


@given(st.integers(0, 96), st.integers(1, 96), st.sampled_from([False, True, 8]), st.integers(1, 9))
@settings(max_examples=40)
def test_parts_keep_to_themselves(store, start, length, shuffle, batch_size):
    """A part from the middle: its windows begin and end inside it, and every one comes once in an epoch."""
    gap, stop = start, min(97, start + length)
    if stop - start < 2 or start == 0:
        return
    ds = mm.open(store / "frames.npy")
    part = ds.split(gap, stop - start)[1]
    seen = Counter()
    for x, y in part.batches(batch_size, target=mm.NextFrame(), shuffle=shuffle):
        for one, following in zip(x, y, strict=True):
            number = next(k for k in range(97) if np.array_equal(FRAMES[k], one))
            np.testing.assert_array_equal(following, FRAMES[number + 1])
            seen[number] += 1
    assert seen == Counter(range(start, stop - 1))


# --- what x and y are -----------------------------------------------------------------------------------------------------


def test_targets(store):
    ds = mm.open({"image": store / "frames.npy", "label": store / "label.npy"})
    assert ds.batches(5)[1].shape == (5, 2, 3, 4)
    x, y = ds.batches(5, target="label")[1]
    np.testing.assert_array_equal(x, FRAMES[5:10])
    np.testing.assert_array_equal(y, LABELS[5:10])
    x, y = ds.batches(5, target="image")[1]
    np.testing.assert_array_equal(y, x)
    x, y = ds.batches(5, target=["label", "image"])[1]
    assert isinstance(y, list) and np.array_equal(y[0], LABELS[5:10]) and np.array_equal(y[1], FRAMES[5:10])
    (one, two), y = ds.batches(5, target="label", inputs=("label", "image"))[1]
    assert np.array_equal(one, y) and np.array_equal(two, FRAMES[5:10])
    x, y = ds.batches(5, target=mm.NextFrame(lead=2, field="label"))[1]
    np.testing.assert_array_equal(x, FRAMES[5:10])
    np.testing.assert_array_equal(y, LABELS[7:12])
    x, y = ds.batches(5, inputs="label", target=mm.Window(3, 2, lead=-1))[1]
    np.testing.assert_array_equal(x[0], LABELS[5:8])
    np.testing.assert_array_equal(y[0], LABELS[6:8])


@pytest.mark.parametrize("shuffle", [False, 8])
@pytest.mark.parametrize("lead", [-3, 0, 1, 4])
def test_several_inputs_with_a_window_stay_together(store, shuffle, lead):
    ds = mm.open({"image": store / "frames.npy", "label": store / "label.npy"}, episodes=[0, 40, 97])
    window = mm.Window(2, 3, lead=lead, sampling_rate=2, field="label")
    b = ds.batches(7, inputs=("image", "label"), target=window, shuffle=shuffle, dtype={"image": "f8"})
    for (image, label), y in b:
        assert (image.dtype, label.dtype, y.dtype) == (np.float64, np.int64, np.int64)
        np.testing.assert_array_equal(image, FRAMES[label // 10])
        np.testing.assert_array_equal(np.diff(label), 20)
        np.testing.assert_array_equal(y, label[:, -1:] + 10 * (lead + 2 * np.arange(3)))


def test_dtype_is_for_inputs_and_targets_taken_from_them(store):
    ds = mm.open({"image": store / "frames.npy", "label": store / "label.npy"})
    x, y = ds.batches(5, target="label", dtype="f2")[0]
    assert (x.dtype, y.dtype) == (np.float16, np.int64)
    x, y = ds.batches(5, target=mm.NextFrame(), dtype="f2")[0]
    assert (x.dtype, y.dtype) == (np.float16, np.float16)


def test_transform(store):
    ds = mm.open(store / "frames.npy")
    b = ds.batches(5, target=mm.NextFrame(), transform=lambda x, y: (x / 255, [1, 2, 3, 4, 5]))
    x, y = b[2]
    np.testing.assert_array_equal(x, FRAMES[10:15] / np.float32(255), strict=True)
    np.testing.assert_array_equal(y, np.array([1, 2, 3, 4, 5]))
    assert ds.batches(5, transform=lambda x: x.sum(axis=(1, 2, 3)))[0].shape == (5,)
    with pytest.raises(InvalidTypeError, match=r"transform=.*<lambda> returned ndarray for batch 0.*; expected the tuple \(x, y\)"):
        ds.batches(5, target=mm.NextFrame(), transform=lambda x, y: x)[0]


# --- views ----------------------------------------------------------------------------------------------------------------


class Counting(Reader):
    """A reader that notes what it is asked for, and by which thread, and offers runs alone."""

    def __init__(self, reader):
        self._reader = reader
        self.spec, self.why, self.place = reader.spec, reader.why, reader.place
        self.runs, self.threads, self.fail = [], [], False

    def read(self, start, stop, out):
        if self.fail:
            raise OSError("the disk is gone")
        name = threading.current_thread().name
        if not self.threads or self.threads[-1] != name:
            self.threads.append(name)
        self.runs.append((start, stop))
        self._reader.read(start, stop, out)


class CountingChunks(Counting):
    decoded_together = 1

    def whole_chunks(self, start, stop):
        return start, stop


def counted(path, decodes=False, **options):
    ds = mm.open(path, **options)
    reader = (CountingChunks if decodes else Counting)(ds.readers["data"])
    return mm.Dataset({"data": reader}, Episodes(ds.episodes), "counted"), reader


def _settles(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_sequential_next_frames_are_views_of_one_map(store):
    ds = mm.open(store / "frames.npy")
    b = ds.batches(8, target=mm.NextFrame())
    (x, y), (following, _) = b[0], b[1]
    assert np.shares_memory(x, y) and np.shares_memory(y, following) and x.base is not None
    assert not x.flags.writeable and not y.flags.writeable
    windows, _ = ds.batches(8, target=mm.Window(4))[0]
    assert np.shares_memory(windows, x) and windows.shape == (8, 4, 2, 3, 4)


@pytest.mark.parametrize("stretch", [1, 24, 1000])  # samples read at a time
@pytest.mark.parametrize("target", [mm.NextFrame(), mm.Window(4, 2, lead=1), mm.Window(2, None, lead=-3)])
def test_sequential_batches_read_each_frame_once(store, monkeypatch, target, stretch):
    ds, reader = counted(store / "frames.npy")
    monkeypatch.setattr(window_frames, "STRETCH_BYTES", stretch * ds.nbytes // len(ds))
    made = list(ds.batches(8, target=target))
    read = [sample for start, stop in sorted(reader.runs) for sample in range(start, stop)]
    assert read == list(range(97))
    assert len(reader.runs) == max(1, 97 // stretch) or stretch == 1
    for x, y in made:
        assert np.shares_memory(x, y) or target.history == 2
        assert not x.flags.writeable and not y.flags.writeable  # one buffer, seen twice


def test_the_next_window_is_read_while_this_one_is_in_use(store):
    ds, reader = counted(store / "frames.npy")
    b = ds.batches(4, target=mm.NextFrame(), shuffle=24, seed=3)
    b[0]
    assert _settles(lambda: len(reader.threads) == 2), "the second window was not read ahead"
    assert reader.threads[0] == threading.current_thread().name != reader.threads[1]


def test_an_error_while_looking_ahead_is_raised_where_its_batch_is_asked_for_and_not_kept(store):
    ds, reader = counted(store / "frames.npy")
    b = ds.batches(4, target=mm.NextFrame(), shuffle=24, seed=3)
    expected = b[6]
    b = ds.batches(4, target=mm.NextFrame(), shuffle=24, seed=3)
    b[0]
    reader.fail = True
    b = ds.batches(4, target=mm.NextFrame(), shuffle=24, seed=3)
    with pytest.raises(OSError, match="the disk is gone"):
        b[0]
    reader.fail = False
    assert np.array_equal(b[6][0], expected[0])


def test_batches_asked_for_out_of_order_again_and_again_warn_once_on_decoded_data(store):
    ds, _ = counted(store / "frames.npy", decodes=True)
    b = ds.batches(4, target=mm.NextFrame(), shuffle=24)
    list(b)  # in order: no word
    with pytest.warns(SlowAccessWarning, match=r"24 samples are decoded at a time.*up to 6 times.*shuffle=False.*cache") as caught:
        for number in (20, 3, 11, 0, 17, 7, 13, 1):
            b[number]
    assert len(caught) == 1


@pytest.mark.parametrize("mapped", [True, False])
def test_short_samples_are_held_by_windows_and_gathered_directly_where_order_fails(store, monkeypatch, mapped):
    """Raw samples of a few bytes that cannot be copied from a map: asked for at random, a window each time would be a waste."""
    expected = mm.open(store / "frames.npy").batches(4, target=mm.NextFrame(), shuffle=24)
    for module in (batch_reader, raw_reader):
        monkeypatch.setattr(module, "memory_available", lambda: 0)
    b = mm.open(store / "frames.npy", mapped=mapped).batches(4, target=mm.NextFrame(), shuffle=24)
    assert b.memory.parts["windows of frames"] > 0 == expected.memory.parts["windows of frames"]
    for number in (*range(len(b)), 20, 3, 11, 0, 17, 7, 13, 1, 22):
        assert all(np.array_equal(*pair) for pair in zip(b[number], expected.read(0, number), strict=True))


def test_decoded_windows_are_read_once_for_many_batches(store):
    ds, reader = counted(store / "frames.npy")
    b = ds.batches(7, target=mm.NextFrame(), shuffle=True)
    for number in range(len(b)):
        b[number]
    assert reader.runs == [(0, 97)]


def test_converted_and_shuffled_batches_may_be_written_to(store):
    ds = mm.open(store / "frames.npy")
    for x, y in (ds.batches(8, target=mm.NextFrame(), shuffle=True)[0], ds.batches(8, target="data", dtype="f8", shuffle=8)[0]):
        assert x.flags.writeable and y.flags.writeable and not np.shares_memory(x, y)


def test_lent_batches_keep_their_values(store):
    """Held for any time, dropped in any order, by several threads on one `Batches`."""
    b = mm.open(store / "frames.npy").batches(4, target=mm.NextFrame(), shuffle=20, dtype="f8")
    expected = [[(x.copy(), y.copy()) for x, y in (b.read(epoch, n) for n in range(len(b)))] for epoch in range(3)]
    wrong = []

    def work(seed):
        rng, held = np.random.default_rng(seed), []
        for _ in range(250):
            epoch, number = int(rng.integers(3)), int(rng.integers(len(b)))
            held.append((epoch, number, b.read(epoch, number)))
            for e, n, (x, y) in held:
                if not (np.array_equal(x, expected[e][n][0]) and np.array_equal(y, expected[e][n][1])):
                    wrong.append((e, n))
            if len(held) > 5:
                del held[int(rng.integers(6))]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_share_decoded_windows(store):
    ds, _ = counted(store / "frames.npy")
    b = ds.batches(5, target=mm.NextFrame(), shuffle=16)
    expected = [b.read(0, n)[0].copy() for n in range(len(b))]
    wrong = []

    def work(seed):
        for number in np.random.default_rng(seed).integers(0, len(b), 60).tolist():
            if not np.array_equal(b.read(0, number)[0], expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- iteration and position -----------------------------------------------------------------------------------------------


def made(store, **options):
    return mm.open(store / "frames.npy").batches(10, target=mm.NextFrame(), **{"shuffle": 20, **options})


def values(batches):
    return [np.array(x) for x, _ in batches]


def same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def test_each_loop_is_the_next_epoch(store):
    b = made(store)
    epochs = [values(b) for _ in range(3)]
    for number, epoch in enumerate(epochs):
        same(epoch, values(b.read(number, k) for k in range(len(b))))
    assert not np.array_equal(epochs[0][0], epochs[1][0]) and b.position == (3, 0)


def test_a_loop_left_early_is_begun_again(store):
    b = made(store)
    for k, _ in enumerate(b):
        if k == 3:
            break
    assert b.position == (0, 4)
    same(values(b), values(b.read(0, k) for k in range(len(b))))


def test_a_loop_left_before_its_first_batch_has_not_begun(store):
    b = made(store)
    iter(b)
    same(values(b), values(b.read(0, k) for k in range(len(b))))


def test_a_loop_left_after_its_last_batch_is_over(store):
    b = made(store)
    list(itertools.islice(b, len(b)))
    assert b.position == (1, 0)
    same(values(b), values(b.read(1, k) for k in range(len(b))))


def test_random_access(store):
    b = made(store)
    same([b[-1][0], b[-len(b)][0]], [b.read(0, len(b) - 1)[0], b.read(0, 0)[0]])
    assert b.position == (0, 0)
    iterator = iter(b)
    next(iterator)
    same([b[3][0]], [b.read(0, 3)[0]])
    same([next(iterator)[0]], [b.read(0, 1)[0]])
    for number in (len(b), -len(b) - 1, 10**30):
        with pytest.raises(OutOfRangeError, match=rf"there is no batch {number}: an epoch has 10 batches, counted from 0"):
            b[number]
    for number in ("1", 1.0, slice(1)):
        with pytest.raises(InvalidTypeError, match=r"a batch number=.* is not a whole number"):
            b[number]


@pytest.mark.parametrize("stop", [0, 1, 4, 9, 10])
def test_a_saved_position_is_gone_on_with_exactly(store, stop):
    b = made(store, dtype="f8")
    list(b)
    list(itertools.islice(b, stop))
    state = json.loads(json.dumps(b.state_dict()))
    assert len(json.dumps(state)) < 1000
    rest = values(b.read(1, k) for k in range(stop, len(b))) or values(b.read(2, k) for k in range(len(b)))
    fresh = made(store, dtype="f8")
    fresh.load_state_dict(state)
    assert fresh.state_dict() == state and fresh.position == b.position
    same(values(fresh), rest)
    same(values(fresh), values(b.read(2 if stop < len(b) else 3, k) for k in range(len(b))))


def test_saving_inside_the_loop_counts_the_batch_in_hand(store):
    b = made(store)
    for k, _ in enumerate(b):
        assert (b.state_dict()["epoch"], b.state_dict()["batch"]) == ((0, k + 1) if k + 1 < len(b) else (1, 0))


def test_a_position_survives_a_copy_of_the_file_in_another_format(store, tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=FRAMES, chunks=(16, 2, 3, 4), compression="gzip")
    state = made(store).state_at(3, 2)
    moved = mm.open(tmp_path / "x.h5").batches(10, target=mm.NextFrame(), shuffle=20)
    moved.load_state_dict(state)
    same(values(moved), values(made(store).read(3, k) for k in range(2, 10)))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"seed": 1}, r"seed: saved 0, now 1"),
        ({"shuffle": True}, r"shuffle: saved \[1, 20\], now \[16384, 32\]"),
        ({"shuffle": False}, r"shuffle: saved \[1, 20\], now None"),
        ({"dtype": "f8"}, r"arrays: saved '\w+', now '\w+'"),
        ({"layout": "NHWC"}, r"arrays: saved"),
    ],
)
def test_positions_of_another_order_are_refused(store, options, text):
    state = made(store).state_dict()
    with pytest.raises(
        StateMismatchError, match=rf"the saved position belongs to another order \(.*{text}.*Make the batches as they were"
    ):
        made(store, **options).load_state_dict(state)


def test_positions_of_another_target_are_refused(store):
    """Of the same length, even: both windows span two frames."""
    ds = mm.open(store / "frames.npy")
    state = ds.batches(10, target=mm.NextFrame()).state_dict()
    with pytest.raises(StateMismatchError, match="another order"):
        ds.batches(10, target=mm.Window(2, None, lead=0)).load_state_dict(state)


def test_positions_of_other_data_are_refused(store, tmp_path):
    state = made(store).state_dict()
    changed = FRAMES.copy()
    changed[96, 0, 0, 0] += 1
    np.save(tmp_path / "frames.npy", changed)
    b = mm.open(tmp_path / "frames.npy").batches(10, target=mm.NextFrame(), shuffle=20)
    with pytest.raises(StateMismatchError, match=r"belongs to other data than .*frames.npy: lengths agree, contents do not"):
        b.load_state_dict(state)
    assert b.position == (0, 0)


@pytest.mark.parametrize("state", [None, {}, [], "x", {"epoch": 0}, {"epoch": "a", "batch": 0, "order": {}, "fingerprint": ""}])
def test_what_is_no_position(store, state):
    with pytest.raises(StateMismatchError, match=r"is not a saved position; expected what state_dict\(\) returned"):
        made(store).load_state_dict(state)


@pytest.mark.parametrize(("epoch", "batch"), [(-1, 0), (0, -1), (0, 11)])
def test_positions_outside_the_epoch(store, epoch, batch):
    b = made(store)
    with pytest.raises(StateMismatchError, match=r"but an epoch has 10 batches"):
        b.load_state_dict(b.state_at(epoch, batch))


def test_a_position_may_be_saved_after_every_batch(store):
    """The digest of the data is taken once: it would decode chunks."""
    ds, reader = counted(store / "frames.npy")
    b = ds.batches(10)
    b.state_dict()
    before = len(reader.runs)
    for _ in range(5):
        b.state_dict()
    assert len(reader.runs) == before


# --- other processes --------------------------------------------------------------------------------------------------------


def test_batches_pickle_by_path(store, tmp_path):
    np.save(tmp_path / "large.npy", np.arange(200_000.0).reshape(1000, 200))
    for source in (tmp_path / "large.npy", np.load(tmp_path / "large.npy", mmap_mode="r")[10:]):
        b = mm.open(source).batches(10, target=mm.NextFrame(), shuffle=True, seed=3)
        b[0]
        dumped = pickle.dumps(b)
        assert len(dumped) < 20_000
        again = pickle.loads(dumped)
        same(values(again), values(b))
        same(values(copy.deepcopy(b)), values(b))


def _checksums(b, queue):
    queue.put([float(np.sum(x * np.arange(x.size).reshape(x.shape))) for x, _ in (b[k] for k in range(len(b)))])


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("shuffle", [False, 20])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_processes_read_right(store, method, shuffle):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this platform")
    context = multiprocessing.get_context(method)
    b = made(store, shuffle=shuffle, dtype="f8")
    x, _ = b[0]  # descriptors are open, buffers lent and, after this line, free
    held = b[1][0]
    before = held.copy()
    del x
    expected = [float(np.sum(x * np.arange(x.size).reshape(x.shape))) for x, _ in (b[k] for k in range(len(b)))]
    queue = context.SimpleQueue()
    children = [context.Process(target=_checksums, args=(b, queue)) for _ in range(2)]
    for child in children:
        child.start()
    found = [queue.get() for _ in children]
    for child in children:
        child.join()
    queue.close()
    assert found == [expected, expected] and [child.exitcode for child in children] == [0, 0]
    np.testing.assert_array_equal(held, before)


# --- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"batch_size": 0}, InvalidValueError, r"batch_size=0 is too small; expected 1 or more"),
        ({"batch_size": 2.0}, InvalidTypeError, r"batch_size=2.0 is not a whole number"),
        ({"seed": "x"}, InvalidTypeError, r"seed='x' is not a whole number"),
        ({"shard": (2, 2)}, InvalidValueError, r"shard=\(2, 2\) does not exist; expected an index from 0 to count - 1"),
        ({"shard": (-1, 2)}, InvalidValueError, r"shard=\(-1, 2\) does not exist"),
        ({"shard": 3}, InvalidTypeError, r"shard=3 is not understood; expected \(index, count\)"),
        ({"shard": (0, 98)}, InvalidValueError, r"has 97 windows, too few for 98 shards"),
        ({"shuffle": 1}, InvalidValueError, r"shuffle=1 samples cannot be shuffled"),
        ({"shuffle": "all"}, InvalidTypeError, r"shuffle='all' is not understood"),
        ({"target": mm.NextFrame}, InvalidTypeError, r"is not called yet; write NextFrame\(\) or Window"),
        ({"target": mm.Window}, InvalidTypeError, r"is not called yet"),
        ({"target": 5}, InvalidTypeError, r"target=5 is not understood; expected NextFrame\(\), Window\(...\), a field name"),
        ({"target": "lable"}, KeyNotFoundError, r"target names the field 'lable', which is not there; the fields are 'data'"),
        ({"target": mm.NextFrame(field="y")}, KeyNotFoundError, r"the target names the field 'y'"),
        ({"inputs": "y"}, KeyNotFoundError, r"inputs names the field 'y'"),
        ({"inputs": ()}, InvalidValueError, r"inputs=\(\) names no field; expected some of data"),
        ({"dtype": "O"}, InvalidTypeError, r"dtype='O' is not a NumPy dtype of numbers"),
        ({"dtype": "float33"}, InvalidTypeError, r"dtype='float33' is not a NumPy dtype of numbers"),
        ({"dtype": {"y": "f4"}}, KeyNotFoundError, r"dtype names the field 'y'"),
        ({"layout": "HWC"}, InvalidValueError, r"layout='HWC' is not understood; expected N first"),
        ({"layout": "NHW"}, InvalidValueError, r"layout='NHW' does not fit the field 'data', whose samples have the axes 'CHW'"),
        ({"layout": "NDHWC"}, InvalidValueError, r"layout='NDHWC' does not fit"),
        ({"layout": 4}, InvalidValueError, r"layout=4 is not understood"),
        ({"transform": "x / 255"}, InvalidTypeError, r"transform='x / 255' cannot be called"),
        ({"max_memory": "lots"}, InvalidValueError, r"max_memory='lots' is not a size"),
        ({"batch_size": 98, "drop_last": True}, InvalidValueError, r"drop_last=True leaves no batch: there are 97 samples"),
        ({"target": mm.Window(98)}, InvalidValueError, r"has no window: one spans 99 samples, the longest episode has 97"),
        ({"target": mm.NextFrame(97)}, InvalidValueError, r"one spans 98 samples, the longest episode has 97. Shorten the window"),
        ({"target": mm.Window(2, start_index=97)}, InvalidValueError, r"start_index=97 to end_index=None leave the data"),
    ],
)
def test_arguments_that_cannot_be_meant(store, options, error, text):
    with pytest.raises(error, match=text) as caught:
        mm.open(store / "frames.npy").batches(**{"batch_size": 10, **options})
    assert isinstance(caught.value, mm.MmapstoreError)


def test_batches_are_no_array(store):
    b = made(store)
    with pytest.raises(TypeError, match=r"these are batches, not an array; write model.fit\(batches.to_keras\(\), shuffle=False\)"):
        np.asarray(b)


def test_repr_says_what_matters(store):
    ds = mm.open(store / "frames.npy", episodes=[0, 40, 97])
    text = repr(ds.batches(10, target=mm.NextFrame()))
    assert "10 x 10, x (2, 3, 4) float32, y (2, 3, 4) float32; in sequential order (2 of 97 samples begin no window); peak" in text
    assert "shuffled throughout" in repr(ds.batches(10, shuffle=True))
    assert "shuffled in windows of 20 from 20 places (effective batch at least 6.9)" in repr(ds.batches(10, shuffle=20))
    assert "x (2, 2, 3, 4) float64; in sequential order" in repr(ds.batches(10, target=None, dtype="f8")).replace(
        "x (2, 3", "x (2, 2, 3"
    )


def test_a_reader_dies_with_its_batches(store):
    b = made(store)
    b[0]
    x = made(store, shuffle=False)[0][0]
    del b
    np.testing.assert_array_equal(x, FRAMES[:10])
    assert os.path.exists(store / "frames.npy")


@pytest.mark.parametrize(
    "arguments",
    [{}, {"shuffle": 40, "seed": 2}, {"drop_last": True}, {"transform": lambda x, y: (x + 1, y)}],
    ids=["stored", "shuffled", "drop_last", "transform"],
)
@pytest.mark.parametrize("start", [0, 5, 23])
def test_small_batches_are_read_together_and_come_one_by_one(store, monkeypatch, arguments, start):
    monkeypatch.setattr(batch_reader, "TOGETHER_BYTES", 7 * 4 * 4 * 2 * FRAMES[0].nbytes)  # a fourth: seven batches of pairs
    b = mm.open(store / "frames.npy").batches(4, target=mm.NextFrame(), **arguments)
    reads = b.grouped(lambda have, want: False)
    assert reads is None if "transform" in arguments else reads.most == 7
    b.load_state_dict(b.state_at(1, start))
    for number, (x, y) in enumerate(b, start=start):
        assert b.position == ((1, number + 1) if number + 1 < len(b) else (2, 0))
        for found, expected in zip((x, y), b.read(1, number), strict=True):
            np.testing.assert_array_equal(found, expected)
            assert found.flags.writeable == expected.flags.writeable
    assert number == len(b) - 1 and b.position == (2, 0)
    for _ in range(2):
        np.testing.assert_array_equal(next(iter(b))[0], b.read(2, 0)[0])
        assert b.position == (2, 1)  # of what was read together, one was taken


def test_a_second_pass_over_the_same_epoch_is_checked_too(tmp_path):
    np.save(tmp_path / "x.npy", FRAMES)
    b = mm.open(tmp_path / "x.npy").batches(4, target=mm.NextFrame())
    assert len([b.read(0, batch) for batch in range(len(b))]) == len(b)
    os.truncate(tmp_path / "x.npy", os.path.getsize(tmp_path / "x.npy") // 2)
    with pytest.raises(DamagedFileError, match=r"x\.npy"):
        b.read(0, 0)
