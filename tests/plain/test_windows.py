"""Windows, episodes and anchors, against enumeration; and against what Keras makes of the same arguments."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import mmapstore as mm
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError
from mmapstore.plain.windows import Anchors, Episodes, NextFrame, Window

lengths = st.lists(st.integers(1, 14), min_size=1, max_size=7)


@st.composite
def cases(draw):
    """(episodes, window) of every kind, some without any window that fits."""
    episodes = Episodes.of([0, *itertools.accumulate(draw(lengths))])
    samples = int(episodes.offsets[-1])
    start = draw(st.integers(0, samples - 1))
    window = Window(
        history=draw(st.none() | st.integers(1, 4)),
        horizon=draw(st.none() | st.integers(1, 3)),
        lead=draw(st.integers(-5, 4)),
        stride=draw(st.integers(1, 5)),
        sampling_rate=draw(st.integers(1, 3)),
        start_index=start,
        end_index=draw(st.none() | st.integers(start + 1, samples)),
    )
    return episodes, window


def frames_of(window: Window) -> tuple[list[int], list[int]]:
    """Where frames lie relative to the first frame of x, written down a second time."""
    x = [k * window.sampling_rate for k in range(window.history or 1)]
    y = [x[-1] + window.lead + k * window.sampling_rate for k in range(window.horizon or 1)]
    return x, y


def enumerated(episodes: Episodes, window: Window) -> list[int]:
    """Every anchor, by trying all samples: the first that fits into an episode, and each `stride` after it that fits."""
    x, y = frames_of(window)
    stop = int(episodes.offsets[-1]) if window.end_index is None else window.end_index
    found = []
    for begin, end in itertools.pairwise(episodes.offsets.tolist()):
        begin, end = max(begin, window.start_index), min(end, stop)
        fits = [at for at in range(begin - 50, end) if all(begin <= at + k < end for k in x + y)]
        found += fits[:: window.stride]
    return found


def anchors_of(episodes: Episodes, window: Window) -> Anchors:
    x, y = window.offsets()
    reach = min(x[0], y[0]), max(x[-1], y[-1])
    return Anchors(episodes, reach, window.stride, window.start_index, window.end_index)


@given(cases())
@settings(max_examples=400)
def test_anchors_are_those_found_by_trying_all(case):
    episodes, window = case
    x, y = window.offsets()
    assert (list(x), list(y)) == frames_of(window)
    anchors, expected = anchors_of(episodes, window), enumerated(episodes, window)
    assert len(anchors) == len(expected)
    assert anchors.starts(np.arange(len(anchors))).tolist() == expected
    inside = (window.end_index or int(episodes.offsets[-1])) - window.start_index
    assert anchors.samples_without == inside - len(expected)
    assert anchors.nbytes <= 16 * (len(episodes) + 1)


@given(cases(), st.integers(1, 20))
@settings(max_examples=200)
def test_runs_cuts_and_run_checks(case, block):
    episodes, window = case
    anchors = anchors_of(episodes, window)
    assume(len(anchors))
    samples = anchors.starts(np.arange(len(anchors)))
    episode = np.searchsorted(episodes.offsets, samples - min(0, anchors.reach[0]) + anchors.reach[0], side="right")
    if anchors.reach == (0, 0) and anchors.stride == 1:
        episode[:] = 0  # samples that stand alone reach over no episode's end
    for first, last in itertools.combinations(range(len(anchors) + 1), 2):
        groups = [samples[first:last][episode[first:last] == e] for e in np.unique(episode[first:last])]
        assert anchors.runs(np.array([[first, last]])).tolist() == [[int(g[0]), int(g[-1]) + 1] for g in groups]
        assert anchors.is_run(first, last) == (window.stride == 1 and len(groups) == 1)
        assert len(groups) <= anchors.most_runs(last - first)
    blocks = [episode[at : at + block] for at in range(0, len(anchors), block)]
    assert anchors.most_cuts(block) == max(len(np.unique(one)) - 1 for one in blocks)


@given(cases())
def test_next_frame_pairs_every_frame_with_its_successor(case):
    episodes, window = case
    lead = abs(window.lead) + 1
    anchors = anchors_of(episodes, NextFrame(lead))
    pairs = [(a, a + lead) for begin, end in itertools.pairwise(episodes.offsets.tolist()) for a in range(begin, end - lead)]
    assert [(a, a + lead) for a in anchors.starts(np.arange(len(anchors))).tolist()] == pairs


def test_longest_episode_is_reported():
    anchors = Anchors(Episodes.of([0, 3, 10, 12]), (0, 100))
    assert (len(anchors), anchors.longest_episode, anchors.samples_without) == (0, 7, 12)


# --- episodes -------------------------------------------------------------------------------------------------------------


@given(lengths, st.data())
def test_between_cuts_episodes(given_lengths, data):
    episodes = Episodes.of([0, *itertools.accumulate(given_lengths)])
    samples = sum(given_lengths)
    start = data.draw(st.integers(0, samples - 1))
    stop = data.draw(st.integers(start + 1, samples))
    label = np.repeat(np.arange(len(given_lengths)), given_lengths)[start:stop]
    expected = [0, *(np.flatnonzero(np.diff(label)) + 1).tolist(), stop - start]
    assert episodes.between(start, stop).offsets.tolist() == expected


def test_common_cuts_where_either_does():
    assert Episodes.of([0, 4, 10]).common(Episodes.of([0, 6, 10])).offsets.tolist() == [0, 4, 6, 10]
    assert Episodes.equal(12, 4).offsets.tolist() == [0, 4, 8, 12]


@pytest.mark.parametrize("offsets", [[1, 5], [0], [], [0, 5, 5], [0, 5, 3], [0.0, 5.0], [[0, 5]], 5, "05"])
def test_offsets_must_rise_from_zero(offsets):
    with pytest.raises(InvalidValueError, match=r"must be whole numbers rising from 0, one more than there are episodes"):
        Episodes.of(offsets)


def test_offsets_must_end_with_the_samples():
    with pytest.raises(InvalidValueError, match=r"episodes end at sample 9, but there are 10 samples"):
        Episodes.of([0, 9], 10)


def test_unsigned_offsets_that_fall_are_seen():
    with pytest.raises(InvalidValueError, match="rising"):
        Episodes.of(np.array([0, 5, 3], np.uint64))


# --- arguments ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"history": 0}, r"history=0 is too small; expected 1 or more"),
        ({"horizon": -1}, r"horizon=-1 is too small"),
        ({"stride": 0}, r"stride=0 is too small"),
        ({"sampling_rate": 0}, r"sampling_rate=0 is too small"),
        ({"start_index": -1}, r"start_index=-1 is too small; expected 0 or more"),
        ({"start_index": 5, "end_index": 5}, r"end_index=5 is too small; expected 6 or more"),
    ],
)
def test_numbers_that_are_too_small(arguments, text):
    with pytest.raises(InvalidValueError, match=text):
        Window(**arguments)


@pytest.mark.parametrize("name", ["history", "horizon", "lead", "stride", "sampling_rate", "start_index", "end_index"])
@pytest.mark.parametrize("value", [1.5, "3", True])
def test_numbers_that_are_none(name, value):
    with pytest.raises(InvalidTypeError, match=rf"{name}={value!r} is not a whole number"):
        Window(**{name: value})


def test_a_frame_that_is_not_later():
    with pytest.raises(InvalidValueError, match=r"lead=0 is not a later frame; expected 1 or more"):
        NextFrame(lead=0)
    with pytest.raises(InvalidTypeError, match=r"lead=2.0 is not a whole number"):
        NextFrame(lead=2.0)


# --- Keras ----------------------------------------------------------------------------------------------------------------


@st.composite
def keras_arguments(draw):
    samples = draw(st.integers(8, 60))
    start = draw(st.none() | st.integers(1, samples // 2))
    return samples, {
        "sequence_length": draw(st.integers(1, 6)),
        "sequence_stride": draw(st.integers(1, 5)),
        "sampling_rate": draw(st.integers(1, 4)),
        "start_index": start,
        "end_index": draw(st.none() | st.integers((start or 0) + 1, samples - 1)),
    }


def ours(dataset: mm.Dataset, target, arguments, **names):
    """The windows of mmapstore with Keras's arguments, all in one batch; None if there is none."""
    window = Window(
        history=arguments["sequence_length"],
        stride=arguments["sequence_stride"],
        sampling_rate=arguments["sampling_rate"],
        start_index=arguments["start_index"] or 0,
        end_index=arguments["end_index"],
        **target,
    )
    try:
        return dataset.batches(10_000, target=window, **names)[0]
    except InvalidValueError:
        return None


def keras_windows(data, targets, arguments):
    keras = pytest.importorskip("keras")
    made = keras.utils.timeseries_dataset_from_array(data, targets, batch_size=10_000, **arguments)
    batches = list(made.as_numpy_iterator())
    return batches[0] if batches else None


@pytest.mark.slow
@given(keras_arguments())
@settings(max_examples=60)
def test_keras_windows_without_targets(case):
    """x alone: y is the last frame of x, so that nothing is asked of the data beyond the window."""
    samples, arguments = case
    data = np.random.default_rng(samples).random((samples, 2))
    theirs = keras_windows(data, None, arguments)
    found = ours(mm.open(data), {"horizon": None, "lead": 0}, arguments)
    assert (theirs is None) == (found is None)
    if theirs is not None:
        np.testing.assert_array_equal(found[0], theirs, strict=True)


@pytest.mark.slow
@given(keras_arguments())
@settings(max_examples=60)
def test_keras_windows_with_targets(case):
    """The target stands at the first frame of the window, in an array of its own."""
    samples, arguments = case
    rng = np.random.default_rng(samples)
    data, targets = rng.random((samples, 2)), rng.integers(0, 9, samples)
    theirs = keras_windows(data, targets, arguments)
    lead = -(arguments["sequence_length"] - 1) * arguments["sampling_rate"]
    found = ours(mm.open({"x": data, "label": targets}), {"horizon": None, "lead": lead, "field": "label"}, arguments, inputs="x")
    assert (theirs is None) == (found is None)
    if theirs is not None:
        for one, other in zip(found, theirs, strict=True):
            np.testing.assert_array_equal(one, other, strict=True)


@pytest.mark.slow
@given(keras_arguments(), st.integers(0, 4))
@settings(max_examples=60)
def test_keras_windows_many_to_many(case, ahead):
    """Keras zips two datasets; the second begins `ahead` frames later. Here it is one window with a horizon."""
    samples, arguments = case
    assume(arguments["end_index"] is None and arguments["start_index"] is None and samples > ahead + arguments["sequence_stride"])
    assume(arguments["sampling_rate"] < samples - ahead)
    data = np.random.default_rng(samples).random((samples, 2))
    y = keras_windows(data[ahead:], None, arguments)
    length = arguments["sequence_length"]
    lead = ahead - (length - 1) * arguments["sampling_rate"]
    found = ours(mm.open(data), {"horizon": length, "lead": lead}, arguments)
    assert (y is None) == (found is None)
    if y is not None:
        x = keras_windows(data, None, arguments)
        np.testing.assert_array_equal(found[0], x[: len(y)], strict=True)  # Keras's zip ends with the shorter
        np.testing.assert_array_equal(found[1], y, strict=True)


@pytest.mark.slow
def test_what_keras_refuses_works_here():
    """`end_index == len(data)` is the end; Keras calls it out of range."""
    data = np.arange(20.0)
    with pytest.raises(ValueError, match="must be lower than the length"):
        keras_windows(data, None, {"sequence_length": 3, "end_index": 20})
    x, _ = mm.open(data).batches(100, target=Window(3, None, lead=0, end_index=20))[0]
    assert x.shape == (18, 3) and x[-1].tolist() == [17, 18, 19]
    with pytest.raises(InvalidValueError, match="end_index=21 leave the data, which has 20 samples"):
        mm.open(data).batches(100, target=Window(3, None, lead=0, end_index=21))
