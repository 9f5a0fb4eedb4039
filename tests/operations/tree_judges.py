"""Compares a converted tree with its source through h5py, zarr and numpy.load alone, and asks the report about every difference."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np


def objects_of(file):
    """{path: h5py object}, each object once, soft and external links left out; and {path: path} of further names."""
    found, aliases, seen = {"/": file["/"]}, {}, {}
    seen[h5py.h5o.get_info(file["/"].id).addr] = "/"

    def below(group, prefix):
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            path, item = f"{prefix}/{name}", group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                aliases[path] = seen[address]
                continue
            seen[address], found[path] = path, item
            if isinstance(item, h5py.Group):
                below(item, path)

    below(file["/"], "")
    return found, aliases


def members_of(dtype, prefix=()):
    """(names, dtype) of the plain members of a compound; one without a name for anything else."""
    if dtype.names is None:
        yield prefix, dtype
        return
    for name in dtype.names:
        yield from members_of(dtype[name], (*prefix, name))


def judge(source: Path, target: Path, report) -> int:
    """Assert that each dataset and attribute is equal in the target or listed. Returns how many arrays were compared."""
    rows = {row.path: row for row in report.rows}
    compared = 0
    with h5py.File(source) as file:
        found, aliases = objects_of(file)
        assert set(found) | set(aliases) <= set(rows), "an object without a row"
        for path, item in found.items():
            if is_listed(rows, path):
                continue
            if isinstance(item, h5py.Dataset):
                compared += judge_dataset(item, path, target, rows)
            if isinstance(item, (h5py.Dataset, h5py.Group)):
                judge_attributes(item, path, target, rows)
    return compared


def is_listed(rows, path) -> bool:
    return rows[path].outcome in ("refused", "failed")


def readable(item):
    """The dtype of a dataset; None where NumPy has none."""
    try:
        return item.dtype
    except (TypeError, ValueError):
        return None


def judge_dataset(item, path, target, rows) -> int:
    if target.suffix == ".h5":
        return judge_within_hdf5(item, path, target)
    if item.shape is None:
        return 0
    dtype = readable(item)
    if dtype is None:  # a compound some members of which NumPy has no type for
        names = {row for row in rows if row.startswith(f"{path}/")}
        assert names, f"{path} is neither there nor listed"
        assert any(is_listed(rows, name) for name in names)
        return 0
    compared = 0
    for names, member in members_of(dtype):
        member_path = "/".join((path, *names))
        if is_listed(rows, member_path):
            continue
        values = item[()]
        for name in names:
            values = values[name]
        compared += judge_values(np.asarray(values), member, member_path, target)
    return compared


def judge_values(values, dtype, path, target) -> int:
    is_text = dtype.base.kind == "O" and h5py.check_string_dtype(dtype.base) is not None
    if h5py.check_vlen_dtype(dtype) is not None and not is_text:
        offsets, found = load(target, f"{path}/offsets"), load(target, f"{path}/values")
        assert len(offsets) == values.size + 1
        for index, run in enumerate(values.reshape(-1)):
            # h5py gives the bytes as they are stored, and forgets their order: see tests/formats/test_hdf5_runs.py.
            np.testing.assert_array_equal(found[offsets[index] : offsets[index + 1]], run.view(h5py.check_vlen_dtype(dtype)))
        return 1
    found = load(target, path)
    if is_text:
        texts = [text if isinstance(text, str) else bytes(text).decode() for text in found.reshape(-1).tolist()]
        assert texts == [text.decode() if isinstance(text, bytes) else text for text in values.reshape(-1).tolist()]
    elif h5py.check_ref_dtype(dtype) is not None:
        assert found.shape == values.shape
        assert [bool(text) for text in found.reshape(-1).tolist()] == [bool(each) for each in values.reshape(-1).tolist()]
    else:
        values = values.view("i8") if values.dtype.kind == "M" else values
        values = values.reshape(-1).view("u1").reshape(*values.shape, -1) if values.dtype.kind == "V" else values
        np.testing.assert_array_equal(found, values)
        assert found.dtype.newbyteorder("=") == np.dtype(values.dtype.str).newbyteorder("=")
    assert found.shape == values.shape
    return 1


def load(target, path):
    if target.suffix == ".zarr":
        import zarr

        return np.asarray(zarr.open_array(target / path.strip("/"), mode="r")[...])
    return np.load(target / f"{path.strip('/')}.npy", allow_pickle=False)


def judge_within_hdf5(item, path, target) -> int:
    with h5py.File(target) as file:
        other = file[path]
        assert other.shape == item.shape
        assert other.id.get_type() == item.id.get_type() or h5py.h5t.TypeID.get_class(item.id.get_type()) in (6, 7, 9)
        assert (other.chunks, other.maxshape) == (item.chunks, item.maxshape)
        plists = [dataset.id.get_create_plist() for dataset in (item, other)]
        filters = [[plist.get_filter(index) for index in range(plist.get_nfilters())] for plist in plists]
        assert filters[0] == filters[1]
        dtype = readable(item)
        if item.shape is None or not all(h5py.h5z.filter_avail(each[0]) for each in filters[0]):
            return 0
        if dtype is None:
            return judge_bytes(item, other)
        assert_equal_trees(item[()], other[()], item.file, file)
        if dtype.kind in "iufS" and plists[0].fill_value_defined() != h5py.h5d.FILL_VALUE_UNDEFINED:
            np.testing.assert_array_equal(item.fillvalue, other.fillvalue)
        return 1


def judge_bytes(item, other) -> int:
    """Elements of a type that NumPy lacks, byte for byte; runs of variable length of such, not at all."""
    if isinstance(item.id.get_type(), h5py.h5t.TypeVlenID):
        return 0
    found = []
    for dataset in (item, other):
        found.append(np.zeros(dataset.size * dataset.id.get_type().get_size(), "u1"))
        dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, found[-1], dataset.id.get_type())
    np.testing.assert_array_equal(*found)
    return 1


def assert_equal_trees(one, other, file, target_file):
    """Equal values, whatever they are nested in; references lead to objects of the same name."""
    if isinstance(one, h5py.RegionReference):
        assert h5py.h5r.get_name(one, file.id) == h5py.h5r.get_name(other, target_file.id)
    elif isinstance(one, h5py.Reference) and not isinstance(one, h5py.RegionReference):
        assert bool(one) == bool(other)
        if one:
            assert h5py.h5r.get_name(one, file.id) == h5py.h5r.get_name(other, target_file.id)
    elif isinstance(one, (np.ndarray, np.void)) and one.dtype.names is not None:
        for name in one.dtype.names:
            assert_equal_trees(one[name], other[name], file, target_file)
    elif isinstance(one, np.ndarray) and one.dtype.hasobject:
        assert one.shape == other.shape
        for left, right in zip(one.reshape(-1), other.reshape(-1), strict=True):
            assert_equal_trees(left, right, file, target_file)
    elif isinstance(one, h5py.Empty):
        assert isinstance(other, h5py.Empty)
    else:
        np.testing.assert_array_equal(one, other)


def judge_attributes(item, path, target, rows):
    if target.suffix == ".h5":
        with h5py.File(target) as file:
            other = file[path]
            for name in item.attrs:
                if name not in other.attrs:
                    assert is_listed(rows, f"{path}@{name}"), f"the attribute {name} of {path} is neither there nor listed"
                    continue
                try:
                    value = item.attrs[name]
                except (TypeError, ValueError):
                    continue
                assert_equal_trees(value, other.attrs[name], item.file, file)
        return
    found = attributes_in(target, path)
    for name in item.attrs:
        row = rows.get(f"{path}@{name}")
        if row is not None:
            assert row.outcome in ("changed", "refused")
            assert (name in found) == (row.outcome == "changed" and row.how != "kept as the names of axes")
            continue
        value = item.attrs[name]
        assert name in found, f"the attribute {name} of {path} is neither there nor listed"
        expected = np.asarray(value)
        if expected.dtype.kind in "SO":
            expected = np.array([each.decode() if isinstance(each, bytes) else each for each in expected.reshape(-1)]).reshape(
                expected.shape
            )
        np.testing.assert_array_equal(np.asarray(found[name]), expected)


def attributes_in(target, path):
    if target.suffix == ".zarr":
        return json.loads((target / path.strip("/") / "zarr.json").read_text())["attributes"]
    lines = [json.loads(line) for line in (target / "tree.jsonl").read_text().splitlines()]
    return next(line["attributes"] for line in lines if line.get("path") == path)
