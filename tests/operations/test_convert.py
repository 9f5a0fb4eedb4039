"""One array from any format into any other: the same values, read by the format's own library, and a digest that says so."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from convert_sources import SHAPE, frames, make
from ingest_results import read

import mmapstore
from mmapstore.codecs.crc32 import crc32
from mmapstore.operations.convert import convert
from mmapstore.operations.flow import slabs
from mmapstore.operations.flow.casts import RefusedValue
from mmapstore.plain.content_digest import content_sha256
from mmapstore.plain.errors import (
    InvalidTypeError,
    InvalidValueError,
    PackedValuesWarning,
)
from mmapstore.plain.manifest import SUFFIX, ArrayManifest, Manifest

OUTS = ["x.npy", "x.h5", "x.h5::/deep/frames", "x.zarr", "x.zarr::/deep/frames"]


@pytest.fixture(autouse=True)
def several_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "PREFERRED_NBYTES", 16_000)  # some 10 samples
    monkeypatch.setattr("mmapstore.operations.convert.plan.PREFERRED_NBYTES", 16_000)


FORMS = [
    "npy",
    "fortran",
    "contiguous",
    "gzip",
    "fletcher",
    "split",
    "lzf",
    "scaleoffset",
    "big-endian",
    "zarr2",
    "zarr3",
    "sharded",
]


def entry_of(out: str | Path) -> ArrayManifest:
    path = str(out).partition("::")[0] + SUFFIX
    return Manifest.from_json(Path(path).read_text(), path).fields["data"]


@pytest.mark.parametrize("out", OUTS)
@pytest.mark.parametrize("form", FORMS)
def test_any_to_any(tmp_path: Path, form: str, out: str) -> None:
    source, values = make(tmp_path, form), frames()
    done = convert(source, tmp_path / out)
    found = read(done.path)
    np.testing.assert_array_equal(found, values)
    assert found.dtype == np.dtype("f4") and done.shape == SHAPE and done.verified
    assert os.fspath(done) == str(done) == done.path == str(tmp_path / out)
    entry = entry_of(done.path)
    assert done.sha256 == entry.sha256 == content_sha256(values)
    stored = values.reshape(len(values), -1)
    expected = [
        f"{crc32(np.ascontiguousarray(stored[at : at + entry.block_samples])):08x}"
        for at in range(0, len(values), entry.block_samples)
    ]
    assert list(entry.checksums) == expected and entry.layout == "NCHW" and entry.episodes == (0, 61)
    assert entry.provenance is not None and entry.provenance["files"][0]["path"] == source.partition("::")[0]
    np.testing.assert_array_equal(mmapstore.open(done.path)[3:7], values[3:7])
    left = {tmp_path / name for name in os.listdir(tmp_path)} - {
        Path(p) for p in (done.path.partition("::")[0], source.partition("::")[0])
    }
    assert left == {Path(done.path.partition("::")[0] + SUFFIX)}


@pytest.mark.parametrize("out", ["x.npy", "x.h5", "x.zarr"])
@pytest.mark.parametrize("form", ["npy", "gzip", "split", "zarr2", "scaleoffset"])
@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"samples": (7, 50)}, lambda x: x[7:50]),
        ({"samples": slice(-20, None)}, lambda x: x[-20:]),
        ({"layout": "NHWC"}, lambda x: x.transpose(0, 2, 3, 1)),
        ({"layout": "CNWH", "samples": (8, 40)}, lambda x: x[8:40].transpose(1, 0, 3, 2)),
        ({"dtype": "u1"}, lambda x: x.astype("u1")),
        ({"dtype": "f8", "layout": "NHWC"}, lambda x: x.transpose(0, 2, 3, 1).astype("f8")),
    ],
)
def test_changed_on_the_way(tmp_path: Path, form: str, out: str, options: dict[str, Any], change: Any) -> None:
    done = convert(make(tmp_path, form), tmp_path / out, **options)
    wanted = change(frames())
    found = read(done.path)
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == wanted.dtype and done.sha256 == content_sha256(wanted) and done.changes
    layout = options.get("layout", "NCHW")
    assert done.layout == entry_of(done.path).layout == layout
    assert bool(entry_of(done.path).checksums) == (layout[0] == "N")  # samples that do not lie in a row have no blocks
    ds = mmapstore.open(done.path)
    samples_first = wanted.transpose([layout.index(letter) for letter in ds.layout])
    np.testing.assert_array_equal(ds[2:5], samples_first[2:5])


@pytest.mark.parametrize(
    "options", [{"chunk_samples": 7}, {"chunks": (10, 2, 5, 10)}, {"compression": "gzip"}, {"compression": "none"}]
)
@pytest.mark.parametrize("out", ["x.h5", "x.zarr"])
@pytest.mark.parametrize("form", ["contiguous", "gzip", "split", "sharded"])
def test_rechunked_and_recompressed(tmp_path: Path, form: str, out: str, options: dict[str, Any]) -> None:
    done = convert(make(tmp_path, form), tmp_path / out, **options)
    np.testing.assert_array_equal(read(done.path), frames())
    if out == "x.h5":
        with h5py.File(tmp_path / out) as file:
            chunks, compression = file["data"].chunks, file["data"].compression
    else:
        stored = zarr.open_array(tmp_path / out, mode="r")
        chunks, compression = stored.chunks, type(stored.compressors[0]).__name__ if stored.compressors else None
    if "chunk_samples" in options:
        assert chunks == (7, *SHAPE[1:])
    if "chunks" in options:
        assert chunks == (10, 2, 5, 10)
    if options.get("compression") == "gzip":
        assert compression in ("gzip", "GzipCodec")
    if options.get("compression") == "none":
        assert compression is None


@pytest.mark.parametrize(
    ("form", "out", "samples"),
    [
        *(("gzip", "x.h5", samples) for samples in (None, (40, 61), (8, 24))),
        ("fletcher", "x.h5", (16, None)),
        ("split", "x.h5::/y", None),
        *(("zarr3", "x.zarr", samples) for samples in (None, (20, 61))),
        ("sharded", "x.zarr::/y", (10, 40)),
    ],
)
def test_chunks_are_copied_as_they_are(tmp_path: Path, form: str, out: str, samples: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path, form)
    monkeypatch.setattr("mmapstore.codecs.encoding.FilterEncoder.encode", lambda *args: pytest.fail("nothing is to be encoded"))
    done = convert(source, tmp_path / out, samples=samples)
    assert done.chunks_copied
    wanted = frames() if samples is None else frames()[slice(*samples)]
    np.testing.assert_array_equal(read(done.path), wanted)
    assert done.sha256 == content_sha256(wanted)
    if form in ("gzip", "fletcher"):
        with h5py.File(tmp_path / "a.nc") as file, h5py.File(tmp_path / "x.h5") as made:
            first = samples[0] if samples else 0
            chunks = [(d.id.read_direct_chunk((at, 0, 0, 0))) for d, at in ((file["g/x"], first), (made["data"], 0))]
            assert chunks[0] == chunks[1]
            assert made["data"].fletcher32 == (form == "fletcher") and made["data"].chunks == (8, *SHAPE[1:])


def test_filter_masks_are_copied_along(tmp_path: Path) -> None:
    values = np.arange(64, dtype="u1").reshape(8, 8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        stored = file.create_dataset("x", values.shape, "u1", chunks=(2, 8), compression="gzip", fillvalue=9)
        stored.id.write_direct_chunk((0, 0), values[:2].tobytes(), 1)  # not compressed, as the mask says
        stored[2:4] = values[2:4]
    done = convert(tmp_path / "a.h5", tmp_path / "b.h5")
    assert done.chunks_copied
    with h5py.File(tmp_path / "b.h5") as file:
        np.testing.assert_array_equal(file["data"][:4], values[:4])
        np.testing.assert_array_equal(file["data"][4:], np.full((4, 8), 9))
        assert file["data"].id.get_num_chunks() == 2 and file["data"].id.read_direct_chunk((0, 0))[0] == 1


def test_zarr_chunk_files_are_the_same_bytes(tmp_path: Path) -> None:
    make(tmp_path, "zarr2")
    done = convert(tmp_path / "a.zarr", tmp_path / "b.zarr")
    assert done.chunks_copied and zarr.open_array(tmp_path / "b.zarr", mode="r").metadata.zarr_format == 3
    one = sorted(path.read_bytes() for path in (tmp_path / "a.zarr").iterdir() if path.name[0].isdigit())
    other = sorted(path.read_bytes() for path in (tmp_path / "b.zarr").iterdir() if path.name.startswith("c."))
    assert one == other and len(one) == 14


# --- what else there is in an array ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7,), (5, 4), (1, 300, 2, 3), (2, 3, 2, 2, 2, 2), (2, 2, 2, 2, 2, 2, 3)])
@pytest.mark.parametrize("dtype", ["?", "i1", "u8", "f2", "c16"])
def test_shapes_and_dtypes(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    values = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    for out in ("b.npy", "b.h5", "b.zarr"):
        done = convert(tmp_path / "a.npy", tmp_path / out)
        found = read(done.path)
        np.testing.assert_array_equal(found, values)
        assert found.dtype == values.dtype and done.sha256 == content_sha256(values)


def test_bytes_keep_their_width(tmp_path: Path) -> None:
    values = np.array([b"ab", b"c", b"", b"de\0f"], "S4")
    np.save(tmp_path / "a.npy", values)
    for out in ("b.h5", "b.zarr"):
        np.testing.assert_array_equal(mmapstore.open(convert(tmp_path / "a.npy", tmp_path / out).path)[:], values)


def test_attributes_go_along_where_there_is_a_place(tmp_path: Path) -> None:
    source = make(tmp_path, "gzip")
    with h5py.File(tmp_path / "a.nc", "r+") as file:
        file["g/x"].attrs.update({"units": "K", "levels": np.array([1, 2], "i2"), "scale": np.float32(0.5), "odd": 1j})
    convert(source, tmp_path / "b.h5")
    with h5py.File(tmp_path / "b.h5") as file:
        attributes = dict(file["data"].attrs)
    assert attributes["units"] == "K" and attributes["levels"].dtype == "i2" and attributes["odd"] == 1j
    done = convert(source, tmp_path / "b.zarr")
    assert zarr.open_array(tmp_path / "b.zarr", mode="r").attrs.asdict() == {
        "units": "K", "levels": [1, 2], "scale": 0.5, "layout": "NCHW",
    }  # fmt: skip
    assert any("no place for, kept in its manifest: odd" in change for change in done.changes)
    convert(source, tmp_path / "b.npy")
    notes = entry_of(tmp_path / "b.npy").notes
    assert notes == {"attributes": {"units": "K", "levels": [1, 2], "scale": 0.5}}
    convert(tmp_path / "b.zarr", tmp_path / "c.h5")
    with h5py.File(tmp_path / "c.h5") as file:
        assert file["data"].attrs["units"] == "K" and list(file["data"].attrs["levels"]) == [1, 2]


def test_matlab_and_files_joined_and_fields(tmp_path: Path) -> None:
    values = frames()
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file["frames"] = values
    np.testing.assert_array_equal(read(convert(tmp_path / "a.mat", tmp_path / "a.npy", key="frames").path), values)
    np.save(tmp_path / "b.npy", values[:20])
    done = convert([tmp_path / "a.npy", tmp_path / "b.npy"], tmp_path / "both.h5")
    np.testing.assert_array_equal(read(done.path), np.concatenate([values, values[:20]]))
    assert entry_of(done.path).episodes == (0, 61, 81)
    again = convert(tmp_path / "both.h5", tmp_path / "part.npy", samples=(50, 70))
    assert entry_of(again.path).episodes == (0, 11, 20)
    mmapstore.ingest({"image": values, "label": np.arange(61)}, tmp_path / "store")
    np.testing.assert_array_equal(read(convert(tmp_path / "store::/label", tmp_path / "label.npy").path), np.arange(61))
    with pytest.raises(InvalidTypeError, match=r"has several fields \(image, label\); expected one array"):
        convert(tmp_path / "store", tmp_path / "x.npy")


def test_live_arrays(tmp_path: Path) -> None:
    values = frames()
    for number, array in enumerate([values, values[::2], zarr.create_array({}, data=values)]):
        np.testing.assert_array_equal(read(convert(array, tmp_path / f"{number}.npy").path), np.asarray(array[...]))


def test_episodes_and_their_order(tmp_path: Path) -> None:
    values = np.arange(4 * 10 * 3 * 2).reshape(10, 4, 3, 2)
    np.save(tmp_path / "a.npy", values)
    done = convert(tmp_path / "a.npy", tmp_path / "b.h5", source_layout="TNHW", layout="NTHW", chunk_samples=3)
    np.testing.assert_array_equal(read(done.path), values.transpose(1, 0, 2, 3))
    with h5py.File(tmp_path / "b.h5") as file:
        assert file["data"].chunks == (1, 3, 3, 2)
    ds = mmapstore.open(done.path)
    assert ds.layout == "NHW" and list(ds.episodes) == [0, 10, 20, 30, 40]
    np.testing.assert_array_equal(ds[12], values[2, 1])
    with pytest.raises(
        InvalidValueError, match=r"would write the samples of all episodes of TNHW one after the other. ingest does that"
    ):
        convert(tmp_path / "a.npy", tmp_path / "c.npy", source_layout="TNHW", layout="NHW")


def test_packed_integers_are_warned_about_and_unpacked(tmp_path: Path) -> None:
    stored = np.array([[1, 2, -9], [4, 5, 6]], "i2")
    with h5py.File(tmp_path / "a.nc", "w") as file:
        file["t"] = stored
        file["t"].attrs.update(
            {"scale_factor": np.float32(0.5), "add_offset": np.float32(10), "_FillValue": np.int16(-9), "units": "K"}
        )
    with pytest.warns(
        PackedValuesWarning, match=r"packed values \(stored \* 0.5 \+ 10, no value where -9 is stored\).*Pass unpack=True"
    ):
        kept = convert(tmp_path / "a.nc", tmp_path / "kept.npy")
    np.testing.assert_array_equal(read(kept.path), stored)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = convert(tmp_path / "a.nc", tmp_path / "b.h5", unpack=True)
        half = convert(tmp_path / "a.nc", tmp_path / "c.npy", unpack=True, dtype="f2")
    wanted = np.array([[10.5, 11, np.nan], [12, 12.5, 13]], "f4")
    np.testing.assert_array_equal(read(done.path), wanted)
    np.testing.assert_array_equal(read(half.path), wanted.astype("f2"))
    with h5py.File(tmp_path / "b.h5") as file:
        assert set(file["data"].attrs) == {"units", "layout"}
    with pytest.raises(InvalidValueError, match=r"unpack=True, but .*kept.npy is not packed"):
        convert(tmp_path / "kept.npy", tmp_path / "d.npy", unpack=True)


def test_values_that_do_not_fit(tmp_path: Path) -> None:
    values = np.zeros((40, 3, 4), "f8")
    values[31, 2, 1], values[33, 0, 0] = 2.5, 400
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(RefusedValue, match=r"a.npy holds 2.5 at \(31, 2, 1\), which is not a value of uint8 .*casting='round'"):
        convert(tmp_path / "a.npy", tmp_path / "b.npy", dtype="u1")
    with pytest.raises(RefusedValue, match=r"a.npy holds 400.0 at \(33, 0, 0\).*casting='clip'"):
        convert(
            tmp_path / "a.npy", tmp_path / "b.npy", dtype="u1", casting="round", samples=(5, 40), source_layout="NHW", layout="WNH"
        )
    assert sorted(os.listdir(tmp_path)) == ["a.npy"]
    done = convert(tmp_path / "a.npy", tmp_path / "b.npy", dtype="u1", casting="clip")
    assert (done.rounded, done.clipped) == (1, 1) and read(done.path)[33, 0, 0] == 255
    assert done.changes == ("float64 to uint8: 1 values rounded, 1 clipped",)


def test_what_needs_no_conversion_is_said_and_converted(tmp_path: Path) -> None:
    done = convert(make(tmp_path, "contiguous"), tmp_path / "b.npy")
    assert done.notes == (
        f"{tmp_path}/a.nc::/g/x needs no conversion: its bytes lie in one piece, and mmapstore maps them where they are.",
    )
    np.testing.assert_array_equal(read(done.path), frames())
    assert convert(tmp_path / "b.npy", tmp_path / "c.npy", layout="NHWC").notes == ()
