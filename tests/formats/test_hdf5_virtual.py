"""Virtual datasets: of their own file they are read as h5py reads them; others, and those of themselves, are refused."""

import itertools

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import mmapstore as mm
from mmapstore import cli
from mmapstore.formats import hdf5_file
from mmapstore.plain.errors import MmapstoreError, UnsafeFileError

NUMBERS = itertools.count()
WIDTH = 3


def virtual(file, name, mappings, rows, fill=-1, dtype=h5py.h5t.STD_I32LE):
    """A dataset of (rows, WIDTH) whose rows [at, at + count) are rows [first, first + count) of a source, for each mapping."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_fill_value(np.array(fill, "i4"))
    here = h5py.h5s.create_simple((rows, WIDTH))
    for file_name, source, at, first, count, length in mappings:
        there = h5py.h5s.create_simple((length, WIDTH))
        here.select_hyperslab((at, 0), (count, WIDTH))
        there.select_hyperslab((first, 0), (count, WIDTH))
        plist.set_virtual(here, file_name.encode(), source.encode(), there)
    return h5py.h5d.create(file.id, name.encode(), dtype, h5py.h5s.create_simple((rows, WIDTH)), plist)


def numbered(file, name, source, rows, file_name="."):
    """A dataset of two rows of each of the sources that "%b" in the name stands for."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    here = h5py.h5s.create_simple((rows, WIDTH), (h5py.h5s.UNLIMITED, WIDTH))
    here.select_hyperslab((0, 0), (h5py.h5s.UNLIMITED, 1), (2, WIDTH), (2, WIDTH))
    plist.set_virtual(here, file_name.encode(), source.encode(), h5py.h5s.create_simple((2, WIDTH)))
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.STD_I32LE, here, plist)


def whole(source, rows=4, file_name="."):
    return [(file_name, source, 0, 0, rows, rows)]


def make(path, **datasets):
    """A file with the array "raw", and virtual datasets: name = mappings."""
    with h5py.File(path, "w") as file:
        file["raw"] = np.arange(12, dtype="i4").reshape(4, WIDTH)
        for name, mappings in datasets.items():
            virtual(file, name, mappings, 4)


def by_h5py(path, key):
    with h5py.File(path) as file:
        return file[key][...]


def by_us(path, key):
    array = hdf5_file.open_array(path, key)
    assert array.located is None and "put together from other datasets" in array.why_not
    out = np.full(array.shape, 99, array.dtype)
    array.read_box(tuple(slice(0, n) for n in array.shape), out)
    return out


@st.composite
def layers(draw):
    """(rows of each ordinary source, its storage; mappings of each virtual dataset, which may use those before it)"""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    storage = [draw(st.sampled_from([{}, {"chunks": (1, 2)}, {"chunks": (1, WIDTH), "compression": "gzip"}])) for _ in lengths]
    known = [(f"s{at}", length) for at, length in enumerate(lengths)] + [("missing", 4)]
    made = []
    for number in range(draw(st.integers(1, 3))):
        rows, at, mappings = draw(st.integers(1, 12)), 0, []
        while at < rows:
            source, length = draw(st.sampled_from(known))
            first = draw(st.integers(0, length - 1))
            count = draw(st.integers(1, min(length - first, rows - at)))
            mappings.append((draw(st.sampled_from([".", "OWN"])), source, at, first, count, length))
            at += count + draw(st.integers(0, 2))
        made.append((f"v{number}", mappings, rows))
        known.append((f"v{number}", rows))
    return lengths, storage, made


@settings(max_examples=40)
@given(case=layers())
def test_of_its_own_file_it_is_h5pys(tmp_path, case):
    lengths, storage, made = case
    path = tmp_path / f"{next(NUMBERS)}.h5"
    with h5py.File(path, "w") as file:
        for at, (length, options) in enumerate(zip(lengths, storage, strict=True)):
            values = np.arange(100 * at, 100 * at + length * WIDTH, dtype="i4").reshape(length, WIDTH)
            file.create_dataset(f"s{at}", data=values, **options)
        for name, mappings, rows in made:
            virtual(file, name, [(path.name if own == "OWN" else own, *rest) for own, *rest in mappings], rows)
    for name, _, _ in made:
        np.testing.assert_array_equal(by_us(path, name), by_h5py(path, name))
    path.unlink()


def test_names_with_numbers_and_links_inside_the_file(tmp_path):
    path = tmp_path / "a.h5"
    make(path, linked=whole("/g/link"))
    with h5py.File(path, "r+") as file:
        file["g/link"] = h5py.SoftLink("/raw")
        for number in range(3):
            file[f"part%{number}"] = np.full((2, WIDTH), number, "i4")
        numbered(file, "numbered", "part%%%b", 6)
    for key in ("linked", "numbered"):
        np.testing.assert_array_equal(by_us(path, key), by_h5py(path, key))
    assert by_us(path, "numbered")[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_through_every_door(tmp_path, capsys):
    path = tmp_path / "a.h5"
    make(path, v=whole("raw"), w=whole("v"))
    expected = np.arange(12).reshape(4, WIDTH)
    np.testing.assert_array_equal(mm.open(f"{path}::/w")[1:3], expected[1:3])
    with h5py.File(path, "r+") as file:  # read through the caller's own object
        np.testing.assert_array_equal(mm.open(file["w"])[:], expected)
    for target in ("w.npy", "w.zarr", "w.h5"):
        assert cli.main(["convert", f"{path}::/w", str(tmp_path / target)]) == 0
        np.testing.assert_array_equal(mm.open(str(tmp_path / target))[:], expected)
    for target in ("all.zarr", "all.h5"):
        assert cli.main(["convert", "--all", str(path), str(tmp_path / target)]) == 0
        assert cli.main(["verify", str(path), str(tmp_path / target)]) == 0
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "all.zarr" / "w", mode="r")[:], expected)
    with h5py.File(tmp_path / "all.h5") as file:
        np.testing.assert_array_equal(file["w"][:], expected)
    capsys.readouterr()
    assert cli.main(["info", f"{path}::/w"]) == 0
    assert "virtual: put together from other datasets" in capsys.readouterr().out


def refusals(path, key):
    """Of opening it, and of each way to convert it, with links to other files allowed and not."""
    with pytest.raises(UnsafeFileError) as caught:
        hdf5_file.open_array(path, key)
    yield str(caught.value)
    for number, allowed in enumerate(([], ["--allow-links"])):
        for suffix in (".zarr", ".h5"):
            report = path.with_suffix(f".{number}{suffix}.csv")
            cli.main(["convert", "--all", str(path), str(report.with_suffix("")), "--report", str(report), *allowed])
            yield next(line for line in report.read_text().splitlines() if f"/{key}," in line)


def test_sources_in_other_files_are_refused_however_they_are_named(tmp_path, monkeypatch):
    make(tmp_path / "secret.h5")
    path = tmp_path / "a.h5"
    names = {
        "plain": whole("raw", file_name="secret.h5"),
        "absolute": whole("raw", file_name=str(tmp_path / "secret.h5")),
        "link": whole("out"),
        "nested": whole("plain"),
        "external": whole("bytes"),
    }
    make(path, **names)
    with h5py.File(path, "r+") as file:
        numbered(file, "numbered", "part%b", 4)
        numbered(file, "files", "raw", 4, file_name="secret%b.h5")
        file["out"] = h5py.ExternalLink("secret.h5", "/raw")
        file["part0"] = h5py.ExternalLink("secret.h5", "/raw")
        file.create_dataset("bytes", (4, WIDTH), "i4", external=[(str(tmp_path / "secret.h5"), 0, 48)])
    for key in (*names, "numbered", "files"):
        with pytest.raises(UnsafeFileError, match=r"secret(%b)?\.h5"):
            hdf5_file.open_array(path, key)
    make(path, own=whole("raw", file_name="a.h5"))
    assert by_us(path, "own").any()
    monkeypatch.setenv("HDF5_VDS_PREFIX", str(tmp_path / "elsewhere"))  # where another a.h5 may lie
    with pytest.raises(UnsafeFileError, match=r"a\.h5"):
        hdf5_file.open_array(path, "own")


@pytest.mark.parametrize(
    "datasets",
    [
        {"v": whole("v")},
        {"v": whole("w"), "w": whole("v")},
        {"v": whole("raw"), "w": whole("v"), "v2": [*whole("w"), (".", "v2", 3, 3, 1, 4)]},
        {"v": whole("v", file_name="a.h5")},
        {},
    ],
    ids=["itself", "two", "partly", "by its name", "by a number"],
)
def test_of_itself_it_ends_in_an_error(tmp_path, datasets):
    """HDF5 ends the process."""
    path = tmp_path / "a.h5"
    make(path, **datasets)
    if not datasets:
        with h5py.File(path, "r+") as file:
            numbered(file, "v0", "v%b", 4)
    for words in refusals(path, list(datasets)[-1] if datasets else "v0"):
        assert "put together from itself" in words


def test_of_itself_by_way_of_another_file_and_links_allowed(tmp_path):
    make(tmp_path / "a.h5", v=whole("w", file_name="b.h5"))
    make(tmp_path / "b.h5", w=whole("v", file_name="a.h5"))
    for suffix in (".zarr", ".h5"):
        report = tmp_path / f"report{suffix}.csv"
        cli.main(
            ["convert", "--all", str(tmp_path / "a.h5"), str(tmp_path / f"out{suffix}"), "--allow-links", "--report", str(report)]
        )
        assert "put together from itself" in report.read_text()


def test_damaged_sources_are_found_before_hdf5_reads(tmp_path):
    path = tmp_path / "a.h5"
    make(path, v=whole("raw"))
    with h5py.File(path) as file:
        end = file["raw"].id.get_offset()
    for length in (end + 4, end):
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(MmapstoreError):
            by_us(path, "v")


def test_chain_of_many_and_memory_said(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("raw", data=np.arange(12, dtype="i4").reshape(4, WIDTH), chunks=(2, WIDTH))
        for number in range(100):
            virtual(file, f"v{number}", whole(f"v{number - 1}" if number else "raw"), 4)
    np.testing.assert_array_equal(by_us(path, "v99"), by_h5py(path, "raw"))
    chunk, all_chunks = 24, 48
    assert hdf5_file.open_array(path, "v99").cache_nbytes == all_chunks * 5 // 4 + 2 * chunk
