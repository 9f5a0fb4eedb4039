"""Array-likes of any library through `open`, `ingest` and `convert`: what `numpy.asarray` reads, or an error that says why not."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import xarray as xr

import mmapstore as mm
from mmapstore.plain.errors import InvalidTypeError

_BASE = np.arange(24, dtype=np.int16).reshape(6, 4)
_BIG = 2**53 + 1  # float64 has no such number


def _nullable(values: list[Any], dtype: str) -> Any:
    return pd.array(values, dtype=dtype)  # type: ignore[call-overload]


# What each call has to give: the values of `numpy.asarray`, or an error whose text matches.
_LIKES: dict[str, tuple[Any, str | None]] = {
    "series": (pd.Series([1, 2, 3], index=[2.0, 1.0, 0.0]), None),
    "series of texts": (pd.Series(["a", "b"]), "to_numpy"),
    "series of dates": (pd.Series(pd.date_range("2020", periods=3)), "astype"),
    "series with a time zone": (pd.Series(pd.date_range("2020", periods=3, tz="UTC")), "object dtype"),
    "frame": (pd.DataFrame({"a": [1, 2, 3], "b": [4, 5, 6]}, index=[9, 8, 7]), None),
    "frame of int and float": (pd.DataFrame({"a": [1, 2, 3], "b": [0.5, 1.5, np.nan]}), None),
    "frame of large ids and float": (pd.DataFrame({"id": [_BIG, 2], "b": [0.5, np.inf]}), str(_BIG)),
    "frame of int and bool": (pd.DataFrame({"a": [1, 2], "b": [True, False]}), "object dtype"),
    "nullable, whole": (_nullable([1, 2], "Int64"), None),
    "nullable, missing": (_nullable([1, None], "Int64"), None),
    "nullable, missing and large": (_nullable([_BIG, None], "Int64"), str(_BIG)),
    "nullable bool, missing": (_nullable([True, None], "boolean"), "object dtype"),
    "nullable frame": (pd.DataFrame({"a": _nullable([1, 2], "Int8"), "b": _nullable([1.5, None], "Float32")}), "dtype"),
    "categories of texts": (pd.Categorical(["a", "b", "a"]), "codes"),
    "categories of numbers": (pd.Categorical([3, 1, 3]), None),
    "index": (pd.Index([5, 6, 7]), None),
    "range index": (pd.RangeIndex(4), None),
    "multi-index": (pd.MultiIndex.from_tuples([(1, 2), (3, 4)]), "object dtype"),
    "sparse pandas": (pd.Series(pd.arrays.SparseArray([0, 0, 7])), None),
    "DataArray": (xr.DataArray(_BASE, dims=("time", "x"), coords={"time": np.arange(6) * 2.0}), None),
    "Variable of xarray": (xr.Variable(("time", "x"), _BASE), None),
    "masked, whole": (np.ma.masked_array(_BASE), None),
    "masked": (np.ma.masked_equal(_BASE, 3), r"array\.filled"),
    "matrix": (np.asmatrix(_BASE), None),
    "recarray": (np.rec.fromarrays([[1, 2], [3.0, 4.0]], names="a,b"), r"array\['name'\]"),
    "object array of numbers": (np.array([1, 2], object), "astype"),
    "0-d": (np.array(3.0), "scalar"),
    "Fortran order": (np.asfortranarray(_BASE), None),
    "negative strides": (_BASE[::-2, ::-1], None),
    "big-endian": (_BASE.astype(">i2"), None),
    "memoryview": (memoryview(_BASE), None),
    **{
        f"{form} {kind}": (getattr(scipy.sparse, f"{form}_{kind}")(np.eye(3)), "toarray")
        for form in ("bsr", "coo", "csc", "csr", "dia", "dok", "lil")
        for kind in ("array", "matrix")
    },
}


def _opened(source: Any, folder: Path) -> Any:
    return mm.open(source)[:]


def _ingested(source: Any, folder: Path) -> Any:
    return np.load(mm.ingest(source, folder / "ingested.npy", progress=False))


def _converted(source: Any, folder: Path) -> Any:
    mm.convert(source, folder / "converted.npy", progress=False)
    return np.load(folder / "converted.npy")


@pytest.mark.parametrize("call", [_opened, _ingested, _converted])
@pytest.mark.parametrize("name", _LIKES)
def test_an_array_like_is_what_numpy_reads_or_an_error(tmp_path: Path, name: str, call: Any) -> None:
    source, text = _LIKES[name]
    if text is None:
        expected = np.asarray(source)
        found = call(source, tmp_path)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype.newbyteorder("=")
        return
    with pytest.raises(mm.MmapstoreError, match=text):
        call(source, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_of_xarray_is_its_fields(tmp_path: Path) -> None:
    source = xr.Dataset({"image": (("n", "y"), _BASE), "label": ("n", np.arange(6))}, coords={"y": [1.0, 2, 3, 4]})
    for ds in (mm.open(source), mm.open(mm.ingest(source, tmp_path / "store", progress=False))):
        assert list(ds.fields) == ["image", "label"]
        for field in source:
            np.testing.assert_array_equal(ds[field][:], source[field].values)


def test_what_is_not_loaded_yet_is_read_in_slices(tmp_path: Path) -> None:
    xr.Dataset({"x": (("n", "y"), _BASE)}).to_netcdf(tmp_path / "x.nc", engine="netcdf4")
    with xr.open_dataset(tmp_path / "x.nc", engine="netcdf4") as lazy:
        np.testing.assert_array_equal(_ingested(lazy.x, tmp_path), _BASE)
        for call in (_opened, _converted):
            with pytest.raises(mm.MmapstoreError, match="Open the file"):
                call(lazy.x, tmp_path)


def test_a_netcdf_variable_gives_scaled_values_and_keeps_no_mask_a_secret(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "x.nc", "w") as file:
        file.createDimension("n", 4)
        packed = file.createVariable("packed", "i2", ("n",))
        packed.scale_factor = 0.5
        packed[:] = np.array([0.5, 1, 1.5, 2])
        np.testing.assert_array_equal(_ingested(packed, tmp_path), [0.5, 1, 1.5, 2])
        filled = file.createVariable("filled", "i2", ("n",), fill_value=-9)
        filled[:2] = 1
        with pytest.raises(InvalidTypeError, match=r"array\.filled"):
            mm.ingest(filled, tmp_path / "y.npy")


# --- lists and iterables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "text"),
    [
        ([np.int64(1), 2.5], "dtype="),
        ([[1, 2], [1, 2.5]], "dtype="),
        ([scipy.sparse.csr_array(np.eye(2))], "sparse"),
        ([[np.ma.masked_array([1, 2], [0, 1])], [[1, 2]]], r"array\.filled"),
        ([[2**63 + 1, -1]], "common dtype"),
        ([[1, b"a"]], "common dtype"),
        ([[[1], [1, 2]]], "one shape"),
    ],
)
def test_an_item_that_does_not_fit_is_named(tmp_path: Path, items: list[Any], text: str) -> None:
    with pytest.raises(mm.MmapstoreError, match=text):
        mm.ingest(iter(items), tmp_path / "x.npy")


def test_a_masked_array_in_a_pickled_megabatch_is_refused(tmp_path: Path) -> None:
    masked = np.ma.masked_array([[1.0, 2.0], [3.0, 1e20]], [[0, 0], [0, 1]])
    nested = np.empty(2, object)
    nested[:] = list(masked)
    for number, column in enumerate((masked, list(masked), nested)):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(pickle.dumps({"x": column}))
        with pytest.raises(mm.MmapstoreError, match=r"array\.filled"):
            mm.ingest(mm.Megabatches(path, allow_pickle=True), tmp_path / "x.npy")


def test_nothing_is_warned_of(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InvalidTypeError, match="masked"):
            mm.ingest([[np.ma.masked, 1.0]], tmp_path / "x.npy")
