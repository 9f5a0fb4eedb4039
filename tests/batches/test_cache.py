"""`Dataset.cache`: the first epoch decodes, later ones map, and every batch is the same as without."""

from __future__ import annotations

import collections
import gc
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import mmapstore as mm
from mmapstore.batches import caching
from mmapstore.plain.errors import (
    InvalidTypeError,
    InvalidValueError,
    KeyNotFoundError,
    SlowAccessWarning,
    WriteError,
)
from mmapstore.readers import cache_file, cached
from mmapstore.readers.cached import Cached, CompleteCache

FRAMES = np.random.default_rng(5).random((61, 3, 4, 5)).astype("f4")
FRAMES[7, 0, 0, :3] = [np.nan, np.inf, -0.0]

PLANS = {
    "in order": {"target": mm.NextFrame()},
    "shuffled throughout": {"target": mm.NextFrame(), "shuffle": True, "seed": 3},
    "shuffled in windows": {"target": mm.NextFrame(), "shuffle": 10, "seed": 5},
    "windows shuffled": {"target": mm.Window(3, 2, lead=-3, sampling_rate=2, stride=3), "shuffle": 8},
    "other dtype and layout": {"target": mm.NextFrame(), "shuffle": 10, "dtype": "f2", "layout": "NHWC"},
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(cached, "BLOCK_BYTES", 3000)  # of 240 bytes a frame
    monkeypatch.setattr(cached, "SCRATCH_BYTES", 6000)


def gzip(path: Path, frames: np.ndarray = FRAMES, chunk: int = 4) -> str:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=frames, chunks=(min(chunk, len(frames)), *frames.shape[1:]), compression="gzip", shuffle=True)
    return f"{path}::/x"


def zarr_zstd(path: Path, frames: np.ndarray = FRAMES) -> str:
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(
        path, shape=frames.shape, dtype=frames.dtype, chunks=(4, *frames.shape[1:]), compressors=zarr.codecs.ZstdCodec(level=1)
    )
    array[...] = frames
    return str(path)


def scattered(path: Path, frames: np.ndarray = FRAMES) -> str:
    """Chunks that split each frame, of a codec that only the library reads."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=frames, chunks=(8, 1, 2, 3), scaleoffset=None, compression="lzf")
    return f"{path}::/x"


def joined(folder: Path) -> list[str]:
    return [gzip(folder / "a.h5", FRAMES[:30]), gzip(folder / "b.h5", FRAMES[30:], 7)]


SOURCES = {
    "HDF5 gzip": lambda folder: (gzip(folder / "x.h5"), {}),
    "HDF5 gzip, one chunk": lambda folder: (gzip(folder / "x.h5", chunk=61), {}),
    "HDF5 split frames": lambda folder: (scattered(folder / "x.h5"), {}),
    "Zarr zstd": lambda folder: (zarr_zstd(folder / "x.zarr"), {}),
    "several HDF5 gzip": lambda folder: (joined(folder), {"episodes": [0, 61]}),
}


def bits(made) -> bytes:
    arrays = made if isinstance(made, tuple) else (made,)
    return b"|".join(f"{array.shape} {array.dtype.str}".encode() + np.ascontiguousarray(array).tobytes() for array in arrays)


def digest(b, epochs=3) -> list[bytes]:
    return [bits(b.read(epoch, number)) for epoch in range(epochs) for number in range(len(b))]


def flagged(folder: Path) -> dict[str, list[int]]:
    """Of each field, which blocks are there."""
    return {path.name.split("-")[0]: np.fromfile(path, np.uint8).tolist() for path in sorted(folder.glob("*.filled"))}


def taken(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


@pytest.fixture
def count(monkeypatch):
    """How often each sample was read from a source by the cache."""
    counts = collections.Counter()
    real = cached.Cached._read_source

    def counted(self, runs, out):
        for start, stop in runs:
            counts.update(range(start, stop))
        real(self, runs, out)

    monkeypatch.setattr(cached.Cached, "_read_source", counted)
    return counts


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_batches_decoded_once(tmp_path, source, count):
    path, options = SOURCES[source](tmp_path)
    ds = mm.open(path, **options)
    for number, plan in enumerate(PLANS):
        made = ds.cache(tmp_path / f"cache{number}")
        assert repr(made).count("decoded once") == 1 and (made.shape, made.dtype, made.layout) == (ds.shape, ds.dtype, ds.layout)
        b = made.batches(9, **PLANS[plan])
        count.clear()
        first = [bits(b.read(0, batch)) for batch in range(len(b))]
        assert set(count.values()) == {1}, plan
        count.clear()
        found = first + [bits(b.read(epoch, batch)) for epoch in (1, 2) for batch in range(len(b))]
        if len(flagged(tmp_path / f"cache{number}")["data"]) == sum(flagged(tmp_path / f"cache{number}")["data"]):
            assert not count, "later epochs decode nothing"
        assert found == digest(mm.open(path, **options).batches(9, **PLANS[plan])), plan


def test_later_epochs_are_mapped(tmp_path, count):
    ds = mm.open(gzip(tmp_path / "x.h5")).cache(tmp_path / "cache")
    b = ds.batches(8)
    assert b.memory.parts["windows of frames"] > 0
    for batch in range(len(b)):
        b.read(0, batch)
    before = b.memory.total
    assert all(one.field for one in b.grouped(lambda have, want: True).arrays), "it went over to the map"
    (viewed,) = b.read(1, 3)
    assert not viewed.flags.writeable and viewed.tobytes() == FRAMES[24:32].tobytes()
    assert b.memory.total <= before
    assert b.memory.parts["windows of frames"] == 0 and b.memory.parts["decoder"] == 0
    files = list((tmp_path / "cache").glob("*.npy"))
    assert len(files) == 1 and np.load(files[0]).tobytes() == FRAMES.tobytes()
    count.clear()
    again = mm.open(tmp_path / "x.h5", key="x").cache(tmp_path / "cache")
    assert "memory-mapped" in repr(again) and isinstance(again.readers["data"], CompleteCache)
    assert digest(again.batches(9, shuffle=True)) == digest(mm.open(FRAMES).batches(9, shuffle=True))
    assert not count


def test_a_position_goes_on_with_a_cache(tmp_path):
    ds = mm.open(gzip(tmp_path / "x.h5"))
    b = ds.batches(9, shuffle=20)
    steps = iter(b)
    next(steps), next(steps)
    kept = ds.cache(tmp_path / "cache").batches(9, shuffle=20)
    kept.load_state_dict(b.state_dict())
    assert [bits(x) for x in kept] == [bits(x) for x in steps]


def test_parts_share_a_file_and_fill_their_own(tmp_path, count):
    train, val = mm.open(gzip(tmp_path / "x.h5")).split(30, 31)
    train, val = train.cache(tmp_path / "cache"), val.cache(tmp_path / "cache")
    assert digest(train.batches(7, shuffle=True)) == digest(mm.open(FRAMES).split(30, 31)[0].batches(7, shuffle=True))
    assert flagged(tmp_path / "cache") == {"data": [1, 1, 1, 0, 0, 0]}, "blocks of 12 frames; the third goes on past the part"
    assert isinstance(train.batches(7)._reader._fields.readers["data"], CompleteCache)
    count.clear()
    assert bits(val[:]) == bits(FRAMES[30:]) and set(count) == set(range(36, 61))
    assert len(os.listdir(tmp_path / "cache")) == 2


def test_several_fields(tmp_path):
    labels = np.arange(61, dtype="i8")
    source = {"image": gzip(tmp_path / "x.h5"), "label": labels, "mask": gzip(tmp_path / "m.h5", FRAMES[:, 0] > 0.5)}
    ds = mm.open(source)
    made = ds.cache(tmp_path / "cache", max_disk="1MB", transform={"image": lambda x: (x * 2).astype("f2")}, version=1)
    assert made.readers["label"] is ds.readers["label"] and made["image"].dtype == "f2" and len(made["image"].shape) == 4
    options = {"inputs": ["image", "mask"], "target": "label", "shuffle": 10}
    expected = mm.open({"image": (FRAMES * 2).astype("f2"), "label": labels, "mask": FRAMES[:, 0] > 0.5}).batches(8, **options)
    b = made.batches(8, **options)
    for epoch in range(2):
        for number in range(len(b)):
            (image, mask), label = b.read(epoch, number)
            (image_, mask_), label_ = expected.read(epoch, number)
            assert bits((image, mask, label)) == bits((image_, mask_, label_))
    assert set(flagged(tmp_path / "cache")) == {"image", "mask"}


def test_nothing_to_decode_stays_as_it_is(tmp_path):
    np.save(tmp_path / "x.npy", FRAMES)
    for source in (tmp_path / "x.npy", FRAMES):
        ds = mm.open(source)
        assert ds.cache(tmp_path / "cache").readers["data"] is ds.readers["data"]
    made = mm.open(gzip(tmp_path / "x.h5")).cache(tmp_path / "cache")
    assert made.cache(tmp_path / "other").readers["data"] is made.readers["data"], "cached already"
    assert os.listdir(tmp_path / "other") == []


def test_raw_data_with_a_transform_is_cached(tmp_path):
    np.save(tmp_path / "x.npy", FRAMES)
    seen = []

    def gray(samples):
        seen.append(len(samples))
        return np.rint(np.nan_to_num(samples.mean(axis=1), posinf=0) * 255).astype("u1")

    expected = gray(FRAMES)
    seen.clear()
    ds = mm.open(tmp_path / "x.npy").cache(tmp_path / "cache", transform=gray, version="gray")
    assert ds.shape == (61, 4, 5) and ds.dtype == np.uint8 and ds.layout == "NHW"
    assert digest(ds.batches(9, shuffle=10)) == digest(mm.open(expected).batches(9, shuffle=10))
    assert sum(seen) <= 61 + 12 and max(seen) <= 12, "each sample once, and a block to learn what comes out"
    sent = pickle.loads(pickle.dumps(ds.batches(9)))  # a local function would not pickle; it is not needed any more
    assert bits(sent.read(4, 2)) == bits(expected[18:27])


def test_a_transform_needs_a_version_and_keeps_to_it(tmp_path):
    ds = mm.open(gzip(tmp_path / "x.h5"))
    with pytest.raises(InvalidValueError, match="a transform needs version=, any text that names it"):
        ds.cache(tmp_path, transform=lambda x: x)
    with pytest.raises(InvalidTypeError, match="transform=3 cannot be called"):
        ds.cache(tmp_path, transform=3, version=1)
    with pytest.raises(KeyNotFoundError, match=r"transform names \['image'\], but the fields are 'data'"):
        ds.cache(tmp_path, transform={"image": abs}, version=1)
    with pytest.raises(InvalidTypeError, match=r"there are 2 fields; give a dict, such as transform=\{'a': function\}"):
        mm.open({"a": FRAMES, "b": FRAMES}).cache(tmp_path, transform=abs, version=1)
    with pytest.raises(InvalidValueError, match="holds nothing"):
        ds.cache(tmp_path, transform=lambda x: x[:, :, :0], version=1)
    assert ds.cache(tmp_path / "a", transform=lambda x: x + 1, version=1)[0][0, 0, 0] == FRAMES[0, 0, 0, 0] + 1
    with pytest.raises(InvalidValueError, match=r"under version=1: it has changed, or it is random. Give another version"):
        ds.cache(tmp_path / "a", transform=lambda x: x + 2, version=1)
    assert ds.cache(tmp_path / "a", transform=lambda x: x + 2, version=2)[0][0, 0, 0] == FRAMES[0, 0, 0, 0] + 2
    assert len(list((tmp_path / "a").glob("*.npy"))) == 2


def test_a_changed_source_gets_another_file(tmp_path):
    path = gzip(tmp_path / "x.h5")
    first = mm.open(path).cache(tmp_path / "cache")
    assert bits(first[:]) == bits(FRAMES)
    del first
    gc.collect()
    changed = FRAMES.copy()
    changed[3] += 1  # none of the samples that the fingerprint looks at
    gzip(tmp_path / "x.h5", changed)
    os.utime(tmp_path / "x.h5", ns=(0, 12345))
    assert bits(mm.open(path).cache(tmp_path / "cache")[:]) == bits(changed)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2
    mm.open(path).cache(tmp_path / "cache", version="3")
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 3


@pytest.mark.parametrize("shuffle", [False, 20])
def test_never_larger_than_allowed(tmp_path, shuffle):
    frames = np.random.default_rng(1).random((500, 3, 20, 20)).astype("f4")  # 2.4 MB, blocks of 19 kB
    ds = mm.open(gzip(tmp_path / "x.h5", frames))
    expected = digest(mm.open(frames).batches(16, shuffle=shuffle), epochs=2)
    for limit in (100_000, 1_000_000, "2MB"):
        made = ds.cache(tmp_path / "cache", max_disk=limit)
        assert digest(made.batches(16, shuffle=shuffle), epochs=2) == expected
        assert 0 < taken(tmp_path / "cache") <= (limit if isinstance(limit, int) else 2_000_000)
        assert "max_disk allows" in made.readers["data"].why
    assert sum(flagged(tmp_path / "cache")["data"]) > 80, "a higher limit goes on with the same file"
    made = ds.cache(tmp_path / "cache", max_disk="3MB")
    assert digest(made.batches(16, shuffle=shuffle), epochs=2) == expected
    assert min(flagged(tmp_path / "cache")["data"]) == 1 and len(list((tmp_path / "cache").glob("*.npy"))) == 1


def test_sizes_that_cannot_be_meant(tmp_path):
    ds = mm.open(gzip(tmp_path / "x.h5"))
    with pytest.raises(InvalidValueError, match=r"max_disk=1.00 kB does not hold a single block of samples; expected .* or more"):
        ds.cache(tmp_path / "cache", max_disk=1000)
    with pytest.raises(InvalidValueError, match="max_disk='much' is not a size"):
        ds.cache(tmp_path / "cache", max_disk="much")


def test_too_little_room_is_said_at_once(tmp_path, monkeypatch):
    frames = np.zeros((500, 3, 40, 40), "f4")  # 9.6 MB
    ds = mm.open(gzip(tmp_path / "x.h5", frames))
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - 5 * 10**6, 5 * 10**6))
    with pytest.raises(WriteError, match=r"takes 9\.6\d MB more in .*cache, whose disk has 5\.00 MB free") as caught:
        ds.cache(tmp_path / "cache")
    fits = re.search(r"max_disk='(\d+MB)' fits", str(caught.value))[1]
    assert fits == "4MB" and os.listdir(tmp_path / "cache") == []
    ds.cache(tmp_path / "cache", max_disk=fits)
    np.testing.assert_array_equal(ds.cache(tmp_path / "cache", max_disk=fits)[:], frames)
    with pytest.raises(WriteError, match=r"whose disk has 5\.00 MB free"):
        ds.cache(tmp_path / "cache", max_disk="9.9MB", version="a file of its own")


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"file/cache cannot be written"):
        mm.open(gzip(tmp_path / "x.h5")).cache(tmp_path / "file" / "cache")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to mount a small disk")
def test_a_disk_that_fills_up_meanwhile(tmp_path):
    frames = np.random.default_rng(1).random((500, 3, 20, 20)).astype("f4")
    ds = mm.open(gzip(tmp_path / "x.h5", frames))
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        made = ds.cache(disk / "cache")
        (disk / "somebody else's").write_bytes(bytes(3 * 2**20))
        with pytest.warns(SlowAccessWarning, match="cannot be written any further: No space left on device") as caught:
            found = digest(made.batches(16, shuffle=100))
        assert len(caught) == 1 and found == digest(mm.open(frames).batches(16, shuffle=100))
        (disk / "somebody else's").unlink()
        again = ds.cache(disk / "cache")
        assert digest(again.batches(16, shuffle=100)) == found
        assert min(flagged(disk / "cache")["data"]) == 1
        del made, again
        gc.collect()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def child(*arguments, script="cache_child.py") -> subprocess.Popen:
    path = Path(__file__).with_name(script)
    return subprocess.Popen([sys.executable, path, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def test_killed_and_gone_on_with(tmp_path):
    path = gzip(tmp_path / "x.h5")
    np.save(tmp_path / "expected.npy", FRAMES)
    arguments = (path, tmp_path / "cache", tmp_path / "expected.npy")
    first = child(*arguments, 1, 9)
    assert first.stdout.readline() == "waiting\n"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    flags = flagged(tmp_path / "cache")["data"]
    stored = np.load(next((tmp_path / "cache").glob("*.npy")))
    assert 0 < sum(flags) < len(flags) == 16, "blocks of one chunk each; what was synced has its flag"
    for number, flag in enumerate(flags):
        if flag:
            assert stored[number * 4 : number * 4 + 4].tobytes() == FRAMES[number * 4 : number * 4 + 4].tobytes()
    second = child(*arguments, 2, 0)
    found = json.loads(second.communicate()[0])
    assert found["right"] and sorted(found["written"]) == [number for number, flag in enumerate(flags) if not flag]
    assert flagged(tmp_path / "cache") == {"data": [1] * 16}
    assert np.load(next((tmp_path / "cache").glob("*.npy"))).tobytes() == FRAMES.tobytes()


def test_processes_fill_one_cache_together(tmp_path):
    frames = np.random.default_rng(1).random((400, 30, 10)).astype("f4")
    path = gzip(tmp_path / "x.h5", frames)
    np.save(tmp_path / "expected.npy", frames)
    children = [child(path, tmp_path / "cache", tmp_path / "expected.npy", seed, 0) for seed in range(3)]
    found = [json.loads(one.communicate()[0]) for one in children]
    assert all(one["right"] for one in found)
    assert set().union(*(one["written"] for one in found)) == set(range(100))
    assert flagged(tmp_path / "cache") == {"data": [1] * 100}
    assert np.load(next((tmp_path / "cache").glob("*.npy"))).tobytes() == frames.tobytes()
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".filled", ".npy"]


def test_what_is_written_is_flagged_when_the_process_ends(tmp_path):
    path = gzip(tmp_path / "x.h5")
    code = f"import mmapstore as mm; ds = mm.open({path!r}).cache({str(tmp_path / 'cache')!r}); ds[0:50]"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert flagged(tmp_path / "cache") == {"data": [1]}, "a block of all 61 frames: they are small"


def test_batches_pickle_in_the_middle(tmp_path):
    made = mm.open(gzip(tmp_path / "x.h5")).cache(tmp_path / "cache")
    b = made.batches(9, shuffle=10)
    first = [bits(b.read(0, number)) for number in range(4)]
    sent = pickle.loads(pickle.dumps(b))
    expected = digest(mm.open(FRAMES).batches(9, shuffle=10))
    assert digest(sent) == expected and first == expected[:4] and digest(b) == expected


def test_other_threads_read_while_it_goes_over(tmp_path):
    """Batches of an old epoch are read while a new one begins, and settles."""
    from concurrent.futures import ThreadPoolExecutor

    b = mm.open(gzip(tmp_path / "x.h5")).cache(tmp_path / "cache").batches(9, target=mm.NextFrame(), shuffle=10)
    expected = digest(mm.open(FRAMES).batches(9, target=mm.NextFrame(), shuffle=10), epochs=6)
    asked = [(epoch, number) for epoch in range(6) for number in range(len(b))]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: bits(b.read(*one)), asked))
    assert found == expected
    deadline = time.monotonic() + 5
    while not isinstance(b._reader._fields.readers["data"], CompleteCache) and time.monotonic() < deadline:
        b.read(7, 0)
    assert isinstance(b._reader._fields.readers["data"], CompleteCache)


def test_out_of_order_batches_need_no_warning(tmp_path):
    """Keras's fit(shuffle=True): what it costs without a cache, it does not cost with one."""
    b = mm.open(gzip(tmp_path / "x.h5")).cache(tmp_path / "cache").batches(4, shuffle=10)
    for number in np.random.default_rng(0).permutation(len(b)).tolist():
        b.read(0, number)
    assert isinstance(b._reader._fields.readers["data"], Cached)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="measures with /proc")
@pytest.mark.parametrize("options", [{"shuffle": 500}, {"shuffle": False}], ids=["shuffled", "in order"])
def test_memory_is_within_the_prediction(tmp_path, options):
    chunk = np.random.default_rng(0).integers(0, 9, (64, 3, 50, 50)).astype("f4")
    source = gzip(tmp_path / "x.h5", np.concatenate([chunk] * 20), 64)
    asked = {"open": [source, {}], "batches": {"batch_size": 32, "target": "next", **options}, "cache": str(tmp_path / "cache")}
    found = [json.loads(child(json.dumps(asked), script="memory_child.py").communicate()[0]) for _ in range(2)]
    assert found[0]["total"] == found[1]["total"]
    for one in found:
        assert one["measured"] <= one["predicted"], one
    assert found[1]["predicted"] < found[0]["predicted"] // 2, "the second finds it decoded"


@pytest.mark.slow
def test_through_keras_and_tensorflow(tmp_path):
    pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    frames = np.nan_to_num(FRAMES, posinf=1.0)
    np.save(tmp_path / "expected.npy", frames)
    one = child(gzip(tmp_path / "x.h5", frames), tmp_path, tmp_path / "expected.npy", script="cache_fit_child.py")
    assert json.loads(one.communicate()[0]) == {"fit": True, "to_tf False": True, "to_tf 20": True}
    assert [flagged(tmp_path / folder) for folder in ("fit", "False", "20")] == 3 * [{"data": [1]}]


def test_the_files_are_named_for_their_field(tmp_path):
    made = mm.open({"a/b": gzip(tmp_path / "x.h5")}).cache(tmp_path / "cache")
    assert re.fullmatch(r"a_b-[0-9a-f]{32}\.npy", next((tmp_path / "cache").glob("*.npy")).name)
    assert cache_file.flags_of(made.readers["a/b"]._file.path).endswith(".filled")
