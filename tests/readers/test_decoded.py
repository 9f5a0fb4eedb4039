"""The decoded reader over chunks made by hand: every layout, every run, and what it does with memory and files."""

from __future__ import annotations

import gc
import itertools
import math
import os
import pickle
import threading
import time
import weakref
import zlib

import numcodecs.zstd
import numpy as np
import pytest
from fake_chunks import GZIP, stored_chunks
from hypothesis import given
from hypothesis import strategies as st

from mmapstore.files import descriptors
from mmapstore.plain.array_spec import StoredLayout
from mmapstore.plain.codecs import Codec
from mmapstore.plain.runs import as_runs
from mmapstore.readers import chunk_advice, chunk_files, chunk_groups
from mmapstore.readers.chunk_runs import whole_chunks
from mmapstore.readers.decoded import Decoded, decoded_reader
from mmapstore.readers.workspaces import Workspace, Workspaces

SHAPE = (37, 3, 4, 5)
FRAMES = np.random.default_rng(0).integers(0, 250, SHAPE).astype("f4")


def reader_of(stored, layout: str | None = None) -> Decoded:
    reader, why = decoded_reader(stored, StoredLayout.of(layout, stored.shape, "x"), "why")
    assert reader is not None, why
    return reader


def samples_of(array: np.ndarray, layout: StoredLayout) -> np.ndarray:
    return layout.samples_first(array).reshape(layout.spec(array.dtype).shape)


class Counting:
    """A decoder around another that notes which arrays were decoded into."""

    def __init__(self, decoder, on_decode=lambda stored, out: None) -> None:
        self.decoder, self.scratch_nbytes, self.joins = decoder, decoder.scratch_nbytes, False
        self.joins_neighbours, self.joined_nbytes = decoder.joins_neighbours, decoder.joined_nbytes
        self.outs: list[np.ndarray] = []
        self.on_decode = on_decode

    def decode(self, stored, out, skipped=0):
        self.outs.append(out)
        self.on_decode(stored, out)
        self.decoder.decode(stored, out, skipped)

    def decode_part(self, stored, start, stop, out, skipped=0):
        return False

    def decode_joined(self, stored, pieces, out):
        return False


def count_decodes(monkeypatch, reader: Decoded, on_decode=lambda stored, out: None) -> Counting:
    counting = Counting(reader._decoder, on_decode)
    monkeypatch.setattr(reader, "_decoder", counting)
    return counting


@pytest.fixture(params=[1, 4], ids=["one thread", "four threads"])
def threads(request, monkeypatch):
    for module in ("mmapstore.files.worker_threads", "mmapstore.readers.chunk_groups", "mmapstore.readers.decoded"):
        monkeypatch.setattr(f"{module}.usable_cpus", lambda: request.param)
    return request.param


# --- right for every layout, chunk and run ------------------------------------------------------------------------------------

LAYOUTS = ["N", "NC", "NCHW", "NTHW", "TNHW", "NHWC", "CHWN", "CNH", "WTNC", "HTC", "T", "TN", "NT", "NTCDHW"]


@st.composite
def cases(draw):
    letters = draw(st.sampled_from(LAYOUTS))
    shape = tuple(draw(st.integers(1, 6 if len(letters) > 4 else 9)) for _ in letters)
    chunk = tuple(draw(st.integers(1, length + 2)) for length in shape)
    dtype = np.dtype(draw(st.sampled_from(["<f4", ">f4", "?", "u1", "<u2", ">i8", "S3", "<c8"])))
    axes = draw(st.one_of(st.none(), st.permutations(range(len(letters))).map(tuple)))
    chunks = math.prod(-(-n // each) for n, each in zip(shape, chunk, strict=True))
    some = st.sets(st.integers(0, chunks - 1), max_size=3)
    samples = StoredLayout.of(letters, shape, "x").samples
    runs = draw(
        st.lists(st.tuples(st.integers(0, samples), st.integers(0, samples)).map(sorted).map(tuple), min_size=1, max_size=4)
    )
    stored = {"gap": draw(st.sampled_from([0, 1, 5000])), "own_files": draw(st.booleans())}
    chain, encode = draw(st.sampled_from([((), bytes), (GZIP, zlib.compress), ((Codec("zstd"),), numcodecs.zstd.compress)]))
    encoded = {"chain": chain, "encode": encode, "missing": draw(some), "plain": draw(some)}
    return letters, shape, chunk, dtype, runs, {**stored, **encoded, "axes": axes}


@given(case=cases(), seed=st.integers(0, 5))
def test_runs_are_the_samples_of_the_array(tmp_path_factory, case, seed):
    letters, shape, chunk, dtype, runs, how = case
    array = np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)
    fill = np.array(7).astype(dtype)[()]
    stored = stored_chunks(tmp_path_factory.mktemp("x"), array, chunk, fill=fill, **how)
    reader, layout = reader_of(stored, letters), StoredLayout.of(letters, shape, "x")
    expected = samples_of(array, layout)
    assert reader.spec == layout.spec(dtype) and reader.spec.dtype.isnative
    out = np.zeros((sum(stop - start for start, stop in runs), *expected.shape[1:]), reader.spec.dtype)
    reader.read_runs(as_runs(runs), out)
    np.testing.assert_array_equal(out, np.concatenate([expected[start:stop] for start, stop in runs]))
    one = np.zeros_like(expected[: runs[0][1] - runs[0][0]], reader.spec.dtype)
    reader.read(*runs[0], one)
    np.testing.assert_array_equal(one, expected[slice(*runs[0])])


def test_abilities(tmp_path):
    reader = reader_of(stored_chunks(tmp_path, FRAMES.copy(), (8, 3, 4, 5)))
    assert reader.joins_runs and reader.takes_advice and not (reader.gathers or reader.offers_views)
    assert (reader.why, reader.place, reader.decoded_together) == ("why", "decoded in threads", 8)


@pytest.mark.parametrize(("letters", "shape"), [("NHW", (23, 2, 2)), ("NTH", (3, 10, 2)), ("TNH", (7, 4, 2)), ("HTN", (2, 5, 3))])
def test_runs_are_widened_to_what_is_decoded_anyway(letters, shape):
    layout = StoredLayout.of(letters, shape, "x")
    length = layout.episode_length
    for together, start in itertools.product((1, 3, 4, 100), range(layout.samples)):
        for stop in range(start + 1, layout.samples + 1):

            def chunk_of(sample: int, together: int = together) -> tuple[int, int]:
                return sample // length, sample % length // together

            kept = [n for n in range(layout.samples) if chunk_of(n) in (chunk_of(start), chunk_of(stop - 1))]
            assert whole_chunks(layout, together, start, stop) == (min(kept), max(kept) + 1)
        assert whole_chunks(layout, together, start, start) == (start, start)


# --- once, in place, in threads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_files", [False, True])
def test_each_chunk_is_decoded_once(tmp_path, monkeypatch, threads, own_files):
    reader = reader_of(stored_chunks(tmp_path, FRAMES.copy(), (4, 3, 2, 5), own_files=own_files))
    counting = count_decodes(monkeypatch, reader)
    runs = [(0, 3), (3, 9), (1, 5), (20, 21), (22, 23), (36, 37)]  # samples of chunks 0, 1, 2, 5 and 9, of two pieces each
    out = np.empty((sum(b - a for a, b in runs), *SHAPE[1:]), "f4")
    reader.read_runs(as_runs(runs), out)
    np.testing.assert_array_equal(out, np.concatenate([FRAMES[a:b] for a, b in runs]))
    assert len(counting.outs) == 2 * 5


def test_whole_chunks_are_decoded_where_they_belong(tmp_path, monkeypatch, threads):
    reader = reader_of(stored_chunks(tmp_path, FRAMES.copy(), (8, 3, 4, 5)))
    counting = count_decodes(monkeypatch, reader)
    out = np.empty((30, 3, 4, 5), "f4")
    reader.read(4, 34, out)
    np.testing.assert_array_equal(out, FRAMES[4:34])
    in_place = [np.shares_memory(out, one) for one in counting.outs]
    assert sorted(in_place) == [False, False, True, True, True]  # the first and the last chunk are wanted in part
    big_endian = reader_of(stored_chunks(tmp_path, FRAMES.astype(">f4"), (8, 3, 4, 5)))
    counting = count_decodes(monkeypatch, big_endian)
    big_endian.read(4, 34, out)
    np.testing.assert_array_equal(out, FRAMES[4:34])
    assert not any(np.shares_memory(out, one) for one in counting.outs)


@pytest.mark.parametrize("axes", [(3, 2, 1, 0), (0, 2, 1, 3)])
def test_chunks_in_another_order_of_axes_go_where_they_belong_too(tmp_path, monkeypatch, axes):
    """Stored and wanted order are both TN...: what lies in memory in one piece is decided by the order in the chunk."""
    reader = reader_of(stored_chunks(tmp_path, FRAMES.copy(), (1, 3, 1, 1), axes=axes))
    counting = count_decodes(monkeypatch, reader)
    out = np.empty(SHAPE, "f4")
    reader.read(0, len(FRAMES), out)
    np.testing.assert_array_equal(out, FRAMES)
    assert len(counting.outs) == 37 * 20


def test_plain_chunks_are_read_where_they_belong(tmp_path, monkeypatch):
    monkeypatch.setattr(chunk_groups, "READ_TOGETHER", 0)
    reader = reader_of(stored_chunks(tmp_path, FRAMES.copy(), (8, 3, 4, 5), plain={0, 1}))
    counting = count_decodes(monkeypatch, reader)
    into = []
    read = descriptors.read_exactly
    monkeypatch.setattr(chunk_files, "read_exactly", lambda d, at, outs: (into.extend(outs), read(d, at, outs))[1])
    out = np.empty((24, 3, 4, 5), "f4")
    reader.read(0, 24, out)
    np.testing.assert_array_equal(out, FRAMES[:24])
    assert len(counting.outs) == 1
    assert sorted(np.shares_memory(out, one) for one in into) == [False, True, True]


@pytest.mark.parametrize("axes", [None, (1, 0, 3, 2)])
def test_of_plain_chunks_only_what_is_wanted_is_read(tmp_path, monkeypatch, axes):
    monkeypatch.setattr(chunk_groups, "READ_TOGETHER", 0)
    reader = reader_of(stored_chunks(tmp_path, FRAMES.copy(), (8, 3, 4, 5), chain=(), axes=axes))
    read, sizes = descriptors.read_exactly, []
    monkeypatch.setattr(chunk_files, "read_exactly", lambda d, at, outs: (sizes.append(outs[0].nbytes), read(d, at, outs))[1])
    out = np.empty((3, 3, 4, 5), "f4")
    reader.read_runs(as_runs([(10, 11), (12, 14)]), out)
    np.testing.assert_array_equal(out, FRAMES[[10, 12, 13]])
    assert sizes == [4 * 240 if axes is None else 1920 - 4 * 20 * (2 + 2)]


class OfParts(Counting):
    """Also decodes the first bytes alone, where they are few."""

    def decode_part(self, stored, start, stop, out, skipped=0):
        if stop > 0.8 * 8 * 240:
            return False
        self.outs.append(out)
        whole = np.empty(8 * 240, np.uint8)
        self.decoder.decode(stored, whole, skipped)
        out[...] = whole[start:stop]
        return True


@pytest.mark.parametrize(("start", "stop", "sizes"), [(0, 3, [720]), (5, 11, [720, 1920]), (2, 5, [720]), (3, 16, [1920, 1920])])
def test_the_first_samples_of_a_chunk_are_decoded_alone_where_that_is_cheaper(tmp_path, start, stop, sizes):
    stored = stored_chunks(tmp_path, FRAMES.copy(), (8, 3, 4, 5))
    decoder = OfParts(reader_of(stored)._decoder)
    reader = Decoded(stored, StoredLayout.of(None, SHAPE, "x"), "why", stored.located, decoder)
    out = np.empty((stop - start, 3, 4, 5), "f4")
    reader.read(start, stop, out)
    np.testing.assert_array_equal(out, FRAMES[start:stop])
    assert sorted(one.nbytes for one in decoder.outs) == sizes


@pytest.mark.parametrize(("gap", "calls"), [(0, (4, 10)), (100, (4, 20)), (5000, (185, 185))])
def test_small_neighbours_are_read_together(tmp_path, monkeypatch, gap, calls):
    stored = stored_chunks(tmp_path, FRAMES.copy(), (1, 3, 4, 1), gap=gap)
    reader = reader_of(stored)
    reads = []
    read = descriptors.read_exactly
    monkeypatch.setattr(chunk_files, "read_exactly", lambda d, at, outs: (reads.append(outs[0].nbytes), read(d, at, outs))[1])
    out = np.empty(SHAPE, "f4")
    reader.read(0, len(FRAMES), out)
    np.testing.assert_array_equal(out, FRAMES)
    assert calls[0] <= len(reads) <= calls[1] and max(reads) <= chunk_groups.READ_TOGETHER


@pytest.mark.parametrize("own_files", [False, True])
@pytest.mark.parametrize("runs", [[(0, 300)], [(3, 41)], [(0, 8), (16, 100), (101, 300)]])
def test_small_frames_of_zstd_are_decoded_in_place(tmp_path, monkeypatch, own_files, runs):
    """Where chunks are whole samples that follow one another: no buffer is between, but for those that a run cuts."""
    zstd = pytest.importorskip("numcodecs.zstd")
    array = np.random.default_rng(3).integers(0, 9, (300, 3, 4, 5)).astype("f4")
    options = {"chain": (Codec("zstd"),), "encode": lambda chunk: zstd.compress(chunk, 1), "own_files": own_files}
    reader = reader_of(stored_chunks(tmp_path, array, (2, 3, 4, 5), **options))
    asked: list[int] = []
    decoded = Workspace.decoded
    monkeypatch.setattr(Workspace, "decoded", lambda self, nbytes: asked.append(nbytes) or decoded(self, nbytes))
    out = np.zeros((sum(stop - start for start, stop in runs), 3, 4, 5), "f4")
    reader.read_runs(as_runs(runs), out)
    np.testing.assert_array_equal(out, np.concatenate([array[start:stop] for start, stop in runs]))
    if runs == [(0, 300)]:
        assert not asked


def test_memory_beside_the_callers_is_what_was_predicted(tmp_path, threads):
    rng = np.random.default_rng(1)
    array = rng.integers(0, 2**31, (64, 3, 20, 20)).astype("i4")  # does not compress: the stored bytes are the larger ones
    reader = reader_of(stored_chunks(tmp_path, array, (8, 3, 20, 20)))
    reader._workspaces = Workspaces()
    out = np.empty((50, 3, 20, 20), "i4")
    for start in range(0, 14, 3):
        reader.read(start, start + 50, out)
    free = list(reader._workspaces._free)
    assert 1 <= len(free) <= threads
    held = sum(buffer.nbytes for workspace in free for buffer in workspace._buffers.values())
    assert held >= 8 * 3 * 400 * 4
    assert held + threads * reader._decoder.scratch_nbytes + reader.kept_nbytes <= reader.scratch_nbytes
    assert reader.kept_nbytes == 1000


@pytest.mark.parametrize("share, workers", [(1.0, 4), (0.6, 2), (0.01, 1)])
def test_less_memory_means_fewer_threads(tmp_path, share, workers, threads):
    reader = reader_of(stored_chunks(tmp_path, FRAMES.copy(), (1, 3, 4, 1)))
    before = reader.scratch_nbytes
    shared, reader = reader, reader.within(int(before * share))
    assert shared.scratch_nbytes == before
    one, workers = (before - reader.kept_nbytes) // threads, min(workers, threads)
    assert reader.scratch_nbytes == reader.kept_nbytes + one * workers
    assert reader.scratch_of_chunks(1) == reader.kept_nbytes + one and reader.scratch_of(99) == reader.scratch_nbytes
    assert reader.within(2 * before) is reader
    at_work, most, lock = [0], [0], threading.Lock()
    read_one = reader._read_one

    def watched(*arguments):
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        time.sleep(0.001)
        read_one(*arguments)
        with lock:
            at_work[0] -= 1

    reader._read_one = watched
    out = np.empty(SHAPE, "f4")
    callers = [threading.Thread(target=reader.read, args=(0, len(FRAMES), out)) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    np.testing.assert_array_equal(out, FRAMES)
    assert most[0] <= workers
    assert pickle.loads(pickle.dumps(reader)).scratch_nbytes == reader.scratch_nbytes


def test_joined_files_share_decoder_and_memory(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = reader_of(stored_chunks(tmp_path / "a", FRAMES.copy(), (8, 3, 4, 5)))
    other = reader_of(stored_chunks(tmp_path / "b", FRAMES.copy(), (8, 3, 4, 5)))
    assert one._decoder is other._decoder and one._workspaces is other._workspaces
    gone = weakref.ref(one._workspaces), weakref.ref(one._decoder)
    del one, other
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_nothing_holds_the_callers_buffer_afterwards(tmp_path, threads):
    reader = reader_of(stored_chunks(tmp_path, FRAMES.copy(), (4, 3, 4, 5)))

    class Buffer(np.ndarray):
        pass

    out = np.empty(SHAPE, "f4").view(Buffer)
    buffer = weakref.ref(out)
    reader.read(0, len(FRAMES), out)
    assert (np.asarray(out) == FRAMES).all()
    del out
    gc.collect()
    assert buffer() is None
    gone = weakref.ref(reader)
    del reader
    gc.collect()
    assert gone() is None


def test_it_pickles_by_path(tmp_path):
    stored = stored_chunks(tmp_path, FRAMES.copy(), (8, 3, 4, 5))
    reader = reader_of(stored)
    again = pickle.loads(pickle.dumps(reader))
    out = np.empty((9, 3, 4, 5), "f4")
    again.read(3, 12, out)
    np.testing.assert_array_equal(out, FRAMES[3:12])
    assert (again.spec, again.why) == (reader.spec, "why")
    stored.located.chain = (Codec("szip"),)
    with pytest.raises(OSError, match=r"cannot be decoded here, though it could where it was opened: .*szip"):
        pickle.loads(pickle.dumps(reader))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_reads_on(tmp_path, threads):
    reader = reader_of(stored_chunks(tmp_path, FRAMES.copy(), (4, 3, 4, 5)))
    out = np.empty(SHAPE, "f4")
    reader.read(0, len(FRAMES), out)  # the threads are there
    reader._turns.acquire()  # by a thread that is not there in the child
    child = os.fork()
    if child == 0:
        out[...] = 0
        reader.read(0, len(FRAMES), out)
        os._exit(0 if (out == FRAMES).all() else 1)
    assert os.waitpid(child, 0)[1] == 0


# --- advice ----------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="no posix_fadvise on this platform")
@pytest.mark.parametrize("own_files", [False, True])
def test_the_kernel_is_told_of_chunks(tmp_path, monkeypatch, own_files):
    stored = stored_chunks(tmp_path, FRAMES.copy(), (8, 3, 4, 5), missing={2}, own_files=own_files)
    reader, told = reader_of(stored), []
    monkeypatch.setattr(descriptors, "are_cached", lambda *_: False)
    monkeypatch.setattr(chunk_advice, "are_cached", lambda *_: False)
    monkeypatch.setattr(chunk_advice, "_GAP_NBYTES", -1)  # each by itself
    monkeypatch.setattr(os, "posix_fadvise", lambda number, offset, nbytes, what: told.append((what, offset, nbytes)))

    def places(*numbers):
        found = [stored.located.index[number] for number in numbers]
        return [(place.offset, place.nbytes if place.nbytes >= 0 else os.stat(place.path).st_size) for place in found]

    if own_files:
        reader.will_need(12, 33)
        assert not told  # small files are read as soon as they would be asked for
        monkeypatch.setattr(chunk_groups, "READ_TOGETHER", 0)
    reader.will_need(12, 33)
    reader.will_need(36, 500)
    assert told == [(os.POSIX_FADV_WILLNEED, *place) for place in places(1, 3, 4, 4)]  # chunk 2 was never written
    told.clear()
    reader.let_go(4, 12)  # chunk 1 goes on
    assert told == [(os.POSIX_FADV_DONTNEED, *places(0)[0])]
    told.clear()
    reader.let_go(33, 37)
    assert told == [(os.POSIX_FADV_DONTNEED, *places(4)[0])]


# --- which codecs ------------------------------------------------------------------------------------------------------------


def test_why_there_is_no_reader(tmp_path):
    stored = stored_chunks(tmp_path, FRAMES.copy(), (8, 3, 4, 5))
    layout = StoredLayout.of(None, SHAPE, "x")
    stored.located.chain = (Codec("szip"),)
    reader, why = decoded_reader(stored, layout)
    assert reader is None and "szip" in why
    stored.located, stored.why_not = None, "only HDF5 knows"
    assert decoded_reader(stored, layout) == (None, "only HDF5 knows")


def test_shuffled_and_compressed(tmp_path):
    chain = (Codec("shuffle", {"itemsize": 4}), Codec("zlib"))
    encode = lambda data: zlib.compress(np.frombuffer(data, "u1").reshape(-1, 4).T.tobytes())  # noqa: E731
    reader = reader_of(stored_chunks(tmp_path, FRAMES.copy(), (8, 3, 4, 5), chain=chain, encode=encode, plain={3}))
    out = np.empty(SHAPE, "f4")
    reader.read(0, len(FRAMES), out)
    np.testing.assert_array_equal(out, FRAMES)
