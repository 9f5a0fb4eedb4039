"""The rest of an epoch, divided among other numbers of workers, against brute force."""

from __future__ import annotations

from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmapstore.plain.resumed_order import Begun, ResumedOrder, batches_of, samples_left
from mmapstore.plain.sample_order import SampleOrder, Shuffling

shufflings = st.none() | st.builds(Shuffling, block=st.integers(1, 12), blocks_per_window=st.integers(1, 9))


@st.composite
def histories(draw):
    """(anchors, workers and their samples in turn) of an epoch that was resumed up to three times."""
    anchors, before = draw(st.integers(1, 400)), []
    for _ in range(draw(st.integers(1, 4))):
        workers = draw(st.integers(1, min(7, anchors)))
        before.append(Begun(workers, draw(st.integers(0, samples_left(anchors, before) // workers))))
    return anchors, before


@st.composite
def resumed(draw):
    """(the orders of all workers of now, epoch, the samples that earlier ones have seen)."""
    (anchors, before), shuffling, epoch = draw(histories()), draw(shufflings), draw(st.integers(0, 50))
    batch_size, drop_last, seed = draw(st.integers(1, 20)), draw(st.booleans()), draw(st.integers(0, 2**40))

    def orders(begun, count):
        whole = [SampleOrder(anchors, shuffling, seed, (index, count)) for index in range(count)]
        return [ResumedOrder(each, epoch, begun, batch_size, drop_last) if begun else each for each in whole]

    seen = []
    for number, (workers, samples) in enumerate(before):
        for order in orders(before[:number], workers):
            start = order.begin(epoch)
            seen += order.anchors_at(epoch, start, start + samples).tolist()
    return orders(before, draw(st.integers(1, min(7, anchors)))), epoch, seen, batch_size, drop_last


@given(resumed())
def test_each_sample_is_seen_once_and_fewer_than_there_are_workers_are_left_out(case):
    orders, epoch, seen, batch_size, drop_last = case
    rest = [order.anchors_at(epoch, order.begin(epoch), order.end(epoch)).tolist() for order in orders]
    assert len({len(each) for each in rest}) == 1
    left_out = orders[0].left_out(epoch).tolist()
    assert len(left_out) < len(orders)
    assert sorted([*seen, *chain.from_iterable(rest), *left_out]) == list(range(orders[0].anchors))
    # Batches are numbered up to the last of a whole epoch.
    first, odd = divmod(orders[0].begin(epoch), batch_size)
    ends = batches_of(len(orders[0]), batch_size, drop_last)
    assert odd == 0 and first + batches_of(len(rest[0]), batch_size, drop_last) == ends


@given(resumed(), st.randoms(use_true_random=False))
def test_random_access_agrees_with_the_whole_rest(case, random):
    orders, epoch, *_ = case
    order = random.choice(orders)
    begin, end = order.begin(epoch), order.end(epoch)
    whole = order.anchors_at(epoch, begin, end).tolist()
    for _ in range(5):
        start = random.randrange(begin, end + 1)
        stop = random.randrange(start, end + 1)
        order.anchors_at(epoch + 1, 0, 1)
        assert order.anchors_at(epoch, start, stop).tolist() == whole[start - begin : stop - begin]


@given(resumed())
def test_windows_and_runs_hold_the_anchors_of_their_positions(case):
    orders, epoch, *_ = case
    for order in orders:
        begin, end = order.begin(epoch), order.end(epoch)
        whole = order.anchors_at(epoch, begin, end).tolist()
        if order.shuffling is None:
            runs = np.concatenate([np.empty((0, 2), int), *order.runs_at(epoch, begin, end)])
            assert whole == list(chain.from_iterable(range(*run) for run in runs.tolist())) and len(runs) <= order.pieces
            continue
        at, number, (most, blocks) = begin, 0, order.largest_window()
        while at < end:
            window = order.window_at(epoch, at)
            assert (window.number, window.start) == (number, at) and at < window.stop <= end
            assert all(order.window_at(epoch, position) == window for position in range(at, window.stop))
            runs = np.concatenate([*order.window_runs(epoch, window)]).tolist()
            held = list(chain.from_iterable(range(*run) for run in runs))
            assert set(whole[window.start - begin : window.stop - begin]) <= set(held)
            assert len(held) <= most and len(runs) <= blocks
            at, number = window.stop, number + 1


@given(resumed())
def test_other_epochs_are_whole(case):
    orders, epoch, *_ = case
    for order in orders:
        whole = SampleOrder(order.anchors, order.shuffling, order.seed, order.shard)
        for other in {epoch + 1, max(0, epoch - 1)} - {epoch}:
            assert (order.begin(other), order.end(other)) == (0, len(whole))
            assert order.anchors_at(other, 0, len(whole)).tolist() == whole.anchors_at(other, 0, len(whole)).tolist()
            assert order.left_out(other).tolist() == whole.left_out(other).tolist()


@given(histories())
def test_the_same_workers_go_on_with_their_own_shards(history):
    anchors, ((workers, samples), *_) = history
    for index in range(workers):
        whole = SampleOrder(anchors, Shuffling(3, 4), 5, (index, workers))
        order = ResumedOrder(whole, 0, [Begun(workers, samples)], 1, False)  # in epoch 0 the last samples are left out
        assert order.anchors_at(0, order.begin(0), order.end(0)).tolist() == whole.anchors_at(0, samples, len(whole)).tolist()
