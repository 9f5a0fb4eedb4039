"""Memory: measured <= predicted <= `max_memory`, the same for ten times the data; and refused beforehand where it is not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mmapstore as mm
from mmapstore.batches import advice, batch_reader
from mmapstore.files import lent_buffers
from mmapstore.plain.errors import MemoryBudgetError, SlowAccessWarning
from mmapstore.readers import raw_reader

SAMPLE = (3, 50, 50)  # 30 kB as float32
MIB = 2**20


def npy(folder: Path, samples: int) -> str:
    """A file that takes no room on disk: private memory does not depend on what is in it."""
    path = folder / f"{samples}.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (samples, *SAMPLE)})
        file.truncate(file.tell() + samples * 30_000)
    return str(path)


def swapped(folder: Path, samples: int) -> str:
    path = Path(npy(folder, samples))
    path.write_bytes(path.read_bytes().replace(b"<f4", b">f4", 1))
    return str(path)


def hdf5(folder: Path, samples: int) -> str:
    """gzip chunks of 64 samples, all alike: compressed once and stored often."""
    h5py = pytest.importorskip("h5py")
    path = folder / f"{samples}.h5"
    with h5py.File(path, "w") as file:
        options = {"chunks": (64, *SAMPLE), "compression": "gzip", "compression_opts": 1, "shuffle": True}
        data = file.create_dataset("x", (samples, *SAMPLE), "f4", **options)
        data[:64] = np.random.default_rng(0).integers(0, 9, (64, *SAMPLE))
        mask, chunk = data.id.read_direct_chunk((0, 0, 0, 0))
        for start in range(64, samples, 64):
            data.id.write_direct_chunk((start, 0, 0, 0), chunk, mask)
    return f"{path}::/x"


def zarr(folder: Path, samples: int) -> str:
    library = pytest.importorskip("zarr")
    path = folder / f"{samples}.zarr"
    options = {"chunks": (64, *SAMPLE), "compressors": library.codecs.ZstdCodec(level=1)}
    array = library.create_array(store=str(path), shape=(samples, *SAMPLE), dtype="f4", **options)
    for start in range(0, samples, 64):
        array[start : start + 64] = np.arange(min(64, samples - start), dtype="f4")[:, None, None, None]
    return str(path)


def measured(source: str, batches: dict, batches_read: int | None = None, epochs: int = 1, **options) -> dict:
    asked = {"open": [source, options], "batches": {"batch_size": 32, **batches}, "batches_read": batches_read, "epochs": epochs}
    script = Path(__file__).with_name("memory_child.py")
    done = subprocess.run([sys.executable, script, json.dumps(asked)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


linux = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="measures with /proc")

CASES = {
    "raw, in order": (npy, {"target": "next"}),
    "raw, shuffled": (npy, {"target": "next", "shuffle": True}),
    "raw, converted, in order": (npy, {"target": "next", "dtype": "f8"}),
    "raw, converted, shuffled": (npy, {"target": "next", "dtype": "f8", "layout": "NHWC", "shuffle": True}),
    "raw, shuffled, transformed": (npy, {"target": "next", "shuffle": True, "transform_workers": 1}),
    "raw, shuffled, transformed by four": (npy, {"target": "next", "shuffle": True, "transform_workers": 4}),
    "gzip HDF5, in order, transformed by three": (hdf5, {"target": "next", "transform_workers": 3}),
    "raw, windows far apart": (npy, {"target": "window"}),
    "other byte order, in order": (swapped, {"target": "next"}),
    "gzip HDF5, in order": (hdf5, {"target": "next"}),
    "gzip HDF5, shuffled": (hdf5, {"target": "next", "shuffle": 500}),
    "gzip HDF5, shuffled, batches that straddle windows": (hdf5, {"target": "next", "shuffle": 500, "batch_size": 230}),
    "gzip HDF5, windows far apart": (hdf5, {"target": "window"}),
    "gzip HDF5, shuffled throughout": (hdf5, {"target": "next", "shuffle": 10_000}),
    "zstd Zarr, shuffled throughout": (zarr, {"target": "next", "shuffle": 10_000}),
    "zstd Zarr, in order": (zarr, {"target": "next"}),
    "gzip HDF5, most of it, in order": (hdf5, {"kept": 0.8}),
    "gzip HDF5, some of it, shuffled": (hdf5, {"kept": 0.1, "shuffle": True}),
    "zstd Zarr, some of it, in order": (zarr, {"kept": 0.1}),
    "zstd Zarr, shuffled": (zarr, {"target": "next", "shuffle": 500}),
    "gzip HDF5, shuffled, whole batches mixed": (hdf5, {"target": "next", "shuffle": 300, "mixed": "batches"}),
    "gzip HDF5, shuffled, samples mixed": (hdf5, {"target": "next", "shuffle": 300, "mixed": "samples"}),
    "raw, transformed by three, samples mixed": (npy, {"target": "next", "transform_workers": 3, "mixed": "samples"}),
    "raw, shuffled, transformed by three, batches mixed": (
        npy,
        {"target": "next", "shuffle": True, "transform_workers": 3, "mixed": "batches"},
    ),
}


@linux
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_epoch_takes_no_more_than_predicted(tmp_path, case):
    make, batches = case
    found = measured(make(tmp_path, 2000), batches)
    assert found["measured"] <= found["predicted"], found
    assert found["predicted"] <= 160 * MIB


@linux
def test_many_episodes_of_unequal_length_do_not_pile_up_buffers(tmp_path):
    """Every batch crosses another number of ends, and so reads another number of frames."""
    lengths = np.random.default_rng(0).integers(2, 60, 50)
    episodes = [0, *np.cumsum(lengths).tolist()]
    source = hdf5(tmp_path, episodes[-1])
    found = measured(source, {"target": "next"}, episodes=episodes)
    assert found["measured"] <= found["predicted"], found


@linux
@pytest.mark.slow
@pytest.mark.parametrize("shuffle", [True, 100_000])
def test_a_balanced_epoch_of_ten_million_labels(tmp_path, shuffle):
    x, labels = tmp_path / "x.npy", np.random.default_rng(0).choice(5, 10**7, p=[0.9, 0.06, 0.02, 0.015, 0.005]).astype("u1")
    np.save(tmp_path / "label.npy", labels)
    with x.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**7, 4)})
        file.truncate(file.tell() + 16 * 10**7)
    fields = {"x": str(x), "label": str(tmp_path / "label.npy")}
    found = measured(fields, {"balance": "label", "shuffle": shuffle, "batch_size": 512}, batches_read=3000)
    assert 0.6 * found["predicted"] <= found["measured"] <= found["predicted"], found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raw, in order", "raw, shuffled", "gzip HDF5, shuffled"])
def test_ten_times_the_data_takes_no_more(tmp_path, name):
    make, batches = CASES[name]
    # A peak is what threads happen to hold together, and the more batches, the higher: so as many of both, and the small twice.
    source = make(tmp_path, 3000)
    small = max((measured(source, batches, epochs=10) for _ in range(2)), key=lambda found: found["measured"])
    large = measured(make(tmp_path, 30_000), batches)
    assert large["batches"] == pytest.approx(small["batches"], rel=0.1)
    assert large["measured"] <= large["predicted"]
    # Windows are balanced: their size differs a little with the number of blocks there are.
    assert large["predicted"] == pytest.approx(small["predicted"], rel=0.1)
    assert large["measured"] <= small["measured"] + 4 * MIB


def test_a_limit_means_fewer_threads_for_these_batches_alone(tmp_path):
    ds = mm.open(hdf5(tmp_path, 300))
    usual = ds.batches(8).memory
    decoder = usual.parts["decoder"]
    limit = usual.total - decoder // 4
    limited = ds.batches(8, max_memory=limit)
    assert limited.memory.total <= limit and limited.memory.parts["decoder"] < decoder
    assert ds.batches(8).memory == usual
    for x, same in zip(limited, ds.batches(8), strict=True):
        np.testing.assert_array_equal(x, same)


@pytest.mark.parametrize("target", [mm.NextFrame(), mm.Window(3, 2, stride=2), None])
def test_windows_of_data_that_exceed_memory_are_held(tmp_path, monkeypatch, target):
    """Unless the limit has no room for them: the order and the values are the same."""
    path = npy(tmp_path, 3000)
    expected = list(mm.open(path).batches(40, target=target, shuffle=True, seed=3))
    for module in (batch_reader, raw_reader, advice):
        monkeypatch.setattr(module, "memory_available", lambda: 50_000_000)
    b = mm.open(path).batches(40, target=target, shuffle=True, seed=3)
    held = b.memory.parts["windows of frames"]
    small = mm.open(path).batches(40, target=target, shuffle=True, seed=3, max_memory=b.memory.total - held // 2)
    assert held > 50_000_000 and small.memory.parts["windows of frames"] == 0
    sequential = mm.open(path).batches(40, target=target)
    assert sequential.memory.parts["windows of frames"] == 0
    for each in (b, small):
        for found, wanted in zip(each, expected, strict=True):
            for x, y in zip(found if target else [found], wanted if target else [wanted], strict=True):
                np.testing.assert_array_equal(x, y)


def test_two_shuffling_windows_are_held_at_a_time(tmp_path, monkeypatch):
    """Also by batches that straddle two, and by batches read in any order."""
    made = []
    new_memory = lent_buffers._new_memory
    monkeypatch.setattr(lent_buffers, "_new_memory", lambda size: made.append(size) or new_memory(size))
    b = mm.open(hdf5(tmp_path, 2000)).batches(230, target=mm.NextFrame(), shuffle=500)
    window = b.memory.parts["windows of frames"] // 2
    with pytest.warns(SlowAccessWarning, match="out of order"):
        for number in (0, 1, 2, 7, 3, 0):
            b[number]
    assert sum(size >= window for size in made) == 2


@pytest.mark.parametrize("shuffle", [10_000, 500, False])
def test_the_next_epoch_begins_in_the_buffers_of_the_last_one(tmp_path, monkeypatch, shuffle):
    made = []
    new_memory = lent_buffers._new_memory
    monkeypatch.setattr(lent_buffers, "_new_memory", lambda size: made.append(size) or new_memory(size))
    b = mm.open(hdf5(tmp_path, 2000)).batches(32, target=mm.NextFrame(), shuffle=shuffle)
    for epoch in range(3):
        for number in range(len(b)):
            b.read(epoch, number)
        assert sum(made) <= sum(b.memory.parts[name] for name in ("windows of frames", "4 batches alive", "decoder")), epoch


# --- the prediction -------------------------------------------------------------------------------------------------------


def test_prediction_does_not_depend_on_the_length_of_raw_data(tmp_path):
    def predicted(samples, shuffle):
        return mm.open(npy(tmp_path, samples)).batches(32, target=mm.NextFrame(), shuffle=shuffle).memory.parts

    assert predicted(5000, True) == predicted(50_000, True)
    assert predicted(5000, False) == predicted(50_000, False)


def test_parts_are_what_they_are_called(tmp_path):
    b = mm.open(npy(tmp_path, 5000)).batches(32, target=mm.NextFrame(), shuffle=True, dtype="f8")
    assert b.memory.parts["4 batches alive"] == 4 * 32 * 2 * 60_000
    assert b.memory.parts["frames before conversion"] == 2 * 32 * 2 * 30_000  # of two batches, which are read together
    assert b.memory.parts["windows of frames"] == 0
    rows = (40 * 64 + 40) * 30_000  # 79 blocks are cut into windows of 39 and 40; each block reaches one frame past it
    assert b.memory.page_cache == 2 * rows
    b = mm.open(hdf5(tmp_path, 5000)).batches(32, target=mm.NextFrame(), shuffle=True)
    assert (b.memory.page_cache, b.memory.parts["windows of frames"]) == (0, 2 * rows)
    assert b.memory.parts["decoder"] >= 2 * 64 * 30_000


@pytest.mark.parametrize("shuffle", [True, 1000])
@pytest.mark.parametrize("target", [mm.NextFrame(), mm.Window(4, 2, stride=3)])
def test_what_is_refused_names_a_shuffle_that_fits(tmp_path, monkeypatch, shuffle, target):
    ds = mm.open(hdf5(tmp_path, 3000))
    needed = ds.batches(8, target=target, shuffle=shuffle).memory
    limit = needed.total - needed.parts["windows of frames"] // 2
    # Nothing is read before it is refused.
    monkeypatch.setattr(type(ds.readers["data"]), "read", lambda *_: pytest.fail("was read"))
    with pytest.raises(MemoryBudgetError, match=r"over max_memory=.*shuffle=\d+ fits \(a smaller shuffling window") as caught:
        ds.batches(8, target=target, shuffle=shuffle, max_memory=limit)
    assert isinstance(caught.value, MemoryError) and "windows of frames" in str(caught.value)
    named = int(re.search(r"shuffle=(\d+) fits", str(caught.value))[1])
    found = ds.batches(8, target=target, shuffle=named, max_memory=limit).memory.total
    assert limit * 0.6 <= found <= limit, "fits, and wastes little"


def test_where_no_shuffle_fits_the_batch_is_too_large(tmp_path):
    ds = mm.open(hdf5(tmp_path, 3000))
    for options in ({"shuffle": True}, {}):
        with pytest.raises(MemoryBudgetError, match=r"over max_memory=1.00 MB. Make batch_size=32 smaller"):
            ds.batches(32, target=mm.NextFrame(), max_memory="1MB", **options)


@pytest.mark.parametrize("limit", [10**9, "1GB", "1 GiB", np.int64(10**9)])
def test_limits_that_suffice(tmp_path, limit):
    b = mm.open(npy(tmp_path, 3000)).batches(32, target=mm.NextFrame(), shuffle=True, max_memory=limit)
    assert b.memory.total < 10**9


OPENED = """
import json, sys
import mmapstore as mm
from mmapstore.files.process_memory import give_back_free_memory, private_bytes
few = mm.open(sys.argv[1:401]).batches(4)  # loads what is loaded once
give_back_free_memory()
before = private_bytes()
many = mm.open(sys.argv[1:]).batches(4)
give_back_free_memory()
print(json.dumps([private_bytes() - before, few.memory.total, many.memory.total]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".npy", ".h5"])
def test_an_opened_dataset_of_many_files_is_in_the_prediction(tmp_path, suffix):
    for number in range(2000):
        if suffix == ".npy":
            np.save(tmp_path / f"frames{number}.npy", np.zeros((4, 2), "f4"))
        else:
            h5py = pytest.importorskip("h5py")
            with h5py.File(tmp_path / f"frames{number}.h5", "w") as file:
                file.create_dataset("frames", data=np.zeros((4, 2), "f4"), chunks=(2, 2), compression="gzip")
    paths = [str(tmp_path / f"frames{number}{suffix}") for number in range(2000)]
    # In a process of its own: memory that other tests have freed would hide what is kept.
    child = subprocess.run([sys.executable, "-c", OPENED, *paths], capture_output=True, text=True, check=True)
    kept, few, many = json.loads(child.stdout)
    assert 0.3 * (many - few) <= kept <= many - few
    with pytest.raises(MemoryBudgetError, match="opened files"):
        mm.open(paths).batches(4, max_memory=few + 2**20)
