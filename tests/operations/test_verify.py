"""`verify`: what is damaged or different is found, at the right place, and nothing else is."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from mmapstore.cli import main
from mmapstore.operations.verify import Verdict, verify
from mmapstore.plain.content_digest import content_sha256
from mmapstore.plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError, MemoryBudgetError, NotFoundError
from mmapstore.plain.manifest import SUFFIX, ArrayManifest, Manifest

BLOCK = 4  # samples under each checksum


def frames(samples: int = 22, dtype: str = "<f4", seed: int = 0) -> np.ndarray[Any, Any]:
    return (np.random.default_rng(seed).random((samples, 3, 5, 4)) * 100).astype(dtype)


def described(path: Path, array: np.ndarray[Any, Any], **changes: Any) -> Path:
    """Write a .npy file and, by hand, the manifest that `ingest` would leave beside it."""
    np.save(path, array)
    blocks = [array[start : start + BLOCK] for start in range(0, len(array), BLOCK)]
    entry = ArrayManifest(
        file=path.name,
        key="",
        shape=array.shape,
        dtype=array.dtype.str,
        layout="NCHW"[: array.ndim],
        episodes=(0, len(array)),
        block_samples=BLOCK,
        checksums=tuple(f"{zlib.crc32(block.tobytes()):08x}" for block in blocks),
        sha256=content_sha256(array),
    )
    entry = ArrayManifest(**{**vars(entry), **changes})
    Path(f"{path}{SUFFIX}").write_text(Manifest({"data": entry}).to_json())
    return path


def only(verdict: Verdict) -> Any:
    (found,) = verdict.arrays
    return found


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return described(tmp_path / "x.npy", frames())


# --- against the manifest --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("independent", [False, True])
def test_what_was_written_is_whole(whole: Path, independent: bool) -> None:
    verdict = verify(whole, independent=independent)
    found = only(verdict)
    assert verdict and found.ok and not found.bad_blocks
    assert found.sha256 == content_sha256(frames())
    assert found.checked[0].startswith("all 6 blocks have the checksums of")
    assert found.checked[-1] == "the SHA-256 digest of all values is the one that its manifest names"


def block_edges() -> list[int]:
    """The first and last byte of each block of x.npy, and those beside them."""
    nbytes, end = BLOCK * frames()[0].nbytes, frames().nbytes
    borders = [*range(0, end, nbytes), end]
    return sorted({at for border in borders for at in (border - 1, border) if 0 <= at < end})


@pytest.mark.parametrize("at", block_edges())
def test_a_flipped_byte_is_found_in_its_block(whole: Path, at: int) -> None:
    data = bytearray(whole.read_bytes())
    header = len(data) - frames().nbytes
    data[header + at] ^= 0x40
    whole.write_bytes(data)
    found = only(verify(whole))
    (bad,) = found.bad_blocks
    nbytes = BLOCK * frames()[0].nbytes
    number = at // nbytes
    assert (bad.number, bad.samples) == (number, (number * BLOCK, min(22, (number + 1) * BLOCK)))
    assert bad.bytes is not None and bad.bytes[0] <= header + at < bad.bytes[1] and bad.file == str(whole)
    assert bad.problem.startswith("checksum ") and not found.ok and found.bad_block_count == 1
    assert any(line.startswith("SHA-256 of all values is ") for line in found.problems)


def test_all_bad_blocks_are_counted(whole: Path) -> None:
    array = np.load(whole)
    array[[0, 9, 21]] += 1
    np.save(whole, array)
    found = only(verify(whole))
    assert [bad.number for bad in found.bad_blocks] == [0, 2, 5]
    assert found.problems[0] == "3 of 6 blocks are not what was written; the first bad one is number 0"


def test_two_samples_that_changed_places(whole: Path) -> None:
    array = np.load(whole)
    array[[5, 6]] = array[[6, 5]]
    np.save(whole, array)
    assert [bad.samples for bad in only(verify(whole)).bad_blocks] == [(4, 8)]


def test_a_truncated_file(whole: Path) -> None:
    whole.write_bytes(whole.read_bytes()[:-100])
    found = only(verify(whole))
    assert not found.ok and found.summary.endswith("DAMAGED, it cannot be opened")
    assert "bytes" in found.problems[0]


def test_a_file_with_something_behind(whole: Path) -> None:
    with whole.open("ab") as file:
        file.write(b"\0" * 7)
    found = only(verify(whole))
    assert not found.ok and not found.bad_blocks
    assert "7 were appended behind the last value" in found.problems[0]


def test_other_data_under_the_name(whole: Path) -> None:
    np.save(whole, frames(10))
    found = only(verify(whole))
    assert "expected (22, 3, 5, 4) float32" in found.problems[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checksums": ("00000000",)}, "has 1 checksums of blocks of 4 samples; expected 6"),
        ({"block_samples": 0}, "checksums of blocks of 0 samples"),
        ({"layout": "NXYZ"}, "gives the axes"),
        ({"episodes": (0, 7)}, "episodes end at sample 7; expected 22"),
        ({"sha256": "0" * 64}, f"expected {'0' * 64}"),
    ],
)
def test_a_manifest_that_cannot_be_true(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    found = only(verify(described(tmp_path / "x.npy", frames(), **changes)))
    assert not found.ok and message in found.problems[0]


def test_a_manifest_that_is_none(whole: Path) -> None:
    Path(f"{whole}{SUFFIX}").write_text("{")
    with pytest.raises(DamagedFileError, match="is not a manifest of mmapstore"):
        verify(whole)


def test_a_manifest_that_leads_out_of_its_directory(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    described(tmp_path / "x.npy", frames())
    entry = {**vars(Manifest.from_json(Path(tmp_path / f"x.npy{SUFFIX}").read_text(), "x").fields["data"]), "file": "../x.npy"}
    Path(tmp_path, "in", "mmapstore.json").write_text(Manifest({"data": ArrayManifest(**entry)}).to_json())
    with pytest.raises(DamagedFileError, match="outside its directory"):
        verify(tmp_path / "in")


def test_a_chunk_that_cannot_be_decoded_is_a_bad_block(tmp_path: Path) -> None:
    array = frames()
    path = described(tmp_path / "x.npy", array)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data = file.create_dataset("data", data=array, chunks=(2, 3, 5, 4), compression="gzip", fletcher32=True)
        places = [data.id.get_chunk_info(number) for number in range(data.id.get_num_chunks())]
    entry = Manifest.from_json(Path(f"{path}{SUFFIX}").read_text(), "x").fields["data"]
    manifest = Manifest({"data": ArrayManifest(**{**vars(entry), "file": "x.h5", "key": "data"})})
    Path(tmp_path, f"x.h5{SUFFIX}").write_text(manifest.to_json())
    assert verify(tmp_path / "x.h5") and verify(tmp_path / "x.h5", independent=True)
    place = next(place for place in places if place.chunk_offset[0] == 10)
    content = bytearray(Path(tmp_path, "x.h5").read_bytes())
    content[place.byte_offset + place.size // 2] ^= 0xFF
    Path(tmp_path, "x.h5").write_bytes(content)
    for independent in (False, True):
        found = only(verify(tmp_path / "x.h5", independent=independent))
        assert [bad.samples for bad in found.bad_blocks] == [(8, 12)]
        assert found.bad_blocks[0].problem.startswith("cannot be read: ") and found.sha256 == ""


def test_a_missing_chunk_file_of_a_store(tmp_path: Path) -> None:
    array = frames() + 1
    path = described(tmp_path / "x.npy", array)
    zarr.create_array(str(tmp_path / "x.zarr"), data=array, chunks=(4, 3, 5, 4), compressors=None)
    entry = Manifest.from_json(Path(f"{path}{SUFFIX}").read_text(), "x").fields["data"]
    Path(tmp_path, f"x.zarr{SUFFIX}").write_text(Manifest({"data": ArrayManifest(**{**vars(entry), "file": "x.zarr"})}).to_json())
    assert verify(tmp_path / "x.zarr")
    Path(tmp_path, "x.zarr", "c", "1", "0", "0", "0").unlink()
    assert [bad.number for bad in only(verify(tmp_path / "x.zarr")).bad_blocks] == [1]


@pytest.mark.parametrize("max_memory", ["9MB", "256MB"])
def test_blocks_larger_than_what_is_read_at_a_time(tmp_path: Path, max_memory: str) -> None:
    array = np.random.default_rng(0).random((3, 2, 400, 500), np.float32)
    path = described(tmp_path / "x.npy", array)
    assert verify(path, max_memory=max_memory)
    array[2, 1, 399, 499] += 1
    np.save(path, array)
    assert only(verify(path, max_memory=max_memory)).bad_block_count == 1


def test_big_endian_data_with_a_manifest(tmp_path: Path) -> None:
    assert verify(described(tmp_path / "x.npy", frames(dtype=">f4")))


# --- without a manifest ----------------------------------------------------------------------------------------------------


def test_without_a_manifest_it_says_what_was_checked(tmp_path: Path) -> None:
    array = frames()
    np.save(tmp_path / "x.npy", array)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("data", data=array, chunks=(2, 3, 5, 4), compression="gzip", fletcher32=True)
    zarr.create_array(str(tmp_path / "x.zarr"), data=array, compressors=[zarr.codecs.Crc32cCodec()])
    plain, hdf5, store = (only(verify(tmp_path / name)) for name in ("x.npy", "x.h5", "x.zarr"))
    assert {plain.sha256, hdf5.sha256, store.sha256} == {content_sha256(array)}
    assert plain.checked == ("every value can be read",) and "keeps no checksums" in plain.notes[0]
    assert "and found right: the fletcher32 checksum of every chunk" in hdf5.checked
    assert "and found right: the CRC-32C checksum of every chunk" in store.checked


def test_every_array_of_a_container_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"], file["g/b"], file["c"], file["d"] = np.arange(3), np.zeros((0, 2)), 2.5, np.array([b"x", b"yz"])
    verdict = verify(tmp_path / "x.h5")
    assert verdict and [Path(array.name).name for array in verdict.arrays] == ["a", "c", "d", "b"]
    assert "checked: every value can be read (3 of 4 arrays)" in verdict.to_text()


# --- against other data ----------------------------------------------------------------------------------------------------


def stored(folder: Path, name: str, array: np.ndarray[Any, Any], form: str) -> Path:
    path = folder / f"{name}{'.' + form.split('-')[0]}"
    if form == "npy":
        np.save(path, array)
    elif form == "npy-fortran":
        np.save(path := folder / f"{name}.npy", np.asfortranarray(array))
    elif form.startswith("h5"):
        options = {"chunks": tuple(min(n, max(3, n // 4)) for n in array.shape), "compression": "gzip"} if form == "h5-gzip" else {}
        with h5py.File(path, "w") as file:
            file.create_dataset("data", data=array, **options)
    else:
        zarr.create_array(str(path), data=array, chunks=tuple(min(n, max(5, n // 4)) for n in array.shape))
    return path


FORMS = ["npy", "npy-fortran", "h5", "h5-gzip", "zarr"]


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("second", FORMS)
@pytest.mark.parametrize("first", ["npy", "h5-gzip"])
def test_equal_and_different_in_any_formats(tmp_path: Path, first: str, second: str, independent: bool) -> None:
    array = frames()
    a, b = stored(tmp_path, "a", array, first), stored(tmp_path, "b", array, second)
    verdict = verify(a, b, independent=independent)
    assert verdict and "EQUAL, all 1,320 values, (22, 3, 5, 4) float32" in verdict.to_text()
    changed = array.copy()
    changed[7, 2, 0, 3] += 1
    changed[20, 0, 0, 0] -= 3
    found = only(verify(a, stored(tmp_path, "c", changed, second), independent=independent))
    assert (found.difference.count, found.difference.index) == (2, (7, 2, 0, 3))
    assert found.difference.values == (str(array[7, 2, 0, 3]), str(changed[7, 2, 0, 3]))
    assert found.difference.largest == pytest.approx(3, rel=1e-5)


@pytest.mark.parametrize("second", ["<i4", ">i4"])
def test_byte_order_is_no_difference(tmp_path: Path, second: str) -> None:
    array = frames(dtype="<i4")
    verdict = verify(stored(tmp_path, "a", array, "npy"), stored(tmp_path, "b", array.astype(second), "npy"))
    assert verdict and bool(only(verdict).notes) is (second == ">i4")


def test_nan_and_zeros(tmp_path: Path) -> None:
    quiet, other = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    a = np.array([quiet, 0.0, 1.0, quiet], np.float32)
    b = np.array([other, -0.0, 1.0, quiet], np.float32)
    found = only(verify(stored(tmp_path, "a", a, "npy"), stored(tmp_path, "b", b, "npy")))
    assert found.ok and found.notes == ("2 values are equal but not bit by bit: -0.0 and 0.0, or NaNs of other payloads",)
    c = np.array([quiet, 0.0, 1.0, 1.0], np.float32)
    found = only(verify(tmp_path / "a.npy", stored(tmp_path, "c", c, "npy")))
    assert not found.ok and found.difference.index == (3,) and found.difference.values == ("nan", "1.0")
    assert found.difference.largest is None


@pytest.mark.parametrize(("first", "second"), [(22, 20), (20, 22), (0, 5)])
def test_other_lengths(tmp_path: Path, first: int, second: int) -> None:
    array = frames()
    found = only(verify(stored(tmp_path, "a", array[:first], "npy"), stored(tmp_path, "b", array[:second], "npy")))
    assert found.problems == (f"shape ({first}, 3, 5, 4) against ({second}, 3, 5, 4)",)
    assert found.notes == (("the 1,200 values that both have are equal",) if first else ())
    array[3] += 1
    found = only(verify(tmp_path / "a.npy", stored(tmp_path, "c", array[:second], "npy")))
    assert (found.difference is not None) is bool(first)


def test_nothing_is_equal_to_nothing(tmp_path: Path) -> None:
    a, b = stored(tmp_path, "a", frames(0), "npy"), stored(tmp_path, "b", frames(0), "h5")
    assert "EQUAL, both are empty" in verify(a, b).to_text()


def test_other_dtypes(tmp_path: Path) -> None:
    exact, rounded = np.array([1.0, 2.5, 1e-20]), np.array([1.0, 2.5, 1e-20], np.float32)
    a, b = stored(tmp_path, "a", exact, "npy"), stored(tmp_path, "b", rounded, "npy")
    found = only(verify(a, b))
    assert not found.ok and found.difference is None and "--cast" in found.problems[0]
    found = only(verify(a, b, cast=True))
    assert found.ok and "rounded to the nearest float" in found.notes[0]
    found = only(verify(b, a, cast=True))  # 1e-20 as float32 is another number as float64
    assert not found.ok and found.difference.index == (2,)
    c = stored(tmp_path, "c", np.array([1, 2, 0], np.uint8), "npy")
    found = only(verify(a, c, cast=True))
    assert (found.difference.count, found.difference.index) == (2, (1,))  # 2.5 is no whole number, nor is 1e-20


@pytest.mark.parametrize(
    ("own", "other"), [("NCHW", "NHWC"), ("NHWC", "NCHW"), ("NTCHW", "NCHW"), ("TNCHW", "NTHWC"), ("NHW", "NCHW"), ("NCHW", "CNHW")]
)
def test_axes_in_another_order(tmp_path: Path, own: str, other: str) -> None:
    lengths = {"N": 6, "T": 4, "C": 1 if "C" not in own else 3, "H": 5, "W": 7}
    letters = "NTCHW" if "T" in own + other else "NCHW"
    array = np.random.default_rng(0).integers(0, 99, [lengths[letter] for letter in letters]).astype(np.int16)

    def as_stored(layout: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        have = letters
        if "T" in have and "T" not in layout:
            values, have = values.reshape(-1, *values.shape[2:]), have.replace("T", "")
        if "C" not in layout:
            values, have = values[:, 0], have.replace("C", "")
        return np.ascontiguousarray(values.transpose([have.index(letter) for letter in layout]))

    a, b = stored(tmp_path, "a", as_stored(own, array), "npy"), stored(tmp_path, "b", as_stored(other, array), "h5-gzip")
    for independent in (False, True):
        found = only(verify(a, b, layout=own, other_layout=other.lower(), independent=independent))
        assert found.ok and f"the axes are stored as {own} and {other}" in found.notes[0]
    changed = array.copy()
    changed[(5, *(1 if letter == "T" else 0 if letter == "C" else 2 for letter in letters[1:]))] += 1
    found = only(verify(a, stored(tmp_path, "c", as_stored(other, changed), "npy"), layout=own, other_layout=other))
    index, there = found.difference.index, found.difference.other_index
    assert found.difference.count == 1
    assert as_stored(own, array)[index] + 1 == as_stored(own, changed)[index]
    assert as_stored(other, array)[there] + 1 == as_stored(other, changed)[there]


def test_axes_that_do_not_fit(tmp_path: Path) -> None:
    a, b = stored(tmp_path, "a", frames(), "npy"), stored(tmp_path, "b", frames().transpose(0, 2, 3, 1), "npy")
    assert "say how both are stored with layout=" in only(verify(a, b)).problems[0]
    assert "samples of other shapes" in only(verify(a, b, layout="NCHW", other_layout="NCWH")).problems[0]
    with pytest.raises(InvalidValueError, match="names 3 axes but"):
        verify(a, b, layout="NHW", other_layout="NHWC")


@pytest.mark.slow
def test_many_axes_and_long_samples(tmp_path: Path) -> None:
    for shape in [(2,) * 8, (2, 2, 3, 2, 2, 3), (2, 3, 1000, 1000), ()]:
        array = np.random.default_rng(0).random(shape, np.float32)
        for form in FORMS if shape else ["npy", "h5", "zarr"]:
            a, b = stored(tmp_path, "a", array, "npy"), stored(tmp_path, f"b{len(shape)}-{form}", array, form)
            assert verify(a, b, max_memory="150MB"), (shape, form)
            changed = array.copy()
            changed[tuple(n - 1 for n in shape)] += 1
            np.save(a, changed)
            assert only(verify(b, a, max_memory="150MB")).difference.index == tuple(n - 1 for n in shape)


def test_other_widths_of_text(tmp_path: Path) -> None:
    a = stored(tmp_path, "a", np.array([b"a", b"bc"]), "npy")
    assert verify(a, stored(tmp_path, "b", np.array([b"a", b"bc"], "S9"), "npy"))
    found = only(verify(a, stored(tmp_path, "c", np.array([b"a", b"bcd"]), "npy")))
    assert found.difference.values == ("b'bc'", "b'bcd'")


def test_a_side_that_cannot_be_read_to_its_end(tmp_path: Path) -> None:
    a, b = stored(tmp_path, "a", frames(), "npy"), stored(tmp_path, "b", frames(), "h5-gzip")
    with h5py.File(b) as file:
        place = max(
            (file["data"].id.get_chunk_info(n) for n in range(file["data"].id.get_num_chunks())), key=lambda p: p.chunk_offset
        )
    content = bytearray(b.read_bytes())
    content[place.byte_offset : place.byte_offset + place.size] = bytes(place.size)
    b.write_bytes(content)
    found = only(verify(a, b))
    assert not found.ok and "cannot be read" in found.problems[0]


# --- what cannot be meant --------------------------------------------------------------------------------------------------


def test_refusals(tmp_path: Path, whole: Path) -> None:
    def refused(error: type[Exception], message: str, *arguments: Any, **options: Any) -> None:
        with pytest.raises(error, match=message):
            verify(*arguments, **options)

    refused(NotFoundError, "does not exist", tmp_path / "none.npy")
    refused(NotFoundError, "does not exist", whole, tmp_path / "none.npy")
    refused(InvalidTypeError, "verify takes paths; got a ndarray", frames())
    refused(InvalidValueError, "is a pattern", tmp_path / "*.npy")
    refused(InvalidValueError, "give the other one as well", whole, cast=True)
    refused(MemoryBudgetError, r"predicted peak = .*over max_memory=1\.00 MB.*--max-memory", whole, max_memory="1MB")
    (tmp_path / "empty").mkdir()
    refused(NotFoundError, "holds no .npy, HDF5 or Zarr data", tmp_path / "empty")


def test_progress_is_reported(whole: Path) -> None:
    calls: list[tuple[int, int | None]] = []
    verify(whole, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (22, 22) and calls == sorted(calls)


# --- the command -----------------------------------------------------------------------------------------------------------


def test_the_command(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(whole)]) == 0
    assert "whole, every value is the one that was written" in capsys.readouterr().out
    other = stored(tmp_path, "other", frames(seed=1), "zarr")
    assert main(["verify", str(whole), str(other)]) == 1
    assert "1,320 of 1,320 values differ, the first at [0, 0, 0, 0]" in capsys.readouterr().out
    assert main(["verify", str(whole), str(other), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["arrays"][0]["difference"]["count"] == 1320
    assert main(["verify", str(tmp_path / "none.npy")]) == 1
    assert main(["verify", str(whole), "--cast"]) == 2
