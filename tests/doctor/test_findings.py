"""Each fault is found, alone; nothing is found where nothing is wrong; and what is said to mend it does."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from doctor_data import FAULTS, FEW_VALUES, RANDOM, SAMPLES, SOUND

import mmapstore as mm
from mmapstore.cli import main
from mmapstore.doctor import examination
from mmapstore.doctor.examination import examine
from mmapstore.doctor.frameworks import Frameworks
from mmapstore.doctor.speeds import Speeds
from mmapstore.doctor.subject import Subject, subject_of
from mmapstore.readers.chunk_groups import WantedChunk

KERAS = Frameworks({"keras": "3.15.1", "tensorflow-cpu": "2.21.0"})
pytestmark = pytest.mark.usefixtures("fast")


def codes(path: str, **how: object) -> list[str]:
    return [found.code for found in examine(path, **how).findings]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FAULTS)
def test_one_fault_is_one_finding_and_its_command_mends_it(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, write = FAULTS[name]
    path = write(tmp_path)
    (found,) = examine(path).findings
    assert found.code == code, found
    program, *words = shlex.split(found.mend)
    assert program == "mmapstore" and words[0] in ("convert", "ingest")
    if words[2].startswith("x-") or not Path(words[2]).is_absolute():  # a glob has no place: it is written where one stands
        words[2] = str(tmp_path / words[2])
    assert main(words) == 0, capsys.readouterr().err
    assert codes(words[2]) == []
    before, after = mm.open(path), mm.open(words[2])
    np.testing.assert_allclose(after[:].astype("f8"), before[:].astype("f8"), rtol=1e-6)


@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_found_where_all_is_well_and_one_line_says_so(tmp_path: Path, name: str) -> None:
    found = examine(SOUND[name](tmp_path))
    assert found.findings == ()
    assert found.to_text().splitlines()[0].endswith("; nothing to mend")


def test_findings_are_sorted_and_one_command_mends_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("frames", data=(RANDOM.astype("f8") / 3), chunks=(100, 8, 8), compression="gzip", compression_opts=1)
    found = examine(str(tmp_path / "a.h5"))
    assert sorted(each.code for each in found.findings) == ["chunks", "dtype"]
    (line,) = [note for note in found.notes if "at once" in note]
    words = shlex.split(line.partition("mmapstore ")[2])
    assert main(words) == 0, capsys.readouterr().err
    assert codes(words[2]) == []


def test_levels_come_before_seconds() -> None:
    from mmapstore.doctor.findings import FAILS, NOTE, SLOW, Finding

    made = [Finding("a", NOTE, "", "", "", 9.0), Finding("b", SLOW, "", "", "", 1.0), Finding("c", FAILS, "", "", "")]
    made += [Finding("d", SLOW, "", "", "", 2.0), Finding("e", SLOW, "", "", "", None, 10)]
    assert "".join(each.code for each in sorted(made, key=lambda each: each.rank)) == "cdbea"


# --- numbers ------------------------------------------------------------------------------------------------------------


def test_bytes_are_those_of_the_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", RANDOM.astype("f8"))
    (found,) = examine(str(tmp_path / "x.npy")).findings
    assert found.nbytes == RANDOM.astype("f8").nbytes - RANDOM.nbytes
    np.save(tmp_path / "y.npy", (RANDOM * 200).astype("u1").astype("f4"))
    (found,) = examine(str(tmp_path / "y.npy")).findings
    assert found.nbytes == RANDOM.nbytes * 3 // 4
    np.save(tmp_path / "z.npy", RANDOM.astype(">f4"))
    (found,) = examine(str(tmp_path / "z.npy"), target="none").findings
    assert (found.nbytes, found.seconds) == (RANDOM.nbytes, RANDOM.nbytes / 1e10)


def test_decodes_saved_are_counted_in_a_real_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    from mmapstore.readers.decoded import Decoded

    monkeypatch.setattr("mmapstore.plain.sample_order.BLOCK_BYTES", 2 * RANDOM[0].nbytes)
    monkeypatch.setattr("mmapstore.doctor.findings.storage.BLOCK_BYTES", 2 * RANDOM[0].nbytes)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("frames", data=FEW_VALUES, chunks=(60, 16, 16), compression="gzip", compression_opts=1)
    counted: list[int] = []
    work = Decoded._work

    def counting(self: Decoded, groups: Iterator[list[WantedChunk]]) -> None:
        def counted_groups() -> Iterator[list[WantedChunk]]:
            for group in groups:
                counted.extend([self._chunk_nbytes] * len(group))
                yield group

        work(self, counted_groups())

    monkeypatch.setattr(Decoded, "_work", counting)

    def decoded(path: str) -> int:
        counted.clear()
        for _ in mm.open(path).batches(32, mm.NextFrame(), shuffle=True):
            pass
        return sum(counted)

    (found,) = examine(str(tmp_path / "a.h5")).findings
    assert found.code == "chunks" and "a shuffled epoch decodes each" in found.found
    before = decoded(str(tmp_path / "a.h5"))
    words = shlex.split(found.mend)[1:]
    assert main(words) == 0
    after = decoded(words[2])
    assert after <= 2 * FEW_VALUES.nbytes + counted[0] < before
    assert found.nbytes == pytest.approx(before - after, rel=0.05)


def case(path: Path, **how: object) -> Subject:
    return subject_of(str(path), KERAS, **how)  # type: ignore[arg-type]


def test_delivered_bytes_are_those_of_all_batches(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", RANDOM.astype("f8"))
    np.save(tmp_path / "i.npy", (RANDOM * 99).astype("u1"))
    for name, target in (("x.npy", "next"), ("x.npy", "none"), ("i.npy", "next")):
        found = case(tmp_path / name, target=target)
        made = [batch if isinstance(batch, tuple) else (batch,) for batch in found.usual]
        assert sum(array.nbytes for batch in made for array in batch) == found.delivered_nbytes
        assert len(made) == found.steps


# --- speeds decide ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "expected"), [(0.05, ["codec"]), (0.0001, [])])
def test_a_slow_decoder_is_a_finding_and_a_fast_one_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: float, expected: list[str]
) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("frames", data=FEW_VALUES, chunks=(100, 16, 16), compression="gzip", shuffle=True)
    speeds = Speeds(copy=1e10, read=1e8, batch=batch)
    monkeypatch.setattr(examination, "measured", lambda subject: speeds)
    found = examine(str(tmp_path / "a.h5"))
    assert [each.code for each in found.findings] == expected
    assert found.bottleneck is not None and found.bottleneck.name == ("decoder" if expected else "the step")
    for each in found.findings:
        judged = case(tmp_path / "a.h5")
        assert each.seconds == pytest.approx(batch * judged.steps - judged.delivered_nbytes / speeds.copy)
        assert main(shlex.split(each.mend)[1:]) == 0
        assert codes(shlex.split(each.mend)[3]) == []


def test_the_disk_is_the_bottleneck_where_the_data_exceeds_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", RANDOM)
    speeds = Speeds(copy=1e10, read=1e10, batch=1e-4)
    monkeypatch.setattr(examination, "measured", lambda subject: speeds)
    found = examine(str(tmp_path / "x.npy")).bottleneck
    assert found is not None and found.name == "the step" and "from the page cache" in found.words
    monkeypatch.setattr("mmapstore.doctor.subject.memory_available", lambda: 1000)
    found = examine(str(tmp_path / "x.npy")).bottleneck
    assert found is not None and found.name == "disk" and "memory does not hold the data" in found.words


def test_many_tiny_batches_wait_for_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", RANDOM)
    monkeypatch.setattr(examination, "measured", lambda subject: Speeds(1e10, 1e10, batch=0.02))
    found = examine(str(tmp_path / "x.npy")).bottleneck
    assert found is not None and found.name == "Python"


# --- memory and shuffling -----------------------------------------------------------------------------------------------


@pytest.fixture
def compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Windows of decoded frames of 640 KiB, of 1 MiB in all."""
    h5py = pytest.importorskip("h5py")
    monkeypatch.setattr("mmapstore.plain.sample_order.BLOCK_BYTES", 20 * 1024)
    monkeypatch.setattr("mmapstore.batches.batch_reader.BOOKKEEPING_BYTES", 1000)
    monkeypatch.setattr("mmapstore.batches.batch_reader.TOGETHER_BYTES", 0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("frames", data=np.concatenate([FEW_VALUES] * 2), chunks=(5, 16, 16), compression="gzip")
    return str(tmp_path / "a.h5")


def test_what_fits_a_limit_really_does(compressed: str) -> None:
    memory = case(Path(compressed)).usual.memory
    # Fewer threads save no more than three fourths of the decoder's memory: the rest has to come from the window.
    usual, limit = memory.total, memory.total - memory.parts["decoder"] * 3 // 4 - memory.parts["windows of frames"] // 4
    (found,) = examine(compressed, max_memory=limit).findings
    assert found.code == "memory" and found.nbytes == usual - limit
    batches = eval(found.mend, {"mm": mm})
    assert batches.memory.total <= max(limit, 10**6 * -(-usual // 10**6))
    assert f"like {case(Path(compressed)).batches(shuffle=_shuffle(found.found)).effective_batch:.1f} " in found.found


def _shuffle(text: str) -> int:
    return int(text.partition("a window of ")[2].split()[0])


def test_a_limit_below_everything_names_what_fits(compressed: str) -> None:
    memory = case(Path(compressed)).batches(shuffle=2).memory
    least = memory.total - memory.parts["decoder"]  # not even one thread
    (found,) = examine(compressed, max_memory=least).findings
    assert (found.code, found.level) == ("memory", "fails")
    batches = eval(found.mend, {"mm": mm})  # which checks what it names itself
    assert batches.memory.total <= least or "max_memory=" in found.mend


# --- layout and alignment -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frameworks", "expected"),
    [
        (KERAS, ["note"]),
        (Frameworks(KERAS.versions, backend="torch"), []),
    ],
)
def test_channels_first_where_convolutions_run_on_a_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frameworks: Frameworks, expected: list[str]
) -> None:
    monkeypatch.setattr(examination, "installed", lambda: frameworks)
    np.save(tmp_path / "x.npy", RANDOM.reshape(SAMPLES, 1, 16, 16))
    found = examine(str(tmp_path / "x.npy")).findings
    assert [each.level for each in found if each.code == "layout"] == expected
    for each in found:
        assert eval(each.mend, {"mm": mm})[0][0].shape == (32, 16, 16, 1)


def test_channels_last_that_were_not_said_to_be(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", RANDOM[:, :, :15].reshape(SAMPLES, 8, 10, 3))
    (found,) = examine(str(tmp_path / "x.npy")).findings
    assert found.code == "axes" and eval(found.mend, {"mm": mm}).layout == "NHWC"
    assert codes(str(tmp_path / "x.npy"), layout="NHWC") == []


def test_samples_apart_are_put_in_order(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", RANDOM.reshape(20, 30, 16, 16))
    (found,) = examine(str(tmp_path / "x.npy"), layout="TNHW").findings
    assert found.code == "order" and "consecutive samples lie far apart" in found.found
    words = shlex.split(found.mend)[1:]
    assert main(words) == 0
    assert codes(words[2]) == []
    np.testing.assert_array_equal(mm.open(words[2])[:], mm.open(str(tmp_path / "x.npy"), layout="TNHW")[:])


def test_without_measuring_there_are_no_seconds_and_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "measured", lambda subject: pytest.fail("measured"))
    np.save(tmp_path / "x.npy", (RANDOM * 200).astype("u1").astype("f8"))
    found = examine(str(tmp_path / "x.npy"), quick=True)
    assert [(each.code, each.seconds) for each in found.findings] == [("dtype", None)]
    assert found.speeds is found.bottleneck is None


def test_a_few_numbers_are_not_worth_a_word(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", RANDOM[:, 0, :5][:50])
    assert codes(str(tmp_path / "x.npy"), batch=30) == []


@pytest.mark.parametrize(("pattern", "expected"), [("part*.npy", "frames-joined.npy"), ("*.npy", "../frames-joined.npy")])
def test_files_that_are_joined_do_not_match_their_own_glob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, expected: str
) -> None:
    FAULTS["many small files"][1](tmp_path)
    monkeypatch.chdir(tmp_path)
    (found,) = examine(pattern, quick=True).findings
    assert shlex.split(found.mend)[3] == str(Path(expected))


def test_memory_for_one_batch_alone_is_named(compressed: str) -> None:
    whole = case(Path(compressed), batch=1024)
    limit = whole.batches(shuffle=False, batch=256).memory.total
    (found,) = [each for each in examine(compressed, batch=1024, max_memory=limit).findings if each.code == "memory"]
    assert eval(found.mend, {"mm": mm}).memory.total <= limit


# --- classes ------------------------------------------------------------------------------------------------------------


def test_classes_that_lie_sorted_are_found(tmp_path: Path) -> None:
    fields = {"image": RANDOM, "label": np.repeat([b"cat", b"dog"], [SAMPLES - SAMPLES // 4, SAMPLES // 4])}
    mm.ingest(fields, str(tmp_path / "pets"))
    path = str(tmp_path / "pets")
    (found,) = (each for each in examine(path).findings if each.code == "sorted-classes")
    assert f"({SAMPLES - SAMPLES // 4} of 'cat', then {SAMPLES // 4} of 'dog')" in found.found
    assert found.mend == f"train, val = mm.open({path!r}).split(0.8, 0.2, stratify='label')"
    assert "sorted-classes" not in codes(path, quick=True)
    mm.ingest({**fields, "label": fields["label"][np.random.default_rng(0).permutation(SAMPLES)]}, path, overwrite=True)
    assert "sorted-classes" not in codes(path)
