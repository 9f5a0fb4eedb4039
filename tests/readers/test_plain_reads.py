"""Plain bytes: which reader serves them, with and without maps, and what it notices of changed files."""

from __future__ import annotations

import itertools
import mmap
import os
import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fake_chunks import stored_chunks

import mmapstore
from mmapstore.files import descriptors, process_memory
from mmapstore.formats.in_memory import from_live
from mmapstore.formats.npy_file import open_array
from mmapstore.formats.zarr_chunks import ChunkNames, ChunksInFiles
from mmapstore.plain.array_spec import StoredLayout
from mmapstore.plain.chunk_grid import ChunkGrid
from mmapstore.plain.errors import DamagedFileError, NotFoundError
from mmapstore.readers import raw_reader
from mmapstore.readers.contract import Part
from mmapstore.readers.joined import join
from mmapstore.readers.raw_reader import StoredRaw
from mmapstore.readers.select_reader import reader_for

LAYOUTS = {
    "NCHW": (24, 3, 4, 5),
    "TNHW": (6, 4, 3, 2),
    "CNHW": (3, 24, 4, 5),
    "CHWN": (2, 3, 4, 24),
    "WTNC": (3, 6, 4, 2),
    "N": (24,),
}


def stored_npy(folder: Path, letters: str, dtype: str = "f4"):
    shape = LAYOUTS[letters]
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    np.save(folder / "a.npy", array)
    layout = StoredLayout.of(letters, shape, "a.npy")
    expected = layout.samples_first(array).reshape(layout.spec(array.dtype).shape)
    return open_array(folder / "a.npy"), layout, expected


@pytest.mark.parametrize("letters", LAYOUTS)
@pytest.mark.parametrize("dtype", ["<f4", ">i2"])
def test_nothing_is_mapped_if_maps_are_not_wanted(tmp_path, monkeypatch, letters, dtype):
    stored, layout, expected = stored_npy(tmp_path, letters, dtype)

    pages = mmap.mmap

    def refuse(file, *arguments, **options):
        assert file == -1, "mapped"
        return pages(file, *arguments, **options)

    monkeypatch.setattr(mmap, "mmap", refuse)
    reader = reader_for(stored, layout, mapped=False)
    for one in (reader, pickle.loads(pickle.dumps(reader))):
        out = np.zeros(expected.shape, one.spec.dtype)
        one.read(0, 24, out)
        np.testing.assert_array_equal(out, expected)
        one.read(5, 14, out[:9])
        np.testing.assert_array_equal(out[:9], expected[5:14])
        assert one.view(0, 3) is None
        assert "nothing is mapped (mapped=False)" in one.why and one.place != "memory-mapped"
        one.check()


@pytest.mark.parametrize("letters", LAYOUTS)
def test_files_are_mapped_unless_told_not_to(tmp_path, letters):
    stored, layout, expected = stored_npy(tmp_path, letters)
    reader = reader_for(stored, layout)
    view = reader.view(0, 3)
    np.testing.assert_array_equal(view, expected[:3])
    assert "memory-mapped where the bytes lie" in reader.why and reader.place == "memory-mapped"


def test_what_can_only_be_mapped_says_so(tmp_path):
    np.save(tmp_path / "f.npy", np.asfortranarray(np.arange(24.0).reshape(6, 4)))
    reader = reader_for(open_array(tmp_path / "f.npy"), StoredLayout.of("NC", (6, 4), "f"), mapped=False)
    assert "mapped=False cannot be had for it" in reader.why and reader.place == "memory-mapped"
    live = from_live(np.arange(24.0).reshape(6, 4))
    reader = reader_for(live, StoredLayout.of("NC", (6, 4), "x"), mapped=False)
    assert reader.place == "in RAM" and "mapped=False" not in reader.why
    reader.check()


@pytest.mark.parametrize("letters", ["NCHW", "CNHW", "TNHW"])
@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("order", ["C", "F"])
def test_changed_files_are_noticed(tmp_path, letters, mapped, order):
    _, layout, expected = stored_npy(tmp_path, letters)
    array = np.load(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.asarray(array, order=order))
    reader = reader_for(open_array(tmp_path / "a.npy"), layout, mapped)
    out = np.empty_like(expected)
    reader.read(0, 24, out)
    np.testing.assert_array_equal(out, expected)
    joined = join([reader, reader])
    joined.check()
    size = os.stat(tmp_path / "a.npy").st_size
    os.truncate(tmp_path / "a.npy", size - 4)
    for one in (reader, joined):
        with pytest.raises(DamagedFileError, match=rf"a.npy ends at byte {size - 4}, but had {size} bytes when it was opened"):
            one.check()
    if order == "C" and not mapped:
        with pytest.raises(DamagedFileError, match=r"a.npy ends at byte|cannot be read"):
            reader.read(0, 24, out)
    os.remove(tmp_path / "a.npy")
    with pytest.raises(NotFoundError, match=r"a.npy does not exist"):
        joined.check()


def files_in(folder: Path, fill: float) -> ChunksInFiles:
    names = ChunkNames.of(str(folder), "default", "/", rank=2)
    return ChunksInFiles(root=names.root, names=names, grid=ChunkGrid((12, 3), (4, 3)), dtype=np.dtype("f4"), fill=fill)


def one_file_each(folder: Path, fill=7.0) -> tuple[StoredRaw, np.ndarray]:
    """Chunks of 4 samples; the second is missing."""
    array = np.arange(12 * 3, dtype="f4").reshape(12, 3)
    (folder / "c").mkdir(parents=True)
    for number in (0, 2):
        (folder / "c" / str(number)).mkdir()
        (folder / "c" / str(number) / "0").write_bytes(array[4 * number : 4 * number + 4].tobytes())
    array[4:8] = fill
    return StoredRaw(files_in(folder, fill), StoredLayout("NC", (12, 3)), "why"), array


def test_a_missing_chunk_file_is_the_fill_value_a_missing_directory_is_not(tmp_path):
    reader, expected = one_file_each(tmp_path / "x")
    out = np.empty((12, 3), "f4")
    reader.check()
    reader.read(0, 12, out)
    np.testing.assert_array_equal(out, expected)
    shutil.rmtree(tmp_path / "x")
    for call in (reader.check, lambda: reader.read(4, 8, out[:4])):
        with pytest.raises(DamagedFileError, match=r"x does not exist any more: it was deleted or moved"):
            call()


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("each", [1, 2, 5])
def test_chunks_of_whole_rows_are_read_where_they_lie(tmp_path, each, pieces):
    """Rows may be episodes, cut into samples, and chunks may be missing."""
    array = np.arange(7 * pieces * 2, dtype=">i2").reshape(7, pieces, 2)
    located = stored_chunks(tmp_path, array, (each, pieces, 2), chain=(), missing=[1], fill=99).located
    located.has_rows = True
    reader = StoredRaw(located, StoredLayout("NTC", array.shape), "why")
    samples = array.reshape(-1, 2)
    for start, stop in itertools.combinations(range(len(samples) + 1), 2):
        out = np.empty((stop - start, 2), "i2")
        reader.read(start, stop, out)
        np.testing.assert_array_equal(out, samples[start:stop])
    starts, out = np.random.default_rng(0).permutation(len(samples) - 1), np.empty((len(samples) - 1, 2, 2), "i2")
    reader.gather(starts, [Part(0, 2, 1, out)])
    np.testing.assert_array_equal(out, samples[starts[:, None] + np.arange(2)])


def test_an_array_that_was_never_written_to_is_all_fill(tmp_path):
    """Its chunks' directory appears with the first chunk."""
    (tmp_path / "x").mkdir()
    reader, out = StoredRaw(files_in(tmp_path / "x", 3.0), StoredLayout("NC", (12, 3)), "why"), np.empty((12, 3), "f4")
    reader.check()
    reader.read(0, 12, out)
    assert (out == 3).all()
    os.rename(tmp_path / "x", tmp_path / "y")
    with pytest.raises(DamagedFileError, match=r"x does not exist any more"):
        reader.read(0, 12, out)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="no posix_fadvise on this platform")
def test_the_kernel_is_told(tmp_path, monkeypatch):
    stored, layout, _ = stored_npy(tmp_path, "NCHW")
    reader, told = reader_for(stored, layout), []
    joined = join([reader, reader])
    assert reader.takes_advice and joined.takes_advice
    monkeypatch.setattr(os, "posix_fadvise", lambda number, offset, nbytes, what: told.append((what, offset - 128, nbytes)))
    monkeypatch.setattr(descriptors, "are_cached", lambda *_: False)
    reader.will_need(0, 5)  # not of a small file, which is opened once: to be read
    monkeypatch.setattr(raw_reader, "_SMALL_NBYTES", 0)
    reader.will_need(2, 5)
    reader.let_go(2, 5)
    joined.let_go(20, 30)
    row = 240
    assert told == [
        (os.POSIX_FADV_WILLNEED, 2 * row, 3 * row),
        (os.POSIX_FADV_DONTNEED, 2 * row, 3 * row),
        (os.POSIX_FADV_DONTNEED, 20 * row, 4 * row),
        (os.POSIX_FADV_DONTNEED, 0, 6 * row),
    ]


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="counts calls of preadv")
def test_many_small_files_are_each_opened_and_read_once_in_an_epoch(tmp_path, monkeypatch):
    for number in range(300):
        np.save(tmp_path / f"{number:03}.npy", np.full((1, 5), number))
    batches = mmapstore.open(f"{tmp_path}/*.npy").batches(16, None, shuffle=True)
    list(batches)
    calls = Counter()
    for module, name in ((os, "open"), (os, "preadv"), (process_memory, "available_below")):
        whole = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, name=name, whole=whole: calls.update([name]) or whole(*given))
    assert sorted(np.concatenate(list(batches))[:, 0].tolist()) == list(range(300))
    assert calls["open"] <= 300 and calls["preadv"] == 300  # some are still open
    assert calls["available_below"] < 100


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="counts calls of preadv")
def test_samples_in_stored_order_are_read_by_runs(tmp_path, monkeypatch):
    """A part with holes costs a call for each run, not for each sample."""
    array = np.random.default_rng(0).random((200, 3)).astype(">f4")
    np.save(tmp_path / "a.npy", array)
    reader = reader_for(open_array(tmp_path / "a.npy"), StoredLayout.of("NC", array.shape, "a.npy"), mapped=False)
    calls, whole = [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda number, buffers, offset: calls.append(offset) or whole(number, buffers, offset))
    in_runs = np.flatnonzero(np.arange(200) % 5 != 0)
    for samples, expected in (
        (in_runs, 40),
        (in_runs[::-1].copy(), 160),
        (np.arange(0, 200, 2), 100),
        (np.repeat(in_runs, 2), 320),
    ):
        calls.clear()
        out = np.zeros((len(samples), 1, 3), "f4")
        reader.gather(samples, [Part(0, 1, 1, out)])
        np.testing.assert_array_equal(out[:, 0], array[samples])
        assert len(calls) == expected


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs the resource module's limit of descriptors")
def test_many_joined_files_in_fortran_order_take_few_descriptors(tmp_path):
    """A map keeps a descriptor of its file: one for each of the joined files would exhaust the usual limit of 1,024."""
    import resource

    for number in range(300):
        np.save(tmp_path / f"{number:03}.npy", np.asfortranarray(np.full((2, 3, 4), number, "i4")))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 200, before[1]))
    try:
        found = mmapstore.open(f"{tmp_path}/*.npy").batches(16, shuffle=True, seed=1)
        assert sum(int(batch.sum()) for batch in found) == sum(range(300)) * 24
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
