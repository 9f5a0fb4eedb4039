"""What a dataset says of itself, and what indexing reads."""

from __future__ import annotations

import gc
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sent_objects import sent

import mmapstore as mm
from mmapstore.plain.errors import DamagedFileError, InvalidTypeError, KeyNotFoundError, NotFoundError, OutOfRangeError

FRAMES = np.random.default_rng(1).random((40, 3, 4, 5)).astype("f4")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("dataset") / "frames.npy"
    np.save(path, FRAMES)
    return path


indices = (
    st.slices(40)
    | st.integers(-40, 39)
    | st.lists(st.integers(-40, 39), max_size=6)
    | st.lists(st.booleans(), min_size=40, max_size=40).map(np.array)
)


@given(indices)
def test_indexing_reads_what_numpy_does(path, index):
    ds = mm.open(path)
    np.testing.assert_array_equal(ds[index], FRAMES[np.array(index, int) if isinstance(index, list) else index], strict=True)


@given(st.slices(20) | st.integers(-20, 19))
def test_parts_count_from_their_own_start(path, index):
    part = mm.open(path).split(10, 20)[1]
    np.testing.assert_array_equal(part[index], FRAMES[10:30][index])


def test_what_it_is(path):
    ds = mm.open(path)
    assert (len(ds), ds.shape, ds.dtype, ds.layout, ds.nbytes) == (40, (40, 3, 4, 5), np.dtype("f4"), "NCHW", FRAMES.nbytes)
    assert ds.episodes.tolist() == [0, 40] and ds.episodes.dtype == np.int64
    assert list(ds.fields) == ["data"] and len(ds.fields["data"]) == 40
    assert repr(ds) == f"<Dataset {path}: 40 samples, 9.60 kB; 'data' (3, 4, 5) float32 NCHW memory-mapped>"
    assert sum(1 for _ in ds) == 40


def test_arrays_in_ram_are_said_to_be():
    """Replacing a memory map by an array in RAM is a slip that nothing else tells of."""
    assert "in RAM" in repr(mm.open(np.zeros((5, 2))))


def test_fields(path):
    ds = mm.open({"image": path, "label": np.arange(40)})
    assert ds["label"][5] == 5 and ds["label"].shape == (40,) and ds["label"][10:12].tolist() == [10, 11]
    found = ds[3]
    assert sorted(found) == ["image", "label"] and found["label"] == 3
    np.testing.assert_array_equal(found["image"], FRAMES[3])
    assert ds.split(0.5, 0.5)[1]["label"][0] == 20
    assert ds.nbytes == FRAMES.nbytes + 320
    with pytest.raises(KeyNotFoundError, match=r"there is no field 'lable' in .*; the fields are 'image', 'label'"):
        ds["lable"]


def test_contiguous_samples_are_views(path):
    ds = mm.open(path)
    assert np.shares_memory(ds[3:10], ds[5:7]) and not ds[3:10].flags.writeable
    assert ds[3:3].shape == (0, 3, 4, 5) and ds[10:3].shape == (0, 3, 4, 5)


@pytest.mark.parametrize("index", [40, -41, [3, 40], 10**30])
def test_samples_past_the_end(path, index):
    with pytest.raises(OutOfRangeError, match=r"there is no sample \d+|there is no sample -41"):
        mm.open(path)[index]


@pytest.mark.parametrize("index", [1.5, None, (1, 2), [0.5], [[1]], np.zeros(3, bool)])
def test_what_is_no_index(path, index):
    with pytest.raises(InvalidTypeError, match=r"expected a sample number, a slice, a list|an index must be a sample number"):
        mm.open(path)[index]


@pytest.mark.parametrize("convert", [np.asarray, np.array, lambda ds: np.stack([ds]), lambda ds: ds + np.zeros(3)])
def test_nobody_reads_everything_by_accident(path, convert):
    with pytest.raises(TypeError, match=r"this would read all 9.60 kB of .*To train, write model.fit|unsupported operand"):
        convert(mm.open(path))


def test_statistics_are_those_of_the_part(path):
    found = mm.open(path).split(0.5, 0.5)[0].statistics()
    part = FRAMES[:20].astype("f8")
    np.testing.assert_allclose(found.mean, part.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(found.std, part.std((0, 2, 3)), rtol=1e-6)


def test_pickles_are_small_and_open_again(path):
    ds = mm.open(path).split(0.5, 0.5)[1]
    np.testing.assert_array_equal(sent(ds, 3000)[:], FRAMES[20:])


def test_a_pickle_whose_file_has_gone(tmp_path):
    np.save(tmp_path / "x.npy", FRAMES)
    dumped = pickle.dumps(mm.open(tmp_path / "x.npy"))
    (tmp_path / "x.npy").unlink()
    with pytest.raises(NotFoundError, match=r"x.npy does not exist"):
        pickle.loads(dumped)


def test_fingerprints_tell_contents_apart_and_formats_alike(path, tmp_path):
    ds = mm.open(path)
    assert ds.fingerprint() == mm.open(FRAMES).fingerprint() == mm.open(FRAMES.astype(">f4")).fingerprint()
    changed = FRAMES.copy()
    changed[0, 0, 0, 0] += 1
    others = [mm.open(changed), mm.open(FRAMES.astype("f8")), mm.open(FRAMES, episodes=20), ds.split(39)[0]]
    assert len({ds.fingerprint(), *(other.fingerprint() for other in others)}) == 5


# --- files that change ----------------------------------------------------------------------------------------------------


def test_a_file_written_again_is_read_again(tmp_path):
    """What was open before must not answer for what lies there now."""
    target, fresh = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(target, np.zeros((30, 4)))
    old = mm.open(target)
    gathered = old.batches(5, shuffle=True)[0]
    viewed = old[0:5]
    np.save(fresh, np.ones((30, 4)))
    os.replace(fresh, target)
    new = mm.open(target)
    assert (new[0:5] == 1).all() and (new.batches(5, shuffle=True)[0] == 1).all()
    assert (viewed == 0).all() and (gathered == 0).all()
    with pytest.raises(DamagedFileError, match=r"was replaced by another file since it was opened. Open it again"):
        old.batches(5, shuffle=True)[0]


def test_a_file_that_shrank_is_an_error(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((300, 400)))
    ds = mm.open(tmp_path / "x.npy")
    os.truncate(tmp_path / "x.npy", 5000)
    with pytest.raises(DamagedFileError, match=r"x.npy (has|ends at byte) 5000.* but had 960128 .*when it was opened.*truncated"):
        ds.batches(10, shuffle=True)[0]
    with pytest.raises(DamagedFileError, match=r"x.npy ends at byte 5000"):
        ds[0:10]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
def test_nothing_stays_open(path):
    def count():
        gc.collect()
        return sum(os.path.realpath(f"/proc/self/fd/{n}") == str(path) for n in os.listdir("/proc/self/fd"))

    ds = mm.open(path)
    x = ds.batches(4, shuffle=True)[0]
    view = ds[3:5]
    assert count() > 0
    del ds, view
    assert count() == 0 and x.shape == (4, 3, 4, 5)
