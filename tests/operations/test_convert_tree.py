"""`convert_all`: one of everything into every target, and what the report says of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from tree_examples import WORDS, write_everything
from tree_judges import judge, load

import mmapstore as mm
from mmapstore.operations.convert.tree import convert_all
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError, MemoryBudgetError, NotFoundError, TargetExistsError


def converted(source, target, **options):
    return convert_all(source, target, progress=False, **options)


def outcomes(report):
    return {row.path: (row.outcome, row.how) for row in report.rows}


@pytest.fixture
def everything(tmp_path):
    return write_everything(tmp_path / "everything.h5")


@pytest.mark.parametrize("suffix", [".h5", ".zarr", ""])
def test_all_is_equal_or_listed(everything, tmp_path, suffix):
    target = tmp_path / f"out{suffix}"
    report = converted(everything, target)
    assert judge(everything, target, report) >= 25
    assert {path.name for path in tmp_path.iterdir()} == {"everything.h5", f"out{suffix}"}


def test_hdf5_to_hdf5_changes_nothing_but_makes_references_anew(everything, tmp_path):
    report = converted(everything, tmp_path / "out.h5")
    assert report.exit_code == 0
    changed = {path: how for path, (outcome, how) in outcomes(report).items() if outcome != "copied"}
    assert set(changed) == {
        "/ways/references", "/ways/regions", "/attributes", "/scales/field", "/scales/time", "/scales/x"
    }  # fmt: skip
    assert changed["/ways/references"] == "2 references made anew for this file"
    with h5py.File(everything) as source, h5py.File(tmp_path / "out.h5") as file:
        assert file["ways/again"] == file["plain/i1"]
        assert file["ways/up"] == file["ways"]
        assert file.get("ways/dangling", getlink=True).path == "/nowhere/at/all"
        assert file[file["ways/references"][0, 0]] == file["plain/i1"]
        assert not file["ways/references"][0, 1]
        region = file["ways/regions"][0]
        np.testing.assert_array_equal(file[region][region], source["stored/gzip"][3:5, 1:2])
        assert [scale.name for scale in file["scales/field"].dims[0].values()] == ["/scales/time"]
        assert file["scales/x"].is_scale
        assert file[file["attributes"].attrs["reference"]] == file["plain/i1"]
        assert file["named"].id.get_type().committed()
        assert file["kind"].attrs["why"] == "named"
        assert file["stored/unwritten"].id.get_storage_size() == 0
        assert file["stored/lzf"].maxshape == (None, 6, 5)


def test_hdf5_to_hdf5_keeps_user_block_and_order(tmp_path):
    path = write_everything(tmp_path / "ordered.h5", track_order=True)
    block = tmp_path / "matlab.mat"
    with h5py.File(block, "w", userblock_size=512, track_order=True) as file:
        file["z"], file["a"] = [1], [2]
    data = bytearray(block.read_bytes())
    data[:19] = b"MATLAB 7.3 MAT-file"
    block.write_bytes(data)
    assert converted(path, tmp_path / "out.h5").exit_code == 0
    assert converted(block, tmp_path / "block.h5").exit_code == 0
    assert (tmp_path / "block.h5").read_bytes().startswith(b"MATLAB 7.3 MAT-file")
    with h5py.File(tmp_path / "block.h5") as file:
        assert list(file) == ["z", "a"]


def test_what_zarr_lacks_is_changed_and_named(everything, tmp_path):
    report = converted(everything, tmp_path / "out.zarr")
    found = outcomes(report)
    assert found["/plain/people"] == ("changed", "a compound as a group of its members")
    assert found["/plain/people/position/x"] == ("changed", "one member of a compound; byte order: little-endian")
    assert found["/plain/i4be"] == ("changed", "byte order: little-endian")
    assert found["/plain/none"] == ("changed", "a null dataspace as a group without members")
    assert found["/plain/colours"] == ("changed", "an enumeration as its numbers")
    assert found["/ways/soft"][0] == "changed" and "'/stored/gzip' is noted" in found["/ways/soft"][1]
    assert found["/ways/references"] == ("changed", "object references as the paths they lead to")
    assert found["/kind"][0] == "changed"
    lost = {path: how for path, (outcome, how) in found.items() if outcome == "refused"}
    assert set(lost) == {"/ways/regions", "/attributes@region", "/kind@why"}
    assert "region references have no counterpart" in lost["/ways/regions"]
    assert report.exit_code == 1
    store = zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert dict(store["ways"].attrs)["mmapstore_links"] == {
        "dangling": "/nowhere/at/all", "soft": "/stored/gzip", "up": "/ways"
    }  # fmt: skip
    assert found["/ways/again"][0] == "changed" and "a copy of /plain/i1" in found["/ways/again"][1]
    with h5py.File(everything) as file:
        np.testing.assert_array_equal(store["ways/again"][:], file["ways/again"][:])
    assert store["ways/again"].attrs["units"] == "m"
    assert store["plain/words"][:].tolist() == WORDS
    assert store["plain/words"].metadata.to_dict()["data_type"] == "string"
    assert store["plain/colours"].attrs["enumeration"] == {"red": 1, "blue": 7}
    assert store["scales/field"].metadata.dimension_names == ("time", "x")  # as xarray names them; the label is an attribute
    assert store["scales/field"].attrs["DIMENSION_LABELS"] == ["", "easting"]
    assert not {"DIMENSION_LIST", "CLASS"} & {*store["scales/field"].attrs, *store["scales/x"].attrs}
    assert store["stored/filled"].fill_value == -9
    assert store["stored/gzip"].chunks == (16, 6, 5)
    assert store["attributes"].attrs["nan"] == "NaN"
    assert store["attributes"].attrs["latin"] == {"base64": "5A=="}


def test_a_directory_of_npy_keeps_the_tree(everything, tmp_path):
    converted(everything, tmp_path / "out")
    assert np.load(tmp_path / "out/plain/f4be.npy").dtype == np.dtype(">f4")
    assert np.load(tmp_path / "out/plain/words.npy").tolist() == [word.encode() for word in WORDS]
    assert np.load(tmp_path / "out/plain/scalar.npy") == np.float32(1.5)
    assert np.load(tmp_path / "out/plain/dates.npy").view("M8[ns]")[0] == np.datetime64("2020-01-01")
    lines = [json.loads(line) for line in (tmp_path / "out/tree.jsonl").read_text().splitlines()]
    by_path = {line["path"]: line for line in lines[1:]}
    assert by_path["/ways/up"] == {"path": "/ways/up", "kind": "alias", "target": "/ways"}
    assert by_path["/scales/field"]["dimensions"] == ["time", "x"]
    assert by_path["/stored/filled"]["fill"] == -9
    assert by_path["/plain/none"]["kind"] == "empty"


@pytest.mark.parametrize("middle", ["middle.zarr", "middle"])
def test_there_and_back_has_the_same_digests(everything, tmp_path, middle):
    """The digest is of the values, whatever holds them."""
    first = converted(everything, tmp_path / middle)
    again = converted(tmp_path / middle, tmp_path / "back.h5")
    assert again.exit_code == 0
    one = {row.path: row.sha256 for row in first.rows if row.sha256}
    other = {row.path: row.sha256 for row in again.rows if row.sha256}
    assert one == other and len(one) > 25
    with h5py.File(tmp_path / "back.h5") as file:
        assert file["plain/words"].asstr()[:].tolist() == WORDS
        assert file["attributes"].attrs["square"].tolist() == [[1, 0], [0, 1]]
        assert file["scales/field"].dims[1].label == "easting"
        assert file["stored/filled"].fillvalue == -9


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("target", ["out.zarr", "out.h5", "out"])
def test_zarr_stores(tmp_path, version, target):
    source = zarr.open_group(
        tmp_path / "a.zarr", mode="w", zarr_format=version, attributes={"list": [1, 2], "mixed": [1, "a", None]}
    )
    inner = source.create_group("g/h", attributes={"nan": float("nan")} if version == 2 else {})
    frames = np.arange(600, dtype="f4").reshape(50, 4, 3)
    inner.create_array("frames", data=frames, chunks=(20, 4, 3), attributes={"unit": "m"})
    inner.create_array("scalar", data=np.array(3, "i8"))
    report = converted(tmp_path / "a.zarr", tmp_path / target)
    assert report.exit_code == 0, report.to_text()
    found = outcomes(report)
    if target == "out.zarr":
        assert set(found.values()) == {("copied", "")}
        copy = zarr.open_group(tmp_path / target, mode="r")
        assert copy.metadata.zarr_format == version
        np.testing.assert_array_equal(copy["g/h/frames"][...], frames)
        assert copy.attrs["mixed"] == [1, "a", None]
    elif target == "out.h5":
        with h5py.File(tmp_path / target) as file:
            np.testing.assert_array_equal(file["g/h/frames"][...], frames)
            assert file["g/h/frames"].attrs["unit"] == "m"
            assert file.attrs["mixed"] == '[1, "a", null]'
        assert found["/@mixed"] == ("changed", "as JSON text")
    else:
        np.testing.assert_array_equal(np.load(tmp_path / "out/g/h/frames.npy"), frames)


def test_a_root_array_gets_a_name_where_a_root_cannot_be_one(tmp_path):
    zarr.save_array(tmp_path / "a.zarr", np.arange(5))
    np.save(tmp_path / "b.npy", np.arange(6))
    assert outcomes(converted(tmp_path / "a.zarr", tmp_path / "a.h5")) == {"/": ("changed", "named /data")}
    assert converted(tmp_path / "b.npy", tmp_path / "b.zarr").exit_code == 0
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["data"][:].tolist() == [0, 1, 2, 3, 4]
    assert zarr.open_group(tmp_path / "b.zarr", mode="r")["data"][:].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_group_alone(everything, tmp_path):
    report = converted(f"{everything}::/scales", tmp_path / "out.zarr")
    assert set(outcomes(report)) >= {"/", "/field", "/time", "/x"}
    assert zarr.open_group(tmp_path / "out.zarr", mode="r")["field"].metadata.dimension_names == ("time", "x")
    with pytest.raises(InvalidValueError, match=r"is one array, not a group\. Convert it without --all"):
        converted(f"{everything}::/scales/x", tmp_path / "other.zarr")


def test_the_report(everything, tmp_path):
    report = converted(everything, tmp_path / "out.zarr")
    report.write_csv(tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report.rows)
    assert {row["outcome"] for row in rows} == {"copied", "changed", "refused"}
    assert sum(int(row["bytes"]) for row in rows) == report.nbytes
    assert "refused  /ways/regions  (array): region references" in report.to_text()
    assert report.to_json()["counts"]["refused"] == 3
    seen = []
    convert_all(everything, tmp_path / "again.zarr", progress=seen.append)
    assert tuple(seen) == report.rows


def test_an_existing_target_is_kept_or_replaced(everything, tmp_path):
    target = tmp_path / "out.zarr"
    converted(everything, target)
    with pytest.raises(TargetExistsError, match=r"out\.zarr exists\. Pass overwrite=True"):
        converted(everything, target)
    with h5py.File(tmp_path / "small.h5", "w") as file:
        file["x"] = [1, 2]
    converted(tmp_path / "small.h5", target, overwrite=True)
    assert sorted(zarr.open_group(target, mode="r").array_keys()) == ["x"]
    assert not (tmp_path / "out.zarr.replaced").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    with pytest.raises(TargetExistsError, match=r"is not a directory of \.npy that would be replaced"):
        converted(everything, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine/thesis.tex").read_text() == "x"


def test_wrong_arguments_say_what_is_right(everything, tmp_path):
    with pytest.raises(InvalidValueError, match=r"a kind that no tree is written to; expected \.zarr"):
        converted(everything, tmp_path / "out.npy")
    with pytest.raises(InvalidValueError, match="leave '::' and what follows out"):
        converted(everything, f"{tmp_path}/out.h5::/x")
    with pytest.raises(InvalidValueError, match="is the target, and the same as"):
        converted(everything, everything, overwrite=True)
    with pytest.raises(NotFoundError, match="does not exist"):
        converted(tmp_path / "none.h5", tmp_path / "out.zarr")
    (tmp_path / "circle.h5").symlink_to("circle.h5")
    with pytest.raises(NotFoundError, match=r"circle\.h5 does not exist\. It is a link to circle\.h5, where nothing is\."):
        converted(tmp_path / "circle.h5", tmp_path / "out.zarr")
    with pytest.raises(InvalidTypeError, match="progress=3 is not understood"):
        convert_all(everything, tmp_path / "out.zarr", progress=3)
    with pytest.raises(MemoryBudgetError, match="Converting a tree would need"):
        converted(everything, tmp_path / "out.zarr", max_memory="1MB")


def test_a_chunk_that_does_not_fit_is_refused_with_the_number_that_would_do(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("huge", data=np.zeros((1 << 22,), "f4"), chunks=(1 << 22,), compression="gzip")
        file["small"] = [1]
    report = converted(tmp_path / "a.h5", tmp_path / "out.zarr", max_memory="60MB")
    outcome, how = outcomes(report)["/huge"]
    assert outcome == "refused"
    needed = how.split("at least ")[1].rstrip(".")
    assert outcomes(report)["/small"] == ("copied", "")
    assert converted(tmp_path / "a.h5", tmp_path / "more.zarr", max_memory=needed).exit_code == 0


def test_chunks_that_fight_the_order_are_read_right(tmp_path):
    values = np.arange(64 * 300 * 300, dtype="i4").reshape(64, 300, 300)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=values, chunks=(64, 100, 100), compression="gzip", compression_opts=1)
    report = converted(tmp_path / "a.h5", tmp_path / "out", max_memory="55MB")
    np.testing.assert_array_equal(np.load(tmp_path / "out/x.npy"), values)
    assert "because they fight the order of writing" in outcomes(report)["/x"][1]


@pytest.fixture
def nexus(tmp_path):
    """Large arrays with several names, of which NeXus and soft links use some."""
    with h5py.File(tmp_path / "nexus.h5", "w") as file:
        detector = file.create_group("a_detector")
        for number, name in enumerate(("raw", "plotted", "linked", "unnamed")):
            detector[name] = np.full(1 << 18, number, "f8")
        detector["short"] = np.arange(3)
        data = file.create_group("entry/data")
        for name in ("plotted", "unnamed", "short"):
            data[f"the_{name}"] = detector[name]
        data["image"] = detector["raw"]
        data["target"] = detector["linked"]
        file["latest"] = h5py.SoftLink("entry/data/target")
        data.attrs["signal"] = "the_plotted"
        detector["raw"].attrs["target"] = "/entry/data/image"
        file["z"] = file["entry"]  # of a group: nothing names it
    return tmp_path / "nexus.h5"


@pytest.mark.parametrize("suffix", [".zarr", ""])
def test_of_several_names_the_one_referred_to_has_the_values(nexus, tmp_path, suffix):
    report = converted(nexus, tmp_path / f"out{suffix}")
    found = {row.path: row for row in report.rows}
    arrays = {row.path for row in report.rows if row.kind == "array"}
    assert arrays == {
        "/entry/data/image", "/entry/data/the_plotted", "/entry/data/target", "/a_detector/unnamed", "/a_detector/short"
    }  # fmt: skip
    assert "'/entry/data/the_plotted' is noted" in found["/a_detector/plotted"].how
    short = found["/entry/data/the_short"]
    assert (short.kind, short.outcome, short.nbytes) == ("alias", "changed", 24) and short.sha256
    assert "a copy of /a_detector/short" in short.how
    assert report.exit_code == 0 and len(report.rows) == len(found)
    for number, name in enumerate(("image", "the_plotted", "target")):
        assert (load(tmp_path / f"out{suffix}", f"entry/data/{name}") == number).all()
    assert load(tmp_path / f"out{suffix}", "entry/data/the_short").tolist() == [0, 1, 2]


def test_a_name_that_leads_through_the_object_itself_is_not_preferred(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a/x"] = [1]
        file["a/again"] = file["a"]
        file["a"].attrs["default"] = "again"
    report = converted(tmp_path / "a.h5", tmp_path / "out.zarr")
    assert {row.path: row.kind for row in report.rows} == {"/": "group", "/a": "group", "/a/again": "alias", "/a/x": "array"}


def test_a_long_text_that_would_pad_all_others_in_an_npy_file_is_refused_with_numbers(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        texts = np.array(["x" * 300_000, *(["abc"] * 300)], object)
        file.create_dataset("texts", data=texts, dtype=h5py.string_dtype())
        file["others"] = np.arange(3)
    found = outcomes(converted(tmp_path / "a.h5", tmp_path / "out"))
    refusal = "it holds 301 texts of 301 kB in all, but the longest has 300 kB: padded to that width they would take 90.3 MB"
    assert found["/texts"][0] == "refused" and refusal in found["/texts"][1]
    assert found["/others"][0] == "copied"
    assert outcomes(converted(tmp_path / "a.h5", tmp_path / "out.zarr"))["/texts"][0] == "copied"


def _described_store(path):
    """Two fields with episodes, names of classes and a mixed order, in one container with a manifest."""
    frames = np.arange(12 * 6, dtype="<f4").reshape(12, 6)
    mm.ingest({"frames": frames, "label": np.arange(12) % 3}, path, layout={"frames": "NC", "label": "N"}, progress=False)
    beside = Path(f"{path}.mmapstore.json")
    found = json.loads(beside.read_text())
    found["fields"]["label"]["notes"] = {"classes": ["a", "b", "c"], "order": [{"samples": 12, "order": "mixed", "seed": 3}]}
    for entry in found["fields"].values():
        entry["episodes"] = [0, 5, 12]
    beside.write_text(json.dumps(found))


@pytest.mark.parametrize(("source", "target"), [("a.h5", "b.hdf5"), ("a.h5", "b.zarr"), ("a.zarr", "b.h5"), ("a.zarr", "b.zarr")])
def test_what_the_manifest_says_of_kept_arrays_is_carried_over(tmp_path, source, target):
    _described_store(tmp_path / source)
    convert_all(tmp_path / source, tmp_path / target, progress=False)
    made, expected = mm.open(tmp_path / target), mm.open(tmp_path / source)
    assert made.class_names == ["a", "b", "c"] and made.mixed
    assert made.episodes.tolist() == expected.episodes.tolist() == [0, 5, 12]
    arrays = [mm.verify(tmp_path / path, progress=False).arrays for path in (target, source)]
    assert [array.sha256 for array in arrays[0]] == [array.sha256 for array in arrays[1]]
    assert all(array.ok and array.sha256 for array in arrays[0])


def test_arrays_that_the_manifest_does_not_describe_any_more_are_left_out_of_it(tmp_path):
    _described_store(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["frames"][3] = -1
        file["more/frames"] = np.zeros(3)
    convert_all(tmp_path / "a.h5", tmp_path / "b.zarr", progress=False)
    assert [*json.loads((tmp_path / "b.zarr.mmapstore.json").read_text())["fields"]] == ["label"]
    convert_all(f"{tmp_path}/a.h5::/more", tmp_path / "c.zarr", progress=False)
    convert_all(tmp_path / "a.h5", tmp_path / "d", progress=False)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(("c.zarr.mm", "d.mm"))]
    Path(tmp_path / "a.h5.mmapstore.json").write_text("{")
    convert_all(tmp_path / "a.h5", tmp_path / "b.zarr", overwrite=True, progress=False)
    assert not (tmp_path / "b.zarr.mmapstore.json").exists()


def test_a_run_killed_before_the_manifest_writes_it_under_another_spelling_of_the_path(tmp_path, monkeypatch):
    _described_store(tmp_path / "a.h5")
    (tmp_path / "link.h5").symlink_to(tmp_path / "a.h5")

    def killed(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("mmapstore.operations.flow.publishing.write_manifest", killed)
        convert_all(tmp_path / "a.h5", tmp_path / "b.zarr", progress=False)
    assert (tmp_path / "b.zarr").exists() and not (tmp_path / "b.zarr.mmapstore.json").exists()
    monkeypatch.chdir(tmp_path)
    convert_all("./link.h5", "b.zarr", progress=False)
    assert mm.open("b.zarr").class_names == ["a", "b", "c"]
    assert not list(tmp_path.glob("*.partial*json"))
