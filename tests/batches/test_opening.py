"""`open` on whatever a user has in hand, and what it says to what cannot be opened."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import mmapstore as mm
from mmapstore.batches.opening import natural
from mmapstore.plain.errors import (
    DamagedFileError,
    InvalidTypeError,
    InvalidValueError,
    KeyNotFoundError,
    NotFoundError,
)
from mmapstore.plain.manifest import ArrayManifest, Manifest

FRAMES = np.random.default_rng(2).random((12, 3, 4, 5)).astype("f4")


@pytest.fixture
def runs(tmp_path):
    """Three runs of 5, 4 and 3 frames; their names sort wrongly as text."""
    for name, part in {"run1": FRAMES[:5], "run2": FRAMES[5:9], "run10": FRAMES[9:]}.items():
        np.save(tmp_path / f"{name}.npy", part)
    return tmp_path


# --- one array ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path, os.fsencode])
def test_paths(runs, kind):
    source = kind(str(runs / "run1.npy"))
    if isinstance(source, bytes):
        with pytest.raises(InvalidTypeError, match=r"a builtins.bytes cannot be opened; expected a path, a list or glob of paths"):
            mm.open(source)
        return
    np.testing.assert_array_equal(mm.open(source)[:], FRAMES[:5])


def test_a_dataset_is_open_already(runs):
    ds = mm.open(runs / "run1.npy")
    assert mm.open(ds) is ds


def test_relative_paths_survive_a_change_of_directory(runs, monkeypatch):
    monkeypatch.chdir(runs)
    ds = mm.open("run1.npy")
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(ds[:], FRAMES[:5])
    np.testing.assert_array_equal(ds.batches(5, shuffle=True, seed=1)[0].sum(), ds.batches(5, shuffle=True, seed=1)[0].sum())


def test_nothing_is_read(tmp_path, monkeypatch):
    """A sparse file of a terabyte opens, splits, and gives its last batch at once."""
    with (tmp_path / "big.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**7, 3, 100, 100)})
        try:
            file.truncate(file.tell() + 10**7 * 120_000)
        except OSError:
            pytest.skip("this file system holds no sparse file of a terabyte")
    train, val = mm.open(tmp_path / "big.npy").split(0.8, 0.2)
    b = train.batches(4, target=mm.NextFrame(), shuffle=True)
    x, y = b[len(b) - 1]
    assert not x.any() and not y.any() and len(val) == 2 * 10**6


@pytest.mark.parametrize(
    ("layout", "shape", "episodes"),
    [("NTCHW", (4, 6, 3, 2, 2), 4), ("TNHW", (6, 4, 2, 2), 4), ("TCHW", (6, 3, 2, 2), 1), ("TN", (6, 4), 4), ("NT", (4, 6), 4)],
)
def test_each_n_is_an_episode_where_there_is_a_t(tmp_path, layout, shape, episodes):
    stored = np.arange(np.prod(shape)).reshape(shape)
    np.save(tmp_path / "x.npy", stored)
    ds = mm.open(tmp_path / "x.npy", layout=layout)
    axes = sorted(range(len(layout)), key=lambda axis: (layout[axis] not in "NT", "NT".find(layout[axis]), axis))
    expected = stored.transpose(axes).reshape(-1, *(n for n, letter in zip(shape, layout, strict=True) if letter not in "NT"))
    assert len(ds.episodes) - 1 == episodes and len(ds) == len(expected)
    np.testing.assert_array_equal(ds[:], expected)
    np.testing.assert_array_equal(ds[[3, 1, -1]], expected[[3, 1, -1]])
    x, y = ds.batches(1000, target=mm.NextFrame(), shuffle=True)[0]
    np.testing.assert_array_equal(y - x, np.full_like(x, (expected[1] - expected[0]).flat[0]))
    assert len(x) == episodes * (len(ds) // episodes - 1)


def test_episodes_may_be_given():
    data = np.arange(12)
    assert mm.open(data, episodes=[0, 5, 12]).episodes.tolist() == [0, 5, 12]
    assert mm.open(data, episodes=np.array([0, 12], np.uint8)).episodes.tolist() == [0, 12]
    for length in (4, np.int64(4)):
        assert mm.open(data, episodes=length).episodes.tolist() == [0, 4, 8, 12]


@pytest.mark.parametrize(
    ("episodes", "text"),
    [
        (5, r"episodes=5 samples each do not divide 12 samples; give the offsets"),
        (0, r"episodes=0 samples each do not divide"),
        ([0, 5], r"episodes end at sample 5, but there are 12 samples"),
        ([5, 12], r"must be whole numbers rising from 0"),
        (True, r"must be whole numbers rising from 0"),
    ],
)
def test_episodes_that_do_not_fit(episodes, text):
    with pytest.raises(InvalidValueError, match=text):
        mm.open(np.arange(12), episodes=episodes)


# --- several files --------------------------------------------------------------------------------------------------------


def test_a_glob_is_joined_in_natural_order(runs):
    ds = mm.open(runs / "run*.npy")
    np.testing.assert_array_equal(ds[:], FRAMES)
    assert ds.episodes.tolist() == [0, 5, 9, 12]
    np.testing.assert_array_equal(ds[[11, 0, 6]], FRAMES[[11, 0, 6]])
    np.testing.assert_array_equal(ds[3:10], FRAMES[3:10])
    assert ds.readers["data"].why.startswith("3 files, joined; memory-mapped")


def test_a_list_is_joined_as_given(runs):
    ds = mm.open([runs / "run10.npy", str(runs / "run1.npy")])
    np.testing.assert_array_equal(ds[:], np.concatenate([FRAMES[9:], FRAMES[:5]]))
    assert "run10.npy and 1 more" in repr(ds)
    np.testing.assert_array_equal(mm.open([runs / "run2.npy"])[:], FRAMES[5:9])


def test_natural_order_counts():
    names = ["run10", "run2", "run1b", "run1", "a10b2", "a10b10", "run"]
    assert sorted(names, key=natural) == ["a10b2", "a10b10", "run", "run1", "run1b", "run2", "run10"]
    assert sorted(["10³", "10²3", "9"], key=natural) == ["9", "10²3", "10³"]  # digits that are no numbers


@pytest.mark.skipif(os.name == "nt", reason="Windows allows no colon in a name")
@pytest.mark.parametrize("key", ["/a::b", "/x"])
def test_a_file_that_exists_may_have_colons_in_its_name(tmp_path, key):
    h5py = pytest.importorskip("h5py")
    np.save(tmp_path / "run::1.npy", FRAMES)
    np.testing.assert_array_equal(mm.open(tmp_path / "run::1.npy")[:], FRAMES)
    with h5py.File(tmp_path / "run::1.h5", "w") as file:
        file[key] = FRAMES
    np.testing.assert_array_equal(mm.open(f"{tmp_path}/run::1.h5::{key}")[:], FRAMES)
    assert mm.verify(f"{tmp_path}/run::1.h5::{key}", tmp_path / "run::1.npy").ok
    mm.ingest(f"{tmp_path}/run::1.h5::{key}", tmp_path / "out.npy", progress=False)
    mm.convert(f"{tmp_path}/run::1.h5::{key}", tmp_path / "out.zarr", progress=False)
    for out in ("out.npy", "out.zarr"):
        np.testing.assert_array_equal(mm.open(tmp_path / out)[:], FRAMES)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("lead", [1, -2])
def test_windows_may_cross_files_if_episodes_say_so(runs, shuffle, lead):
    """A video cut into files: one episode, in spite of one file each."""
    ds = mm.open(runs / "run*.npy", episodes=[0, 12])
    target = mm.Window(2, 2, lead=lead, sampling_rate=2)
    whole = mm.open(FRAMES).batches(4, target=target, shuffle=shuffle)
    joined = ds.batches(4, target=target, shuffle=shuffle)
    assert len(whole) == len(joined)
    for one, other in zip(whole, joined, strict=True):
        np.testing.assert_array_equal(one[0], other[0], strict=True)
        np.testing.assert_array_equal(one[1], other[1], strict=True)


@pytest.mark.parametrize("odd", [FRAMES[:3, :2], FRAMES[:3].astype("f8")])
def test_the_file_that_differs_is_named(runs, odd):
    np.save(runs / "run7.npy", odd)
    with pytest.raises(
        InvalidValueError, match=r"run7.npy holds samples of .*, but .*run1.npy of \(3, 4, 5\) float32.*leave this one out"
    ):
        mm.open(runs / "run*.npy")


def test_manifests_and_unfinished_files_match_no_glob(runs):
    (runs / "run3.npy.partial").write_bytes(b"")
    (runs / "run1.npy.mmapstore.json").write_text("{")
    with pytest.raises(DamagedFileError, match=r"run1.npy.mmapstore.json is not a manifest"):
        mm.open(runs / "run*")
    (runs / "run1.npy.mmapstore.json").unlink()
    assert len(mm.open(runs / "run*")) == 12


def test_a_name_with_brackets_is_a_name(tmp_path):
    np.save(tmp_path / "run[1].npy", FRAMES)
    assert len(mm.open(tmp_path / "run[1].npy")) == 12


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        ([], InvalidValueError, r"a list of files was given, but it is empty"),
        ([np.zeros(3)], InvalidTypeError, r"a list must hold paths; for arrays"),
        ("nothing*.npy", NotFoundError, r"no file matches nothing\*.npy"),
        ({}, InvalidValueError, r"a dict of fields was given, but it is empty"),
        ({1: np.zeros(3)}, InvalidTypeError, r"field names are text; found 1"),
        ({"a": np.zeros(3), "b": np.zeros(4)}, InvalidValueError, r"of unequal length \(a: 3, b: 4 samples\)"),
        (5, InvalidTypeError, r"a builtins.int cannot be opened"),
        (None, InvalidTypeError, r"a builtins.NoneType cannot be opened"),
        (np.float32(3), InvalidTypeError, r"a numpy.float32 cannot be opened"),
        (np.array(3.0), InvalidValueError, r"array in RAM is a scalar"),
        (np.zeros((0, 3)), InvalidValueError, r"array in RAM is empty: its shape is \(0, 3\)"),
        (np.array(["a", None], object), InvalidTypeError, r"has an object dtype"),
        (np.array(["ab"]), InvalidTypeError, r"has a unicode dtype"),
        (np.zeros(3, "M8[s]"), InvalidTypeError, r"has a date dtype"),
        (np.zeros((2,) * 7), InvalidValueError, r"has 7 axes .*say what each is with layout="),
    ],
)
def test_what_is_no_array(source, error, text):
    with pytest.raises(error, match=text) as caught:
        mm.open(source)
    assert isinstance(caught.value, mm.MmapstoreError)


def test_keys_and_layouts_that_have_no_place(runs):
    with pytest.raises(InvalidValueError, match=r"key='x' names an array inside a file, but a live ndarray was given"):
        mm.open(FRAMES, key="x")
    with pytest.raises(InvalidValueError, match=r"key='x' is for one array"):
        mm.open({"a": FRAMES}, key="x")
    with pytest.raises(KeyNotFoundError, match=r"run1.npy is a .npy file.*got key 'x'"):
        mm.open(runs / "run1.npy", key="x")
    with pytest.raises(InvalidValueError, match=r"already names an array inside the file; leave out key='x'"):
        mm.open("a.h5::/y", key="x")
    with pytest.raises(InvalidValueError, match=r"layout='NHWC' is for one array; for several fields give a dict"):
        mm.open({"a": FRAMES, "b": FRAMES}, layout="NHWC")
    with pytest.raises(KeyNotFoundError, match=r"layout names \['c'\], but the fields are 'a', 'b'"):
        mm.open({"a": FRAMES, "b": FRAMES}, layout={"c": "NHWC"})
    with pytest.raises(InvalidValueError, match=r"layout='NHW' names 3 axes but .*run1.npy has 4"):
        mm.open(runs / "run1.npy", layout="NHW")
    ds = mm.open({"a": FRAMES, "b": FRAMES}, layout={"a": "NHWC"})
    assert (ds["a"].layout, ds["b"].layout) == ("NHWC", "NCHW")


def test_datasets_as_fields(runs):
    ds = mm.open({"x": mm.open(runs / "run*.npy"), "y": np.arange(12)})
    assert ds.episodes.tolist() == [0, 5, 9, 12] and ds["y"][11] == 11
    with pytest.raises(InvalidTypeError, match=r"the field 'x' is a part, or has several fields.* selected after that"):
        mm.open({"x": mm.open(FRAMES).split(0.5)[0]})


# --- files that are not what they should be -------------------------------------------------------------------------------


def test_a_missing_file(tmp_path, runs):
    with pytest.raises(NotFoundError, match=r"run3.npy does not exist. In that directory there is run.\.npy") as caught:
        mm.open(runs / "run3.npy")
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(NotFoundError, match=r"Nor does the directory .*none"):
        mm.open(tmp_path / "none" / "x.npy")


def test_a_truncated_file(tmp_path):
    np.save(tmp_path / "x.npy", FRAMES)
    os.truncate(tmp_path / "x.npy", 1000)
    with pytest.raises(
        DamagedFileError, match=r"x.npy is truncated: its header declares \(12, 3, 4, 5\) float32, 3008 bytes.*has 1000"
    ) as caught:
        mm.open(tmp_path / "x.npy")
    assert isinstance(caught.value, OSError) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize("suffix", [".npy", ".h5", ".zarr", ".dat", ""])
@pytest.mark.parametrize("content", [b"", b"not an array", b"\x93NUM"])
def test_files_that_are_nothing_we_know(tmp_path, suffix, content):
    (tmp_path / f"x{suffix}").write_bytes(content)
    with pytest.raises(
        DamagedFileError, match=rf"x{suffix} is a file of {len(content)} bytes that is not .npy, HDF5, Zarr or .npz"
    ):
        mm.open(tmp_path / f"x{suffix}")


def test_a_file_that_is_something_else_than_its_suffix_says(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.npy", "w") as file:
        file["x"] = FRAMES
    with pytest.raises(DamagedFileError, match=r"a.npy is not .npy, as its suffix says, but HDF5 by its first bytes. Rename it"):
        mm.open(tmp_path / "a.npy")
    os.rename(tmp_path / "a.npy", tmp_path / "a.data")
    np.testing.assert_array_equal(mm.open(tmp_path / "a.data")[:], FRAMES)


def test_an_unfinished_ingest(tmp_path):
    np.save(tmp_path / "x.npy", FRAMES)
    os.rename(tmp_path / "x.npy", tmp_path / "x.npy.partial")
    with pytest.raises(
        DamagedFileError, match=r"x.npy.partial was left by an ingest that did not finish. Run the same ingest again"
    ):
        mm.open(tmp_path / "x.npy.partial")


def test_a_directory_that_is_nothing(tmp_path):
    with pytest.raises(DamagedFileError, match=r"is a directory without the metadata of a Zarr store .*mmapstore ingest \S+ OUT"):
        mm.open(tmp_path)


@pytest.mark.parametrize("name", ["a.PNG", "a.mp4", "a.csv"])
def test_files_that_are_ingested_first(tmp_path, name):
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(DamagedFileError, match=rf"{name} is no array but an image, .*Ingest it first: mmapstore ingest \S+ OUT"):
        mm.open(tmp_path / name)


def test_pickled_objects_are_never_loaded(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}, None]), allow_pickle=True)
    with pytest.raises(InvalidTypeError, match=r"x.npy has an object dtype") as caught:
        mm.open(tmp_path / "x.npy")
    assert isinstance(caught.value, TypeError)


# --- HDF5 and Zarr, as far as `open` is concerned --------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["group/frames"] = FRAMES
        file["label"] = np.arange(12)
    return tmp_path / "a.h5"


def test_ways_to_name_a_place_inside(archive):
    for ds in (mm.open(f"{archive}::/group/frames"), mm.open(archive, key="group/frames"), mm.open(archive / "group/frames")):
        np.testing.assert_array_equal(ds[:], FRAMES)
    ds = mm.open({"image": f"{archive}::group", "label": f"{archive}::/label"})
    assert ds["label"][3] == 3


def test_a_wrong_key_lists_what_is_there(archive):
    for source, key in ((archive, None), (archive, "frames"), (f"{archive}::/frames", None)):
        with pytest.raises(KeyNotFoundError, match=r"group/frames.*\(12, 3, 4, 5\)") as caught:
            mm.open(source, key=key)
        assert isinstance(caught.value, KeyError)


def test_several_archives_are_joined_inside(tmp_path):
    h5py = pytest.importorskip("h5py")
    for name, part in {"a2": FRAMES[:5], "a10": FRAMES[5:]}.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_dataset("x", data=part, chunks=(2, 3, 4, 5), compression="gzip")
            file["y"] = np.arange(len(part))
    for ds in (mm.open(f"{tmp_path}/a*.h5::/x"), mm.open(f"{tmp_path}/a*.h5", key="x")):
        np.testing.assert_array_equal(ds[:], FRAMES)
        assert ds.episodes.tolist() == [0, 5, 12]


# --- manifests ------------------------------------------------------------------------------------------------------------


def manifest(file="x.npy", shape=(12, 3, 4, 5), dtype="<f4", layout="NCHW", episodes=(0, 5, 12)):
    return ArrayManifest(file, "", shape, dtype, layout, episodes, 12, ("00000000",))


def test_a_manifest_beside_the_file(tmp_path):
    np.save(tmp_path / "x.npy", FRAMES)
    beside = tmp_path / "x.npy.mmapstore.json"
    beside.write_text(Manifest({"data": manifest(layout="NHWC")}).to_json())
    ds = mm.open(tmp_path / "x.npy")
    assert (ds.layout, ds.episodes.tolist()) == ("NHWC", [0, 5, 12])
    assert mm.open(tmp_path / "x.npy", layout="NCHW").layout == "NCHW"
    assert mm.open(tmp_path / "x.npy", episodes=6).episodes.tolist() == [0, 6, 12]
    beside.write_text(Manifest({"data": manifest(shape=(11, 3, 4, 5))}).to_json())
    with pytest.raises(DamagedFileError, match=r"mmapstore.json describes \(11, 3, 4, 5\) <f4, but .*x.npy holds .*was replaced"):
        mm.open(tmp_path / "x.npy")
    beside.write_text(Manifest({"data": manifest(episodes=(0, 13))}).to_json())
    with pytest.raises(InvalidValueError, match=r"the episodes in .*mmapstore.json end at sample 13, but there are 12"):
        mm.open(tmp_path / "x.npy")
    beside.write_bytes(b"\xff\xfe")
    with pytest.raises(DamagedFileError, match=r"mmapstore.json is not text"):
        mm.open(tmp_path / "x.npy")
    beside.unlink()
    assert mm.open(tmp_path / "x.npy").episodes.tolist() == [0, 12]


@pytest.fixture
def written(tmp_path):
    """A directory as an ingest of two fields leaves it."""
    store = tmp_path / "store"
    store.mkdir()
    np.save(store / "image.npy", FRAMES)
    np.save(store / "label.npy", np.arange(12))
    entries = {"image": manifest("image.npy"), "label": manifest("label.npy", (12,), "<i8", "N", (0, 12))}
    (store / "mmapstore.json").write_text(Manifest(entries).to_json())
    return store


def test_a_directory_that_mmapstore_wrote(written):
    ds = mm.open(written)
    assert list(ds.fields) == ["image", "label"] and ds.episodes.tolist() == [0, 5, 12] and ds["label"][4] == 4
    for one in (mm.open(written, key="image"), mm.open(f"{written}::/image")):
        assert list(one.fields) == ["data"] and one.shape == FRAMES.shape
    assert mm.open(written, layout={"image": "NHWC"})["image"].layout == "NHWC"
    with pytest.raises(InvalidValueError, match=r"layout='NHWC' is for one array"):
        mm.open(written, layout="NHWC")
    with pytest.raises(KeyNotFoundError, match=r"has no field 'lable'; it has image, label"):
        mm.open(written, key="lable")


def test_a_directory_manifest_leads_nowhere_else(written):
    (written / "mmapstore.json").write_text(Manifest({"image": manifest("../image.npy")}).to_json())
    np.save(written.parent / "image.npy", FRAMES)
    with pytest.raises(DamagedFileError, match=r"names the file '../image.npy', which is outside its directory"):
        mm.open(written)
    (written / "mmapstore.json").write_text(Manifest({}).to_json())
    with pytest.raises(DamagedFileError, match=r"lists no field. Write the data again"):
        mm.open(written)


@pytest.mark.skipif(os.name == "nt", reason="links need a permission there")
def test_links_in_a_circle_are_named(tmp_path):
    """40 links in a row are the most that a system follows."""
    zarr = pytest.importorskip("zarr")
    zarr.open_group(tmp_path / "a.zarr", mode="w").create_group("g").create_array("x", data=FRAMES)
    (tmp_path / "a.zarr" / "g" / "loop").symlink_to("..")
    (tmp_path / "a.zarr" / "g" / "self").symlink_to("self")
    np.testing.assert_array_equal(mm.open(tmp_path / "a.zarr")[:], FRAMES)
    for key, words in (("g/self", "links on its path lead in a circle"), ("g/loop/" * 45 + "g/x", "circle|does not exist")):
        with pytest.raises((DamagedFileError, NotFoundError), match=words):
            mm.open(tmp_path / "a.zarr", key=key)
    mm.ingest({"x": FRAMES, "y": FRAMES}, tmp_path / "fields", progress=False)
    (tmp_path / "fields" / "x.npy").unlink()
    (tmp_path / "fields" / "x.npy").symlink_to("x.npy")
    with pytest.raises(NotFoundError, match=r"x\.npy does not exist\. It is a link to x\.npy"):
        mm.open(tmp_path / "fields")
    assert not mm.verify(tmp_path / "fields").ok
