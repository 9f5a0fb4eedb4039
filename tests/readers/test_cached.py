"""Decoding once: the file, its flags, and the reader that fills them."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import threading
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from mmapstore.plain.array_spec import ArraySpec
from mmapstore.plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError, SlowAccessWarning, WriteError
from mmapstore.plain.runs import as_runs
from mmapstore.readers import cache_file as cache_file_module
from mmapstore.readers import cached
from mmapstore.readers.cache_file import CacheFile, cache_file, flags_of
from mmapstore.readers.cached import Blocks, Cached, CompleteCache, blocks_of, transformed
from mmapstore.readers.contract import Reader

SAMPLES = np.random.default_rng(1).integers(0, 2**15, (103, 3, 4), np.int16)
ENDS = np.array([*range(0, 103, 10), 103], np.int64)


@dataclass
class Source(Reader):
    """Decodes chunks of 5 samples, and counts them."""

    array: np.ndarray = field(default_factory=lambda: SAMPLES)
    why: str = "decoded with great care"
    place: str = "decoded"
    scratch_nbytes: int = 1000
    decoded_together: int = 5
    decoded: list[int] = field(default_factory=list)
    advice: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def spec(self) -> ArraySpec:
        return ArraySpec(self.array.shape, self.array.dtype, "NHW")

    def whole_chunks(self, start: int, stop: int) -> tuple[int, int]:
        return start // 5 * 5, min(len(self.array), -(-stop // 5) * 5)

    def read(self, start: int, stop: int, out: np.ndarray) -> None:
        self.read_runs([(start, stop)], out)

    def read_runs(self, runs, out: np.ndarray) -> None:
        self.decoded += sorted({sample // 5 for start, stop in runs for sample in range(start, stop)})
        assert out.flags.c_contiguous and len(out) == sum(stop - start for start, stop in runs)
        np.concatenate([self.array[start:stop] for start, stop in runs], out=out)

    def will_need(self, start: int, stop: int) -> None:
        self.advice.append(("will_need", start, stop))

    def let_go(self, start: int, stop: int) -> None:
        self.advice.append(("let_go", start, stop))


def reader(
    folder: Path, source: Source | None = None, first=0, last=11, allowed=11, transform=None, spec=None, ends=ENDS
) -> Cached:
    source = source or Source()
    return Cached(source, str(folder / "x-0.npy"), spec or source.spec, Blocks(ends, first, last, allowed), transform)


def read(made, start: int, stop: int) -> np.ndarray:
    out = np.full((stop - start, *made.spec.sample_shape), -1, made.spec.dtype)
    made.read(start, stop, out)
    return out


def read_runs(made, runs) -> np.ndarray:
    out = np.full((sum(b - a for a, b in runs), *made.spec.sample_shape), -1, made.spec.dtype)
    made.read_runs(as_runs(runs), out)
    return out


def flags(folder: Path) -> list[int]:
    return np.fromfile(folder / "x-0.filled", np.uint8).tolist()


def test_abilities(tmp_path):
    made, partly = reader(tmp_path), reader(tmp_path, allowed=4)
    assert made.joins_runs and made.takes_advice and made.scratch_nbytes > 1000
    assert not (made.offers_views or made.gathers or made.decoded_together)
    assert partly.decoded_together == 5 and partly.whole_chunks(3, 6) == (0, 10)


def test_any_order_each_chunk_once(tmp_path):
    source = Source()
    made = reader(tmp_path, source)
    rng = np.random.default_rng(2)
    for _ in range(60):
        runs = []
        for _ in range(rng.integers(1, 5)):
            a, b = sorted(rng.integers(0, 104, 2).tolist())
            runs.append((a, b))
        expected = np.concatenate([SAMPLES[a:b] for a, b in runs])
        np.testing.assert_array_equal(read_runs(made, runs), expected)
    assert sorted(source.decoded) == list(range(21))
    assert made.why.endswith("x-0.npy: 11 of 11 blocks so far; what is not there yet: decoded with great care")
    np.testing.assert_array_equal(np.load(tmp_path / "x-0.npy"), SAMPLES)
    assert flags(tmp_path) == [1] * 11, "the flags are written once all is there"


def test_settles_when_all_is_there(tmp_path):
    source = Source()
    made = reader(tmp_path, source)
    read(made, 0, 50)
    assert made.settled() is made and flags(tmp_path) == [1] * 5 + [0] * 6, "an epoch begins: what is there is put down"
    read(made, 45, 103)
    settled = made.settled()
    assert isinstance(settled, CompleteCache) and settled.place == "memory-mapped" and settled is made.settled()
    assert "memory-mapped from the cache" in settled.why
    np.testing.assert_array_equal(settled.view(7, 103), SAMPLES[7:])
    assert settled.view(0, 103).ctypes.data % 64 == 0
    sent = pickle.loads(pickle.dumps(settled))
    assert isinstance(sent, CompleteCache)
    np.testing.assert_array_equal(sent.view(0, 103), SAMPLES)
    source.decoded.clear()
    again = reader(tmp_path, source).settled()
    assert isinstance(again, CompleteCache) and source.decoded == []


def test_pickles_by_path_and_shares_the_file(tmp_path):
    made = reader(tmp_path)
    read(made, 0, 30)
    made.settled()
    data = pickle.dumps(made)
    del made
    gc.collect()
    sent = pickle.loads(data)
    sent._source.decoded.clear()
    np.testing.assert_array_equal(read(sent, 0, 35), SAMPLES[:35])
    assert sent._source.decoded == [6, 7]


def test_two_readers_in_one_process_fill_one_file_once(tmp_path):
    source = Source()
    first, second = reader(tmp_path, source, last=6, allowed=6), reader(tmp_path, source, first=5)
    read(first, 0, 60)
    np.testing.assert_array_equal(read(second, 50, 103), SAMPLES[50:])
    assert sorted(source.decoded) == list(range(21))
    assert isinstance(first.settled(), CompleteCache) and isinstance(second.settled(), CompleteCache)


def test_a_part_fills_its_own_blocks_alone(tmp_path):
    source = Source()
    made = reader(tmp_path, source, first=2, last=5, allowed=5)
    np.testing.assert_array_equal(read(made, 0, 103), SAMPLES)
    made.settled()
    assert flags(tmp_path) == [0, 0, 1, 1, 1] + [0] * 6
    assert isinstance(made.settled(), CompleteCache)
    np.testing.assert_array_equal(made.settled().view(20, 50), SAMPLES[20:50])


def test_no_more_than_allowed(tmp_path):
    source = Source()
    made = reader(tmp_path, source, allowed=4)
    for _ in range(2):
        np.testing.assert_array_equal(
            read_runs(made, [(90, 103), (5, 70), (0, 5)]), np.concatenate([SAMPLES[90:], SAMPLES[5:70], SAMPLES[:5]])
        )
    assert made.settled() is made and flags(tmp_path) == [1] * 4 + [0] * 7
    assert sorted(source.decoded) == sorted([*range(8), *2 * [*range(8, 14), *range(18, 21)]])
    assert "4 of 11 blocks so far, of which max_disk allows 4" in made.why


def test_flags_follow_the_data_to_disk(tmp_path, monkeypatch):
    """A block is flagged only after a sync that came after it was written."""
    monkeypatch.setattr(cache_file_module, "SYNC_BYTES", 1000)
    events = []
    sync, write = cache_file_module.sync_data, cache_file_module.write_at
    made = reader(tmp_path)

    def watched_write(number, offset, samples):
        path = os.readlink(f"/proc/self/fd/{number}") if os.path.isdir("/proc/self/fd") else ""
        events.append(("flag", offset, samples.nbytes) if path.endswith(".filled") else ("data", offset, samples.nbytes))
        write(number, offset, samples)

    monkeypatch.setattr(cache_file_module, "write_at", watched_write)
    monkeypatch.setattr(cache_file_module, "sync_data", lambda number: (events.append(("sync", 0, 0)), sync(number)))
    read(made, 0, 103)
    written: list[int] = []
    synced = 0
    for kind, offset, nbytes in events:
        if kind == "data":
            written.append((offset - 128) // 240)
        elif kind == "sync":
            synced = len(written)
        else:
            assert set(range(offset, offset + nbytes)) <= set(written[:synced])
    assert [kind for kind, _, _ in events].count("sync") > 1 and flags(tmp_path) == [1] * 11


def test_threads_fill_each_block_once(tmp_path):
    source = Source()
    made = reader(tmp_path, source)
    wrong = []

    def work(seed):
        for a in np.random.default_rng(seed).permutation(100).tolist():
            if not np.array_equal(read(made, a, a + 3), SAMPLES[a : a + 3]):
                wrong.append(a)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and sorted(source.decoded) == list(range(21))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_goes_on(tmp_path):
    made = reader(tmp_path)
    read(made, 0, 20)
    with made._filling:
        child = os.fork()
        if child == 0:
            right = np.array_equal(read(made, 0, 40), SAMPLES[:40])
            made.settled()
            os._exit(0 if right else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    made._source.decoded.clear()
    np.testing.assert_array_equal(read(made, 0, 103), SAMPLES)
    assert made._source.decoded == list(range(8, 21)), "what the child flagged is there"


def _cut(path: Path) -> None:
    os.truncate(path, 500)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _other(path: Path) -> None:
    np.save(path, np.zeros((103, 3, 4), "u2"))


def _flags_cut(path: Path) -> None:
    os.truncate(flags_of(str(path)), 3)


def _flags_foreign(path: Path) -> None:
    Path(flags_of(str(path))).write_bytes(b"hello world")


def _flags_gone(path: Path) -> None:
    os.unlink(flags_of(str(path)))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_cut, "it has 500 bytes, expected 2600"),
        (_empty, "it does not begin as it was written"),
        (_other, "it does not begin as it was written"),
        (_flags_cut, "x-0.filled, which says what is in it, is damaged"),
        (_flags_foreign, "x-0.filled, which says what is in it, is damaged"),
        (_flags_gone, "x-0.filled, which says what is in it, is gone"),
    ],
)
def test_damaged_files_are_begun_again(tmp_path, damage, words):
    made = reader(tmp_path)
    read(made, 0, 103)
    made.settled()
    del made
    gc.collect()
    damage(tmp_path / "x-0.npy")
    with pytest.warns(SlowAccessWarning, match=words):
        made = reader(tmp_path)
    assert flags(tmp_path) == [0] * 11
    np.testing.assert_array_equal(read(made, 0, 103), SAMPLES)
    np.testing.assert_array_equal(made.settled().view(0, 103), SAMPLES)
    assert sorted(os.listdir(tmp_path)) == ["x-0.filled", "x-0.npy"]


def test_deleted_data_is_not_taken_for_filled(tmp_path):
    made = reader(tmp_path)
    read(made, 0, 103)
    del made
    gc.collect()
    (tmp_path / "x-0.npy").unlink()
    np.testing.assert_array_equal(read(reader(tmp_path), 0, 103), SAMPLES)


def test_what_is_no_file_is_left_alone(tmp_path):
    (tmp_path / "x-0.npy").mkdir()
    with pytest.raises(WriteError, match=r"x-0.npy is in the way: it is no file. Move it, or choose another directory"):
        reader(tmp_path)


def test_check_notices_a_cut_a_replaced_and_a_deleted_file(tmp_path):
    path = tmp_path / "x-0.npy"
    made = reader(tmp_path)
    read(made, 0, 103)
    settled = made.settled()
    os.utime(path, ns=(0, 0))
    made.check()
    settled.check()  # another process may still write what is there already
    whole = path.read_bytes()
    os.truncate(path, 700)
    for one in (made, settled):
        with pytest.raises(DamagedFileError, match=r"was cut or written over since it was opened: it has 700 bytes, expected 2600"):
            one.check()
    (tmp_path / "other").write_bytes(whole)
    os.replace(tmp_path / "other", path)
    with pytest.raises(DamagedFileError, match="was replaced since it was opened"):
        settled.check()
    path.unlink()
    with pytest.raises(DamagedFileError, match="cannot be found any more"):
        made.check()


def test_a_full_disk_ends_caching_with_one_warning(tmp_path, monkeypatch):
    source = Source()
    made = reader(tmp_path, source)
    read(made, 0, 20)
    made.settled()
    real = cache_file_module.write_at

    def full(number, offset, samples):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_file_module, "write_at", full)
    with pytest.warns(SlowAccessWarning, match="cannot be written any further: No space left on device") as caught:
        np.testing.assert_array_equal(read(made, 0, 103), SAMPLES)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_runs(made, [(90, 103), (0, 90)]), np.concatenate([SAMPLES[90:], SAMPLES[:90]]))
    assert made.settled() is made and flags(tmp_path) == [1, 1] + [0] * 9
    monkeypatch.setattr(cache_file_module, "write_at", real)
    again = reader(tmp_path, source)
    source.decoded.clear()
    np.testing.assert_array_equal(read(again, 0, 103), SAMPLES)
    assert sorted(source.decoded) == list(range(4, 21)) and isinstance(again.settled(), CompleteCache)


def test_what_cannot_be_synced_is_not_there(tmp_path, monkeypatch):
    """The kernel may drop pages that it could not write."""
    source = Source()
    made = reader(tmp_path, source)

    def broken(number):
        raise OSError(errno.EIO, "Input/output error")

    read(made, 0, 20)
    monkeypatch.setattr(cache_file_module, "sync_data", broken)
    with pytest.warns(SlowAccessWarning, match="cannot be written any further: Input/output error"):
        assert made.settled() is made
    source.decoded.clear()
    np.testing.assert_array_equal(read(made, 0, 20), SAMPLES[:20])
    assert source.decoded == [0, 1, 2, 3] and flags(tmp_path) == [0] * 11


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs the resource module's file size limit")
def test_a_file_size_limit_ends_caching(tmp_path):
    """A real refusal of the kernel: files of this process may not grow past the blocks that fit."""
    import resource
    import signal

    made = reader(tmp_path)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
        with pytest.warns(SlowAccessWarning, match="cannot be written any further: File too large"):
            np.testing.assert_array_equal(read(made, 0, 103), SAMPLES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    made.settled()
    assert flags(tmp_path) == [1] * 5 + [0] * 6
    del made
    np.testing.assert_array_equal(read(reader(tmp_path), 0, 103), SAMPLES)


def test_files_that_may_only_be_read_are_read(tmp_path, monkeypatch):
    made = reader(tmp_path)
    read(made, 0, 40)
    del made
    gc.collect()
    real = os.open

    def refusing(path, mode, *rest):
        if mode & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, mode, *rest)

    monkeypatch.setattr(os, "open", refusing)
    source = Source()
    made = reader(tmp_path, source)
    np.testing.assert_array_equal(read(made, 0, 103), SAMPLES)
    assert source.decoded == list(range(8, 21)) and not made._file.writes


def test_transform_before_the_cache(tmp_path):
    calls = []

    def halved(samples):
        calls.append(len(samples))
        return samples[:, :2].astype(">f4") / 2

    source = Source()
    expected = halved(SAMPLES).astype("f4")
    calls.clear()
    made = reader(tmp_path, source, transform=halved, spec=ArraySpec((103, 2, 4), np.dtype("f4"), "NHW"))
    np.testing.assert_array_equal(read(made, 33, 101), expected[33:101])
    np.testing.assert_array_equal(read(made, 0, 103), expected)
    assert sum(calls) == 103, "each sample once"
    np.testing.assert_array_equal(made.settled().view(0, 103), expected)
    (tmp_path / "b").mkdir()
    partly = reader(tmp_path / "b", Source(), allowed=0, transform=halved, spec=made.spec)
    np.testing.assert_array_equal(read_runs(partly, [(90, 103), (2, 71)]), np.concatenate([expected[90:], expected[2:71]]))


def test_a_transform_makes_one_of_each():
    spec = ArraySpec((103, 3, 4), np.dtype("i2"), "NHW")
    with pytest.raises(InvalidValueError, match=r"transform made \(4, 3, 4\) of samples \(5, 3, 4\); expected 5 samples again"):
        transformed(lambda samples: samples[1:], SAMPLES[:5])
    with pytest.raises(InvalidTypeError, match="transform returned object for samples"):
        transformed(lambda samples: None, SAMPLES[:5])
    with pytest.raises(InvalidValueError, match=r"made samples of \(3, 4\) float64, but \(3, 4\) int16 before"):
        transformed(lambda samples: samples * 1.0, SAMPLES[:5], spec)
    with pytest.raises(InvalidValueError, match=r"made samples of \(4,\) int16, but \(3, 4\) int16 before"):
        transformed(lambda samples: samples[:, 0], SAMPLES[:5], spec)


def test_advice_goes_to_where_the_bytes_are(tmp_path, monkeypatch):
    source, told = Source(), []
    made = reader(tmp_path, source)
    read(made, 20, 40)
    for name in ("will_need", "let_go"):
        monkeypatch.setattr(
            cache_file_module, name, lambda descriptor, offset, nbytes, name=name: told.append((name, offset, nbytes))
        )
    made.will_need(-5, 55)
    made.let_go(25, 2000)
    assert source.advice == [("will_need", 0, 20), ("will_need", 40, 55), ("let_go", 40, 103)]
    assert told == [("will_need", 128 + 20 * 24, 20 * 24), ("let_go", 128 + 25 * 24, 15 * 24)]


def test_memory_is_within_the_prediction(tmp_path, monkeypatch):
    monkeypatch.setattr(cached, "SCRATCH_BYTES", 700)
    source = Source()
    made = reader(tmp_path, source)
    held = []
    real = Source.read_runs

    def watched(self, runs, out):
        held.append(out.nbytes)
        real(self, runs, out)

    monkeypatch.setattr(Source, "read_runs", watched)
    read(made, 0, 103)
    assert max(held) <= 700 and made.scratch_nbytes == 1000 + ENDS.nbytes + len(ENDS) + 700
    assert made._scratch is None, "let go of once all is there"


def test_blocks_are_whole_chunks(monkeypatch):
    source = Source()
    for most, expected in ((1, 5), (5, 5), (9, 5), (10, 10), (14, 10), (15, 15)):
        monkeypatch.setattr(cached, "BLOCK_BYTES", most * 24)
        ends = blocks_of(source)
        assert ends[0] == 0 and ends[-1] == 103 and set(np.diff(ends[:-1]).tolist()) == {expected}
    source.decoded_together = 1000
    source.whole_chunks = lambda start, stop: (0, 103)
    assert blocks_of(source).tolist() == [0, 103]


def test_one_file_for_all_in_a_process(tmp_path):
    spec = Source().spec
    made = cache_file(str(tmp_path / "a.npy"), spec, ENDS)
    assert cache_file(str(tmp_path / "a.npy"), spec, ENDS) is made
    os.unlink(tmp_path / "a.npy")
    other = cache_file(str(tmp_path / "a.npy"), spec, ENDS)
    assert other is not made and isinstance(other, CacheFile)
