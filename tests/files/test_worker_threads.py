"""Work shared out to threads: all of it, once, and nothing under way when the call is over."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import weakref

import pytest

from mmapstore.files import worker_threads
from mmapstore.files.worker_threads import share_out, usable_cpus


@pytest.fixture(autouse=True, params=[1, 2, 5])
def cpus(request, monkeypatch):
    monkeypatch.setattr(worker_threads, "usable_cpus", lambda: request.param)
    return request.param


def test_every_task_is_done_once(cpus):
    for count in (0, 1, 2, 1000):
        done, seen = [], set()

        def work(tasks, done=done, seen=seen):
            for task in tasks:
                seen.add(threading.get_ident())
                done.append(task)

        share_out(range(count), work)
        assert sorted(done) == list(range(count)) and len(seen) <= cpus


def test_threads_work_at_the_same_time(cpus):
    together = threading.Barrier(cpus)

    def work(tasks):
        for _ in tasks:
            together.wait(30)

    share_out(range(cpus), work)


def test_the_calling_thread_takes_part_so_calls_may_nest(cpus):
    done = []

    def outer(tasks):
        for task in tasks:
            share_out(range(3), lambda inner, task=task: done.extend((task, one) for one in inner))

    share_out(range(6), outer)
    assert sorted(done) == [(a, b) for a in range(6) for b in range(3)]


def test_many_callers_at_once():
    results = {}

    def call(name):
        done = []
        for _ in range(30):
            share_out(range(5), lambda tasks: done.extend(tasks))
        results[name] = len(done)

    callers = [threading.Thread(target=call, args=(name,)) for name in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert results == dict.fromkeys(range(6), 150)


def test_the_first_exception_is_raised_and_ends_the_rest(cpus):
    begun = []

    def work(tasks):
        for task in tasks:
            begun.append(task)
            if task == 3:
                raise ValueError("task 3")
            time.sleep(0.001)

    with pytest.raises(ValueError, match="task 3"):
        share_out(range(1000), work)
    after = len(begun)
    assert after <= 4 + 3 * cpus
    time.sleep(0.02)
    assert len(begun) == after


def test_nothing_is_under_way_after_an_interrupt(cpus):
    """Ctrl-C in the calling thread waits for what the others have begun; they begin nothing new."""
    under_way, main, done = set(), threading.get_ident(), []

    def work(tasks):
        for task in tasks:
            under_way.add(task)
            if threading.get_ident() == main and (cpus == 1 or len(under_way) > 1):
                raise KeyboardInterrupt
            time.sleep(0.05)
            under_way.discard(task)
            done.append(task)

    with pytest.raises(KeyboardInterrupt):
        share_out(range(200), work)
    finished = len(done)
    assert len(under_way) == 1  # the task that was interrupted
    time.sleep(0.1)
    assert len(done) == finished < 200


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this platform")
def test_an_interrupt_while_waiting_still_waits():
    """The caller has nothing left to do when the signal comes, a helper has."""
    state = {"helping": False}
    main = threading.get_ident()
    worker_threads_cpus = worker_threads.usable_cpus()
    if worker_threads_cpus == 1:
        pytest.skip("nobody to wait for")
    begun = threading.Event()

    def work(tasks):
        for _ in tasks:
            if threading.get_ident() == main:
                begun.wait(30)
            else:
                state["helping"] = True
                begun.set()
                time.sleep(0.4)
                state["helping"] = False

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)  # again and again
        with pytest.raises(KeyboardInterrupt):
            try:
                share_out(range(2), work)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                assert begun.is_set() and not state["helping"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_idle_threads_hold_nothing_and_end():
    class Thing:
        pass

    thing = Thing()
    gone = weakref.ref(thing)

    def work(tasks, thing=thing):
        for task in tasks:
            if task == 7:
                raise ValueError(thing)

    for count in (3, 9):
        try:
            share_out(range(count), work)
        except ValueError:
            assert count == 9
    del thing, work
    gc.collect()
    assert gone() is None
    deadline = time.monotonic() + 20
    while any(thread.name == "mmapstore-decode" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert worker_threads._decoders._threads == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own(cpus):
    share_out(range(10), lambda tasks: list(tasks))
    child = os.fork()
    if child == 0:
        together = threading.Barrier(cpus)

        def work(tasks):
            for _ in tasks:
                together.wait(20)

        share_out(range(cpus), work)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_where_no_thread_can_be_started_the_caller_does_it_all(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    deadline = time.monotonic() + 20
    while worker_threads._decoders._threads:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    done = []
    share_out(range(10), lambda tasks: done.extend(tasks))
    assert sorted(done) == list(range(10))


def test_processors_are_counted():
    assert 1 <= usable_cpus() <= (os.cpu_count() or 1)
