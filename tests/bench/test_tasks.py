"""Tasks: what is generated, what is made of a user's data, and the checksum that an epoch must come to."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import mmapstore as mm
from mmapstore.bench import checksum as checksums
from mmapstore.bench.checksum import checksum
from mmapstore.bench.contract import Task
from mmapstore.bench.generated_data import _BLOCK, generated
from mmapstore.bench.tasks import of_user
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError, KeyNotFoundError

SMALL = 3_000_000
ARRAYS = ("npy", "h5", "h5-gzip", "zarr", "zarr-zstd")


def stored(task: Task) -> np.ndarray:
    """All samples, read by the library of the format."""
    outer, _, inside = task.path.partition("::")
    if task.form == "npy":
        return np.load(outer)
    if task.form.startswith("h5"):
        h5py = pytest.importorskip("h5py")
        with h5py.File(outer) as file:
            return file[inside][:]
    zarr = pytest.importorskip("zarr")
    return zarr.open_array(outer, path=inside.strip("/"), mode="r")[:]


def by_hand(x: list[bytes], weights: list[int]) -> int:
    """The checksum of samples of these bytes, in Python's own integers."""
    total = 0
    for sample, weight in zip(x, weights, strict=True):
        total += words(sample) * (2 * weight + 1)
    return (total + 2**63) % 2**64 - 2**63


def words(sample: bytes) -> int:
    width = 8 if len(sample) % 8 == 0 else 1
    return sum(
        int.from_bytes(sample[at : at + width], "little", signed=width == 8) for at in range(0, len(sample), width)
    )  # fmt: skip


# --- generated data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ARRAYS)
def test_every_form_holds_the_same_samples(tmp_path, form):
    plain = generated("next", "npy", SMALL, tmp_path)
    task = generated("next", form, SMALL, tmp_path)
    assert task.nbytes == SMALL and task.samples == 100 and task.pairs == 99
    np.testing.assert_array_equal(stored(task), np.load(plain.path))
    assert checksum(task) == checksum(plain)


def test_compressed_forms_are_compressed_as_their_names_say(tmp_path):
    h5py = pytest.importorskip("h5py")
    task = generated("next", "h5-gzip", 20_000_000, tmp_path)
    outer, _, inside = task.path.partition("::")
    with h5py.File(outer) as file:
        found = file[inside]
        assert (found.compression, found.shuffle) == ("gzip", True)
        assert 1_000_000 < np.prod(found.chunks) * 4 <= 2_000_000
    share = os.path.getsize(outer) / task.nbytes
    assert 0.2 < share < 0.8, "neither noise nor zeros: codecs find what they find in measured data"


def test_contiguous_hdf5_is_contiguous(tmp_path):
    h5py = pytest.importorskip("h5py")
    task = generated("next", "h5", SMALL, tmp_path)
    outer, _, inside = task.path.partition("::")
    with h5py.File(outer) as file:
        assert file[inside].chunks is None


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_labelled_samples(tmp_path, dtype):
    task = generated("labelled", "npy", SMALL, tmp_path, batch=16, dtype=dtype)
    x, y = np.load(task.path), np.load(task.labels)
    assert x.dtype == (dtype or "uint8") == task.dtype
    assert x.shape == (task.samples, *task.shape) and task.pairs == task.samples
    assert y.dtype == np.int64 and y.shape == (task.samples,) and set(y) == set(range(10))
    assert x.std() > (20 if dtype is None else 0.3)


def test_images_lie_in_a_folder_for_each_class(tmp_path):
    image = pytest.importorskip("PIL.Image")
    task = generated("images", "folder", SMALL, tmp_path, batch=16)
    folders = sorted(path.name for path in Path(task.path).iterdir())
    files = sorted(Path(task.path).rglob("*.jpg"))
    assert folders == list("abcdefghij") and len(files) == task.samples == SMALL // (128 * 128 * 3)
    with image.open(files[0]) as first:
        assert (first.height, first.width, 3) == task.shape and first.format == "JPEG"
        assert np.asarray(first).std() > 20


def test_the_seed_decides_and_nothing_else(tmp_path):
    one, other = (generated("next", "npy", SMALL, tmp_path / str(at), seed=5) for at in range(2))
    third = generated("next", "npy", SMALL, tmp_path / "0", seed=6)
    np.testing.assert_array_equal(np.load(one.path), np.load(other.path))
    assert not np.array_equal(np.load(one.path), np.load(third.path))


def test_larger_than_a_block_has_no_seam(tmp_path):
    task = generated("next", "npy", 2 * _BLOCK + SMALL, tmp_path)
    frames = np.load(task.path, mmap_mode="r")
    changes = np.abs(np.diff(np.asarray(frames[:, 0, 0, 0])))
    assert changes.max() < 20 * np.median(changes), "frames move on, also from one block to the next"
    assert len({frame.tobytes() for frame in frames}) == len(frames)


def test_data_is_kept_for_the_next_run(tmp_path):
    def files():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    generated("next", "zarr", SMALL, tmp_path)
    before = files()
    generated("next", "zarr", SMALL, tmp_path)
    assert files() == before


def test_what_was_left_half_written_is_written_again(tmp_path):
    task = generated("next", "npy", SMALL, tmp_path / "whole")
    home = tmp_path / "cut" / Path(task.path).parent.name
    home.mkdir(parents=True)
    (home / "data.npy.partial").write_bytes(Path(task.path).read_bytes()[:1_000_000])
    again = generated("next", "npy", SMALL, tmp_path / "cut")
    np.testing.assert_array_equal(np.load(again.path), np.load(task.path))
    assert not (home / "data.npy.partial").exists()


def test_too_little_data_is_told(tmp_path):
    with pytest.raises(InvalidValueError, match=r"60\.0 kB are 2 samples of 30\.0 kB; expected enough for two batches of 32"):
        generated("next", "npy", 60_000, tmp_path)


# --- the checksum --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "int64", ">i4"])
@pytest.mark.parametrize("shape", [(8,), (3, 5)])
def test_checksum_of_labelled_samples(dtype, shape):
    random = np.random.default_rng(0)
    x = random.integers(0, 100, (6, *shape)).astype(dtype)
    y = random.integers(0, 10, 6)
    task = Task("labelled", "npy", "x.npy", 6, shape, "uint8", "y.npy")
    native = x.astype(x.dtype.newbyteorder("="))
    assert checksums.of_batch(task, x, y) == by_hand([sample.tobytes() for sample in native], y.tolist())


def test_checksum_wraps():
    task = Task("next", "npy", "x.npy", 3, (2,), "int64")
    x = np.full((3, 2), 2**62 + 7)
    assert checksums.of_batch(task, x, x) == by_hand([row.tobytes() for row in x], [words(row.tobytes()) for row in x])


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_floats_are_taken_as_keras_computes_with_them(dtype):
    task = Task("next", "npy", "x.npy", 4, (3,), dtype)
    x = np.random.default_rng(0).random((5, 3)).astype(dtype)
    cast = x.astype("float32")
    assert checksums.of_batch(task, x[:-1], x[1:]) == checksums.of_batch(task, cast[:-1], cast[1:])


def test_checksum_knows_pairs_and_not_the_order():
    task = Task("next", "npy", "x.npy", 9, (4,), "float32")
    a = np.random.default_rng(0).random((9, 4), np.float32)
    x, y, mixed = a[:-1], a[1:], np.random.default_rng(1).permutation(8)
    right = checksums.of_batch(task, x, y)
    assert checksums.of_batch(task, x[mixed], y[mixed]) == right
    parts = checksums.of_batch(task, x[:3], y[:3]) + checksums.of_batch(task, x[3:], y[3:])
    assert checksums.signed(parts) == right
    assert checksums.of_batch(task, x, y[mixed]) != right
    assert checksums.of_batch(task, x, x) != right
    assert checksums.of_batch(task, x[:-1], y[:-1]) != right


def test_images_that_are_resized_are_counted():
    task = Task("images", "folder", "x", 4, (2, 2, 3), "uint8")
    x, y = np.zeros((4, 2, 2, 3), np.uint8), np.arange(4)
    assert checksums.of_batch(task, x, y) == checksums.of_batch(task, x + 9, y) == 12 * (1 + 3 + 5 + 7)
    assert checksums.of_batch(task, x[:, :1], y) == 6 * (1 + 3 + 5 + 7), "half an image is seen"
    assert checksums.of_batch(task, x - 1.0, y) == 0, "so are values that no image has"


@pytest.mark.parametrize("kind", ["next", "labelled", "images"])
def test_checksum_of_a_task(tmp_path, kind):
    pytest.importorskip("PIL")
    task = generated(kind, "folder" if kind == "images" else "npy", SMALL, tmp_path, batch=16)
    if kind == "images":
        image = pytest.importorskip("PIL.Image")
        files = [(path, ord(path.parent.name) - ord("a")) for path in sorted(Path(task.path).rglob("*.jpg"))]
        x = np.stack([np.asarray(image.open(path)) for path, _ in files])
        y = np.array([label for _, label in files])
    else:
        a = np.load(task.path)
        x, y = (a[:-1], a[1:]) if kind == "next" else (a, np.load(task.labels))
    assert checksum(task) == checksums.of_batch(task, x, y)


def test_checksum_is_kept_beside_generated_data_alone(tmp_path):
    task = generated("next", "npy", SMALL, tmp_path)
    right = checksum(task)
    record = Path(task.path).with_name(checksums.RECORD)
    assert list(json.loads(record.read_text()).values()) == [right]
    Path(task.path).rename(tmp_path / "own.npy")
    assert checksum(task) == right, "not read again"
    before = set(tmp_path.iterdir())
    assert checksum(of_user(tmp_path / "own.npy")) == right
    assert set(tmp_path.iterdir()) == before


# --- a user's data -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "called"), [("npy", "npy"), ("h5", "h5"), ("h5-gzip", "h5-own"), ("zarr", "zarr-own")])
@pytest.mark.parametrize("named", [True, False])
def test_a_file_of_frames(tmp_path, form, called, named):
    made = generated("next", form, SMALL, tmp_path)
    task = of_user(made.path if named else made.path.partition("::")[0], batch=8, seed=3)
    assert (task.kind, task.form, task.samples, task.shape, task.dtype) == ("next", called, 100, (3, 50, 50), "float32")
    assert (task.batch, task.seed, task.path.partition("::")[2].strip("/")) == (8, 3, "" if form == "npy" else "data")
    np.testing.assert_array_equal(stored(task), stored(made))


def test_labels_make_it_a_classification(tmp_path):
    made = generated("labelled", "npy", SMALL, tmp_path)
    task = of_user(made.path, labels=made.labels)
    assert (task.kind, task.labels, task.pairs) == ("labelled", made.labels, made.samples)
    assert checksum(task) == checksum(made)


@pytest.mark.parametrize("shape", [(100,), (100, 1)])
def test_labels_of_another_kind_become_a_npy_of_int64(tmp_path, shape):
    np.save(tmp_path / "x.npy", np.zeros((100, 4), np.float32))
    labels = np.random.default_rng(0).integers(0, 9, shape).astype(np.uint8)
    np.save(tmp_path / "y.npy", labels)
    with pytest.raises(InvalidValueError, match=r"y.npy is not a .npy file of int64, shape \(100,\), and there is no directory="):
        of_user(tmp_path / "x.npy", labels=tmp_path / "y.npy")
    task = of_user(tmp_path / "x.npy", labels=tmp_path / "y.npy", directory=tmp_path / "made")
    found = np.load(task.labels)
    assert found.dtype == np.int64 and Path(task.labels).parent == tmp_path / "made"
    np.testing.assert_array_equal(found, labels.reshape(-1))


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.zeros(99, np.int64), InvalidValueError, r"has 99 labels, .*x.npy 100 samples; expected as many of both"),
        (np.zeros(100), InvalidTypeError, r"holds float64 of shape \(100,\); expected one whole number for each sample"),
        (np.zeros((100, 2), np.int64), InvalidTypeError, r"holds int64 of shape \(100, 2\); expected one whole number"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, labels, error, message):
    np.save(tmp_path / "x.npy", np.zeros((100, 4), np.float32))
    np.save(tmp_path / "y.npy", labels)
    with pytest.raises(error, match=message):
        of_user(tmp_path / "x.npy", labels=tmp_path / "y.npy")


def test_data_that_most_ways_cannot_read(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((100, 4)))
    with pytest.raises(InvalidTypeError, match=r"x.npz.* is .npz, which most strategies .* Convert it first: mmapstore convert"):
        of_user(f"{tmp_path / 'x.npz'}::x")
    np.save(tmp_path / "c.npy", np.zeros((100, 4), np.complex64))
    with pytest.raises(InvalidTypeError, match="has dtype complex64; Keras trains on bool, integers or floats"):
        of_user(tmp_path / "c.npy")
    np.save(tmp_path / "few.npy", np.zeros((10, 4)))
    with pytest.raises(InvalidValueError, match=r"has 10 samples; expected enough for two batches of 32. Ask for a smaller batch"):
        of_user(tmp_path / "few.npy")


def test_mixed_samples_are_fed_alone_or_with_labels(tmp_path):
    photos = picture_folder(tmp_path, [(4, 4)] * 200) / "a"
    mm.ingest(mm.Images(photos, order="mixed", seed=1), tmp_path / "x.npy", progress=False)
    np.save(tmp_path / "y.npy", np.arange(100))
    notes: list[str] = []
    task = of_user(tmp_path / "x.npy", notes=notes)
    assert (task.kind, task.labels, task.pairs) == ("input", None, 100)
    assert len(notes) == 1 and "mixed" in notes[0] and "--labels FILE" in notes[0]
    assert checksum(task) == checksums.of_batch(task, np.load(task.path))
    assert of_user(tmp_path / "x.npy", labels=tmp_path / "y.npy", notes=notes).kind == "labelled" and len(notes) == 1


def test_several_arrays_are_asked_about(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["y"] = np.zeros((100, 4)), np.zeros((50, 3))
    with pytest.raises(KeyNotFoundError, match=r"(?s)say which one.*/x .*/y "):
        of_user(tmp_path / "a.h5")


def picture_folder(tmp_path, sizes, suffix=".png", mode="RGB", **options):
    image = pytest.importorskip("PIL.Image")
    for number, size in enumerate(sizes):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image.new(mode, size, 90).save(folder / f"{number}{suffix}", **options)
    return tmp_path / "photos"


def test_a_folder_of_images(tmp_path):
    task = of_user(picture_folder(tmp_path, [(12, 10)] * 8), batch=4, directory=tmp_path / "made")
    assert (task.kind, task.form, task.samples, task.shape) == ("images", "folder", 8, (10, 12, 3))
    assert task.prepared == str(tmp_path / "made" / "prepared")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_images_of_other_modes(tmp_path, mode):
    task = of_user(picture_folder(tmp_path, [(12, 10)] * 8, mode=mode), batch=4)
    assert task.shape == (10, 12, 1 if mode == "L" else 3)


def test_images_of_unequal_size_are_brought_to_one(tmp_path):
    folder = picture_folder(tmp_path, [(12, 10)] * 4 + [(20, 30)] * 4)
    task = of_user(folder, batch=4)
    assert task.shape == (10, 12, 3)


def test_images_that_keras_does_not_read(tmp_path):
    folder = picture_folder(tmp_path, [(12, 10)] * 8)
    (folder / "a" / "0.png").rename(folder / "a" / "0.tif")
    with pytest.raises(InvalidValueError, match=r"holds 1 images, such as .*0.tif, that Keras's loaders skip"):
        of_user(folder, batch=4)
    with pytest.raises(InvalidValueError, match=r"is a folder of images, whose folders are the classes; leave labels='y.npy' out"):
        of_user(folder, labels="y.npy")
    with pytest.raises(InvalidValueError, match=r"holds images without a class; expected a folder in it for each class"):
        of_user(folder / "b", batch=4)
