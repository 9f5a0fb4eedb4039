"""An ordered map over threads: the order of the items, bounded, with errors at their place, and an end when it is closed."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmapstore.operations.ingest.ordered_map import in_order


class Watched:
    """Work that counts how many calls and how many bytes are under way at once."""

    def __init__(self, sizes):
        self.sizes = sizes
        self.lock = threading.Lock()
        self.now = self.most = self.bytes_now = self.bytes_most = 0
        self.begun = []

    def __call__(self, item):
        with self.lock:
            self.begun.append(item)
            self.now += 1
            self.bytes_now += self.sizes[item]
            self.most, self.bytes_most = max(self.most, self.now), max(self.bytes_most, self.bytes_now)
        time.sleep(0.0005 * (item % 3))
        with self.lock:
            self.now -= 1
            self.bytes_now -= self.sizes[item]
        return item, threading.get_ident()


@given(
    sizes=st.lists(st.integers(0, 10), max_size=40),
    workers=st.integers(1, 5),
    ahead=st.integers(1, 8),
    most=st.integers(0, 25),
)
def test_order_and_bounds_hold(sizes, workers, ahead, most):
    work = Watched(sizes)
    found = in_order(range(len(sizes)), work, workers=workers, ahead=ahead, nbytes=sizes.__getitem__, most_nbytes=most)
    taken = []
    for number, _ in found:
        assert len(work.begun) <= len(taken) + 1 + max(ahead, workers)
        taken.append(number)
    assert taken == list(range(len(sizes)))
    assert sorted(work.begun) == taken
    assert work.most <= workers
    assert work.bytes_most <= max(most, max(sizes, default=0))


def test_several_threads_take_part():
    met = threading.Barrier(3)

    def work(item):
        met.wait(timeout=30)  # only if three are at work at once does anybody go on
        return item

    assert list(in_order(range(9), work, workers=3, ahead=3)) == list(range(9))


def test_an_item_larger_than_the_bound_runs_alone():
    work = Watched([1, 100, 1, 1, 100, 1])
    sizes = work.sizes
    assert [n for n, _ in in_order(range(6), work, workers=4, ahead=6, nbytes=sizes.__getitem__, most_nbytes=10)] == list(range(6))
    assert work.bytes_most == 100


def test_an_error_comes_at_its_place_and_ends_the_rest():
    begun = []

    def work(item):
        begun.append(item)
        if item == 5:
            raise ValueError("five")
        time.sleep(0.001)
        return item

    results = in_order(itertools.count(), work, workers=3, ahead=4)
    assert list(itertools.islice(results, 5)) == list(range(5))
    with pytest.raises(ValueError, match="five"):
        next(results)
    assert list(results) == []
    assert max(begun) <= 5 + 4


def test_an_error_of_the_items_comes_behind_their_results():
    def items():
        yield from range(3)
        raise KeyError("items")

    results = in_order(items(), lambda item: item, workers=2, ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="items"):
        next(results)


def test_closing_waits_for_what_is_under_way_and_begins_nothing_more():
    begun, ended = [], []
    under_way = threading.Event()

    def work(item):
        begun.append(item)
        if item:
            under_way.set()
            time.sleep(0.02)
        ended.append(item)
        return item

    results = in_order(itertools.count(), work, workers=2, ahead=3)
    assert next(results) == 0
    assert under_way.wait(30)
    results.close()
    seen = list(begun)
    assert sorted(ended) == sorted(seen)
    time.sleep(0.05)
    assert begun == seen


def test_nothing_begins_before_the_first_is_asked_for():
    begun = []
    results = in_order(range(5), begun.append, workers=2, ahead=5)
    time.sleep(0.02)
    assert begun == []
    results.close()


def test_results_are_let_go_once_taken():
    class Large:
        pass

    alive = []

    def work(item):
        made = Large()
        alive.append(weakref.ref(made))
        return made

    results = in_order(range(20), work, workers=1, ahead=2)
    for number, taken in enumerate(results):
        del taken
        gc.collect()
        assert sum(ref() is not None for ref in alive[:number]) == 0
    gc.collect()
    assert all(ref() is None for ref in alive)


def test_no_items():
    assert list(in_order([], lambda item: item, workers=2, ahead=2)) == []
