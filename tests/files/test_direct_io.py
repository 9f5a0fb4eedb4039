"""Bytes past the page cache are the bytes that were given, wherever they lie in memory and in the file."""

import errno
import os

import numpy as np
import pytest

from mmapstore.files import direct_io
from mmapstore.files.descriptors import Descriptor
from mmapstore.files.direct_io import AT_ONCE, PAGE, DirectFile, LongReads, empty_at, room_at
from mmapstore.plain.errors import DamagedFileError

pytestmark = pytest.mark.skipif(not hasattr(os, "preadv"), reason="positioned vectored reads")


@pytest.fixture
def opened(tmp_path):
    number = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    yield tmp_path / "x", number
    os.close(number)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(direct_io, "WORTH_NBYTES", 10_000)


@pytest.mark.parametrize("offset", [0, 128, 4096, 5000, 12289])
@pytest.mark.parametrize("nbytes", [1, 4095, 9000, 40_960, 123_457])
@pytest.mark.parametrize("meets", [True, False])
def test_written_and_read_again(opened, offset, nbytes, meets):
    path, number = opened
    os.ftruncate(number, offset + nbytes + 77)
    file = DirectFile(str(path), number)
    block = empty_at(nbytes, offset if meets else offset + 8)
    block[:] = np.random.default_rng(0).integers(0, 256, nbytes)
    file.write(offset, block)
    stored = path.read_bytes()
    assert stored == bytes(offset) + block.tobytes() + bytes(77)
    found = empty_at(nbytes, offset if meets else offset + 8)
    assert file.read(offset, found) == nbytes and np.array_equal(found, block)
    beyond = empty_at(nbytes + 50_000, offset)
    assert file.read(offset, beyond) == nbytes + 77 and np.array_equal(beyond[:nbytes], block)
    file.close()


def test_memory_that_meets_the_file():
    for offset in (0, 1, 128, 4095, 10**9 + 7):
        assert (empty_at(10, offset).ctypes.data - offset) % PAGE == 0
        room = np.empty(3 * PAGE, np.uint8)
        assert (room_at(room, offset).ctypes.data - offset) % PAGE == 0 and len(room_at(room, offset)) > 2 * PAGE


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="Linux")
@pytest.mark.parametrize("error", [errno.EINVAL, errno.EOPNOTSUPP])
def test_where_it_cannot_be_done_the_ordinary_way_is_taken(opened, monkeypatch, error):
    path, number = opened
    file = DirectFile(str(path), number)
    if not file.is_direct:
        pytest.skip("no such file system here")
    pwrite = os.pwrite

    def refusing(descriptor, data, offset):
        if descriptor != number:
            raise OSError(error, os.strerror(error))
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", refusing)
    block = empty_at(50_000, 128)
    block[:] = 7
    file.write(128, block)
    assert not file.is_direct and path.read_bytes()[128:] == block.tobytes()
    assert file.read(128, found := empty_at(50_000, 128)) == 50_000 and np.array_equal(found, block)


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="Linux")
def test_a_full_disk_is_no_reason_to_try_otherwise(opened, monkeypatch):
    path, number = opened
    file = DirectFile(str(path), number)
    if not file.is_direct:
        pytest.skip("no such file system here")

    def full(descriptor, data, offset):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        file.write(0, empty_at(50_000))


def test_short_writes_are_gone_on_with(opened, monkeypatch):
    path, number = opened
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: pwrite(descriptor, memoryview(data)[:8192], offset))
    block = empty_at(100_000, 128)
    block[:] = np.arange(100_000) % 251
    DirectFile(str(path), number).write(128, block)
    assert path.read_bytes()[128:] == block.tobytes()


# --- long reads -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def long(tmp_path, monkeypatch):
    monkeypatch.setattr(direct_io, "BOUNCE_NBYTES", 3 * PAGE)
    content = np.random.default_rng(1).integers(0, 256, 200_001, dtype=np.uint8)
    content.tofile(tmp_path / "x")
    return LongReads(Descriptor(str(tmp_path / "x"))), content


@pytest.mark.parametrize("way", ["as measured", "past the cache", "through the cache", "refused", "busy"])
def test_long_reads_are_the_bytes_of_the_file(long, monkeypatch, way):
    reads, content = long
    if way == "refused":
        preadv = os.preadv

        def refusing(descriptor, buffers, offset, *flags):
            if descriptor == reads._direct:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return preadv(descriptor, buffers, offset, *flags)

        monkeypatch.setattr(os, "preadv", refusing)
    if way in ("past the cache", "through the cache"):
        costs = (1.0, 2.0) if way == "past the cache" else (2.0, 1.0)
        reads._trials = [(costs[0], True), (costs[1], False)] * 8
        assert reads._is_direct_next == (way == "past the cache" and reads._direct is not None)
    if way == "busy":
        reads._free.clear()
    random = np.random.default_rng(2)
    for low, high in np.sort(random.integers(0, len(content), (40, 2))).tolist():
        out = np.zeros(high - low + 1, np.uint8)[1:]  # at any address
        reads.read(low, out) if len(out) else None
        np.testing.assert_array_equal(out, content[low:high])
    assert way == "busy" or reads._direct is None or len(reads._free) == AT_ONCE


@pytest.mark.parametrize("is_direct", [True, False])
def test_a_long_read_past_the_end_is_an_error(long, is_direct):
    reads, content = long
    reads._trials = [(1.0, is_direct), (2.0, not is_direct)] * 8
    with pytest.raises(DamagedFileError, match="ends at byte 200001"):
        reads.read(150_000, np.zeros(60_000, np.uint8))
    reads.read(0, out := np.zeros(len(content), np.uint8))
    np.testing.assert_array_equal(out, content)
