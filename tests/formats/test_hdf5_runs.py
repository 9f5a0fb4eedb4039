"""Runs of variable length: values judged by `struct`, because h5py itself gives big-endian ones in the wrong byte order."""

from __future__ import annotations

import itertools

import h5py
import numpy as np
import random_hdf5
from hypothesis import given, settings
from hypothesis import strategies as st

from mmapstore.formats import hdf5_runs
from mmapstore.formats.hdf5_attributes import attribute_as_json, raw_attribute, read_attribute
from mmapstore.formats.hdf5_boxes import raw_elements, read_elements
from mmapstore.formats.hdf5_runs import in_stored_order, refusal, stored_elements
from mmapstore.formats.hdf5_tree import Hdf5Tree
from mmapstore.formats.hdf5_tree_writer import Hdf5TreeWriter

NUMBERS = (random_hdf5.number, random_hdf5.enumeration, random_hdf5.bits, random_hdf5.complex_number, random_hdf5.text)
NUMBERING = itertools.count()
# h5py's own: empty runs of compounds, runs in those; runs of arrays cannot be written.
UNREADABLE = ("NULL pointer", "background buffer", "Operation not defined")


@given(st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=150)
def test_values_are_those_that_were_packed(draw, is_attribute):
    kind = random_hdf5.kind(draw, 3, NUMBERS)
    with h5py.File("random", "w", driver="core", backing_store=False) as file:
        expected = random_hdf5.write(file, "x", kind, 3, is_attribute)
        try:
            if is_attribute:
                found = read_attribute(h5py.h5a.open(file.id, b"x"))
            else:
                dtype = file["x"].dtype
                found = in_stored_order(read_elements(file["x"], dtype, (slice(0, 3),)), dtype)
        except (ValueError, TypeError) as error:
            assert any(words in str(error) for words in UNREADABLE), f"{kind.name}: {error}"
        else:
            assert random_hdf5.plain(found) == expected, kind.name


@given(st.randoms(use_true_random=False))
def test_attributes_are_equal_where_their_stored_bytes_are(draw):
    kind = random_hdf5.kind(draw, 3)
    with h5py.File("random", "w", driver="core", backing_store=False) as file:
        kept = []
        packed = [kind.value(kept)[0] for _ in range(2)]
        random_hdf5.write(file, "x", kind, 2, attribute=True)
        file.attrs.create("y", 0)
        stored = h5py.h5a.open(file.id, b"x")
        stored.write(np.frombuffer(b"".join(packed), np.uint8).copy(), kind.stored)
        size, data = kind.stored.get_size(), raw_attribute(stored).tobytes()
        found = [stored_elements(kind.stored, data[at : at + size]) for at in (0, size)]
        assert found == [stored_elements(kind.stored, each) for each in packed]


def test_big_endian_runs_in_datasets_members_and_attributes(tmp_path):
    runs = h5py.vlen_dtype(np.dtype(">i4"))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        values = np.empty(2, object)
        values[:] = [np.array([1, 2], ">i4"), np.array([3], ">i4")]
        file.create_dataset("x", data=values, dtype=runs)
        mixed = np.zeros(2, np.dtype([("n", ">i2"), ("runs", runs)]))
        mixed["n"], mixed["runs"] = [7, 8], values
        file["mixed"] = mixed
        file.attrs.create("x", values, dtype=runs)
        assert attribute_as_json(file, "x", str).value == [[1, 2], [3]]
    tree = Hdf5Tree(tmp_path / "a.h5")
    for path in ("/x", "/mixed"):
        found = {part.member: part.read((slice(0, part.shape[0]),)).tolist() for part in tree.arrays(path)}
        assert next(values for member, values in found.items() if member.endswith("values")) == [1, 2, 3]
    tree.close()


def test_big_endian_runs_in_arrays_of_arrays(monkeypatch):
    monkeypatch.setattr(hdf5_runs, "_labels_are_wrong", lambda: True)
    dtype = np.dtype((np.dtype((h5py.vlen_dtype(np.dtype(">i4")), (2,))), (3,)))
    values = np.empty((1, 3, 2), object)
    for at in np.ndindex(values.shape):
        values[at] = np.array([1], ">i4").view("<i4")  # as h5py gives a stored 1
    assert [run.tolist() for run in in_stored_order(values, dtype).reshape(-1)] == [[1]] * 6


def nested(base):
    h5t = h5py.h5t
    yield h5t.vlen_create(base)
    yield h5t.array_create(h5t.vlen_create(base), (2,))
    member = h5t.create(h5t.COMPOUND, 16)
    member.insert(b"m", 0, base)
    yield h5t.vlen_create(member)


def test_runs_of_region_references_are_not_read():
    """h5py ends the process over them."""
    for kind in nested(h5py.h5t.STD_REF_DSETREG):
        assert "cannot read runs of variable length that hold region references" in refusal(kind)
    for kind in nested(h5py.h5t.STD_REF_OBJ):
        assert not refusal(kind)
    assert not refusal(h5py.h5t.STD_REF_DSETREG)
    with h5py.File("random", "w", driver="core", backing_store=False) as file:
        h5py.h5a.create(file.id, b"x", next(nested(h5py.h5t.STD_REF_DSETREG)), h5py.h5s.create_simple((2,)))
        assert "region references" in attribute_as_json(file, "x", str).refused


def test_attributes_without_elements():
    with h5py.File("random", "w", driver="core", backing_store=False) as file:
        for name, dtype in {"numbers": "f8", "bytes": "S4", "text": h5py.string_dtype(), "runs": h5py.vlen_dtype("i4")}.items():
            file.attrs.create(name, np.array([], object if name in ("text", "runs") else dtype), dtype=dtype)
            found = attribute_as_json(file, name, str)
            assert (found.value, found.changed, found.refused) == ([], "", "")


@given(st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_datasets_copied_by_value_are_equal(tmp_path, draw):
    """As they are stored: what h5py reads and writes, of types that it can, is no judge."""
    kind = random_hdf5.kind(draw, 3, NUMBERS)
    number = next(NUMBERING)
    source, target = tmp_path / f"{number}.h5", tmp_path / f"{number}-copy.h5"
    with h5py.File(source, "w") as file:
        random_hdf5.write(file, "x", kind, 5)
    tree, writer = Hdf5Tree(source), Hdf5TreeWriter(str(target))
    node = next(node for node in tree.walk() if node.path == "/x")
    try:
        writer.copy_object(tree, node, elements=2)
    except (ValueError, TypeError) as error:
        assert any(words in str(error) for words in UNREADABLE), f"{kind.name}: {error}"
    else:
        size = kind.stored.get_size()
        one, other = (raw_elements(file["x"], (slice(0, 5),)).tobytes() for file in (tree.file, writer.file))
        for at in range(0, len(one), size):
            found = [stored_elements(kind.stored, data[at : at + size]) for data in (one, other)]
            assert found[0] == found[1], kind.name
    finally:
        writer.close()
        tree.close()
