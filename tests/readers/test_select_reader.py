"""The reason for a reader, in words and numbers; and readers joined."""

from __future__ import annotations

import numpy as np
import pytest
from fake_chunks import stored_chunks
from test_decoded import FRAMES, count_decodes, reader_of

from mmapstore.formats.located import one_run
from mmapstore.formats.npy_file import open_array
from mmapstore.plain.array_spec import StoredLayout
from mmapstore.plain.codecs import Codec
from mmapstore.plain.runs import as_runs
from mmapstore.readers import select_reader
from mmapstore.readers.chunk_runs import batch_cost, in_stretches
from mmapstore.readers.decoded import Decoded
from mmapstore.readers.joined import join
from mmapstore.readers.library_reader import LibraryReader
from mmapstore.readers.select_reader import reader_for


@pytest.fixture(autouse=True)
def two_processors(monkeypatch):
    monkeypatch.setattr(select_reader, "usable_cpus", lambda: 2)


def why(tmp_path, monkeypatch, layout: str, shape, chunk, dtype="f4", chain=None) -> str:
    stored = stored_chunks(tmp_path, np.zeros((1,) * len(shape), dtype), (1,) * len(shape))
    stored.name = "/data/a.h5::/x"
    stored.located.grid = type(stored.located.grid)(shape, chunk)
    if chain is not None:
        stored.located.chain = chain
    reader = reader_for(stored, StoredLayout.of(layout, shape, "x"))
    assert isinstance(reader, Decoded)
    return reader.why


def test_codecs_are_named(tmp_path, monkeypatch):
    chain = (Codec("shuffle", {"itemsize": 4}), Codec("zlib", words="gzip 4"))
    found = why(tmp_path, monkeypatch, "NCHW", (9000, 3, 50, 50), (64, 3, 50, 50), chain=chain)
    assert found == "gzip 4 after shuffle, decoded in 2 threads by our own reader"
    monkeypatch.setattr(select_reader, "usable_cpus", lambda: 1)
    found = why(tmp_path, monkeypatch, "NCHW", (9000, 3, 50, 50), (64, 3, 50, 50), chain=chain)
    assert found == "gzip 4 after shuffle, decoded by our own reader"


@pytest.mark.parametrize(
    ("layout", "shape", "chunk", "words"),
    [
        (
            "NCHW",
            (9000, 3, 50, 50),
            (9000, 3, 50, 50),
            "its chunks of (9000, 3, 50, 50) fight the order of reading: 32 consecutive samples (960 kB) lie in 1 chunk, 270 MB to "
            "decode; this writes it once as it is read: mmapstore convert /data/a.h5::/x /data/a-chunked.h5 "
            "--chunk-samples 34",
        ),
        (
            "TNHW",
            (20, 10000, 64, 64),
            (1, 1000, 64, 64),
            "its chunks of (1, 1000, 64, 64) fight the order of reading: 20 consecutive samples (328 kB) lie in 20 chunks, 328 MB "
            "to decode; this writes it once as it is read: mmapstore convert /data/a.h5::/x "
            "/data/a-chunked.h5 --chunk-samples 20 --source-layout TNHW --layout NTHW",
        ),
        (
            "CHWN",
            (3, 50, 50, 10000),
            (3, 50, 50, 10000),
            "its chunks of (3, 50, 50, 10000) fight the order of reading: 32 consecutive samples (960 kB) lie in 1 chunk, 300 MB "
            "to decode; this writes it once as it is read: "
            "mmapstore convert /data/a.h5::/x /data/a-chunked.h5 --chunk-samples 34 --source-layout CHWN --layout NCHW",
        ),
        (
            "NCHW",
            (9000, 3, 50, 50),
            (64, 1, 25, 50),
            "each sample is put together from 6 chunks of 320 kB, one more copy; this writes it once as it is read: "
            "mmapstore convert /data/a.h5::/x /data/a-chunked.h5 --chunk-samples 34",
        ),
    ],
)
def test_chunks_that_fight_the_order_of_reading_are_told_in_numbers(tmp_path, monkeypatch, layout, shape, chunk, words):
    found = why(tmp_path, monkeypatch, layout, shape, chunk)
    assert found == f"gzip 1, decoded in 2 threads by our own reader; {words}"


@pytest.mark.parametrize(
    ("layout", "shape", "chunk"),
    [
        ("NC", (10**6, 30), (10000, 30)),
        ("NCHW", (10, 3, 2000, 2000), (1, 3, 2000, 2000)),
        ("NTHW", (9, 100, 64, 64), (1, 100, 64, 64)),
    ],
)
def test_chunks_that_do_not_are_left_in_peace(tmp_path, monkeypatch, layout, shape, chunk):
    assert why(tmp_path, monkeypatch, layout, shape, chunk) == "gzip 1, decoded in 2 threads by our own reader"


def test_the_cost_of_a_batch_by_counting():
    """Against a count of the chunks of each element."""
    for letters, shape, chunk in [("NCH", (20, 3, 4), (3, 2, 4)), ("TNH", (7, 5, 3), (2, 4, 2)), ("HN", (3, 9), (2, 4))]:
        layout = StoredLayout.of(letters, shape, "x")
        for samples in (1, 2, 5, 7):
            selection = layout.boxes(0, min(samples, layout.episode_length))[0][0]
            inside = np.stack(np.meshgrid(*[np.arange(s.start, s.stop) for s in selection]), -1).reshape(-1, len(shape))
            count = len(np.unique(inside // np.array(chunk), axis=0))
            assert batch_cost(layout, chunk, samples) == (count, count * np.prod(chunk))


def test_what_no_decoder_reads_goes_through_the_library_with_the_reason(tmp_path):
    stored = stored_chunks(tmp_path, FRAMES.copy(), (8, 3, 4, 5), chain=(Codec("szip"),))
    layout = StoredLayout.of(None, FRAMES.shape, "x")
    reader = reader_for(stored, layout)
    assert (
        isinstance(reader, LibraryReader)
        and "szip" in reader.why
        and reader.why.startswith("through the format's own library, because")
    )
    assert (reader.decoded_together, reader.whole_chunks(3, 9)) == (8, (0, 16))


def test_plain_chunks_are_stretches_of_the_file(tmp_path):
    for letters, shape in [("CHWN", (2, 3, 4, 24000)), ("WTNC", (3, 60, 400, 200)), ("CNHW", (3, 7, 40, 50))]:
        chunks = in_stretches(one_run("a.npy", 128, shape, np.dtype("f4")), 128, StoredLayout(letters, shape))
        grid = chunks.grid
        numbers = [*range(min(len(grid), 50)), len(grid) - 1]
        assert all(n % each == 0 for n, each in zip(shape, grid.chunk, strict=True))
        assert np.prod(grid.chunk) * 4 <= 64 * 1024
        for number, place in zip(numbers, chunks.places(numbers), strict=True):
            start = np.ravel_multi_index([at * each for at, each in zip(grid.place(number), grid.chunk, strict=True)], shape)
            assert (place.offset, place.nbytes) == (128 + 4 * start, 4 * np.prod(grid.chunk))


# --- joined ---------------------------------------------------------------------------------------------------------------


def two_files(tmp_path):
    readers = []
    for name, part, together in (("a", FRAMES[:21], 8), ("b", FRAMES[21:], 5)):
        (tmp_path / name).mkdir()
        readers.append(reader_of(stored_chunks(tmp_path / name, part.copy(), (together, 3, 4, 5))))
    return readers


def test_joined_files_decode_each_chunk_once(tmp_path, monkeypatch):
    readers = two_files(tmp_path)
    joined = join(readers)
    assert joined.joins_runs and not joined.gathers
    counts = [count_decodes(monkeypatch, reader) for reader in readers]
    runs = [(0, 3), (4, 8), (18, 24), (25, 30), (36, 37)]
    out = np.empty((19, 3, 4, 5), "f4")
    joined.read_runs(as_runs(runs), out)
    np.testing.assert_array_equal(out, np.concatenate([FRAMES[a:b] for a, b in runs]))
    assert [len(count.outs) for count in counts] == [2, 3]
    assert joined.decoded_together == 8
    assert joined.whole_chunks(3, 24) == (0, 26) and joined.whole_chunks(20, 22) == (16, 26) and joined.whole_chunks(5, 5) == (5, 5)
    assert joined.whole_chunks(9, 20) == (8, 21) and joined.whole_chunks(30, 37) == (26, 37)


def test_joined_files_keep_their_indexes_and_share_the_rest(tmp_path):
    readers = two_files(tmp_path)
    joined = join(readers)
    assert joined.kept_nbytes == 2000
    assert joined.scratch_nbytes == 2000 + max(reader.scratch_nbytes - 1000 for reader in readers)


def test_compressed_and_plain_files_are_joined(tmp_path):
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "b.npy", FRAMES[20:])
    one = reader_of(stored_chunks(tmp_path / "a", FRAMES[:20].copy(), (8, 3, 4, 5)))
    other = reader_for(open_array(tmp_path / "b.npy"), StoredLayout.of(None, FRAMES[20:].shape, "b"))
    joined = join([one, other])
    out = np.empty((15, 3, 4, 5), "f4")
    joined.read_runs(as_runs([(15, 22), (24, 32)]), out)
    np.testing.assert_array_equal(out, np.concatenate([FRAMES[15:22], FRAMES[24:32]]))
    assert joined.whole_chunks(18, 25) == (16, 25)
    assert join([other, other]).decoded_together == 0
