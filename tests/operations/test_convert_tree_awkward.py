"""One object of every awkward kind in one HDF5 file: each arrives equal, by the bytes that HDF5 has of it, or is listed alone."""

from __future__ import annotations

import ctypes
import re

import h5py
import numpy as np
import pytest
from h5py import h5a, h5d, h5g, h5p, h5s, h5t

from mmapstore.formats.hdf5_attributes import attribute_names
from mmapstore.formats.hdf5_runs import stored_elements
from mmapstore.operations.convert.tree import convert_all


def stored(item, kind, shape):
    """The elements of a dataset or attribute, as `stored_elements` has them."""
    size, count = kind.get_size(), int(np.prod(shape))
    data = np.zeros(max(1, count) * size, np.uint8)
    if count:
        item.read(h5s.ALL, h5s.ALL, data, kind) if isinstance(item, h5d.DatasetID) else item.read(data, kind)
    return [stored_elements(kind, data.tobytes()[at : at + size]) for at in range(0, count * size, size)]


def assert_same(one, other, name):
    first, second = one.get_type(), other.get_type()
    assert first.equal(second) or first.committed() or second.committed(), name
    assert one.get_space().get_simple_extent_type() == other.get_space().get_simple_extent_type(), name
    if one.get_space().get_simple_extent_type() != h5s.NULL:
        assert one.shape == other.shape, name
        assert stored(one, first, one.shape) == stored(other, second, other.shape), name


def fixed(width, pad, cset):
    kind = h5t.C_S1.copy()
    kind.set_size(width)
    kind.set_strpad(pad)
    kind.set_cset(cset)
    return kind


def scalar_types():
    """Types of every class, by name."""
    for pad, word in ((h5t.STR_NULLTERM, "null-terminated"), (h5t.STR_NULLPAD, "padded"), (h5t.STR_SPACEPAD, "spaces")):
        for width in (1, 5) if word == "null-terminated" else (5,):
            yield f"{word} {width}", fixed(width, pad, h5t.CSET_UTF8 if width == 5 else h5t.CSET_ASCII)
    for code in (">i2", ">f8", ">c16", "?", "V3"):
        yield f"code {code}", h5t.py_create(np.dtype(code), logical=True)
    yield "bits", h5t.STD_B16BE
    yield "time", h5t.UNIX_D32LE
    yield "text", h5t.py_create(h5py.string_dtype("utf-8"), logical=True)
    tagged = h5t.create(h5t.OPAQUE, 4)
    tagged.set_tag(b"tag")
    yield "tagged", tagged
    enum = h5t.enum_create(h5t.STD_I16BE)
    enum.enum_insert(b"A", 1)
    yield "enum", enum


def types():
    for name, kind in scalar_types():
        yield name, kind
        yield f"array of {name}", h5t.array_create(kind, (2,))
        yield f"runs of {name}", h5t.vlen_create(kind)
        member = h5t.create(h5t.COMPOUND, kind.get_size() + 9)
        member.insert(b"a", 0, kind)
        member.insert(b"b", kind.get_size() + 1, h5t.STD_I64BE)
        yield f"compound of {name}", member
        yield f"runs of compound of {name}", h5t.vlen_create(member)
    yield "runs of runs", h5t.vlen_create(h5t.vlen_create(h5t.STD_I32BE))
    yield "object references", h5t.STD_REF_OBJ
    yield "region references", h5t.STD_REF_DSETREG
    yield "runs of object references", h5t.vlen_create(h5t.STD_REF_OBJ)
    yield "runs of region references", h5t.vlen_create(h5t.STD_REF_DSETREG)


def memory_of(kind, count):
    """Elements as HDF5 takes them: bytes of each plain type, runs of one element, text."""
    kept, out = [], b""
    for index in range(count):
        out += _element(kind, index, kept)
    return np.frombuffer(out, np.uint8).copy(), kept


def _element(kind, index, kept):
    if isinstance(kind, h5t.TypeVlenID):
        data = _element(kind.get_super(), index, kept)
        kept.append(ctypes.create_string_buffer(data, len(data)))
        return np.array([1, ctypes.addressof(kept[-1])], np.uintp).tobytes()
    if isinstance(kind, h5t.TypeStringID) and kind.is_variable_str():
        kept.append(ctypes.create_string_buffer(b"text"[: index + 1]))
        return np.array([ctypes.addressof(kept[-1])], np.uintp).tobytes()
    if isinstance(kind, h5t.TypeCompoundID):
        out = bytearray(kind.get_size())
        for member in range(kind.get_nmembers()):
            part = _element(kind.get_member_type(member), index, kept)
            at = kind.get_member_offset(member)
            out[at : at + len(part)] = part
        return bytes(out)
    if isinstance(kind, h5t.TypeArrayID):
        return b"".join(_element(kind.get_super(), index, kept) for _ in range(2))
    if isinstance(kind, h5t.TypeReferenceID):
        return bytes(kind.get_size())  # null
    if isinstance(kind, h5t.TypeStringID):
        return b"ab"[: min(index, kind.get_size() - 1)].ljust(
            kind.get_size(), b" " if kind.get_strpad() == h5t.STR_SPACEPAD else b"\0"
        )
    return bytes([0] * (kind.get_size() - 1) + [1])


def write_types(file):
    simple = h5p.create(h5p.DATASET_CREATE)
    chunked = h5p.create(h5p.DATASET_CREATE)
    chunked.set_chunk((2,))
    chunked.set_deflate(1)
    for name, kind in types():
        data, kept = memory_of(kind, 3)
        for place, options in (("plain", simple), ("chunked", chunked)):
            group = file.require_group(place)
            made = h5d.create(group.id, name.encode(), kind, h5s.create_simple((3,)), options)
            made.write(h5s.ALL, h5s.ALL, data, kind)
        attributes = file.require_group("attributes").create_group(name)
        h5a.create(attributes.id, b"three", kind, h5s.create_simple((3,))).write(data, kind)
        h5a.create(attributes.id, b"scalar", kind, h5s.create(h5s.SCALAR)).write(data[: kind.get_size()], kind)
        h5a.create(attributes.id, b"none", kind, h5s.create_simple((0,)))
        h5a.create(attributes.id, b"null", kind, h5s.create(h5s.NULL))
        for place, space in (
            ("scalar", h5s.create(h5s.SCALAR)),
            ("null", h5s.create(h5s.NULL)),
            ("none", h5s.create_simple((0, 2))),
        ):
            made = h5d.create(file.require_group(place).id, name.encode(), kind, space)
            if place == "scalar":
                made.write(h5s.ALL, h5s.ALL, data[: kind.get_size()], kind)
        del kept


# What has no counterpart by its type, and what h5py cannot read in any way.
REASONS = "no counterpart|No NumPy equivalent|region references|no appropriate function for conversion path"


@pytest.mark.parametrize("suffix", [".h5", pytest.param(".zarr", marks=pytest.mark.slow), pytest.param("", marks=pytest.mark.slow)])
def test_every_type_in_every_place(tmp_path, suffix):
    with h5py.File(tmp_path / "a.h5", "w", libver="latest", track_order=True) as file:
        write_types(file)
    report = convert_all(tmp_path / "a.h5", tmp_path / f"out{suffix}", progress=False)
    lost = {row.path: row.how for row in report.rows if row.is_lost}
    assert report.exit_code == 1
    assert not [how for how in lost.values() if not re.search(REASONS, how)]
    if suffix == ".h5":
        assert all("/runs of region references" in path for path in lost), lost
        assert_all_same(tmp_path / "a.h5", tmp_path / "out.h5", lost)


def assert_all_same(source, target, lost):
    with h5py.File(source) as one, h5py.File(target) as other:
        for path in [f"/{place}/{name}" for place in one for name in one[place]]:
            if path in lost:
                continue
            if isinstance(one[path], h5py.Dataset):
                assert_same(one[path].id, other[path].id, path)
            for name in one[path].attrs:
                if f"{path}@{name}" not in lost:
                    assert_same(*(h5a.open(item[path].id, name.encode()) for item in (one, other)), f"{path}@{name}")


def test_fill_values_named_types_creation_lists_and_attributes(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for index, options in enumerate(({"fillvalue": ""}, {"fillvalue": "none"}, {"fillvalue": "none", "chunks": (2,)})):
            # Each chunk holds something: with such a fill value HDF5 reads no others without "write intent".
            file.create_dataset(f"text{index}", (5,), h5py.string_dtype(), **options)[::2] = "ä"
        for order in (1, 3):
            reused = h5p.create(h5p.GROUP_CREATE)
            reused.set_link_creation_order(order)
            reused.set_attr_creation_order(order)
            for name in ("z", "y", "x"):
                h5g.create(file.id, f"{name}{order}".encode(), None, reused)
            h5g.create(file[f"x{order}"].id, b"below", None, reused)
        file["a kind"] = np.dtype([("n", ">i4"), ("text", h5py.string_dtype())])
        file["z kind"] = h5py.enum_dtype({"a": 1}, "i2")
        file.create_dataset("of a kind", (2,), file["a kind"])
        file.create_dataset("of the last kind", (2,), file["z kind"])
        file.attrs.create("kind", np.zeros(2, "i2"), dtype=file["z kind"])
        large = file.create_group("large", track_order=True)
        for number in range(12):
            large.attrs[f"{12 - number}"] = number
        large.attrs["of 80 kB"] = np.arange(10000.0)
        large.attrs["Grüße"] = "ä"
        h5a.create(large.id, b"\xe4", h5t.STD_I32BE, h5s.create(h5s.SCALAR))
    report = convert_all(tmp_path / "a.h5", tmp_path / "out.h5", progress=False)
    lost = {row.path: row.how for row in report.rows if row.is_lost}
    assert not lost or set(lost) == {"/large@of 80 kB"}, lost
    with h5py.File(tmp_path / "a.h5") as one, h5py.File(tmp_path / "out.h5") as other:
        for index in range(3):
            np.testing.assert_array_equal(one[f"text{index}"][:], other[f"text{index}"][:])
        assert sorted(one) == sorted(other)
        for path in [name for name in one if not name.startswith("text")]:
            assert attribute_names(other[path]) == tuple(
                name for name in attribute_names(one[path]) if f"/{path}@{name}" not in lost
            )
            if isinstance(one[path], h5py.Dataset):
                assert_same(one[path].id, other[path].id, path)
                assert other[path].id.get_type().committed()
            for name in attribute_names(other[path]):
                encoded = name.encode("utf-8", "surrogateescape")
                assert_same(h5a.open(one[path].id, encoded), h5a.open(other[path].id, encoded), name)
    for suffix in (".zarr", ""):
        report = convert_all(tmp_path / "a.h5", tmp_path / f"out{suffix}", progress=False)
        assert not [row for row in report.rows if row.is_lost]
