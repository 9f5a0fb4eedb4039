"""What goes wrong with stored chunks is said in full: array, chunk, file, byte; and nothing wrong is ever delivered."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from pathlib import Path

import numcodecs.zstd
import numpy as np
import pytest
from fake_chunks import FakeStored, stored_chunks
from test_decoded import FRAMES, SHAPE, count_decodes, reader_of

from mmapstore.codecs.codec import CorruptChunk
from mmapstore.plain.codecs import Codec
from mmapstore.plain.errors import DamagedFileError, NotFoundError, NotReadableError

CHUNK = (8, 3, 4, 5)


def place_of(stored: FakeStored, number: int):
    return stored.located.index[number]


def read_all(reader) -> np.ndarray:
    out = np.empty(SHAPE, "f4")
    reader.read(0, len(FRAMES), out)
    return out


ZSTD = {"chain": (Codec("zstd"),), "encode": lambda data: numcodecs.zstd.compress(data, 1, checksum=True)}


@pytest.mark.parametrize("own_files", [False, True])
@pytest.mark.parametrize("encoded", [{}, ZSTD], ids=["gzip", "zstd"])
@pytest.mark.parametrize("chunk", [CHUNK, (1, 3, 4, 5)], ids=["read one by one", "read together"])
def test_a_flipped_bit_under_a_checksum(tmp_path, own_files, encoded, chunk):
    stored = stored_chunks(tmp_path, FRAMES.copy(), chunk, own_files=own_files, **encoded)
    reader, place = reader_of(stored), place_of(stored, 3)
    at = place.offset + (place.nbytes if place.nbytes >= 0 else os.stat(place.path).st_size) - 2  # in the checksum
    with Path(place.path).open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))
    expected = (
        rf"^fake::/x: the chunk that begins at \({3 * chunk[0]}, 0, 0, 0\), at byte {place.offset} of {place.path}, is damaged: .*"
        r"It was changed after it was written; copy or write the data again\.$"
    )
    with pytest.raises(DamagedFileError, match=expected) as caught:
        read_all(reader)
    assert isinstance(caught.value.__cause__, CorruptChunk)
    out = np.empty((2 * chunk[0], 3, 4, 5), "f4")
    reader.read(0, 2 * chunk[0], out)  # what is whole is read on
    np.testing.assert_array_equal(out, FRAMES[: 2 * chunk[0]])


@pytest.mark.parametrize("chunk", [CHUNK, (1, 3, 4, 5)], ids=["read one by one", "read together"])
def test_a_truncated_file(tmp_path, chunk):
    stored = stored_chunks(tmp_path, FRAMES.copy(), chunk)
    reader, place = reader_of(stored), place_of(stored, max(stored.located.index))
    read_all(reader)
    os.truncate(place.path, place.offset + 5)
    with pytest.raises(
        DamagedFileError,
        match=rf"^fake::/x: the chunk that begins at \(\d+, 0, 0, 0\), at byte {place.offset} of .* cannot be read: .*chunks.bin "
        rf"ends at byte {place.offset + 5}, but {place.nbytes} bytes at offset {place.offset} were expected.*truncated",
    ):
        read_all(reader)
    with pytest.raises(DamagedFileError, match=rf"chunks.bin ends at byte {place.offset + 5}, but had .*truncated"):
        reader.check()


def test_a_replaced_file(tmp_path):
    stored = stored_chunks(tmp_path, FRAMES.copy(), CHUNK)
    reader, never_read = reader_of(stored), reader_of(stored)
    read_all(reader)
    reader.check()
    shutil.copy(tmp_path / "chunks.bin", tmp_path / "other.bin")
    os.replace(tmp_path / "other.bin", tmp_path / "chunks.bin")
    np.testing.assert_array_equal(read_all(reader), FRAMES)  # it has the old file open
    for one in (reader, never_read):
        with pytest.raises(DamagedFileError, match=r"chunks.bin was replaced"):
            one.check()
    with pytest.raises(DamagedFileError, match=r"chunks.bin was replaced"):
        read_all(never_read)


@pytest.mark.parametrize("chunk", [CHUNK, (1, 3, 4, 5)], ids=["read one by one", "read together"])
def test_a_disk_that_fails(tmp_path, monkeypatch, chunk):
    stored = stored_chunks(tmp_path, FRAMES.copy(), chunk)
    reader, place = reader_of(stored), place_of(stored, 2)
    whole = os.preadv

    def failing(number, buffers, offset):
        if offset <= place.offset < offset + sum(memoryview(buffer).nbytes for buffer in buffers):
            raise OSError(errno.EIO, "Input/output error")
        return whole(number, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(
        DamagedFileError,
        match=rf"the chunk that begins at \({2 * chunk[0]}, 0, 0, 0\), at byte {place.offset} of .*chunks.bin, cannot be read: .*"
        rf"Input/output error while reading at byte {place.offset}",
    ) as caught:
        read_all(reader)
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("how", [{"plain": {1}}, {"own_files": True, **ZSTD}], ids=["gzip", "small files"])
def test_short_reads_are_gone_on_with(tmp_path, monkeypatch, how):
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda number, buffers, at: whole(number, [memoryview(buffers[0]).cast("B")[:100]], at))
    np.testing.assert_array_equal(read_all(reader_of(stored_chunks(tmp_path, FRAMES.copy(), (1, 3, 4, 5), **how))), FRAMES)


def test_frames_that_do_not_say_how_long_they_are(tmp_path):
    def encode(data: bytes) -> bytes:
        stored = numcodecs.zstd.compress(data, 1)
        assert stored[4] == 0x20  # a single segment, its length in one byte
        return stored[:4] + b"\x00\x00" + stored[6:]  # of the smallest window, and no length

    for own_files in (False, True):
        stored = stored_chunks(tmp_path, FRAMES.copy(), (1, 3, 4, 5), own_files=own_files, chain=ZSTD["chain"], encode=encode)
        reader = reader_of(stored)
        for _ in range(2):
            np.testing.assert_array_equal(read_all(reader), FRAMES)


@pytest.mark.parametrize("nbytes", [0, 2 * 8 * 60 * 4 + 2**17])
def test_a_size_that_no_encoder_gives_is_refused(tmp_path, nbytes):
    stored = stored_chunks(tmp_path, FRAMES.copy(), CHUNK)
    with Path(stored.located.root).open("ab") as file:
        file.write(bytes(1 << 20))
    stored.located.index[1] = place_of(stored, 1)._replace(nbytes=nbytes)
    with pytest.raises(DamagedFileError, match=rf"\(8, 0, 0, 0\).* is said to have {nbytes} stored bytes, but decodes to 1920"):
        read_all(reader_of(stored))


@pytest.mark.parametrize("own_files", [False, True])
@pytest.mark.parametrize("chunk", [CHUNK, (1, 3, 4, 5)])
def test_plain_chunks_have_one_size(tmp_path, own_files, chunk):
    stored = stored_chunks(tmp_path, FRAMES.copy(), chunk, chain=(), own_files=own_files)
    if own_files:
        os.truncate(place_of(stored, 2).path, 100)
    else:
        stored.located.index[2] = place_of(stored, 2)._replace(nbytes=100)
    with pytest.raises(
        DamagedFileError, match=rf"\({2 * chunk[0]}, 0, 0, 0\).* is damaged: it has 100 stored bytes, expected {240 * chunk[0]}"
    ):
        read_all(reader_of(stored))


def test_a_missing_file_is_the_fill_value_a_missing_directory_is_not(tmp_path):
    stored = stored_chunks(tmp_path, FRAMES.copy(), CHUNK, own_files=True, fill=-1)
    reader = reader_of(stored)
    os.remove(place_of(stored, 1).path)
    reader.check()
    expected = FRAMES.copy()
    expected[8:16] = -1
    np.testing.assert_array_equal(read_all(reader), expected)
    os.rename(tmp_path / "chunks", tmp_path / "moved")
    for call in (lambda: read_all(reader), reader.check):
        with pytest.raises(DamagedFileError, match=r"chunks does not exist any more: it was deleted or moved since it was opened"):
            call()
    shutil.copytree(tmp_path / "moved", tmp_path / "chunks")
    with pytest.raises(DamagedFileError, match=r"chunks was replaced by another directory since it was opened"):
        reader.check()


def test_a_missing_file_of_many_chunks_is_damage(tmp_path):
    stored = stored_chunks(tmp_path, FRAMES.copy(), CHUNK)
    reader = reader_of(stored)
    os.remove(stored.located.root)
    with pytest.raises(DamagedFileError, match=r"the chunk that begins at \(0, 0, 0, 0\).* cannot be read: .*does not exist"):
        read_all(reader)
    with pytest.raises(NotFoundError, match=r"chunks.bin does not exist"):
        reader.check()


def test_places_that_cannot_be_opened_are_named(tmp_path, monkeypatch):
    stored = stored_chunks(tmp_path, FRAMES.copy(), CHUNK, own_files=True)
    path = Path(place_of(stored, 1).path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DamagedFileError, match=r"\(8, 0, 0, 0\).*(is a directory|stored bytes)"):
        read_all(reader_of(stored))
    stored.located.index[1] = place_of(stored, 1)._replace(path=place_of(stored, 2).path + "/below")
    with pytest.raises(DamagedFileError, match=r"\(8, 0, 0, 0\).* cannot be read: a part of its path is a file"):
        read_all(reader_of(stored))
    reader = reader_of(stored)

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(NotReadableError, match=r"the chunk that begins at .* cannot be read: permission is denied"):
        read_all(reader)


def test_the_caller_hears_of_the_first_fault_and_nothing_goes_on(tmp_path, monkeypatch):
    for module in ("mmapstore.files.worker_threads", "mmapstore.readers.chunk_groups"):
        monkeypatch.setattr(f"{module}.usable_cpus", lambda: 4)
    reader = reader_of(stored_chunks(tmp_path, FRAMES.copy(), (1, 3, 4, 5), own_files=True))

    def fail(stored, out):
        if counting.outs[5:] and out is counting.outs[5]:
            raise CorruptChunk("the sixth")
        time.sleep(0.002)

    counting = count_decodes(monkeypatch, reader, fail)
    with pytest.raises(DamagedFileError, match=r"is damaged: the sixth"):
        read_all(reader)
    begun = len(counting.outs)
    assert begun <= 6 + 3
    time.sleep(0.02)
    assert len(counting.outs) == begun


def test_nobody_writes_after_an_interrupt(tmp_path, monkeypatch):
    for module in ("mmapstore.files.worker_threads", "mmapstore.readers.chunk_groups"):
        monkeypatch.setattr(f"{module}.usable_cpus", lambda: 4)
    reader = reader_of(stored_chunks(tmp_path, FRAMES.copy(), (1, 3, 4, 5), own_files=True))
    main = threading.get_ident()

    def interrupt(stored, out):
        if threading.get_ident() != main:
            time.sleep(0.02)
        elif len(counting.outs) > 4:
            raise KeyboardInterrupt

    counting = count_decodes(monkeypatch, reader, interrupt)
    out = np.full(SHAPE, -1, "f4")
    with pytest.raises(KeyboardInterrupt):
        reader.read(0, len(FRAMES), out)
    then = out.copy()
    time.sleep(0.06)
    np.testing.assert_array_equal(out, then)
    assert (then == -1).any()
