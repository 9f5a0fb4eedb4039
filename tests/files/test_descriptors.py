"""Reads at places, maps, advice, and descriptors that are few."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest

from mmapstore.files import descriptors, page_cache
from mmapstore.files.descriptors import (
    MOST_OPEN,
    Descriptor,
    Descriptors,
    let_go,
    read_exactly,
    read_rows,
    read_small_file,
    will_need,
)
from mmapstore.plain.errors import DamagedFileError, NotFoundError

DATA = np.random.default_rng(0).integers(0, 256, 100_000, np.uint8)


@pytest.fixture
def path(tmp_path):
    (tmp_path / "data.bin").write_bytes(DATA.tobytes())
    return str(tmp_path / "data.bin")


@pytest.fixture(params=["preadv", "short preadv", "no preadv"])
def reading(request, monkeypatch):
    """The three ways a read can go: all at once, piece by piece, and on a system without `preadv`."""
    if request.param == "no preadv":
        monkeypatch.delattr(os, "preadv", raising=False)
    elif not hasattr(os, "preadv"):
        pytest.skip("no preadv on this platform")
    elif request.param == "short preadv":
        whole = os.preadv

        def short(number, buffers, offset):
            flat = memoryview(buffers[0]).cast("B")
            return whole(number, [flat[: max(1, len(flat) // 3)]], offset)

        monkeypatch.setattr(os, "preadv", short)
    return request.param


# --- reading --------------------------------------------------------------------------------------------------------------


def test_read_exactly_fills_arrays_one_after_the_other(path, reading):
    outs = [np.empty((3, 5), "f4"), np.empty(0, "u1"), np.empty((2, 1, 7), "i8"), np.empty(11, "u1")]
    read_exactly(Descriptor(path), 777, outs)
    at = 777
    for out in outs:
        np.testing.assert_array_equal(out.reshape(-1).view("u1"), DATA[at : at + out.nbytes])
        at += out.nbytes


def test_read_exactly_takes_more_arrays_than_one_call_does(path, reading):
    outs = [np.empty(7, "u1") for _ in range(2500)]
    read_exactly(Descriptor(path), 100, outs)
    np.testing.assert_array_equal(np.concatenate(outs), DATA[100 : 100 + 7 * 2500])


@pytest.mark.parametrize("count", [1, 2])
def test_read_rows_fills_row_by_row(path, reading, count):
    offsets = [5000, 0, 99_000, 5000, 12_345]
    outs = [np.empty((5, 2, 9), "i4"), np.empty((5, 1, 30), "u1")][:count]
    read_rows(Descriptor(path), offsets, outs)
    for row, offset in enumerate(offsets):
        for out in outs:
            np.testing.assert_array_equal(out[row].reshape(-1).view("u1"), DATA[offset : offset + out[row].nbytes])
            offset += out[row].nbytes
    read_rows(Descriptor(path), [], [np.empty((0, 3), "u1")])


@pytest.mark.parametrize("read", [read_exactly, lambda d, at, outs: read_rows(d, [at], [out[None] for out in outs])])
def test_a_file_that_ends_first_is_named(path, reading, read):
    with pytest.raises(
        DamagedFileError, match=r"data.bin ends at byte 100000, but 50 bytes at offset 99960 were expected.*truncated"
    ):
        read(Descriptor(path), 99_960, [np.empty(50, "u1")])


def test_other_read_errors_name_the_file_and_the_place(path, monkeypatch):
    def failing(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", failing, raising=False)
    for read in (lambda d: read_exactly(d, 40, [np.empty(5, "u1")]), lambda d: read_rows(d, [40], [np.empty((1, 5), "u1")])):
        with pytest.raises(
            DamagedFileError, match=r"data.bin cannot be read: Input/output error while reading at byte 40\. Check"
        ) as caught:
            read(Descriptor(path))
        assert caught.value.errno == errno.EIO


def test_maps_are_read_only_and_never_reach_past_the_end(path):
    descriptor = Descriptor(path)
    mapped = np.frombuffer(descriptor.map(0, 100_000), np.uint8)
    np.testing.assert_array_equal(mapped, DATA)
    assert not mapped.flags.writeable and descriptor.map(10, 5) is descriptor.map(0, 100_000)
    with pytest.raises(DamagedFileError, match=r"ends at byte 100000, but 2 bytes at offset 99999 were expected"):
        descriptor.map(99_999, 2)
    del descriptor
    gc.collect()
    np.testing.assert_array_equal(mapped[-5:], DATA[-5:])


def test_a_map_follows_a_file_that_grew(path):
    descriptor = Descriptor(path)
    descriptor.map(0, 100_000)
    with Path(path).open("ab") as file:
        file.write(b"more")
    assert bytes(descriptor.map(99_998, 6)[100_000:]) == b"more"


def test_a_small_file_is_read_whole_or_not_at_all(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    out = np.zeros(5, np.uint8)
    assert (read_small_file(str(tmp_path / "a"), out), out.tobytes()) == (3, b"abc\0\0")
    assert read_small_file(str(tmp_path / "a"), out[:2]) == 2  # there may be more
    assert [read_small_file(str(tmp_path / name), out) for name in ("b", ".")] == [-1, -1]


def test_advice_never_fails(path, monkeypatch):
    descriptor = Descriptor(path)
    will_need(descriptor, 0, 1000)
    will_need(descriptor, 0, 0)
    will_need(descriptor, 10**15, 10**15)
    let_go(descriptor, 0, 1000)
    let_go(descriptor, 10**15, 10**15)
    if hasattr(os, "posix_fadvise"):
        monkeypatch.delattr(os, "posix_fadvise")
    will_need(descriptor, 0, 1000)
    let_go(descriptor, 0, 1000)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc here")
def test_pages_that_are_let_go_leave_the_map_and_come_back(tmp_path):
    nbytes = 32 * 2**20
    data = np.arange(nbytes // 8)
    data.tofile(tmp_path / "large.bin")

    def mapped_bytes() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile"))

    descriptor = Descriptor(str(tmp_path / "large.bin"))
    before = mapped_bytes()
    view = np.frombuffer(descriptor.map(0, nbytes), np.int64)
    assert int(view.sum()) == int(data.sum()) and mapped_bytes() - before > nbytes // 2
    let_go(descriptor, 1000, nbytes - 1000)
    assert mapped_bytes() - before < nbytes // 8
    np.testing.assert_array_equal(view, data)


def truncate(path):
    os.truncate(path, 99_000)


def append(path):
    with Path(path).open("ab") as file:
        file.write(b"more")


def change(path):
    with Path(path).open("r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(0, os.stat(path).st_mtime_ns + 2_000_000_000))


def put_another(path):
    Path(f"{path}.new").write_bytes(DATA.tobytes())
    os.replace(f"{path}.new", path)


@pytest.mark.parametrize(
    ("happens", "text"),
    [
        (truncate, r"data.bin ends at byte 99000, but had 100000 bytes when it was opened. It was truncated or replaced since"),
        (append, r"data.bin ends at byte 100004, but had 100000 bytes when it was opened. It was written to since"),
        (change, r"data.bin was written to since it was opened: its time of change is [\d.]+ s later than then"),
        (put_another, r"data.bin was replaced by another file since it was opened. Open it again"),
    ],
)
def test_a_file_that_changes_is_noticed(path, happens, text):
    files = Descriptors(path)
    files.check()
    files.get(path)
    files.check()
    happens(path)
    with pytest.raises(DamagedFileError, match=text):
        files.check()
    Descriptors(path).check()
    Descriptors().check()


def test_a_file_that_goes_is_noticed(path):
    files = Descriptors(path)
    os.remove(path)
    with pytest.raises(NotFoundError, match=r"data.bin does not exist"):
        files.check()


# --- descriptors ----------------------------------------------------------------------------------------------------------


def open_count() -> int:
    return len(descriptors._open.descriptors)


def test_descriptors_are_kept_while_their_reader_lives(path):
    before = open_count()
    files = Descriptors(path)
    assert files.get(path) is files.get(path) and open_count() == before + 1
    del files
    gc.collect()
    assert open_count() == before


def test_few_descriptors_are_open_at_once(tmp_path):
    paths = [str(tmp_path / f"{k}.bin") for k in range(MOST_OPEN + 20)]
    for k, name in enumerate(paths):
        Path(name).write_bytes(bytes([k]) * 10)
    one, other, out = Descriptors(), Descriptors(), np.empty(10, "u1")
    held = other.get(paths[0])
    for _ in range(2):
        for k, name in enumerate(paths):
            read_exactly(one.get(name), 0, [out])
            assert (out == k).all() and open_count() <= MOST_OPEN
    read_exactly(held, 0, [out])  # no longer kept, but still held
    assert (out == 0).all()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NotFoundError, match=r"gone.bin does not exist"):
        Descriptors(str(tmp_path / "gone.bin"))
    with pytest.raises(NotFoundError, match=r"gone.bin does not exist"):
        Descriptors().get(str(tmp_path / "gone.bin"))


def test_who_opens_a_replaced_file_sees_the_new_one(path, tmp_path):
    """And whoever has the old one open goes on with that, or is told; he never reads the new one unawares."""
    old, out = Descriptors(path), np.empty(4, "u1")
    never_opened = Descriptors(path)
    read_exactly(old.get(path), 0, [out])
    (tmp_path / "new.bin").write_bytes(b"new!" * 1000)
    os.replace(tmp_path / "new.bin", path)
    read_exactly(Descriptors(path).get(path), 0, [out])
    assert out.tobytes() == b"new!"
    read_exactly(old.get(path), 0, [out])
    np.testing.assert_array_equal(out, DATA[:4])
    with pytest.raises(DamagedFileError, match=r"data.bin was replaced by another file since it was opened. Open it again"):
        never_opened.get(path)


def test_descriptors_pickle_by_path(path):
    files = Descriptors(path)
    files.get(path)
    again, out = pickle.loads(pickle.dumps(files)), np.empty(9, "u1")
    read_exactly(again.get(path), 50, [out])
    np.testing.assert_array_equal(out, DATA[50:59])


def test_threads_may_read_and_drop_at_the_same_time(tmp_path):
    paths = [str(tmp_path / f"{k}.bin") for k in range(MOST_OPEN * 2)]
    for k, name in enumerate(paths):
        Path(name).write_bytes(k.to_bytes(2, "little") * 50)
    wrong = []

    def work(seed: int) -> None:
        rng, out = np.random.default_rng(seed), np.empty(50, "<u2")
        for _ in range(60):
            files = Descriptors()
            for k in rng.integers(0, len(paths), 20).tolist():
                read_exactly(files.get(paths[k]), 0, [out])
                if not (out == k).all():
                    wrong.append(k)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_while_the_lock_is_held_reads_on(path):
    files = Descriptors(path)
    files.get(path)
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with descriptors._open.lock:
            held.set()
            go_on.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    child = os.fork()
    if child == 0:
        out = np.empty(10, "u1")
        read_exactly(files.get(path), 5, [out])
        os._exit(0 if (out == DATA[5:15]).all() else 1)
    status = os.waitpid(child, 0)[1]
    go_on.set()
    thread.join()
    assert status == 0


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="Linux")
def test_bytes_in_the_page_cache_are_told_from_others(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(20_000_000))
    descriptor = descriptors.Descriptor(str(path))
    assert descriptors.are_cached(descriptor, 0, 20_000_000)
    assert not descriptors.are_cached(descriptor, 0, 20_000_001)  # past the end
    os.fsync(descriptor.number)
    if page_cache.drop([path]) > 0:
        pytest.skip("pages cannot be dropped here")
    assert not descriptors.are_cached(descriptor, 0, 20_000_000)
    os.pread(descriptor.number, 1, 19_999_999)
    assert not descriptors.are_cached(descriptor, 0, 20_000_000)
