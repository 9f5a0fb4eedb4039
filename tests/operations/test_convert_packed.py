"""Packed values against those who read them: netCDF4-python for HDF5 and NetCDF, xarray for Zarr; and who is warned of them."""

from __future__ import annotations

import json
import shlex
import warnings
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st

import mmapstore
from mmapstore.batches.notes import packed_of
from mmapstore.cli import main
from mmapstore.formats.registry import open_stored
from mmapstore.plain.cf_packing import ATTRIBUTES, unwritten_fill
from mmapstore.plain.errors import InvalidValueError, PackedValuesWarning

TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
_NUMBERS = (-9999.9, -9999, -128, -127, -2, -1, 0, 1, 2, 3.5, 100, 127, 254, 255, 32767, 65535, 70000, 1e20, np.nan)
_SCALES = (-1, 0, 0.1, 0.5, 1, 2, 10, np.nan)


def as_type(number: float, dtype: str) -> Any:
    with np.errstate(all="ignore"):
        return np.asarray(number if dtype[0] == "f" else np.nan_to_num(number)).astype(dtype)[()]


@st.composite
def attribute(draw: Any, types: list[str], numbers: Any, text: Any, most: int) -> Any:
    """As files hold them: a number, an array of one or several, or text that is NC_CHAR or NC_STRING."""
    form = draw(st.sampled_from(["number"] * 5 + ["one"] * 2 + ["several", "NC_CHAR", "NC_STRING", "NC_STRING[1]"]))
    if form in ("number", "one", "several"):
        dtype = draw(st.sampled_from(types))
        count = 1 if form != "several" else draw(st.integers(1, most))
        found = np.array([as_type(draw(st.sampled_from(numbers)), dtype) for _ in range(count)])
        return found[0] if form == "number" else found
    word = draw(st.sampled_from(text))
    return {"NC_CHAR": np.bytes_(word), "NC_STRING": word, "NC_STRING[1]": np.array([word], h5py.string_dtype())}[form]


@st.composite
def variables(draw: Any) -> tuple[Any, dict[str, Any], bool]:
    own = draw(st.sampled_from(TYPES))
    types = [own] * 4 + list(TYPES)
    factors = [
        "f4",
        "f8",
        "i8" if own[0] != "f" and own[1] != "8" else "f8",
    ]  # NumPy's integers, and so netCDF4's, wrap where a product is too large
    attributes = {}
    for name in ATTRIBUTES:
        if not draw(st.booleans()):
            continue
        if name == "_Unsigned":
            attributes[name] = draw(attribute(types, (0, 1), ("true", "True", "TRUE", "1", "false", ""), 1))
        elif name in ("scale_factor", "add_offset"):
            attributes[name] = draw(attribute(factors, _SCALES, ("half",), 2))
        else:
            most = {"missing_value": 3, "valid_range": 3}.get(name, 1)
            attributes[name] = draw(attribute(types, (*_NUMBERS, unwritten_fill(np.dtype(own))), ("7", "none"), most))
    numbers = [as_type(draw(st.sampled_from(_NUMBERS)), own) for _ in range(6)]
    declared = [
        as_type(each, own) for value in attributes.values() for each in np.ravel(value) if not isinstance(each, (str, bytes))
    ]
    stored = np.array([*numbers, *declared, unwritten_fill(np.dtype(own))], own)
    return stored.astype(draw(st.sampled_from("<>")) + own), attributes, draw(st.booleans())


def require_as_netcdf4(path: Path, stored: Any, attributes: dict[str, Any], is_filled: bool) -> None:
    with h5py.File(path, "w") as file:
        fill = unwritten_fill(stored.dtype) if is_filled else None
        file.create_dataset("v", data=stored, fillvalue=fill).attrs.update(attributes)
    with netCDF4.Dataset(path) as file, warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            expected = file["v"][:]
        except TypeError:  # netCDF4 1.7 cannot make a masked array of signed bytes that it took for unsigned
            return
    masked, values = np.ma.getmaskarray(expected), np.ma.getdata(expected)
    packed = packed_of(open_stored(f"{path}", "v"))
    plain = stored.astype(stored.dtype.newbyteorder("="))
    if not packed:
        np.testing.assert_array_equal(values, plain.astype(values.dtype))  # neutral factors: in their dtype
        np.testing.assert_array_equal(masked & ~np.isnan(plain), masked & (plain == unwritten_fill(stored.dtype)))
        return
    packing = packed[0].packing
    out = np.empty(stored.shape, packing.dtype)
    packing.unpack(plain, out)
    if packing.unsigned:
        plain = plain.view(f"u{plain.itemsize}")
    single = np.float32 in (values.dtype, np.asarray(attributes.get("scale_factor", 1)).dtype)  # its product alone may be one
    room = 4 * np.finfo(np.float32 if single else np.float64).eps
    room = room * (np.abs(plain.astype(np.float64) * packing.scale) + abs(packing.offset))
    right = np.where(masked, np.nan, values.astype(np.float64))
    np.testing.assert_array_equal(np.isnan(out), np.isnan(right))
    same = np.isnan(right) | (out == right) | (np.abs(out.astype(np.float64) - right) <= room)
    assert same.all(), (stored, attributes, out, right)
    if values.dtype.kind == "f":
        assert packing.dtype == np.promote_types(values.dtype, packing.dtype)


@given(variables())
def test_values_are_those_of_netcdf4(tmp_path: Path, found: Any) -> None:
    require_as_netcdf4(tmp_path / "a.nc", *found)


@pytest.mark.slow
@settings(max_examples=2000)
@given(variables())
def test_values_are_those_of_netcdf4_thoroughly(tmp_path: Path, found: Any) -> None:
    require_as_netcdf4(tmp_path / "a.nc", *found)


def netcdf(path: Path, name: str = "v", values: Any = (1, -9999, 3, 4), **attributes: Any) -> str:
    """A NetCDF file of one variable, its attributes as netCDF4-python writes them. Returns what opens the variable."""
    stored = np.asarray(values, attributes.pop("dtype", "f4"))
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("t", len(stored))
        variable = file.createVariable(name, stored.dtype, ("t",), fill_value=attributes.pop("fill_value", None))
        variable.set_auto_maskandscale(False)
        for attribute, value in attributes.items():
            variable.setncattr(attribute, value)
        variable[:] = stored
    return f"{path}::/{name}"


def unpacked(source: Any, out: Path, **options: Any) -> Any:
    return np.load(mmapstore.convert(source, out, unpack=True, progress=False, **options).path)


@pytest.mark.parametrize("form", ["setncattr", "setncattr_string"])
def test_unsigned_as_radars_and_satellites_write_it(tmp_path: Path, form: str) -> None:
    stored = np.array([0, 40000, 65535, 100], "u2")
    name = netcdf(tmp_path / "a.nc", values=stored.view("i2"), dtype="i2", fill_value=-1, scale_factor=np.float32(0.1))
    with netCDF4.Dataset(tmp_path / "a.nc", "a") as file:
        getattr(file["v"], form)("_Unsigned", "true")
    expected = np.where(stored == 65535, np.nan, stored * np.float64(np.float32(0.1)))
    np.testing.assert_array_equal(unpacked(name, tmp_path / "a.npy"), expected.astype("f4"))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"fill_value": -9999.0}, [1, np.nan, 3, 4]),
        ({"missing_value": np.float32(-9999)}, [1, np.nan, 3, 4]),
        ({"scale_factor": 10.0}, [10, -99990, 30, 40]),
        ({"valid_range": np.array([0, 3], "f4")}, [1, np.nan, 3, np.nan]),
    ],
)
def test_floats_with_fills_and_factors(tmp_path: Path, attributes: dict[str, Any], expected: list[float]) -> None:
    name = netcdf(tmp_path / "a.nc", **attributes)
    np.testing.assert_array_equal(unpacked(name, tmp_path / "a.npy"), expected)


def test_an_integer_target_refuses_the_first_masked_value(tmp_path: Path) -> None:
    name = netcdf(tmp_path / "a.nc", scale_factor=2.0, missing_value=np.float32(-9999))
    with pytest.raises(InvalidValueError, match=r"holds nan at \(1,\).*mask it first, or choose a float dtype"):
        unpacked(name, tmp_path / "a.npy", dtype="i4")
    np.testing.assert_array_equal(unpacked(name, tmp_path / "a.npy", dtype="i4", samples=(2, 4)), [6, 8])


def test_files_joined_are_unpacked_where_they_are_packed_alike(tmp_path: Path) -> None:
    for number, scale in enumerate([0.5, 0.5, 0.25]):
        netcdf(tmp_path / f"{number}.nc", scale_factor=scale)
    np.testing.assert_array_equal(unpacked(f"{tmp_path}/[01].nc::/v", tmp_path / "a.npy"), [0.5, -4999.5, 1.5, 2] * 2)
    with pytest.warns(PackedValuesWarning, match=r"0.nc::/v holds packed values \(stored \* 0.5\) and 2 more each its own way, "):
        joined = mmapstore.open(f"{tmp_path}/?.nc::/v")
    netcdf(tmp_path / "3.nc")
    for source in (joined, f"{tmp_path}/[0123].nc::/v"):
        with pytest.raises(InvalidValueError, match=r"joins files that are packed each its own way\. Convert each"):
            unpacked(source, tmp_path / "b.npy")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("values", "encoding"),
    [
        ("f4", {"_FillValue": -9999.0}),
        ("f8", {"_FillValue": np.nan}),
        ("f4", {"dtype": "i2", "scale_factor": 0.5, "add_offset": 10.0, "_FillValue": -32768}),
        ("f8", {"dtype": "i2", "scale_factor": 1 / 32767}),
        ("f4", {"dtype": "u1", "_FillValue": 0}),
        ("f4", {"missing_value": -9999.9}),
        ("f4", {"dtype": "i1", "_Unsigned": "true", "_FillValue": -1}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_zarr_is_unpacked_as_xarray_does(tmp_path: Path, version: int, values: str, encoding: dict[str, Any]) -> None:
    truth = np.array([1, 1 if "_FillValue" not in encoding else np.nan, 3, 200, -1 if encoding.get("scale_factor") else 0], values)
    xarray.Dataset({"v": ("t", truth)}).to_zarr(
        tmp_path / "a.zarr", zarr_format=version, encoding={"v": encoding}, consolidated=False
    )
    with xarray.open_zarr(tmp_path / "a.zarr", consolidated=False) as found:
        expected = found["v"].to_numpy()
    packed = packed_of(open_stored(f"{tmp_path}/a.zarr", "v"))
    if not packed:
        np.testing.assert_array_equal(mmapstore.open(f"{tmp_path}/a.zarr::/v")[:], expected)
        return
    got = unpacked(f"{tmp_path}/a.zarr::/v", tmp_path / "a.npy")
    np.testing.assert_allclose(got, expected, rtol=2 * np.finfo(expected.dtype).eps)


def test_opening_warns_once_where_numbers_mislead(tmp_path: Path) -> None:
    name = netcdf(tmp_path / "a.nc", fill_value=-9999.0)
    with pytest.warns(PackedValuesWarning) as caught:
        ds = mmapstore.open({"x": name, "y": netcdf(tmp_path / "b.nc", scale_factor=2.0)})
    (warning,) = caught
    assert warning.filename == __file__
    assert (
        f"{name} holds packed values (no value where -9999 is stored) and 1 more each its own way, which are read as stored"
        in str(warning.message)
    )
    command = str(warning.message).partition("NaN where there is none: ")[2]
    assert command == f"mmapstore convert {name} v-unpacked.npy --unpack"
    ds.split(0.5, 0.5)[0]["x"].batches(2)  # nothing more is said
    assert mmapstore.open(ds) is ds


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"fill_value": np.nan},
        {"valid_min": np.float32(0)},
        {"scale_factor": 1.0, "add_offset": 0.0},
        {"missing_value": -9999.9},
    ],
)
def test_opening_says_nothing_where_numbers_are_the_values(tmp_path: Path, attributes: dict[str, Any]) -> None:
    assert len(mmapstore.open(netcdf(tmp_path / "a.nc", **attributes))) == 4


def test_every_command_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = (
        netcdf(Path("a.nc"), values=[[1, 2, 3, 4]] * 2, fill_value=-9999.0) if False else netcdf(Path("a.nc"), fill_value=-9999.0)
    )
    line = f"{name} holds packed values (no value where -9999 is stored), which are read as stored"
    for command in (["stats", name], ["ingest", name, "b.npy", "--json"], ["info", name], ["doctor", name, "--quick"]):
        assert main(command) == 0
        said = capsys.readouterr()
        where = said.err if command[0] in ("stats", "ingest") else said.out
        assert where.count("packed (" if command[0] == "doctor" else line) == 1, command
    assert main(["info", name, "--json"]) == 0
    said = capsys.readouterr()
    assert not said.err and line in json.loads(said.out)["arrays"][0]["notes"][0]
    assert main(["doctor", name, "--quick", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["findings"]
    assert (found["code"], found["level"]) == ("packed", "fails")
    assert main(shlex.split(found["mend"])[1:]) == 0
    np.testing.assert_array_equal(mmapstore.open("a-v-unpacked.h5")[:], [1, np.nan, 3, 4])


def test_ingest_warns_of_live_arrays_too(tmp_path: Path) -> None:
    netcdf(tmp_path / "a.nc", fill_value=-9999.0)
    with h5py.File(tmp_path / "a.nc") as file, pytest.warns(PackedValuesWarning, match="no value where -9999 is stored") as caught:
        mmapstore.ingest(file["v"], tmp_path / "b.npy", progress=False)
    assert len(caught) == 1
