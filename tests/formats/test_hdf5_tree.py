"""The walk of an HDF5 file: each object once, links told and not followed."""

from __future__ import annotations

import contextlib

import h5py
import numpy as np
import pytest

from mmapstore.formats import hdf5_boxes, hdf5_types
from mmapstore.formats.hdf5_tree import Hdf5Tree
from mmapstore.plain.c_order import c_order_boxes
from mmapstore.plain.errors import DamagedFileError, InvalidValueError, KeyNotFoundError, MissingPackageError, UnsafeFileError


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["a/x"] = np.arange(6, dtype=">i2").reshape(2, 3)
        file["a/x"].attrs["unit"] = "m"
        file["a/loop"] = file["/"]
        file["b"] = file["a/x"]
        file["c"] = h5py.SoftLink("/a/x")
        file["d"] = h5py.ExternalLink("other.h5", "/y")
        file["e"] = np.dtype("f4")
    return path


def walk(path, *inside, **options):
    with contextlib.closing(Hdf5Tree(path, *inside, **options)) as tree:
        yield from tree.walk()


def test_the_walk(path):
    found = [(node.path, node.kind, node.target, node.attributes) for node in walk(path)]
    assert found == [
        ("/", "group", "", ()),
        ("/e", "named type", "", ()),
        ("/a", "group", "", ()),
        ("/a/loop", "alias", "/", ()),
        ("/a/x", "array", "", ("unit",)),
        ("/b", "alias", "/a/x", ()),
        ("/c", "soft link", "/a/x", ()),
        ("/d", "external link", "other.h5::/y", ()),
    ]


def test_a_group_that_holds_its_own_root(path):
    """Seen from /a, the root of the file is one more group in it, and /a in that another name of where the walk began."""
    nodes = {node.path: (node.kind, node.target) for node in walk(path, "a")}
    assert nodes["/loop"] == ("group", "")
    assert nodes["/loop/a"] == ("alias", "/")
    assert nodes["/loop/b"] == ("array", "") and nodes["/x"] == ("alias", "/loop/b")


def test_links_to_other_files_are_followed_on_request_only(path, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["y"] = [1]
    assert next(node for node in walk(path, allow_links=True) if node.path == "/d").kind == "array"
    (tmp_path / "other.h5").unlink()
    node = next(node for node in walk(path, allow_links=True) if node.path == "/d")
    assert node.kind == "unknown link" and "HDF5 cannot open it" in node.damage


def test_the_file_is_closed_behind_a_walk(path):
    for _ in walk(path):
        break
    with h5py.File(path, "r+") as file:
        file["new"] = 1


def test_what_is_no_group(path, tmp_path):
    with pytest.raises(InvalidValueError, match="is one array, not a group"):
        Hdf5Tree(path, "a/x")
    with pytest.raises(KeyNotFoundError, match="holds no dataset or group 'nowhere'"):
        Hdf5Tree(path, "nowhere")
    with pytest.raises(UnsafeFileError, match="is a link to another file"):
        Hdf5Tree(path, "d")
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(DamagedFileError, match="is not an HDF5 file"):
        Hdf5Tree(tmp_path / "text.h5")


def test_values_are_read_in_boxes(path):
    tree = Hdf5Tree(path)
    (values,) = tree.arrays("/a/x")
    assert (values.shape, values.dtype, values.member) == ((2, 3), np.dtype(">i2"), "")
    assert values.read((slice(1, 2), slice(0, 2))).tolist() == [[3, 4]]
    assert values.stored().shape == (2, 3)
    tree.close()


def test_runs_of_variable_length_are_cut_at_any_place(tmp_path):
    rng = np.random.default_rng(0)
    runs = [np.arange(length, dtype="i4") for length in rng.integers(0, 5, 200)]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("x", (200,), h5py.vlen_dtype("i4"), chunks=(16,))
        for index, run in enumerate(runs):
            dataset[index] = run
    tree = Hdf5Tree(tmp_path / "a.h5")
    values, offsets = tree.arrays("/x")
    joined = np.concatenate(runs)
    assert values.shape == joined.shape and values.member == "values" and offsets.member == "offsets"
    for start, stop in ((0, len(joined)), (0, 1), (7, 8), (50, 133), (len(joined) - 1, len(joined))):
        np.testing.assert_array_equal(values.read((slice(start, stop),)), joined[start:stop])
    np.testing.assert_array_equal(offsets.read((slice(0, 201),)), np.cumsum([0, *map(len, runs)]))
    tree.close()


def test_opaque_bytes_with_a_tag_alone_in_arrays_and_in_compounds(tmp_path):
    h5t = h5py.h5t
    tagged = h5t.create(h5t.OPAQUE, 3)
    tagged.set_tag(b"of its maker")
    pair = h5t.create(h5t.COMPOUND, 10)
    for name, at, kind in ((b"n", 0, h5t.STD_I32LE), (b"o", 4, h5t.array_create(tagged, (2,)))):
        pair.insert(name, at, kind)
    stored = np.arange(60, dtype="u1")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, kind in ((b"o", tagged), (b"r", h5t.array_create(h5t.array_create(tagged, (2,)), (1,))), (b"c", pair)):
            dataset = h5py.h5d.create(file.id, name, kind, h5py.h5s.create_simple((6,)))
            dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, stored[: 6 * kind.get_size()].copy(), kind)
    tree = Hdf5Tree(tmp_path / "a.h5")
    found = {name: tree.arrays(f"/{name}")[-1] for name in "orc"}
    for name, values in found.items():
        rows = stored[: 6 * (10 if name == "c" else 3 if name == "o" else 6)].reshape(6, -1)
        expected = (rows[:, 4:] if name == "c" else rows).reshape(values.shape)
        np.testing.assert_array_equal(values.read(tuple(slice(0, n) for n in values.shape)), expected)
    assert [found[name].shape for name in "orc"] == [(6, 3), (6, 1, 2, 3), (6, 2, 3)]
    tree.close()


def test_a_filter_that_is_missing_is_named(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:  # chunks that HDF5 lists at places of others
        x = file.create_dataset("x", data=np.arange(400).reshape(4, 100), chunks=(2, 50), maxshape=(4, None), compression="lzf")
        chunks = b"".join(x.id.read_direct_chunk(at)[1] for at in ((0, 0), (0, 50), (2, 0), (2, 50)))
    tree = Hdf5Tree(tmp_path / "a.h5")
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: False)
    with pytest.raises(MissingPackageError, match=r"is compressed with lzf \(HDF5 filter 32000\), which HDF5 lacks here"):
        tree.arrays("/x")
    (stored,), words = tree.stored_arrays("/x")
    assert words.startswith("compared by its stored bytes")
    assert stored.read((slice(0, stored.nbytes),)).tobytes() == chunks
    tree.close()


def test_each_element_of_an_array_type_is_read_once(tmp_path, monkeypatch):
    """HDF5 gives such an element whole, however large it is: h5diff's test files have one of 128 MB."""
    expected = np.arange(5 * 3000, dtype="<i4").reshape(5, 3000)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (5,), np.dtype(("<i4", (3000,))))[...] = expected
    calls = []
    monkeypatch.setattr(hdf5_types, "read_elements", lambda *given: calls.append(given) or hdf5_boxes.read_elements(*given))
    tree = Hdf5Tree(tmp_path / "a.h5")
    [values] = tree.arrays("/x")
    found = [values.read(box) for box in c_order_boxes(values.shape, 100)]
    tree.close()
    np.testing.assert_array_equal(np.concatenate([block.reshape(-1) for block in found]), expected.reshape(-1))
    assert len(found) == 5 * 30 and len(calls) == 5
    assert (values.element_nbytes, values.kept_nbytes) == (4, 3 * 12000)  # with two buffers in which HDF5 converts
