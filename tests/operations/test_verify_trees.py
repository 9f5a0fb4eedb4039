"""`verify` of containers and directories: what is missing, further, or other, attributes included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from mmapstore.operations.verify import verify
from mmapstore.plain.errors import InvalidValueError


def tree(path: Path, **changes: Any) -> Path:
    """An HDF5 file of most that such files have."""
    with h5py.File(path, "w") as file:
        group = file.create_group("run")
        group.attrs["who"] = changes.get("who", "me")
        group.attrs["steps"] = np.arange(3)
        group.attrs["odd"] = np.nan
        frames = np.arange(600.0).reshape(10, 3, 20)
        if "frames" in changes:
            frames[changes["frames"]] = -1
        group.create_dataset("frames", data=frames, chunks=(4, 3, 20), compression="gzip")
        group["frames"].attrs["units"] = changes.get("units", "m")
        table = np.zeros(5, [("x", "f4"), ("id", "i4")])
        table["id"] = changes.get("ids", range(5))
        file["table"] = table
        file["flag"] = np.array([True, False])
        file["scalar"] = changes.get("scalar", 3.5)
        file["none"] = h5py.Empty("f4")
        file["zero"] = np.zeros((0, 3))
        file["latest"] = h5py.SoftLink("/run/frames")
        for name in changes.get("without", ()):
            del file[name]
        for name in changes.get("beside", ()):
            file[name] = np.arange(2)
    return path


def test_a_tree_is_equal_to_itself(tmp_path: Path) -> None:
    verdict = verify(tree(tmp_path / "a.h5"), tree(tmp_path / "b.h5"))
    assert verdict and not verdict.missing and not verdict.extra
    assert {array.key for array in verdict.arrays} == {"flag", "scalar", "table/x", "table/id", "zero", "run/frames"}
    assert verdict.to_text().startswith(f"{tmp_path}/a.h5 and {tmp_path}/b.h5: EQUAL, all 6 objects")


@pytest.mark.parametrize(
    ("changes", "key", "problem"),
    [
        ({"frames": (4, 1, 2)}, "run/frames", "1 of 600 values differ, the first at [4, 1, 2]: 262.0 against -1.0"),
        ({"units": "cm"}, "run/frames", "attribute 'units': 'm' against 'cm'"),
        ({"who": "you"}, "/run", "attribute 'who': 'me' against 'you'"),
        ({"ids": [0, 1, 2, 3, 9]}, "table/id", "1 of 5 values differ, the first at [4]: 4 against 9"),
        ({"scalar": 2.5}, "scalar", "1 of 1 values differ, the first at []: 3.5 against 2.5"),
    ],
)
def test_one_change_is_found(tmp_path: Path, changes: dict[str, Any], key: str, problem: str) -> None:
    verdict = verify(tree(tmp_path / "a.h5"), tree(tmp_path / "b.h5", **changes))
    (wrong,) = [array for array in verdict.arrays if not array.ok]
    assert not verdict and wrong.key == key and any(line.startswith(problem) for line in wrong.problems)


def test_missing_and_further_objects(tmp_path: Path) -> None:
    verdict = verify(tree(tmp_path / "a.h5"), tree(tmp_path / "b.h5", without=("flag", "none", "latest"), beside=("new",)))
    assert (verdict.missing, verdict.extra) == (("flag", "latest", "none"), ("new",))
    assert "3 missing, 1 more than expected" in verdict.to_text()


def test_a_link_in_one_may_be_a_copy_in_the_other(tmp_path: Path) -> None:
    tree(tmp_path / "b.h5")
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        values = file["latest"][()]
        del file["latest"]
        file["latest"] = values
        file["latest"].attrs["units"] = "m"
    assert verify(tree(tmp_path / "a.h5"), tmp_path / "b.h5") and verify(tmp_path / "b.h5", tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        file["latest"][0, 0, 0] = -1
    assert not verify(tmp_path / "a.h5", tmp_path / "b.h5")


def test_text_of_any_length(tmp_path: Path) -> None:
    words = ["a", "bcd", "", "caf\u00e9"]
    for name, values in (("a", words), ("b", words), ("c", [*words[:3], "tea"])):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["words"], file["numbers"] = values, np.arange(3)
    assert verify(tmp_path / "a.h5", tmp_path / "b.h5") and verify(tmp_path / "a.h5")
    (wrong,) = [array for array in verify(tmp_path / "a.h5", tmp_path / "c.h5").arrays if not array.ok]
    assert wrong.key == "words" and wrong.difference is not None and wrong.difference.index == (3,)


def test_a_group_of_each(tmp_path: Path) -> None:
    zarr.open_group(str(tmp_path / "b.zarr"), mode="w").create_array("sub/frames", data=np.arange(600.0).reshape(10, 3, 20))
    verdict = verify(f"{tree(tmp_path / 'a.h5')}::/run", f"{tmp_path}/b.zarr::/sub")
    (pair,) = verdict.arrays
    assert verdict and pair.name.endswith("a.h5::/run/frames") and pair.other.endswith("b.zarr::/sub/frames")
    assert any("attribute 'units' is missing" in note for note in pair.notes)


def test_a_member_of_several_cannot_have_a_layout(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="are for one array each"):
        verify(tree(tmp_path / "a.h5"), tree(tmp_path / "b.h5"), layout="NCHW")


# --- directories of archives -----------------------------------------------------------------------------------------------


def archives(folder: Path, change: int | None = None) -> tuple[Path, Path]:
    """A directory of archives, and what a conversion of it may look like."""
    first, second = folder / "in", folder / "out"
    (first / "deep").mkdir(parents=True)
    (second / "deep").mkdir(parents=True)
    arrays = [np.random.default_rng(number).random((6, 4, 3)) for number in range(4)]
    with h5py.File(first / "one.h5", "w") as file:
        file["frames"] = arrays[0]
    with h5py.File(first / "deep" / "two.h5", "w") as file:
        file["frames"], file["labels"] = arrays[1], arrays[2]
    np.save(first / "three.npy", arrays[3])
    (first / "README.txt").write_text("hello")
    if change is not None:
        arrays[change][5, 3, 2] += 1
    np.save(second / "one.npy", arrays[0])
    group = zarr.open_group(str(second / "deep" / "two.zarr"), mode="w")
    group.create_array("frames", data=arrays[1])
    group.create_array("labels", data=arrays[2])
    zarr.create_array(str(second / "three.zarr"), data=arrays[3])
    return first, second


def test_a_directory_of_archives(tmp_path: Path) -> None:
    first, second = archives(tmp_path)
    verdict = verify(first, second)
    assert verdict and len(verdict.arrays) == 4
    assert verdict.notes == (f"1 file without an array: not compared ({first}/README.txt)",)
    assert verify(first) and len(verify(first).arrays) == 4


@pytest.mark.parametrize("change", range(4))
def test_a_value_in_a_directory_of_archives(tmp_path: Path, change: int) -> None:
    verdict = verify(*archives(tmp_path, change))
    (wrong,) = [array for array in verdict.arrays if not array.ok]
    assert wrong.difference is not None and wrong.difference.index == (5, 3, 2)
    assert wrong.key == ["one/frames and one", "deep/two/frames", "deep/two/labels", "three"][change]


def test_an_archive_that_is_not_there_or_not_readable(tmp_path: Path) -> None:
    first, second = archives(tmp_path)
    (second / "one.npy").unlink()
    assert verify(first, second).missing == ("one/frames",)
    np.save(second / "one.npy", np.zeros(3))
    (second / "one.npy").write_bytes((second / "one.npy").read_bytes()[:-8])
    verdict = verify(first, second)
    (wrong,) = [array for array in verdict.arrays if not array.ok]
    assert wrong.summary.endswith("NOT COMPARED") and "bytes" in wrong.problems[0]


def test_archives_that_differ_in_their_suffix_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", np.arange(3))
        zarr.create_array(str(tmp_path / name / "x.zarr"), data=np.arange(4))
    verdict = verify(tmp_path / "a", tmp_path / "b")
    assert verdict and sorted(array.key for array in verdict.arrays) == ["x.npy", "x.zarr"]
