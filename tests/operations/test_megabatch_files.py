"""Megabatches from elsewhere: pickles run only if allowed, and whatever is broken is named, whoever loads it."""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ingest_results import manifest_of

import mmapstore as mm
from mmapstore.operations.ingest.megabatches.columns import read_columns
from mmapstore.operations.ingest.megabatches.unpickling import held_by, held_while_loading, load_whole
from mmapstore.plain.errors import DamagedFileError, MissingPackageError, MmapstoreError, NotFoundError, UnsafeFileError
from mmapstore.plain.manifest import DIRECTORY_MANIFEST

GOOD = {"x": np.arange(6, dtype=np.uint8).reshape(3, 2), "texts": ["a", "bc", ""]}


def touching(path: Path) -> bytes:
    """A pickle that makes a file when it is loaded."""
    return b"cbuiltins\nopen\n(V" + str(path).encode() + b"\nVw\ntR."


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".pkl.gz", ".joblib"])
def test_pickles_are_refused_and_not_looked_into(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(touching(tmp_path / "made"))
    with pytest.raises(UnsafeFileError, match=rf"a{suffix} is a pickle, and loading a pickle runs whatever code.*--allow-pickle"):
        mm.Megabatches([tmp_path / f"a{suffix}"])
    with pytest.raises(UnsafeFileError, match="is a pickle"):
        read_columns(str(path), None, False)
    assert not (tmp_path / "made").exists()


def test_what_is_refused_is_refused_whatever_else_is_in_the_folder(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **GOOD)
    (tmp_path / "b.pkl").write_bytes(touching(tmp_path / "made"))
    with pytest.raises(UnsafeFileError, match=r"b\.pkl is a pickle"):
        mm.Megabatches(tmp_path, skip_broken=True)
    assert not (tmp_path / "made").exists()


def test_archives_with_python_objects_are_refused_until_allowed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", texts=np.array(["a", "bc"], dtype=object))
    path = str(tmp_path / "a.npz")
    with pytest.raises(UnsafeFileError, match=r"a\.npz: the array 'texts' holds Python objects.*allow_pickle=True"):
        read_columns(path, None, False)
    assert read_columns(path, None, True).arrays["texts"].tolist() == [b"a", b"bc"]
    (tmp_path / "b.npz").write_bytes(pickle.dumps(GOOD))
    for allowed in (False, True):
        with pytest.raises(DamagedFileError, match=r"b\.npz is not a \.npz archive"):
            read_columns(str(tmp_path / "b.npz"), None, allowed)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"cannot be loaded \(EOFError"),
        (b"no pickle at all", "cannot be loaded"),
        (pickle.dumps(GOOD)[:-20], r"cannot be loaded \(.*truncated or damaged"),
        (pickle.dumps(GOOD) + pickle.dumps(GOOD), "goes on behind its first pickle"),
        (b"cno_such_module\nThing\n.", r"a class that is not to be found here \(No module named 'no_such_module'\)"),
        (b"ccollections\nNoSuchThing\n.", "a class that is not to be found here"),
        (b"\x80\x04B\xff\xff\xff\x7fshort.", "cannot be loaded"),
        (b"\x80\x05\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "cannot be loaded"),
        (b"cbuiltins\nexit\n(tR.", r"cannot be loaded \(SystemExit"),
        (b"coperator\ntruediv\n(I1\nI0\ntR.", "ZeroDivisionError"),
        (b"\x80\x09N.", "unsupported pickle protocol"),
        (b"(" * 200_000 + b"t" * 200_000 + b".", "expected a megabatch|cannot be loaded"),
        (b"\x80\x04}\x8c\x01x" + b"]" * 200_000 + b"a" * 199_999 + b"s.", "lists in lists without end"),
        (pickle.dumps({"x": []}), "holds no samples"),
        (pickle.dumps({}), "holds no samples"),
        (b"\x1f\x8b not gzip", "cannot be loaded"),
    ],
)
def test_whatever_a_pickle_does_is_an_error_that_names_the_file(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    with pytest.raises(MmapstoreError, match=rf"a\.pkl.*({said})"):
        read_columns(str(path), None, True)


def test_truncated_at_every_length_and_flipped_at_every_byte(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "whole.npz", x=np.arange(4, dtype="u1"))
    whole = (tmp_path / "whole.npz").read_bytes()
    path = tmp_path / "a.npz"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError, match=r"a\.npz"):
            read_columns(str(path), None, False)
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            found = read_columns(str(path), None, False).arrays
        except MmapstoreError as error:
            assert "a.npz" in str(error)
            continue
        for values in found.values():
            np.testing.assert_array_equal(values, np.arange(4, dtype="u1"))
    whole = pickle.dumps(np.arange(4, dtype="u1").tolist(), 4)
    for length in range(len(whole)):
        (tmp_path / "a.pkl").write_bytes(whole[:length])
        with pytest.raises(MmapstoreError, match=r"a\.pkl"):
            read_columns(str(tmp_path / "a.pkl"), None, True)


def test_an_archive_whose_checksum_is_wrong(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(100, dtype="u1"))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[data.index(bytes(range(50, 60)))] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(DamagedFileError, match=r"a\.npz::/x cannot be loaded \(BadZipFile: Bad CRC-32"):
        read_columns(str(tmp_path / "a.npz"), None, False)


def test_an_archive_that_declares_too_much(tmp_path: Path) -> None:
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999,)}\n"
    data = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", data + head)
    with pytest.raises(DamagedFileError, match=r"a\.npz::/x cannot be loaded"):
        read_columns(str(tmp_path / "a.npz"), None, False)


def test_missing_files_and_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFoundError, match=r"no\.pkl does not exist"):
        read_columns(str(tmp_path / "no.pkl"), None, True)
    (tmp_path / "a.joblib").write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "joblib", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'mmapstore\[pickles\]'"):
        load_whole(str(tmp_path / "a.joblib"), True)


def test_broken_joblib_files(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    for compress in (0, 3):
        joblib.dump(GOOD, tmp_path / "a.joblib", compress=compress)
        whole = (tmp_path / "a.joblib").read_bytes()
        (tmp_path / "a.joblib").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DamagedFileError, match=r"a\.joblib cannot be loaded"):
            read_columns(str(tmp_path / "a.joblib"), None, True)


# --- leaving files out ------------------------------------------------------------------------------------------------


def test_broken_files_are_left_out_and_listed(tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number}.pkl").write_bytes(pickle.dumps({"x": [number] * (number + 1)}))
    (tmp_path / "1.pkl").write_bytes(b"broken")
    (tmp_path / "5.pkl").write_bytes(b"")
    with pytest.raises(DamagedFileError, match=r"1\.pkl cannot be loaded"):
        mm.ingest(mm.Megabatches(tmp_path, allow_pickle=True, workers=2), tmp_path / "out")
    source = mm.Megabatches(tmp_path, allow_pickle=True, workers=2, skip_broken=True)
    ds = mm.open(mm.ingest(source, tmp_path / "out.npy"))
    assert ds[:].tolist() == [0, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4]
    assert ds.episodes.tolist() == [0, 1, 4, 8, 13]
    assert (manifest_of(str(tmp_path / "out.npy")).notes or {})["skipped"] == [str(tmp_path / "1.pkl"), str(tmp_path / "5.pkl")]


def test_none_that_can_be_loaded(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.pkl").write_bytes(b"")
    with pytest.raises(DamagedFileError, match=r"None of the 2 files can be loaded. The first: .*a\.pkl"):
        mm.ingest(mm.Megabatches(tmp_path, allow_pickle=True, skip_broken=True), tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / DIRECTORY_MANIFEST).exists()


def test_a_file_that_changes_between_the_two_readings(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **GOOD)
    source = mm.Megabatches(tmp_path)
    assert source.samples == 3
    np.savez(tmp_path / "a.npz", x=GOOD["x"][:2], texts=GOOD["texts"][:2])
    with pytest.raises(DamagedFileError, match=r"a\.npz was written to while it was read"):
        mm.ingest(source, tmp_path / "out")


# --- arithmetic -------------------------------------------------------------------------------------------------------


def test_what_loaded_values_are_made_of() -> None:
    assert held_by(np.zeros((3, 4))) == 96
    nbytes = held_by({"x": np.zeros(1000), "y": list(range(1000)), "z": ["text"] * 10})
    assert 8000 + 8000 + 1000 * 28 <= nbytes <= 8000 + 8000 + 1000 * 36 + 2000


def test_what_loading_takes_beside_what_is_loaded(tmp_path: Path) -> None:
    values = {"x": np.random.default_rng(0).integers(0, 255, 1_000_000).astype("u1")}
    found = []
    for protocol in (0, 1, 2, 3, 4, 5):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(values, protocol))
        found.append(held_while_loading(str(tmp_path / "a.pkl")) / (tmp_path / "a.pkl").stat().st_size)
    assert found[0] > 2 and found[1] > 1 and found[2] > 1 and max(found[3:]) < 1.1
    assert held_while_loading(str(tmp_path / "no.pkl")) == 0
