"""Every kind of source, into whatever is handy: what goes in comes out, and what cannot is named."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from ingest_results import OUTS, frames, manifest_of, read, video

from mmapstore.batches.opening import open_dataset
from mmapstore.operations.ingest import ingest
from mmapstore.plain.errors import (
    DamagedFileError,
    InvalidTypeError,
    InvalidValueError,
    KeyNotFoundError,
    MissingPackageError,
    MmapstoreError,
    NotFoundError,
    SourceWarning,
    UnsafeFileError,
)

# --- arrays and layouts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("letters", ["NTCHW", "TNCHW", "NTHWC", "TNHWC", "NCHWT", "CHWN", "HWCTN"])
@pytest.mark.parametrize("kind", ["ram", "memmap", "h5py", "zarr"])
def test_stored_layouts_become_consecutive_samples(tmp_path: Path, letters: str, kind: str) -> None:
    lengths = dict(zip("NTCHW", (3, 4, 2, 5, 6), strict=True))
    array = (
        np.arange(np.prod([lengths[letter] for letter in letters]))
        .reshape([lengths[letter] for letter in letters])
        .astype(np.int32)
    )
    source: Any = array
    if kind == "memmap":
        np.save(tmp_path / "in.npy", array)
        source = np.load(tmp_path / "in.npy", mmap_mode="r")
    elif kind == "h5py":
        with h5py.File(tmp_path / "in.h5", "w") as file:
            file.create_dataset("a", data=array, chunks=True, compression="gzip")
        source = h5py.File(tmp_path / "in.h5")["a"]
    elif kind == "zarr":
        source = zarr.create_array(str(tmp_path / "in.zarr"), data=array, chunks=tuple(max(1, n // 2) for n in array.shape))
    path = ingest(source, tmp_path / "x.npy", source_layout=letters)
    order = [letters.index(letter) for letter in "NTCHW" if letter in letters]
    expected = array.transpose(order).reshape(-1, 2, 5, 6)
    np.testing.assert_array_equal(np.load(path), expected)
    assert manifest_of(path).episodes == ((0, 4, 8, 12) if "T" in letters else (0, 3))
    if kind == "h5py":
        source.file.close()


@pytest.mark.parametrize(
    "shape, layout, letters",
    [((7,), "NCHW", "N"), ((7, 4), "NCHW", "NC"), ((7, 4, 5), "NCHW", "NHW"), ((7, 2, 3, 4, 5), "NCHW", "NCDHW")],
)
def test_usual_layouts_by_number_of_axes(tmp_path: Path, shape: tuple[int, ...], layout: str, letters: str) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    path = ingest(array, tmp_path / "x.npy", layout=layout)
    np.testing.assert_array_equal(np.load(path), array)
    assert manifest_of(path).layout == letters


def test_big_endian_and_strided_sources(tmp_path: Path) -> None:
    array = frames(20, "i4").astype(">i4")[::-2, :, ::-1]
    path = ingest(array, tmp_path / "x.npy", layout=None)
    np.testing.assert_array_equal(np.load(path), array)
    assert np.load(path).dtype == np.dtype("<i4")


def test_an_opened_dataset_and_its_parts(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", frames(20))
    train, _ = open_dataset(tmp_path / "in.npy").split(12, 8)
    path = ingest(train, tmp_path / "x.zarr", layout=None)
    np.testing.assert_array_equal(read(path), frames(20)[:12])


def test_episodes_of_the_source_are_kept(tmp_path: Path) -> None:
    first = ingest(np.zeros((4, 5, 2, 3, 3), np.uint8), tmp_path / "a.npy", source_layout="NTCHW")
    again = ingest(first, tmp_path / "b.h5")
    assert manifest_of(again).episodes == (0, 5, 10, 15, 20)


def test_samples_ends_early(tmp_path: Path) -> None:
    path = ingest(frames(40), tmp_path / "x.npy", samples=15, layout=None)
    np.testing.assert_array_equal(np.load(path), frames(40)[:15])
    endless = (np.full((3, 2), number, np.int64) for number in iter(int, 1))
    assert np.load(ingest(endless, tmp_path / "y.npy", samples=9)).shape == (9, 3, 2)


# --- iterables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", OUTS)
@pytest.mark.parametrize("count", [1, 7, 400])
def test_generator_of_unknown_length(tmp_path: Path, out: str, count: int) -> None:
    array = np.random.default_rng(0).integers(0, 9, (count, 3, 100, 100)).astype(np.uint8)
    path = ingest((sample for sample in array), tmp_path / out)
    np.testing.assert_array_equal(read(path), array)
    np.testing.assert_array_equal(open_dataset(path)[:], array)


@pytest.mark.parametrize("out", ["x.npy", "x.h5", "x.zarr"])
def test_generator_that_outgrows_its_space(tmp_path: Path, out: str) -> None:
    array = np.random.default_rng(0).integers(0, 255, (12, 1_000_000), np.uint8)
    np.testing.assert_array_equal(read(ingest((sample for sample in array), tmp_path / out)), array)


def test_blocks_of_changing_length(tmp_path: Path) -> None:
    array = frames(40)
    cuts = [array[:1], array[1:1], array[1:30], array[30:]]
    path = ingest(iter(cuts), tmp_path / "x.npy", source_layout="NHWC")
    np.testing.assert_array_equal(np.load(path), array.transpose(0, 3, 1, 2))
    assert manifest_of(path).episodes == (0, 40)


def test_items_with_time_are_episodes(tmp_path: Path) -> None:
    array = frames(40)
    path = ingest([array[:10], array[10:25], array[25:]], tmp_path / "x.npy", source_layout="THWC")
    assert manifest_of(path).episodes == (0, 10, 25, 40)
    path = ingest([array[:20].reshape(2, 10, 6, 5, 3)], tmp_path / "y.npy", source_layout="NTHWC")
    assert manifest_of(path).episodes == (0, 10, 20)


def test_numbers_make_a_label_array(tmp_path: Path) -> None:
    np.testing.assert_array_equal(np.load(ingest([3, 1, 2], tmp_path / "x.npy")), [3, 1, 2])
    np.testing.assert_array_equal(np.load(ingest(range(5), tmp_path / "y.npy", dtype="u1")), np.arange(5, dtype=np.uint8))


def test_a_sample_of_another_shape_is_named(tmp_path: Path) -> None:
    items = [np.zeros((3, 4, 4))] * 17 + [np.zeros((3, 4, 5))]
    with pytest.raises(InvalidValueError, match=r"Sample 17 of a list has shape \(3, 4, 5\).*before it \(3, 4, 4\)"):
        ingest(items, tmp_path / "x.npy")
    with pytest.raises(InvalidValueError, match=r"Sample 1 of a list has shape \(3,\)"):
        ingest([np.zeros((3, 4, 4)), np.zeros(3)], tmp_path / "x.npy")
    assert os.listdir(tmp_path) == []


def test_a_sample_of_another_dtype_is_named_unless_converted(tmp_path: Path) -> None:
    items = [np.zeros(4, np.uint8)] * 3 + [np.ones(4, np.float32)]
    with pytest.raises(InvalidTypeError, match=r"Sample 3 of a list has dtype float32.*uint8.*Say dtype="):
        ingest(items, tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load(ingest(items, tmp_path / "x.npy", dtype="f4"))[:, 0], [0, 0, 0, 1])


def test_an_empty_iterable(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="gave no samples"):
        ingest(iter([]), tmp_path / "x.npy")
    with pytest.raises(InvalidTypeError, match="is a tuple; expected one array"):
        ingest(iter([(np.zeros(3), 1)]), tmp_path / "x.npy")
    with pytest.raises(InvalidTypeError, match="not an array of one shape"):
        ingest([[1, 2], [[3], 4]], tmp_path / "x.npy")
    assert os.listdir(tmp_path) == []


class Counted:
    """Gives `given` samples, and says that there are `length`."""

    def __init__(self, length: int, given: int) -> None:
        self.length, self.given = length, given

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[np.ndarray[Any, Any]]:
        return iter(np.zeros((self.given, 3, 2), np.uint8))


@pytest.mark.parametrize("out", ["x.npy", "x.h5", "x.zarr"])
def test_a_length_that_is_wrong(tmp_path: Path, out: str) -> None:
    with pytest.raises(InvalidValueError, match=r"a Counted has a length of 4 and gives more samples.*Mend its __len__"):
        ingest(Counted(4, 5), tmp_path / out)
    assert os.listdir(tmp_path) == []
    assert read(ingest(Counted(6, 5), tmp_path / out)).shape == (5, 3, 2)


def test_a_source_that_raises_passes_its_error_on(tmp_path: Path) -> None:
    def broken() -> Iterator[np.ndarray[Any, Any]]:
        yield np.zeros(3)
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        ingest(broken(), tmp_path / "x.npy")
    assert os.listdir(tmp_path) == []


# --- files ------------------------------------------------------------------------------------------------------------


def test_directory_glob_and_list_of_files_in_natural_order(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    parts = {name: frames(length, seed=length) for name, length in (("run2", 5), ("run10", 7), ("run1", 3))}
    np.save(folder / "run2.npy", parts["run2"])
    np.savez(folder / "run10.npz", parts["run10"])
    np.savez_compressed(folder / "run1.npz", only=parts["run1"])
    (folder / "notes.txt").write_text("no array")
    expected = np.concatenate([parts["run1"], parts["run2"], parts["run10"]])
    for number, source in enumerate([folder, str(folder / "run*.np[yz]")]):
        named = pytest.warns(SourceWarning, match=r"skipped 1 \.txt file") if source == folder else contextlib.nullcontext()
        with named:
            path = ingest(source, tmp_path / f"{number}.npy", layout=None)
        np.testing.assert_array_equal(np.load(path), expected)
        assert manifest_of(path).episodes == (0, 3, 8, 15)
    path = ingest([folder / "run2.npy", folder / "run2.npy"], tmp_path / "twice.npy", layout=None)
    assert manifest_of(path).episodes == (0, 5, 10)
    (folder / "notes.txt").unlink()
    (folder / "run3.npy").symlink_to("moved.npy")  # as git-annex leaves it where the data was not fetched
    with pytest.raises(NotFoundError, match=r"run3\.npy does not exist\. It is a link to moved\.npy, where nothing is\."):
        ingest(folder, tmp_path / "less.npy", layout=None)


def test_npz_larger_than_a_block_and_with_time(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (6, 50, 100, 400)).astype(np.uint8)
    np.savez(tmp_path / "in.npz", array)
    path = ingest(tmp_path / "in.npz", tmp_path / "x.npy", source_layout="NTHW", max_memory="20MB")
    np.testing.assert_array_equal(np.load(path), array.reshape(300, 100, 400))
    assert manifest_of(path).episodes == tuple(range(0, 301, 50))


def test_npz_with_several_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", image=frames(5), label=np.arange(5))
    with pytest.raises(KeyNotFoundError, match=r"holds 2 arrays \(image, label\); expected one.*in.npz::image"):
        ingest(tmp_path / "in.npz", tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load(ingest(f"{tmp_path}/in.npz::label", tmp_path / "x.npy")), np.arange(5))
    with pytest.raises(KeyNotFoundError, match=r"no array 'depth'; it holds image, label"):
        ingest(f"{tmp_path}/in.npz::depth", tmp_path / "y.npy")


def test_damaged_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", frames(50))
    data = bytearray((tmp_path / "in.npz").read_bytes())
    data[1000] ^= 255
    (tmp_path / "flipped.npz").write_bytes(data)
    (tmp_path / "text.npz").write_text("hello")
    for name in ("flipped.npz", "text.npz"):
        with pytest.raises(DamagedFileError, match=f"{name} is not a whole .npz archive"):
            ingest(tmp_path / name, tmp_path / "x.npy", layout=None)


def test_a_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.zeros((2, 3)))
    np.savez(tmp_path / "b.npz", np.zeros((2, 4)))
    with pytest.raises(InvalidValueError, match=r"b\.npz holds samples of shape \(4,\).*a\.npz and the others \(3,\)"):
        ingest(str(tmp_path / "*.npz"), tmp_path / "x.npy")
    np.save(tmp_path / "c.npy", np.zeros((2, 3), np.int32))
    with pytest.raises(InvalidValueError, match=r"c\.npy holds samples of .*int32"):
        ingest([tmp_path / "a.npz", tmp_path / "c.npy"], tmp_path / "x.npy")


def test_hdf5_and_zarr_paths(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["g/frames"] = frames(9)
        file["g/label"] = np.arange(9)
    for spelling in (f"{tmp_path}/in.h5::/g/frames", f"{tmp_path}/in.h5/g/frames"):
        path = ingest(spelling, tmp_path / "x.zarr", layout=None, overwrite=True)
        np.testing.assert_array_equal(read(path), frames(9))
    with pytest.raises(MmapstoreError, match="g/label"):
        ingest(tmp_path / "in.h5", tmp_path / "y.npy")


def test_pickles_are_pointed_to_megabatches(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"")
    for source in (tmp_path, tmp_path / "a.pkl", str(tmp_path / "*.pkl")):
        with pytest.raises(UnsafeFileError, match=r"a\.pkl is a pickle.*allow_pickle=True to mmapstore\.Megabatches"):
            ingest(source, tmp_path / "x")


def test_missing_sources(tmp_path: Path) -> None:
    for source, text in [
        ("no.npy", "does not exist"),
        ("no*.npy", "No file matches"),
        (".", "without .npy, .npz, image or video files"),
    ]:
        with pytest.raises(NotFoundError, match=text):
            ingest(tmp_path / source, tmp_path / "x.npy")
    with pytest.raises(NotFoundError, match=r"b.npy does not exist"):
        np.save(tmp_path / "a.npy", np.zeros(3))
        ingest([tmp_path / "a.npy", tmp_path / "b.npy"], tmp_path / "x.npy")
    with pytest.raises(InvalidValueError, match="The source is an empty text"):
        ingest("", tmp_path / "x.npy")
    with pytest.raises(InvalidTypeError, match="An object of type float cannot be ingested"):
        ingest(1.5, tmp_path / "x.npy")


@pytest.mark.parametrize(
    "source", [np.float64(3.0), np.zeros((0, 3)), np.array(["a"]), np.array([None]), np.zeros(3, "c8"), np.zeros(2, "g")]
)
def test_arrays_that_cannot_be_written(tmp_path: Path, source: Any) -> None:
    with pytest.raises((InvalidValueError, InvalidTypeError)):
        ingest(source, tmp_path / "x.npy")
    assert os.listdir(tmp_path) == []


# --- video ------------------------------------------------------------------------------------------------------------


def decoded(name: str) -> np.ndarray[Any, Any]:
    import av

    with av.open(video(name)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("out", ["x.npy", "x.h5", "x.zarr"])
def test_video_becomes_frames(tmp_path: Path, out: str) -> None:
    path = ingest(video("carphone_pristine.mp4"), tmp_path / out)
    expected = decoded("carphone_pristine.mp4").transpose(0, 3, 1, 2)
    assert expected.shape[1:] == (3, 144, 176)
    np.testing.assert_array_equal(read(path), expected)
    assert manifest_of(path).episodes == (0, len(expected))


def test_each_video_is_an_episode(tmp_path: Path) -> None:
    names = ["carphone_distorted.mp4", "carphone_pristine.mp4"]
    for name in names:
        (tmp_path / name).write_bytes(Path(video(name)).read_bytes())
    path = ingest(tmp_path, tmp_path / "x.npy", layout=None)
    expected = [decoded(name) for name in names]
    np.testing.assert_array_equal(np.load(path), np.concatenate(expected))
    assert manifest_of(path).episodes == (0, len(expected[0]), len(expected[0]) + len(expected[1]))


def test_videos_of_two_sizes(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"bikes.mp4 has frames of .* pixels, .*carphone_pristine.mp4 176x144"):
        ingest([video("carphone_pristine.mp4"), video("bikes.mp4")], tmp_path / "x.npy")


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a video at all" * 100)
    with pytest.raises(DamagedFileError, match=r"a.mp4 cannot be decoded as video"):
        ingest(tmp_path / "a.mp4", tmp_path / "x.npy")
    with pytest.raises(InvalidValueError, match="Video frames come as 'THWC'"):
        ingest(video("carphone_pristine.mp4"), tmp_path / "x.npy", source_layout="NCHW")
    np.save(tmp_path / "b.npy", np.zeros(3))
    with pytest.raises(InvalidValueError, match=r"holds arrays .* and videos"):
        ingest(tmp_path, tmp_path / "x.npy")


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'mmapstore\[video\]'"):
        ingest(video("carphone_pristine.mp4"), tmp_path / "x.npy")
