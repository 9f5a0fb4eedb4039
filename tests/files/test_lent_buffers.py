"""Buffers are reused, and never while anything looks into them."""

from __future__ import annotations

import gc
import os
import pickle
import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mmapstore.files.lent_buffers import ALIGNMENT, LentBuffers, is_aligned


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", ["?", "u1", "i8", "f2", "f4", "f8", "c8", "S5"])
@pytest.mark.parametrize("shape", [(3, 5), (1,), (), (0, 4), (4, 0), (1000, 7)])
def test_what_is_lent(shape, dtype):
    array = LentBuffers().lend(shape, np.dtype(dtype))
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert array.flags.c_contiguous and array.flags.writeable and address(array) % 4096 == 0 and is_aligned(array)
    array[...] = 1
    assert (array == np.array(1, dtype)).all()


def test_a_dead_buffer_is_lent_again():
    pool = LentBuffers()
    first = pool.lend((4, 3), np.dtype("f4"))
    place = address(first)
    del first
    assert address(pool.lend((6, 2), np.dtype("i4"))) == place


VIEWS = {
    "slice": lambda a: a[1:3],
    "transpose": lambda a: a.T,
    "reshape": lambda a: a.reshape(-1)[5:],
    "dtype": lambda a: a.view(np.uint8),
    "view of a view of a view": lambda a: a[1:].T[:, :2].view(np.ndarray)[1:],
    "memoryview": lambda a: memoryview(a),
    "sliding windows": lambda a: np.lib.stride_tricks.sliding_window_view(a, 2, axis=0),
    "broadcast": lambda a: np.broadcast_to(a, (5, *a.shape)),
    "frombuffer": lambda a: np.frombuffer(a, np.uint8),
    "asarray": lambda a: np.asarray(a),
    "subclass": lambda a: a.view(np.matrix),
    "iterator": lambda a: iter(a),
    "flat": lambda a: a.flat,
    "closure": lambda a: lambda: a,
}


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_any_view_keeps_the_buffer(view):
    pool = LentBuffers()
    array = pool.lend((6, 4), np.dtype("f4"))
    place = address(array)
    held = view(array)
    del array
    gc.collect()
    assert address(pool.lend((6, 4), np.dtype("f4"))) != place
    del held
    gc.collect()
    assert any(address(one) == place for one in [pool.lend((6, 4), np.dtype("f4")) for _ in range(3)])


def test_a_buffer_outlives_its_pool():
    array = LentBuffers().lend((1000,), np.dtype("f8"))
    array[:] = np.arange(1000)
    gc.collect()
    np.testing.assert_array_equal(array, np.arange(1000))


def test_few_dead_buffers_are_kept():
    pool = LentBuffers()
    lent = [pool.lend((10,), np.dtype("f8")) for _ in range(50)]
    del lent
    assert sum(map(len, pool._free.values())) == 8


class Lending(RuleBasedStateMachine):
    """Whatever is lent, viewed and dropped in whatever order, nobody's values change."""

    def __init__(self):
        super().__init__()
        self.pool = LentBuffers()
        self.held: list[tuple[np.ndarray, int]] = []
        self.counter = 0

    @rule(size=st.sampled_from([10, 1000, 1024, 5000]), part=st.integers(0, 3))
    def lend(self, size, part):
        self.counter += 1
        array = self.pool.lend((4, size), np.dtype("i4"))
        array[...] = self.counter
        self.held.append((array if part == 3 else array[part : part + 1].T, self.counter))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def drop(self, data):
        self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))

    @invariant()
    def everybody_has_his_own(self):
        assert all((array == number).all() for array, number in self.held)


Lending.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestLending = Lending.TestCase


def test_threads_never_share_a_buffer():
    pool, wrong = LentBuffers(), []

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        held: list[tuple[np.ndarray, int]] = []
        for turn in range(600):
            array = pool.lend((int(rng.integers(1, 4)) * 500,), np.dtype("i8"))
            array[...] = number * 10_000 + turn
            held.append((array[::2], number * 10_000 + turn))
            for view, value in held:
                if not (view == value).all():
                    wrong.append((number, turn))
            if len(held) > rng.integers(1, 6):
                del held[int(rng.integers(len(held)))]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_writes_into_memory_of_its_own():
    pool = LentBuffers()
    array = pool.lend((1000,), np.dtype("i4"))
    free = pool.lend((1000,), np.dtype("i4"))
    array[:] = 7
    del free
    child = os.fork()
    if child == 0:
        array[:] = 8
        pool.lend((1000,), np.dtype("i4"))[:] = 9
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (array == 7).all()


def test_a_pool_pickles_empty():
    pool = LentBuffers()
    pool.lend((1000, 1000), np.dtype("f8"))
    assert len(pickle.dumps(pool)) < 200
    pickle.loads(pickle.dumps(pool)).lend((3,), np.dtype("f4"))


def test_aligned_arrays_are_told_apart():
    array = LentBuffers().lend((100, 16), np.dtype("f4"))
    assert is_aligned(array[1:]) and ALIGNMENT == 64
    assert not is_aligned(array[:, 1:]) and not is_aligned(array.reshape(-1)[1:])
