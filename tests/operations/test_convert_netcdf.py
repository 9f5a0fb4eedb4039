"""NetCDF, xarray, AnnData and pandas open what `convert --all` makes of their files, and find what they wrote."""

from __future__ import annotations

import contextlib
import warnings

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from mmapstore.cli import main
from mmapstore.operations.convert.tree import convert_all

DECODING = [{}, {"mask_and_scale": False}, {"decode_cf": False}]
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of zarr, for types that its specification lacks
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*UnstableSpecificationWarning"),
]


def converted(source, target):
    report = convert_all(source, target, progress=False)
    assert report.exit_code == 0, report.to_text()
    return report


def opened(path, opener, options):
    given = {"engine": "zarr", "consolidated": False} if path.suffix == ".zarr" else {"engine": options.pop("engine", "netcdf4")}
    return opener(path, **given, **options)


def assert_identical(one, other, opener=xr.open_dataset, **options):
    for decoding in DECODING:
        with opened(one, opener, decoding | options) as left, opened(other, opener, decoding | options) as right:
            xr.testing.assert_identical(left.load(), right.load())


@pytest.fixture
def netcdf(tmp_path):
    """A file with what netCDF alone has: dimensions without variables, variables with other dimensions' names, packing, groups."""
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.title, file.level = "all", np.array([2.5])
        for name, length in {"x": 3, "t": None, "other": 7, "chars": 4, "pair": 2}.items():
            file.createDimension(name, length)

        def add(group, name, kind, axes, values, fill=None, **attributes):
            variable = group.createVariable(name, kind, axes, fill_value=fill)
            variable.set_auto_maskandscale(False)
            variable[:] = values
            variable.setncatts(attributes)

        add(file, "x", "f8", ("x",), [1, 2, 3], bounds="edges")
        add(file, "edges", "f4", ("x", "pair"), np.arange(6).reshape(3, 2), fill=np.nan)
        add(file, "v", "f4", ("t", "x"), np.arange(6).reshape(2, 3), fill=-9.0, levels=np.array([1.5]), names=["a", "bb"])
        add(file, "packed", "i2", ("x",), [1, -1, 3], fill=-1, scale_factor=0.5, add_offset=2.0, valid_range=np.array([0, 9], "i2"))
        add(file, "unsigned", "i1", ("x",), [1, -1, -3], fill=-1, _Unsigned="true")
        add(file, "scalar", "i4", (), 5, missing_value=np.int32(-1))
        add(file, "twice", "i8", ("x", "x"), np.arange(9).reshape(3, 3), coordinates="scalar")
        add(file, "texts", str, ("x",), np.array(["a", "", "ccc"], object))
        add(file, "words", "S1", ("x", "chars"), netCDF4.stringtochar(np.array(["ab", "c", "def"], "S4")))
        add(file, "other", "i4", ("x",), [1, 2, 3])  # beside the dimension of that name
        add(file, "pair", "f4", ("pair", "x"), np.ones((2, 3)))  # coordinates along two axes
        group = file.createGroup("g")
        group.createDimension("y", 2)
        add(group, "y", "f4", ("y",), [5, 6])
        add(group, "w", "f4", ("t", "y"), np.ones((2, 2)))
        add(group.createGroup("h"), "deep", "f4", ("y", "x"), np.ones((2, 3)), units="m")
    return path


@pytest.mark.parametrize("between", ["b.zarr", "b"])
def test_netcdf_is_the_same_to_xarray_both_ways(netcdf, tmp_path, between, capsys):
    for source, target in ((netcdf, tmp_path / between), (tmp_path / between, tmp_path / "c.h5")):
        converted(source, target)
        assert main(["verify", str(source), str(target)]) == 0, capsys.readouterr().out
        if target.suffix:
            assert_identical(netcdf, target)
            assert_identical(netcdf, target, xr.open_datatree)
    assert_identical(tmp_path / "c.h5", netcdf, engine="h5netcdf")
    with netCDF4.Dataset(tmp_path / "c.h5") as file:
        assert file["g/h/deep"].dimensions == ("y", "x") and file["g"].dimensions.keys() == {"y"}
        assert file["v"].getncattr("_FillValue").dtype == np.float32


def test_variables_are_as_long_as_their_unlimited_dimension(tmp_path):
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("t", None)
        file.createDimension("x", 2)
        for name, kind, length in (("long", "f4", 4), ("short", "i4", 2), ("none", "f8", 0), ("texts", str, 3)):
            variable = file.createVariable(name, kind, ("t", "x") if kind is not str else ("t",))
            for step in range(length):
                variable[step] = "a" if kind is str else step
    report = converted(tmp_path / "a.nc", tmp_path / "b.zarr")
    rows = {row.path: row for row in report.rows}
    assert rows["/short"].how == "filled from (2, 2) to the length of its unlimited dimension"
    assert rows["/long"].outcome == "copied"
    assert_identical(tmp_path / "a.nc", tmp_path / "b.zarr")
    assert main(["verify", str(tmp_path / "a.nc"), str(tmp_path / "b.zarr")]) == 0


def test_one_array_shorter_than_its_unlimited_dimension_is_said(tmp_path, capsys):
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("t", None)
        file.createDimension("x", 2)
        for name, length in (("long", 5), ("short", 3)):
            file.createVariable(name, "f4", ("t", "x"))[:] = np.ones((length, 2))
        assert file["short"].shape == (5, 2)
    words = "elements never stored, up to the length of its unlimited dimension ((5, 2) in netCDF, (3, 2) stored)"
    for name, options, is_said in (("short", [], True), ("short", ["--samples", "1:3"], True), ("long", [], False)):
        assert main(["convert", f"{path}::/{name}", str(tmp_path / "b.npy"), "--overwrite", *options]) == 0
        printed = capsys.readouterr().err
        assert (words in printed) == is_said and "`mmapstore convert --all` copies them too" in printed


def test_attributes_of_one_are_numbers_for_netcdf_and_lists_elsewhere(netcdf, tmp_path):
    converted(netcdf, tmp_path / "b.zarr")
    store = zarr.open_group(tmp_path / "b.zarr", mode="r")
    assert store.attrs["level"] == store["v"].attrs["levels"] + 1 == 2.5
    assert store["packed"].attrs["_FillValue"] == -1 and store["packed"].attrs["valid_range"] == [0, 9]
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["x"] = np.zeros(2)
        file["x"].attrs.update({"columns": ["one"], "level": np.array([2.5]), "_FillValue": np.array([-1.0])})
    converted(tmp_path / "plain.h5", tmp_path / "plain.zarr")
    found = dict(zarr.open_array(tmp_path / "plain.zarr/x", mode="r").attrs)
    assert found == {"columns": ["one"], "level": [2.5], "_FillValue": "AAAAAAAA8L8="}


NUMBERS = st.sampled_from(["i1", "u1", "i2", "i4", "i8", "f4", "f8"])


@st.composite
def datasets(draw):
    """A Dataset of some variables over some dimensions, with and without coordinates, and how it is to be stored."""
    lengths = draw(st.dictionaries(st.sampled_from("xyzt"), st.integers(1, 3), min_size=1))
    variables, encoding = {}, {}
    for name in draw(st.lists(st.sampled_from([*lengths, "a", "b", "c"]), unique=True)):
        axes = (name,) if name in lengths else tuple(draw(st.lists(st.sampled_from([*lengths]), unique=True)))
        dtype = np.dtype(draw(NUMBERS))
        values = np.arange(np.prod([lengths[axis] for axis in axes], dtype=int)).reshape([lengths[axis] for axis in axes])
        text = st.text("abé ", min_size=1, max_size=3)
        numbers = st.one_of(st.integers(-(2**40), 2**40), st.floats(-1e9, 1e9), st.lists(st.integers(0, 9), min_size=2, max_size=3))
        attributes = draw(st.dictionaries(st.sampled_from(["p", "q", "r"]), st.one_of(text, numbers)))
        kind = draw(st.sampled_from(["plain", "fill", "packed", "text", "time"]))
        if kind == "text":
            values = np.array([f"{value}é" for value in values.ravel()], object).reshape(values.shape)
        elif kind == "time":
            values, attributes = values.astype("M8[D]").astype("M8[ns]"), {}
            encoding[name] = {"units": "days since 1970-01-01", "dtype": "i8"}
        elif kind == "packed":
            values = values * 0.5
            encoding[name] = {"dtype": "i2", "scale_factor": 0.5, "add_offset": 1.0, "_FillValue": draw(st.sampled_from([-1, 7]))}
        else:
            values = values.astype(dtype)
            encoding[name] = {"_FillValue": None if kind == "plain" else dtype.type(draw(st.integers(0, 2)))}
        variables[name] = (axes, values, attributes)
    return xr.Dataset(variables, attrs={"title": "random"}), encoding


def check_both_ways(folder, form, dataset, encoding):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "nc":
            path, between, back = folder / "a.nc", folder / "b.zarr", folder / "c.h5"
            dataset.to_netcdf(path, encoding=encoding)
        else:
            path, between, back = folder / "a.zarr", folder / "b.h5", folder / "c.zarr"
            dataset.to_zarr(path, encoding=encoding, zarr_format=form, consolidated=False)
        converted(path, between)
        assert_identical(path, between)
        converted(between, back)
        assert_identical(path, back)


@pytest.mark.parametrize("form", ["nc", 2, 3])
@given(case=datasets())
@settings(max_examples=3)
def test_some_datasets_are_the_same_to_xarray_both_ways(tmp_path_factory, form, case):
    check_both_ways(tmp_path_factory.mktemp("random"), form, *case)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["nc", 2, 3])
@given(case=datasets())
def test_any_dataset_is_the_same_to_xarray_both_ways(tmp_path_factory, form, case):
    check_both_ways(tmp_path_factory.mktemp("random"), form, *case)


def test_a_class_of_variable_length_is_no_scale(tmp_path):
    """H5DSattach_scale took one in sixteen for a scale, by the address of the text, and failed the conversion."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    for index in range(64):
        name = f"v{index:02}"
        group.create_array(name, data=np.arange(3.0), dimension_names=["x"], attributes={"CLASS": "IMAGE", "number": index})
    group.create_array("x", data=np.arange(3.0), dimension_names=["x"])
    converted(tmp_path / "a.zarr", tmp_path / "b.h5")
    with h5py.File(tmp_path / "b.h5") as file:
        assert file["x"].is_scale and len(file["x"].attrs["REFERENCE_LIST"]) == 64
        for index in range(64):
            dataset = file[f"v{index:02}"]
            assert [scale.name for scale in dataset.dims[0].values()] == ["/x"] and dataset.attrs["CLASS"] == b"IMAGE"
            assert not dataset.is_scale


def test_scales_that_names_do_not_say_keep_their_paths(tmp_path):
    """Several scales of one axis, in another group, and with labels of their own."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["v"], file["scales/x"], file["scales/far"] = np.zeros((3, 2)), np.arange(3.0), np.arange(3.0)
        for name in ("x", "far"):
            file[f"scales/{name}"].make_scale(f"the {name}")
            file["v"].dims[0].attach_scale(file[f"scales/{name}"])
    converted(tmp_path / "a.h5", tmp_path / "b.zarr")
    converted(tmp_path / "b.zarr", tmp_path / "c.h5")
    with h5py.File(tmp_path / "c.h5") as file:
        assert [scale.name for scale in file["v"].dims[0].values()] == ["/scales/x", "/scales/far"]
        assert file["scales/x"].attrs["NAME"] == b"the x"


def test_integers_beyond_63_bits_stay_integers(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["big"] = np.array([[1, 2**64 - 1]], np.uint64)
    converted(tmp_path / "a.h5", tmp_path / "b.zarr")
    converted(tmp_path / "b.zarr", tmp_path / "c.h5")
    with h5py.File(tmp_path / "c.h5") as file:
        assert file.attrs["big"].dtype == np.uint64 and file.attrs["big"].tolist() == [[1, 2**64 - 1]]


def example_of_anndata():
    import anndata
    import pandas as pd
    import scipy.sparse

    obs = pd.DataFrame({"kind": pd.Categorical(["a", "b", "a"], ordered=True), "count": [1, 2, 3]}, index=["c1", "c2", "c3"])
    obs["maybe"] = pd.array([1, None, 3], "Int64")
    obs["flag"] = pd.array([True, None, False], "boolean")
    found = anndata.AnnData(np.arange(6, dtype="f4").reshape(3, 2), obs, pd.DataFrame({"one": ["x", "y"]}, index=["g1", "g2"]))
    found.layers["sparse"] = scipy.sparse.csr_matrix(np.eye(3, 2, dtype="f4"))
    found.obsm["pca"] = np.ones((3, 2))
    found.uns = {"texts": np.array(["a", "bé"], object), "nested": {"number": 1.5, "text": "t", "yes": True}, "empty": {}}
    return found


def assert_equal_annotated(one, other):
    import pandas as pd

    for frame in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(one, frame), getattr(other, frame))
    np.testing.assert_array_equal(one.X, other.X)
    np.testing.assert_array_equal(one.layers["sparse"].toarray(), other.layers["sparse"].toarray())
    assert type(one.layers["sparse"]) is type(other.layers["sparse"])
    np.testing.assert_array_equal(one.obsm["pca"], other.obsm["pca"])
    assert one.uns.keys() == other.uns.keys() and one.uns["texts"].tolist() == other.uns["texts"].tolist()
    assert dict(one.uns["nested"]) == dict(other.uns["nested"]) and dict(one.uns["empty"]) == dict(other.uns["empty"])


@pytest.mark.parametrize("first", ["h5ad", "zarr"])
def test_anndata_reads_what_it_read(tmp_path, first):
    import anndata

    written = example_of_anndata()
    paths = {"h5ad": tmp_path / "a.h5ad", "zarr": tmp_path / "a.zarr"}
    readers = {"h5ad": anndata.read_h5ad, "zarr": anndata.read_zarr}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (written.write_h5ad if first == "h5ad" else written.write_zarr)(paths[first])
        steps = [("b.zarr", anndata.read_zarr), ("c.h5", anndata.read_h5ad)][:: 1 if first == "h5ad" else -1]
        source, expected = paths[first], readers[first](paths[first])
        for name, read in steps:
            converted(source, tmp_path / name)
            assert_equal_annotated(expected, read(tmp_path / name))
            source = tmp_path / name


@pytest.mark.parametrize("form", ["fixed", "table"])
def test_pandas_reads_what_it_read(tmp_path, form):
    import pandas as pd

    frame = pd.DataFrame({"a": [1.5, 2], "b": [1, 2], "c": ["x", "é"], "d": pd.to_datetime(["2020-01-01", "2021-01-01"])})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame.to_hdf(tmp_path / "a.h5", key="frame", format=form)
        with contextlib.suppress(AssertionError):  # pickled objects are listed
            converted(tmp_path / "a.h5", tmp_path / "b.h5")
        pd.testing.assert_frame_equal(pd.read_hdf(tmp_path / "b.h5", "frame"), frame)
