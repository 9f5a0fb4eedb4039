"""Selections and the windows on them, against lists."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmapstore.plain.selection import Selection
from mmapstore.plain.windows import Anchors, Episodes

samples_of_store = st.sets(st.integers(0, 60), min_size=1).map(lambda found: np.array(sorted(found), np.int64))


@given(samples_of_store, st.data())
def test_a_selection_agrees_with_the_list_of_its_samples(samples, data):
    selection = Selection.of(samples)
    assert len(selection) == len(samples)
    assert selection.places(np.arange(len(samples))).tolist() == samples.tolist()
    assert selection.bounds == (samples[0], samples[-1] + 1)
    assert selection.is_one_run == (samples[-1] - samples[0] == len(samples) - 1)
    assert selection.nbytes <= 16 * len(samples) + 8
    start = data.draw(st.integers(0, len(samples) - 1))
    stop = data.draw(st.integers(start + 1, len(samples)))
    runs = selection.runs(start, stop)
    assert list(itertools.chain.from_iterable(range(*run) for run in runs)) == samples[start:stop].tolist()
    assert all(end < begin for (_, end), (begin, _) in itertools.pairwise(runs))
    part = selection.between(start, stop)
    assert part.places(np.arange(len(part))).tolist() == samples[start:stop].tolist()
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, len(samples) - 1), min_size=1))), np.int64)
    assert selection.take(Selection.of(chosen)).places(np.arange(len(chosen))).tolist() == samples[chosen].tolist()


@given(samples_of_store, samples_of_store)
def test_selections_of_masks_and_one_after_the_other(samples, others):
    mask = np.zeros(70, bool)
    mask[samples] = True
    selection, of_mask = Selection.of(samples), Selection.of_mask(mask)
    assert (of_mask.starts.tolist(), of_mask.before.tolist()) == (selection.starts.tolist(), selection.before.tolist())
    points = np.arange(71)
    assert selection.count_before(points).tolist() == [sum(sample < point for sample in samples) for point in points]
    both = selection.then(Selection.of(others + 70))
    assert both.places(np.arange(len(both))).tolist() == [*samples, *(others + 70)]


@given(samples_of_store, st.data(), st.integers(0, 2), st.integers(0, 2), st.integers(1, 3))
def test_windows_stay_inside_episodes_and_runs(samples, data, before, behind, stride):
    ends = sorted(data.draw(st.sets(st.integers(1, len(samples)), max_size=4)) | {0, len(samples)})
    episodes = Episodes.of(ends)
    anchors = Anchors(episodes, (-before, behind), stride, selection=Selection.of(samples))
    expected = []
    for first, end in itertools.pairwise(ends):
        for _, run in itertools.groupby(enumerate(samples[first:end].tolist()), lambda pair: pair[1] - pair[0]):
            places = [sample for _, sample in run]
            expected += [p for p in places if {p - before, p + behind} <= set(places)][::stride]
    if not before and not behind and stride == 1:
        expected = samples.tolist()
    assert anchors.starts(np.arange(len(anchors))).tolist() == expected
    if expected:
        count = data.draw(st.integers(1, len(expected)))
        spans = [expected[i + count - 1] - expected[i] + 1 for i in range(len(expected) - count + 1)]
        assert anchors.longest_span(count) == max(spans)


@given(samples_of_store, st.data())
def test_episodes_of_selected_samples(samples, data):
    total = 61
    ends = sorted(data.draw(st.sets(st.integers(1, total - 1), max_size=5)) | {0, total})
    of_sample = np.searchsorted(ends, samples, side="right")
    found = Episodes.of(ends).of_selected(Selection.of(samples)).offsets.tolist()
    assert found == [0, *(i for i in range(1, len(samples)) if of_sample[i] != of_sample[i - 1]), len(samples)]
