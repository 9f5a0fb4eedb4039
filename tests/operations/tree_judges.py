"""Compares a converted tree with its source through h5py, zarr and numpy.load alone, and asks the report about every difference."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import h5py
import numpy as np

LARGE_NBYTES = 200 << 20
UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, TypeError, NotImplementedError)
"""What h5py raises over objects and attributes that it cannot read."""


def objects_of(file, further_names=()):
    """({path: h5py object}, {further name: path}, [names of what cannot be opened]). Soft and external links are left out.

    `further_names`: an object has several names, and these are not to be its path.
    """
    found, addresses, unopened, aliases = {"/": file["/"]}, {h5py.h5o.get_info(file["/"].id).addr: "/"}, [], {}

    def below(group, prefix):
        for raw in group.id:
            path, kind = f"{prefix}/{raw.decode('utf-8', 'surrogateescape')}", group.id.links.get_info(raw).type
            if kind in (h5py.h5l.TYPE_SOFT, h5py.h5l.TYPE_EXTERNAL):
                continue
            try:
                item = group[raw] if kind == h5py.h5l.TYPE_HARD else None
            except UNREADABLE:
                item = None
            if item is None:
                unopened.append(path)
                continue
            address = h5py.h5o.get_info(item.id).addr
            if address in addresses or path in further_names:
                aliases[path] = address
                continue
            addresses[address], found[path] = path, item
            if isinstance(item, h5py.Group):
                below(item, path)

    below(file["/"], "")
    return found, {path: addresses[address] for path, address in aliases.items()}, unopened


def members_of(dtype, prefix=()):
    """(names, dtype) of the plain members of a compound; one without a name for anything else."""
    if dtype.subdtype is not None and dtype.base.names is not None:  # its axes come behind those of the dataset
        yield from members_of(dtype.base, prefix)
        return
    if dtype.names is None:
        yield prefix, dtype
        return
    for name in dtype.names:
        yield from members_of(dtype[name], (*prefix, name))


def judge(source: Path, target: Path, report, too_large: list[str] | None = None) -> int:
    """Assert that each dataset and attribute is equal in the target or listed. Returns how many arrays were compared.

    `too_large`, where given, gets the names of those that are not compared, for their size.
    """
    rows = {row.path: row for row in report.rows}
    compared = 0
    with opened(source) as file:
        found, aliases, unopened = objects_of(file, {row.path for row in report.rows if row.kind == "alias"})
        assert {*found, *aliases, *unopened} <= set(rows), "an object without a row"
        assert all(is_listed(rows, path) for path in unopened), "an object that HDF5 cannot open is not listed"
        for path, item in found.items():
            if is_listed(rows, path) or (rows[path].kind == "dimension" and target.suffix != ".h5"):
                continue
            if isinstance(item, h5py.Dataset):
                if too_large is not None and item.size and item.size * item.id.get_type().get_size() > LARGE_NBYTES:
                    too_large.append(f"{source}::{path}")
                else:
                    compared += judge_dataset(item, path, target, rows)
            if isinstance(item, (h5py.Dataset, h5py.Group)):
                judge_attributes(item, path, target, rows)
    return compared


def named(row):
    """Where the target has an object."""
    return row.how.removeprefix("named ").partition(";")[0] if row.how.startswith("named /") else row.path


def opened(path: Path):
    try:
        return h5py.File(path)
    except OSError as error:
        assert "already open for write" in str(error)  # its writer left it so
        return h5py.File(path, swmr=True)


def is_listed(rows, path) -> bool:
    """Refused or failed, itself or along with what holds it."""
    while path not in rows and path.strip("/"):
        path = path.rpartition("/")[0] or "/"
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
        place = "/".join((named(rows[path]), *names))
        if is_listed(rows, "/".join((path, *names))):
            continue
        values = elements_of(item)
        for name in names:
            values = values[name]
        if "to the length of its unlimited dimension" in rows[path].how:
            assert all(shorter <= longer for shorter, longer in zip(values.shape, load(target, place).shape, strict=True))
            continue  # netCDF's judge of what follows is in test_convert_netcdf.py
        compared += judge_values(values, member, place, target)
    return compared


def elements_of(item):
    """All of a dataset, in an array; opaque elements with the tag of their type, to which h5py gives none."""
    if isinstance(item.id.get_type(), h5py.h5t.TypeOpaqueID):
        values = np.zeros(item.shape, item.dtype)
        item.id.read(h5py.h5s.ALL, h5py.h5s.ALL, values, item.id.get_type())
        return values
    values = item[()]
    if item.shape == () and not isinstance(values, np.generic) and (item.dtype.hasobject and item.dtype.names is None):
        whole = np.empty((), object)
        whole[()] = values
        return whole
    return np.asarray(values)


def judge_values(values, dtype, path, target) -> int:
    is_text = dtype.base.kind == "O" and h5py.check_string_dtype(dtype.base) is not None
    element = h5py.check_vlen_dtype(dtype.base)
    if element is not None and not is_text:
        offsets, found = load(target, f"{path}/offsets"), load(target, f"{path}/values")
        assert len(offsets) == values.size + 1
        for index, run in enumerate(values.reshape(-1)):
            # h5py gives the bytes as they are stored, and forgets their order: see tests/formats/test_hdf5_runs.py.
            np.testing.assert_array_equal(found[offsets[index] : offsets[index + 1]], run.view(element))
        return 1
    found = load(target, path)
    if is_text:
        assert [as_bytes(text) for text in found.reshape(-1)] == [as_bytes(text) for text in values.reshape(-1)]
    elif h5py.check_ref_dtype(dtype.base) is not None:
        assert found.shape == values.shape
        assert [bool(text) for text in found.reshape(-1).tolist()] == [bool(each) for each in values.reshape(-1).tolist()]
    else:
        values = values.view("i8") if values.dtype.kind == "M" else values
        values = values.reshape(-1).view("u1").reshape(*values.shape, -1) if values.dtype.kind == "V" else values
        np.testing.assert_array_equal(found, values)
        assert found.dtype.newbyteorder("=") == np.dtype(values.dtype.str).newbyteorder("=")
    assert found.shape == values.shape
    return 1


def as_bytes(text) -> bytes:
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text or b"")


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
        for each in filters:  # h5py gives of the long settings of n-bit what lies in memory
            each[:] = [settings if settings[0] != h5py.h5z.FILTER_NBIT else settings[:2] for settings in each]
        assert filters[0] == filters[1]
        dtype = readable(item)
        if item.shape is None or not all(h5py.h5z.filter_avail(each[0]) for each in filters[0]):
            return 0
        if dtype is None:
            return judge_bytes(item, other)
        try:
            values = item[()], other[()]
        except UNREADABLE:
            return judge_bytes(item, other)
        assert_equal_trees(*values, item.file, file)
        if dtype.kind in "iufS" and plists[0].fill_value_defined() != h5py.h5d.FILL_VALUE_UNDEFINED:
            np.testing.assert_array_equal(item.fillvalue, other.fillvalue)
        return 1


def judge_bytes(item, other) -> int:
    """Elements of a type that NumPy lacks, byte for byte; runs of variable length of such, not at all."""
    if item.id.get_type().detect_class(h5py.h5t.VLEN):
        return 0
    found = []
    for dataset in (item, other):
        found.append(np.zeros(dataset.size * dataset.id.get_type().get_size(), "u1"))
        dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, found[-1], dataset.id.get_type())
    np.testing.assert_array_equal(*found)
    return 1


def assert_equal_trees(one, other, file, target_file):
    """Equal values, whatever they are nested in; references lead to objects of the same name."""
    if isinstance(one, h5py.Reference):
        assert name_of(one, file) == name_of(other, target_file)
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


def name_of(reference, file):
    """Of the object that it leads to; None where it leads nowhere, in which case a copy of it is null."""
    try:
        address = h5py.h5o.get_info(h5py.h5r.dereference(reference, file.id)).addr
    except UNREADABLE:
        return None
    return names_in(file.filename, Path(file.filename).stat().st_mtime_ns).get(address)


@functools.lru_cache(2)
def names_in(path, changed):
    """{address: name}: HDF5 itself goes through a file again for each reference."""
    with opened(Path(path)) as file:
        return {h5py.h5o.get_info(item.id).addr: name for name, item in objects_of(file)[0].items()}


def judge_attributes(item, path, target, rows):
    try:
        names = list(item.attrs)
    except UNREADABLE:
        assert is_listed(rows, f"{path}@*"), f"the attributes of {path}, which cannot be listed, are no row"
        return
    if target.suffix == ".h5":
        with h5py.File(target) as file:
            other = file[path]
            for name in names:
                if name not in other.attrs:
                    assert is_listed(rows, f"{path}@{name}"), f"the attribute {name} of {path} is neither there nor listed"
                    continue
                try:
                    value = item.attrs[name]
                except UNREADABLE:
                    continue
                assert_equal_trees(value, other.attrs[name], item.file, file)
        return
    found = attributes_in(target, named(rows[path]))
    for name in names:
        row = rows.get(f"{path}@{name}")
        if row is not None:
            assert row.outcome in ("changed", "refused")
            assert (name in found) == (row.outcome == "changed" and row.how != "kept as the names of axes")
            continue
        assert name in found, f"the attribute {name} of {path} is neither there nor listed"
        try:
            value = item.attrs[name]
        except UNREADABLE:
            continue
        assert plain(found[name]) == plain(value), f"the attribute {name} of {path}"


def plain(value):
    """As lists, texts and numbers; an array of one like its element, as netCDF writes numbers."""
    if isinstance(value, np.ndarray):
        value = [plain(each) for each in value] if value.ndim else value[()]
    if isinstance(value, (list, tuple)):
        return plain(value[0]) if len(value) == 1 else [plain(each) for each in value]
    value = value.item() if isinstance(value, np.generic) else value
    value = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def attributes_in(target, path):
    if target.suffix == ".zarr":
        return json.loads((target / path.strip("/") / "zarr.json").read_text())["attributes"]
    lines = [json.loads(line) for line in (target / "tree.jsonl").read_text().splitlines()]
    return next(line["attributes"] for line in lines if line.get("path") == path)
