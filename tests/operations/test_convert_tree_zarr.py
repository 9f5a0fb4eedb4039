"""Zarr stores and `.npy` files through `convert_all`: what is special to them, and the rules that both formats share."""

from __future__ import annotations

import itertools
import os

import h5py
import numpy as np
import pytest
import zarr

from mmapstore.cli import main
from mmapstore.formats import tree_contract, zarr_tree, zarr_tree_writer
from mmapstore.formats.numpy_types import plain_values
from mmapstore.formats.tree_contract import TreeArray
from mmapstore.operations.convert.tree import convert_all
from mmapstore.operations.verify import verify
from mmapstore.plain.c_order import c_order_boxes
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError

TARGETS = [".h5", ".zarr", ""]


def converted(source, target, **options):
    return convert_all(source, target, progress=False, **options)


def outcomes(report):
    return {row.path: (row.outcome, row.how) for row in report.rows}


@pytest.mark.parametrize("version", [2, 3])
def test_a_store_that_is_one_array_stays_one(tmp_path, version):
    zarr.create_array(tmp_path / "a.zarr", data=np.arange(20).reshape(4, 5), zarr_format=version, attributes={"unit": "m"})
    assert outcomes(converted(tmp_path / "a.zarr", tmp_path / "b.zarr")) == {"/": ("copied", "")}
    copy = zarr.open(tmp_path / "b.zarr", mode="r")
    assert copy.metadata.zarr_format == version and dict(copy.attrs) == {"unit": "m"}
    np.testing.assert_array_equal(copy[...], np.arange(20).reshape(4, 5))
    assert {path.name for path in (tmp_path / "b.zarr").iterdir()} == {path.name for path in (tmp_path / "a.zarr").iterdir()}


def test_chunks_larger_than_the_array_are_clipped(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("x", shape=(3, 4), chunks=(1000, 2), dtype="i4")[...] = 1
    group.create_array("s", shape=(3,), chunks=(1000,), dtype=str)[...] = np.array(["a", "", "c"], object)
    group.create_array("none", shape=(0, 3), chunks=(9, 9), dtype="f4")
    assert converted(tmp_path / "a.zarr", tmp_path / "b.h5").exit_code == 0
    with h5py.File(tmp_path / "b.h5") as file:
        assert file["x"].chunks == (3, 2) and (file["x"][...] == 1).all()
        assert file["s"].chunks == (3,) and file["s"].asstr()[:].tolist() == ["a", "", "c"]
        assert file["none"].shape == (0, 3)


@pytest.mark.parametrize("value", [0, 7])
def test_what_is_accepted_from_one_format_is_accepted_from_the_next(tmp_path, monkeypatch, value):
    """An array of which a 500th is stored, as zeros: none of it has a chunk of its own in Zarr but for the rule."""
    for module in (tree_contract, zarr_tree, zarr_tree_writer):
        monkeypatch.setattr(module, "MOST_UNSTORED_NBYTES", 1 << 16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (1 << 20,), "u1", chunks=(1024,), compression="gzip")[1024:3072] = value
        file.create_dataset("y", (1 << 20,), "u1", chunks=(1024,), compression="gzip")[:1024] = value
    expected = np.zeros(1 << 20, "u1")
    expected[1024:3072] = value
    for source, target in (("a.h5", "b.zarr"), ("b.zarr", "c.zarr"), ("c.zarr", "d.h5"), ("d.h5", "e.h5"), ("e.h5", "f")):
        found = outcomes(converted(tmp_path / source, tmp_path / target))
        assert found["/x"][0] in ("copied", "changed"), target
        assert found.get("/y", ("refused", "expected at least a 1000th"))[0] == "refused"
    np.testing.assert_array_equal(np.load(tmp_path / "f/x.npy"), expected)
    assert len(list((tmp_path / "b.zarr/x/c").iterdir())) < 16


RECORDS = np.array(
    [(1, (2, "ä"), [[1, 2]], b"abc", 7), (4, (5, ""), [[3, 4]], b"\0\0d", 8)],
    [("n", ">i4"), ("inner", [("x", "f4"), ("word", "U2")]), ("m", "u1", (1, 2)), ("raw", "V3"), ("day", ">M8[D]")],
)
NPY = {
    "dates": np.array(["2020-01-01", "NaT"], "M8[s]"),
    "times": np.array([[3], [-4]], ">m8[10ms]"),
    "text": np.array(["ab", "", "ä"]),
    "scalar": np.array("one"),
    "raw": np.array([b"\0\1", b"\2\0"], "V2"),
    "records": RECORDS,
}


@pytest.mark.parametrize("suffix", TARGETS)
@pytest.mark.parametrize("name", NPY)
def test_npy_files_of_every_data_type(tmp_path, name, suffix):
    values = NPY[name]
    np.save(tmp_path / "a.npy", values)
    report = converted(tmp_path / "a.npy", tmp_path / f"out{suffix}")
    assert report.exit_code == 0, report.to_text()
    if name == "records":
        found = {
            path: load(tmp_path / f"out{suffix}", f"data/{path}") for path in ("n", "inner/x", "inner/word", "m", "raw", "day")
        }
        assert [found[path].tolist() for path in ("n", "inner/x", "m", "day")] == [[1, 4], [2, 5], [[[1, 2]], [[3, 4]]], [7, 8]]
        assert texts(found["inner/word"]) == ["ä", ""] and found["raw"].tolist() == [[97, 98, 99], [0, 0, 100]]
        return
    found = load(tmp_path / f"out{suffix}", "data")
    if values.dtype.kind in "mM":
        np.testing.assert_array_equal(found.astype("i8").view(values.dtype.newbyteorder("=")), values)
        assert "as int64" in report.rows[0].how
    elif values.dtype.kind == "U":
        assert found.shape == values.shape and texts(found) == values.reshape(-1).tolist()
    else:
        assert found.tolist() == [[0, 1], [2, 0]]


def load(target, path):
    if target.suffix == ".h5":
        with h5py.File(target) as file:
            return file[path][()] if file[path].shape else np.asarray(file[path][()], object)
    return np.load(target / f"{path}.npy") if not target.suffix else np.asarray(zarr.open_array(target / path, mode="r")[...])


def texts(found):
    return [each.decode() if isinstance(each, bytes) else each for each in np.asarray(found, object).reshape(-1).tolist()]


def test_npy_files_of_python_objects_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}, None], object))
    with pytest.raises(InvalidTypeError, match="an object dtype"):
        converted(tmp_path / "a.npy", tmp_path / "b.zarr")


@pytest.mark.parametrize("suffix", TARGETS)
@pytest.mark.parametrize("version", [2, 3])
def test_groups_without_metadata_are_groups(tmp_path, version, suffix):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=version)
    root.create_group("in/between").create_array("x", data=np.arange(3))
    for group in ("in", "in/between"):
        (tmp_path / "a.zarr" / group / ("zarr.json" if version == 3 else ".zgroup")).unlink()
    (tmp_path / "a.zarr/empty/deep").mkdir(parents=True)
    found = outcomes(converted(tmp_path / "a.zarr", tmp_path / f"out{suffix}"))
    words = ("changed", "a directory without metadata, which has that of a group now") if suffix == ".zarr" else ("copied", "")
    assert found == {
        "/": ("copied", ""),
        "/in": words,
        "/in/between": words,
        "/in/between/x": ("copied", ""),
        "/empty": ("refused", "it is a directory without Zarr metadata, in it or below"),
    }
    assert load(tmp_path / f"out{suffix}", "in/between/x").tolist() == [0, 1, 2]
    if suffix == ".zarr":
        assert zarr.open_group(tmp_path / "out.zarr", mode="r")["in"]["between"].metadata.zarr_format == version


def test_consolidated_metadata_is_not_left_out_without_a_word(tmp_path):
    for version in (2, 3):
        zarr.open_group(tmp_path / f"{version}.zarr", mode="w", zarr_format=version)
        zarr.consolidate_metadata(tmp_path / f"{version}.zarr")
        report = converted(tmp_path / f"{version}.zarr", tmp_path / f"out{version}.zarr")
        assert outcomes(report)["/"] == ("changed", "without its consolidated metadata, which zarr.consolidate_metadata makes anew")


@pytest.mark.parametrize("suffix", TARGETS)
def test_links_in_a_store_are_refused_by_name(tmp_path, suffix):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("x", data=np.arange(3))
    (tmp_path / "a.zarr/round").symlink_to(".")
    (tmp_path / "a.zarr/self").symlink_to("self")
    (tmp_path / "a.zarr/again").symlink_to("x")
    found = outcomes(converted(tmp_path / "a.zarr", tmp_path / f"out{suffix}"))
    assert set(found) == {"/", "/x", "/round", "/again"}
    for path in ("/round", "/again"):
        assert found[path][0] == "refused" and "is a symbolic link, which is not followed" in found[path][1]


@pytest.mark.parametrize("suffix", [".h5", ".hdf5", ".H5AD", ".nwb", ".nxs", ".emd", ".loom", ".nc"])
def test_names_of_hdf5_files_are_hdf5(tmp_path, suffix):
    np.save(tmp_path / "a.npy", np.arange(3))
    assert converted(tmp_path / "a.npy", tmp_path / f"out{suffix}").exit_code == 0
    with h5py.File(tmp_path / f"out{suffix}") as file:
        assert file["data"][:].tolist() == [0, 1, 2]


def test_a_directory_of_npy_is_asked_for_by_name(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    for name in ("plain", "b.npy-tree", "v1.5" + os.sep):
        converted(tmp_path / "a.npy", f"{tmp_path}/{name}")
        assert np.load(tmp_path / name / "data.npy").tolist() == [0, 1, 2]
    for name in ("c.keras", "c.n5", "c.mat", "c.npy", "c.5"):
        with pytest.raises(
            InvalidValueError, match=r"expected \.zarr, one of \.h5, .*\.h5ad.* \(HDF5\), or no suffix, \.npy-tree or a"
        ):
            converted(tmp_path / "a.npy", tmp_path / name)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("labels", ["x", 7, ["a"], [["a", "b"]], ["a", "b"]])
def test_labels_that_are_not_those_of_axes_end_no_process(tmp_path, labels):
    """H5DSget_label reads past an attribute DIMENSION_LABELS that is not a text for each axis."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.zeros((2, 3))
        file["x"].attrs["DIMENSION_LABELS"] = labels
    assert converted(tmp_path / "a.h5", tmp_path / "b.zarr").exit_code == 0
    assert zarr.open_array(tmp_path / "b.zarr/x").metadata.dimension_names == (("a", "b") if labels == ["a", "b"] else None)
    found = outcomes(converted(tmp_path / "b.zarr", tmp_path / "c.h5"))
    assert (found.get("/x@DIMENSION_LABELS", ("copied",))[0] == "copied") == (labels == ["a", "b"])
    with h5py.File(tmp_path / "c.h5") as file:
        assert ("DIMENSION_LABELS" in file["x"].attrs) == (labels == ["a", "b"])


def test_names_of_scales_are_plain_attributes_of_groups(tmp_path):
    zarr.open_group(
        tmp_path / "a.zarr", mode="w", attributes={"DIMENSION_LIST": [["/n"]], "REFERENCE_LIST": 3, "DIMENSION_LABELS": "x"}
    )
    assert outcomes(converted(tmp_path / "a.zarr", tmp_path / "b.h5")) == {"/": ("copied", "")}
    with h5py.File(tmp_path / "b.h5") as file:
        assert file.attrs["DIMENSION_LIST"].tolist() == [["/n"]] and file.attrs["REFERENCE_LIST"] == 3
        assert file.attrs["DIMENSION_LABELS"] == "x"


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
@pytest.mark.parametrize("suffix", [".zarr", ".h5", ""])
def test_text_that_ends_in_nul_is_compared_and_kept(tmp_path, suffix):
    """Random such stores are in test_convert_tree_zarr_random.py."""
    expected = [b"a\0", b"", b"\xff\0\0", b"bc"]
    values = np.empty((2, 2), object)
    values.reshape(-1)[:] = expected
    store = zarr.storage.LocalStore(tmp_path / "a.zarr")
    array = zarr.create_array(store, name="x", shape=(2, 2), chunks=(1, 2), dtype=zarr.dtype.VariableLengthBytes())
    array[...] = values
    target = tmp_path / f"out{suffix}"
    assert converted(tmp_path / "a.zarr", target).exit_code == 0
    assert main(["verify", str(tmp_path / "a.zarr"), str(target)]) == 0
    if suffix == ".zarr":
        assert load(target, "x").reshape(-1).tolist() == expected
        values[0, 0] = b"a\0\0"
        array[...] = values
        assert main(["verify", str(tmp_path / "a.zarr"), str(target)]) == 1
        return
    found, offsets = load(target, "x/values").tobytes(), load(target, "x/offsets")
    assert [found[start:stop] for start, stop in itertools.pairwise(offsets)] == expected


def _operations(monkeypatch, tmp_path, make, count):
    """Calls of zarr, syncs of files and texts written atomically, for a tree of `count` objects that becomes a Zarr store."""
    with h5py.File(tmp_path / f"{count}.h5", "w") as file:
        for number in range(count):
            make(file, f"x{number}")
    calls = dict.fromkeys(("zarr", "fsync", "atomically"), 0)

    def counted(name, function):
        def call(*given, **options):
            calls[name] += 1
            return function(*given, **options)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(zarr.core.array, "sync", counted("zarr", zarr.core.array.sync))
        for module in (zarr.api.synchronous, zarr.core.group):
            patched.setattr(module, "sync", counted("zarr", module.sync))
        patched.setattr(os, "fsync", counted("fsync", os.fsync))
        name = "write_text_atomically"
        patched.setattr(zarr_tree_writer, name, counted("atomically", zarr_tree_writer.write_text_atomically))
        report = convert_all(tmp_path / f"{count}.h5", tmp_path / f"{count}.zarr", progress=False)
    assert report.exit_code == 0
    return np.array(list(calls.values()))


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (lambda file, name: file.create_group(name), (0, 2, 0)),  # its metadata, and its directory
        (lambda file, name: file.create_dataset(name, data=np.arange(3)), (3, 4, 0)),  # made, written, and read back
        (lambda file, name: file.__setitem__(name, h5py.SoftLink("/nowhere")), (0, 0, 0)),
    ],
    ids=["group", "array", "link"],
)
def test_each_object_costs_the_same_few_operations(tmp_path, monkeypatch, make, most):
    monkeypatch.setattr("mmapstore.operations.flow.journal.COMMIT_SECONDS", 1e9)
    few, many = (_operations(monkeypatch, tmp_path, make, count) for count in (5, 25))
    assert (few[0] >= 5 * most[0]) and (many - few <= 20 * np.array(most)).all(), (few, many)


def test_links_added_in_several_commits_are_all_noted(tmp_path, monkeypatch):
    monkeypatch.setattr("mmapstore.operations.flow.journal.COMMIT_SECONDS", 0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("a", "g/b", "c"):
            file[name] = h5py.SoftLink("/there")
        file["g"].attrs["unit"] = "m"
    convert_all(tmp_path / "a.h5", tmp_path / "a.zarr", progress=False)
    store = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert store.attrs[zarr_tree_writer.LINKS_ATTRIBUTE] == {"a": "/there", "c": "/there"}
    assert dict(store["g"].attrs) == {"unit": "m", zarr_tree_writer.LINKS_ATTRIBUTE: {"b": "/there"}}
    assert verify(tmp_path / "a.h5", tmp_path / "a.zarr", progress=False)


def test_each_element_of_an_array_member_is_read_once():
    kind, reads = np.dtype([("image", "<f8", (3000,)), ("t", "<i4")]), []
    elements = np.zeros(5, kind)
    elements["image"] = np.arange(15000).reshape(5, 3000)
    image, t = plain_values(TreeArray("", (5,), kind, lambda box: reads.append(box) or elements[box]), "a")
    found = [image.read(box) for box in c_order_boxes(image.shape, 100)]
    np.testing.assert_array_equal(np.concatenate([block.reshape(-1) for block in found]), np.arange(15000))
    assert (len(found), len(reads)) == (150, 5)
    assert (image.element_nbytes, image.kept_nbytes, t.kept_nbytes) == (9, kind.itemsize, 0)
