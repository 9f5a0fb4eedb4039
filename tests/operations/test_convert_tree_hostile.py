"""Files from elsewhere: whatever they hold is read right or refused by name, and nothing is written outside the target."""

from __future__ import annotations

import json
import os

import h5py
import numpy as np
import pytest
import zarr

from mmapstore.operations.convert.tree import convert_all
from mmapstore.plain.errors import DamagedFileError

TARGETS = [".h5", ".zarr", ""]


def converted(source, target, **options):
    return convert_all(source, target, progress=False, **options)


def outcomes(report):
    return {row.path: (row.outcome, row.how) for row in report.rows}


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file["group/key"] = np.arange(4)
        file["group/soft"] = h5py.SoftLink("/group/key")
    (tmp_path / "raw.bin").write_bytes(np.arange(6, dtype="i4").tobytes())
    return path


@pytest.fixture
def pointing(tmp_path, secret):
    """A file that reaches for another in each way that HDF5 has."""
    path = tmp_path / "pointing.h5"
    layout = h5py.VirtualLayout((4,), "i8")
    layout[:] = h5py.VirtualSource(str(secret), "group/key", (4,))
    with h5py.File(path, "w") as file:
        file["inner/link"] = h5py.ExternalLink(str(secret), "/group")
        file["direct"] = h5py.ExternalLink(str(secret), "/group/key")
        file["through"] = h5py.SoftLink("/inner/link/key")
        file.create_dataset("stored", (6,), "i4", external=[(str(tmp_path / "raw.bin"), 0, 24)])
        file.create_virtual_dataset("virtual", layout)
        file["own"] = [1, 2]
    return path


@pytest.mark.parametrize("suffix", TARGETS)
def test_nothing_outside_the_file_is_read(pointing, tmp_path, suffix):
    found = outcomes(converted(pointing, tmp_path / f"out{suffix}"))
    for path in ("/inner/link", "/direct"):
        assert found[path][0] == "refused"
        assert "it leads to another file" in found[path][1] and "allow_links=True (--allow-links)" in found[path][1]
    assert found["/stored"][0] == "refused" and "keeps its bytes in other files" in found["/stored"][1]
    assert found["/virtual"][0] == "refused" and "is a virtual dataset put together from others" in found["/virtual"][1]
    assert found["/own"] == ("copied", "")
    assert found["/through"][0] in ("copied", "changed")  # a name alone: it is not followed
    assert "/inner/link/key" not in found


@pytest.mark.parametrize("suffix", TARGETS)
def test_with_the_flag_it_is_gathered(pointing, tmp_path, suffix):
    report = converted(pointing, tmp_path / f"out{suffix}", allow_links=True)
    found = outcomes(report)
    assert found["/inner/link/soft"][0] == "refused"
    assert [path for path, (outcome, _) in found.items() if outcome == "refused"] == ["/inner/link/soft"]
    if suffix == ".h5":
        with h5py.File(tmp_path / "out.h5") as file:
            assert file["stored"].external is None and not file["virtual"].is_virtual
            values = [file[name][:].tolist() for name in ("stored", "virtual", "inner/link/key")]
    elif suffix == ".zarr":
        store = zarr.open_group(tmp_path / "out.zarr", mode="r")
        values = [store[name][:].tolist() for name in ("stored", "virtual", "inner/link/key")]
    else:
        values = [np.load(tmp_path / f"out/{name}.npy").tolist() for name in ("stored", "virtual", "inner/link/key")]
    assert values == [list(range(6)), list(range(4)), list(range(4))]


@pytest.mark.parametrize("suffix", TARGETS)
def test_shapes_without_values_are_refused(tmp_path, suffix):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("chunked", (1 << 20, 1 << 20), "f8", chunks=(1024, 1024), compression="gzip")
        file.create_dataset("late", (1 << 40,), "f8")
        file.create_dataset("fine", (1 << 20,), "f8", chunks=(1024,))
    assert (tmp_path / "a.h5").stat().st_size < 10_000
    found = outcomes(converted(tmp_path / "a.h5", tmp_path / f"out{suffix}"))
    for path in ("/chunked", "/late"):
        assert found[path][0] == "refused" and "declares 8.80 TB" in found[path][1]
    assert found["/fine"][0] in ("copied", "changed")


def test_a_zarr_store_without_values_is_refused(tmp_path):
    store = zarr.open_group(tmp_path / "a.zarr", mode="w")
    store.create_array("x", shape=(1 << 40,), chunks=(1 << 20,), dtype="f8")
    found = outcomes(converted(tmp_path / "a.zarr", tmp_path / "out.h5"))
    assert found["/x"][0] == "refused" and "declares 8.80 TB" in found["/x"][1]


@pytest.mark.parametrize("suffix", TARGETS)
def test_groups_in_a_circle(tmp_path, suffix):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a/b/c/x"] = [1]
        file["a/b/c/top"] = file["/"]
        file["a/b/c/a"] = file["a"]
        file["round"] = h5py.SoftLink("/about")
        file["about"] = h5py.SoftLink("/round")
    report = converted(tmp_path / "a.h5", tmp_path / f"out{suffix}")
    assert len(report.rows) == 9 and report.exit_code == 0


@pytest.mark.slow
def test_a_thousand_groups_deep(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file
        for _ in range(1000):
            group = group.create_group("g")
        group["x"] = [7]
    report = converted(tmp_path / "a.h5", tmp_path / "out.h5")
    assert report.exit_code == 0 and len(report.rows) == 1002
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["/".join(["g"] * 1000) + "/x"][:].tolist() == [7]


@pytest.mark.parametrize("suffix", [".zarr", ""])
def test_deeper_than_a_path_of_the_system_goes_is_refused_by_name(tmp_path, suffix):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file
        for _ in range(200):
            group = group.create_group("g" * 30)
    report = converted(tmp_path / "a.h5", tmp_path / f"out{suffix}")
    lost = [row for row in report.rows if row.is_lost]
    assert "a file may have 4095" in lost[0].how
    assert all("was not written" in row.how for row in lost[1:])
    assert 50 < len(lost) < 150


@pytest.mark.parametrize("suffix", TARGETS)
def test_names_that_are_no_names_of_files(tmp_path, suffix):
    names = [
        "..",
        "...",
        "a\\b",
        "zarr.json",
        "tree.jsonl",
        "x" * 300,
        "ü::ñ",
        "a b",
        "-rf",
        "C:",
        ".zgroup",
        "%2e%2e",
        "line\nbreak",
    ]
    inside = tmp_path / "inside"
    inside.mkdir()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in names:
            file[name.encode()] = [len(name)]
        file.create_group("deep").create_group("..")["escaped"] = [1]
    report = converted(tmp_path / "a.h5", inside / f"out{suffix}")
    found = outcomes(report)
    assert len(found) == len(names) + 4
    lost = {path for path, (outcome, _) in found.items() if outcome == "refused"}
    if suffix == ".h5":
        assert not lost
    else:
        always = {"/..", "/...", "/a\\b", f"/{'x' * 300}", "/deep/..", "/deep/../escaped"}
        assert lost == always | ({"/zarr.json", "/.zgroup"} if suffix == ".zarr" else set())
        assert found["/.."][1] == "'..' leads out of the directory"
    assert [path.name for path in inside.iterdir()] == [f"out{suffix}"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "inside"]
    for path, (outcome, _) in found.items():
        if outcome == "copied" and suffix == "" and path not in ("/", "/deep"):
            assert np.load(f"{inside}/out{path}.npy").tolist() == [len(path) - 1]


def test_members_with_the_names_of_paths(tmp_path):
    dtype = np.dtype([("..", "i4"), ("a/b", "i4"), ("ok", "i4")])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.ones(2, dtype)
    found = outcomes(converted(tmp_path / "a.h5", tmp_path / "out"))
    assert found["/x/ok"][0] == "changed"
    assert found["/x/.."] == ("refused", "'..' leads out of the directory")
    assert found["/x/a/b"][0] == "refused" and "no array can have" in found["/x/a/b"][1]
    assert sorted(path.name for path in (tmp_path / "out/x").iterdir()) == ["ok.npy"]


def test_two_names_that_become_one_file(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = [1]
        file["x.npy/y"] = [2]
    found = outcomes(converted(tmp_path / "a.h5", tmp_path / "out"))
    assert found["/x"] == ("copied", "")
    assert found["/x.npy"] == ("refused", "something of another kind has its name there already")
    assert found["/x.npy/y"] == ("refused", "its group /x.npy was not written")


def test_damaged_chunks_fail_alone(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        broken = file.create_dataset("broken", data=np.arange(10_000), chunks=(10_000,), compression="gzip")
        place = broken.id.get_chunk_info(0)
        file["whole"] = [1, 2]
    with (tmp_path / "a.h5").open("r+b") as file:
        file.seek(place.byte_offset + 20)
        file.write(b"\xff" * 200)
    for suffix in TARGETS:
        report = converted(tmp_path / "a.h5", tmp_path / f"out{suffix}")
        found = outcomes(report)
        assert found["/broken"][0] == "failed" and found["/whole"] == ("copied", "")
        assert report.exit_code == 1


def test_truncated_and_foreign_files_are_no_trees(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.arange(10_000)
    (tmp_path / "cut.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:3000])
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(DamagedFileError, match="truncated"):
        converted(tmp_path / "cut.h5", tmp_path / "out.zarr")
    with pytest.raises(DamagedFileError, match="its suffix says HDF5, its first bytes do not"):
        converted(tmp_path / "text.h5", tmp_path / "out.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "cut.h5", "text.h5"]


def test_links_in_a_zarr_store_are_not_followed(tmp_path):
    store = zarr.open_group(tmp_path / "a.zarr", mode="w")
    store.create_array("x", data=np.arange(6), chunks=(3,))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("secret")
    os.symlink(tmp_path / "elsewhere", tmp_path / "a.zarr/out")
    os.unlink(tmp_path / "a.zarr/x/c/1")
    os.symlink(tmp_path / "elsewhere/file", tmp_path / "a.zarr/x/c/1")
    for target in ("out.h5", "out.zarr"):
        found = outcomes(converted(tmp_path / "a.zarr", tmp_path / target))
        assert found["/out"][0] == "refused" and "a link that leads out of the store" in found["/out"][1]
        assert found["/x"][0] in ("refused", "failed")


def test_a_tree_file_that_was_changed_leads_nowhere(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = [1]
    converted(tmp_path / "a.h5", tmp_path / "out")
    np.save(tmp_path / "secret.npy", [42])
    with (tmp_path / "out/tree.jsonl").open("a") as file:
        file.write(json.dumps({"path": "/../secret", "kind": "array", "attributes": {}}) + "\n")
    found = outcomes(converted(tmp_path / "out", tmp_path / "b.h5"))
    assert found["/../secret"][0] == "refused" and "'..' leads out of the directory" in found["/../secret"][1]
