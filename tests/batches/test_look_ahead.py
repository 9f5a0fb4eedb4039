"""Promises: done once, by a thread or by whoever asks; errors come out where they are asked for; nothing is left behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from functools import partial

import numpy as np
import pytest

import mmapstore as mm
from mmapstore.batches.look_ahead import THREADS, LookAhead, Promise
from mmapstore.files.worker_threads import _IDLE_SECONDS
from mmapstore.plain.errors import TransformError


def ahead_threads():
    return [thread for thread in threading.enumerate() if thread.name == "mmapstore-ahead"]


def test_a_thread_does_the_work_before_it_is_asked_for():
    done = threading.Event()
    promise = Promise(lambda: (done.set(), threading.current_thread().name)[1])
    assert done.wait(10)
    assert promise.result() == "mmapstore-ahead"


def test_whoever_asks_does_what_no_thread_has_begun():
    hold = threading.Event()
    blocking = [Promise(hold.wait) for _ in range(THREADS)]
    time.sleep(0.05)
    assert Promise(lambda: threading.current_thread().name).result() == threading.current_thread().name
    hold.set()
    assert all(promise.result() for promise in blocking)


def test_an_error_is_raised_where_the_result_is_asked_for():
    promise = Promise(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        promise.result()


def test_dropping_waits_for_what_is_under_way_and_prevents_what_is_not():
    begun, hold, calls = threading.Event(), threading.Event(), []
    promises = [Promise(lambda: (begun.set(), hold.wait(10), calls.append("begun"))) for _ in range(THREADS)]
    begun.wait(10)
    time.sleep(0.05)
    never = Promise(lambda: calls.append("never"))
    never.drop()
    threading.Timer(0.05, hold.set).start()
    for promise in promises:
        promise.drop()
    assert calls == ["begun"] * THREADS
    never.wait()  # does not hang
    time.sleep(0.05)
    assert "never" not in calls


def test_threads_end_when_there_is_nothing_to_do():
    Promise(lambda: None).result()
    deadline = time.monotonic() + 20 * _IDLE_SECONDS + 5
    while ahead_threads() and time.monotonic() < deadline:
        time.sleep(_IDLE_SECONDS / 4)
    assert not ahead_threads()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_keeps_the_promises_of_its_parent():
    begun, hold = threading.Event(), threading.Event()
    under_way = Promise(lambda: (begun.set(), hold.wait(0.5), 6 * 7)[2])
    begun.wait(10)
    child = os.fork()
    if child == 0:
        try:
            os._exit(under_way.result() if Promise(lambda: 1).result() == 1 else 1)
        finally:
            os._exit(99)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    hold.set()
    if ended == (0, 0):
        os.kill(child, 9)
    assert os.waitstatus_to_exitcode(ended[1]) == 42
    assert under_way.result() == 42


def test_look_ahead_reads_each_once_in_order_and_what_is_asked_for_out_of_order():
    read = []
    ahead = LookAhead(lambda number: read.append(number) or partial(pow, number, 2))
    assert [ahead.get(n, range(n + 1, 10)) for n in range(10)] == [n * n for n in range(10)]
    assert read == list(range(10))
    assert ahead.get(3, [4]) == 9 and ahead.get(7) == 49
    ahead.close()


def test_a_loop_that_is_left_early_leaves_nothing_behind():
    data = np.random.default_rng(0).random((5000, 40), "f4")
    b = mm.open(data).batches(32, target=mm.NextFrame(), shuffle=True)
    for number, _ in enumerate(b):
        if number == 3:
            break
    kept = weakref.ref(b)
    del b, _
    time.sleep(2 * _IDLE_SECONDS)
    gc.collect()
    assert kept() is None


def test_transforms_are_called_once_for_each_batch_and_their_errors_come_out():
    calls = []
    data = np.arange(100, dtype="f4").reshape(100, 1)

    def transform(x):
        calls.append(float(x[0, 0]))
        if len(calls) == 6:
            raise LookupError("sixth")
        return x

    b = mm.open(data).batches(10, transform=transform)
    with pytest.raises(TransformError, match="transform raised LookupError: sixth, for batch 5 of epoch 0") as raised:
        list(b)
    assert isinstance(raised.value.__cause__, LookupError)
    assert calls == [0, 10, 20, 30, 40, 50]


ENDS_EARLY = """
import os
import time
import numpy as np
import mmapstore as mm

def slow(x):
    time.sleep(0.3)
    return x

epoch = iter(mm.open(np.zeros((64, 8), "f4")).batches(4, transform=slow, shuffle=True, seed=0))
next(epoch)  # the next batch is under way in a thread, which the end of the interpreter would stop

class Last:
    def __del__(self):
        os.write(1, b"the end")

last = Last()
"""


def test_a_program_ends_while_a_batch_is_made_ahead():
    done = subprocess.run([sys.executable, "-c", ENDS_EARLY], check=True, timeout=60, capture_output=True)
    assert done.stdout == b"the end"
