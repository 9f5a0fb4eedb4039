"""The law: `verify SRC DST` right after `convert SRC DST` says what the report of that says, object by object."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_examples import write_everything

from mmapstore.cli import main
from mmapstore.operations.convert.archives import TO, convert_directory
from mmapstore.operations.convert.tree import convert_all
from mmapstore.operations.verify import verify
from mmapstore.plain.errors import DamagedFileError

TARGETS = [".h5", ".zarr", ""]
_MISSING_FILTER = 32_999


# --- what files hold that is awkward ---------------------------------------------------------------------------------------


def hard_links(group):
    group["array"] = np.arange(5)
    group["array_again"] = group["array"]
    group["large"] = np.arange(200_000.0)
    group["large_again"] = group["large"]
    group.attrs["signal"] = "large_again"
    group["inner/x"] = [1]
    group["inner_again"] = group["inner"]
    group["inner/around"] = group


def links(group):
    group["target"] = np.arange(3)
    group["soft"] = h5py.SoftLink(f"{group.name}/target")
    group["relative"] = h5py.SoftLink("target")
    group["dangling"] = h5py.SoftLink("/nowhere")
    group["external"] = h5py.ExternalLink("elsewhere.h5", "/x")
    group["external_again"] = h5py.ExternalLink("elsewhere.h5", "/x")


def nulls(group):
    group["null"] = h5py.Empty("f4")
    group["null_again"] = group["null"]
    group["null"].attrs["why"] = "nothing was measured"
    group.attrs["null"] = h5py.Empty("i4")
    group["empty"] = np.zeros((0, 3))
    group.create_group("no members")


def texts(group):
    group["words"] = np.array(["a", "", "\u00e9"], object).astype(h5py.string_dtype())
    group["padded"] = np.array(["x" * 300_000, *["abc"] * 300], object).astype(h5py.string_dtype())  # no .npy file holds it
    group["one"] = "text"
    group["fixed"] = np.array([b"ab", b"c"])
    group["latin"] = np.array([b"\xe4", b"c"], object).astype(h5py.string_dtype("ascii"))
    group["dates"] = np.array(["2020-01-01", "NaT"], "M8[s]").astype(h5py.opaque_dtype("M8[s]"))


def types(group):
    group["big"] = np.arange(4, dtype=">i4")
    group["long"] = np.arange(3, dtype=np.longdouble)
    group["complex"] = np.arange(3) * 1j
    group["opaque"] = np.array([b"\0\1", b"\2\3"], "V2")
    group.create_dataset("colours", data=[1, 7], dtype=h5py.enum_dtype({"red": 1, "blue": 7}, "i2"))
    runs = group.create_dataset("runs", (3,), h5py.vlen_dtype("f4"))
    runs[1] = [1, 2]
    group["table"] = np.zeros(3, [("x", "f4"), ("..", "i4"), ("inner", [("y", "i2"), ("z", "S3")])])
    group["table_again"] = group["table"]
    group["kind"] = np.dtype("f4")
    group["kind"].attrs["why"] = "named"
    group.create_dataset("named", (2,), dtype=group["kind"])


def references(group):
    group["target"] = np.arange(9)
    group["target_again"] = group["target"]
    found = group.create_dataset("objects", (3,), h5py.ref_dtype)
    found[0], found[1] = group["target"].ref, group.ref
    regions = group.create_dataset("regions", (3,), h5py.regionref_dtype)
    regions[0], regions[1] = group["target"].regionref[2:4], group["target"].regionref[[1, 5, 8]]
    group.create_dataset("both", (1,), np.dtype([("n", "i4"), ("region", h5py.regionref_dtype)]))
    group.attrs["object"] = group["target"].ref
    group.attrs.create("region", regions[0], dtype=h5py.regionref_dtype)
    layout = h5py.VirtualLayout((2,), "i8")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (2,))
    lost = group.create_virtual_dataset("virtual", layout)
    group["virtual_again"] = lost
    found[2] = lost.ref
    group.attrs["lost"] = lost.ref


def filters(group):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((4,))
    plist.set_filter(_MISSING_FILTER, h5py.h5z.FLAG_OPTIONAL, (1, 2))
    made = h5py.h5d.create(group.id, b"missing filter", h5py.h5t.NATIVE_INT32, h5py.h5s.create_simple((8,)), plist)
    for start in (0, 4):
        made.write_direct_chunk((start,), np.arange(start, start + 4, dtype="i4").tobytes())
    group["missing_again"] = group["missing filter"]
    group["missing filter"].attrs["units"] = "m"
    group.create_dataset("gzip", data=np.arange(100), chunks=(30,), compression="gzip")
    group.create_dataset("filled", (9,), "f4", chunks=(3,), fillvalue=-9)[2:4] = 1


def names(group):
    for name in ("..", "a\\b", "x" * 300, "zarr.json", "tree.jsonl", "line\nbreak", "a@b", "a b"):
        group[name.encode()] = [len(name)]
        group[name.encode()].attrs["units"] = "m"
    group.create_group("zarr.json.d").create_group("..")["below"] = [1]
    group["file"] = [1]
    group["file.npy/below"] = [2]


def attributes(group):
    group["array"] = [1]
    group.create_dataset("described", data=[1], track_order=True).attrs["beyond 64 kB"] = np.arange(10_000)
    for item in (group, group["array"]):
        item.attrs["nan"] = np.nan
        item.attrs["complex"] = 1j
        item.attrs["latin"] = np.bytes_(b"\xe4")
        item.attrs["a@b"] = np.float32(0.1)
        item.attrs["words"] = ["a", "b"]
        item.attrs["square"] = np.eye(2)
        item.attrs["long"] = np.longdouble(1) / 3
        item.attrs.create("table", np.zeros(2, [("x", "f4")]))
        item.attrs.create("enum", 7, dtype=h5py.enum_dtype({"red": 1, "blue": 7}, "i2"))
        item.attrs["large"] = "x" * 63_000


def scales(group):
    group["time"], group["x"] = np.arange(4.0), np.arange(3.0)
    group["time"].make_scale("time of day")
    group["x"].make_scale()
    group["field"] = np.ones((4, 3), "f4")
    group["field"].dims[0].attach_scale(group["time"])
    group["field"].dims[1].attach_scale(group["x"])
    group["field"].dims[1].label = "easting"


INGREDIENTS = [hard_links, links, nulls, texts, types, references, filters, names, attributes, scales]


def damaged(path):
    """Append a dataset one chunk of which cannot be decoded."""
    with h5py.File(path, "a") as file:
        made = file.create_dataset("damaged", data=np.arange(10_000), chunks=(10_000,), compression="gzip")
        place = made.id.get_chunk_info(0)
        file["damaged_again"] = made
    with path.open("r+b") as file:
        file.seek(place.byte_offset + 20)
        file.write(b"\xff" * 200)


def awkward(path, ingredients, is_damaged=False):
    with h5py.File(path, "w") as file:
        for add in ingredients:
            add(file.create_group(add.__name__))
    if is_damaged:
        damaged(path)
    return path


# --- the law ---------------------------------------------------------------------------------------------------------------


def judge(source, target) -> list[str]:
    """Convert, verify, and assert that both say the same of each object and attribute. Returns the outcomes that were seen."""
    report = convert_all(source, target, progress=False)
    verdict = verify(source, target, progress=False)
    text = f"{source} -> {target}\n{report.to_text()}\n{verdict.to_text()}"
    found = {array.key.strip("/"): array for array in verdict.arrays}
    absent = set(verdict.missing)
    objects = [row for row in report.rows if row.kind != "attribute"]
    root = "data" if any(row.path == "/" and row.kind == "array" and "named /data" in row.how for row in objects) else ""
    for row in report.rows:
        path, name = row.path, ""
        if row.kind == "attribute":
            path = max((each.path for each in objects if row.path.startswith(f"{each.path}@")), key=len)
            name = row.path[len(path) + 1 :]
        key = f"{root}/{path.strip('/')}".strip("/")
        said = found.get(key)
        where = f"{row}\n{said}\n{text}"
        if row.is_lost:
            is_named = said is not None and not said.ok and any(row.how in line and name in line for line in said.problems)
            assert is_named or key in absent or (row.outcome == "failed" and said is not None and not said.ok), where
        elif row.how:
            notes = [*(said.notes if said is not None else ()), *verdict.notes]
            assert any(row.how in note and name in note for note in notes), where
        elif row.kind == "array" and row.sha256:
            assert said is not None or any(each.startswith(f"{key}/".lstrip("/")) for each in found), where  # or its parts
        if not row.is_lost and row.kind != "attribute":
            lost = [each.path for each in report.rows if each.is_lost and each.kind == "attribute"]
            assert said is None or said.ok or any(each.startswith(f"{path}@") for each in lost), where
    assert bool(verdict) is (report.exit_code == 0), text
    assert not verdict.extra and all(each.is_lost for each in report.rows if each.path.strip("/") in absent), text
    return [row.outcome for row in report.rows]


@pytest.mark.parametrize("suffix", TARGETS)
@pytest.mark.parametrize("ingredient", INGREDIENTS, ids=lambda add: add.__name__)
def test_each_awkward_thing(tmp_path, ingredient, suffix):
    judge(awkward(tmp_path / "a.h5", [ingredient]), tmp_path / f"out{suffix}")


@pytest.mark.parametrize("suffix", TARGETS)
def test_what_cannot_be_read(tmp_path, suffix):
    assert "failed" in judge(awkward(tmp_path / "a.h5", [], is_damaged=True), tmp_path / f"out{suffix}")


@pytest.mark.parametrize("middle", [".zarr", ""])
def test_there_and_back(tmp_path, middle):
    judge(awkward(tmp_path / "a.h5", [hard_links, nulls]), tmp_path / f"middle{middle}")
    judge(tmp_path / f"middle{middle}", tmp_path / "back.h5")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", TARGETS)
def test_all_of_them_and_on_from_there(tmp_path, suffix):
    source = awkward(tmp_path / "a.h5", INGREDIENTS, is_damaged=True)
    seen = judge(source, tmp_path / f"out{suffix}")
    assert {"copied", "changed", "refused", "failed"} <= set(seen)
    for further in TARGETS:
        judge(tmp_path / f"out{suffix}", tmp_path / f"on{further}")
    judge(write_everything(tmp_path / "everything.h5"), tmp_path / f"all{suffix}")


@pytest.mark.slow
@settings(max_examples=60)
@given(st.lists(st.sampled_from(INGREDIENTS), unique=True, max_size=4), st.booleans(), *[st.sampled_from(TARGETS)] * 2)
def test_any_of_them(tmp_path_factory, ingredients, is_damaged, suffix, further):
    folder = tmp_path_factory.mktemp("any")
    source = awkward(folder / "a.h5", ingredients, is_damaged)
    judge(source, folder / f"out{suffix}")
    judge(folder / f"out{suffix}", folder / f"on{further}")


ROOTS = {
    "text": np.array(["a", "bc", "\u00e9"]),
    "bytes": np.array([b"a", b"bc"]),
    "dates": np.array(["2020-01-01", "NaT"], "M8[s]"),
    "spans": np.array([3, 4], "m8[ms]"),
    "numbers": np.arange(6.0).reshape(2, 3),
    "scalar": np.array(3.5),
    "nothing": np.zeros((0, 3)),
    "flags": np.array([True, False]),
    "table": np.array([(1, 2.5), (3, 4.5)], [("a", "i4"), ("b", "f8")]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", TARGETS)
@pytest.mark.parametrize("kind", ROOTS)
def test_a_store_that_is_one_array(tmp_path, kind, suffix):
    made = zarr.create_array(str(tmp_path / "a.zarr"), data=ROOTS[kind])
    made.attrs["units"] = "m"
    made.attrs["mixed"] = [1, "a", None]
    judge(tmp_path / "a.zarr", tmp_path / f"out{suffix}")


@pytest.mark.parametrize("suffix", TARGETS)
@pytest.mark.parametrize("version", [2, 3])
def test_a_store_of_groups(tmp_path, version, suffix):
    store = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=version, attributes={"large": "x" * 70_000})
    inner = store.create_group("inner/most", attributes={"nul": "a\0b", "deep": {"a": [1, {"b": None}]}})
    inner.create_array("numbers", data=np.arange(6, dtype=">i4"), chunks=(4,), attributes={"": "no name"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not part of the specification of Zarr 3
        zarr.consolidate_metadata(store.store)
    (tmp_path / "a.zarr/implicit").mkdir()
    judge(tmp_path / "a.zarr", tmp_path / f"out{suffix}")


@pytest.mark.parametrize("suffix", TARGETS)
@pytest.mark.parametrize("kind", list(ROOTS))
def test_a_file_of_numpy(tmp_path, kind, suffix):
    np.save(tmp_path / "a.npy", ROOTS[kind])
    judge(tmp_path / "a.npy", tmp_path / f"out{suffix}")


def test_the_commands_end_alike(tmp_path, capsys):
    for ingredient in (nulls, references):
        source = str(awkward(tmp_path / f"{ingredient.__name__}.h5", [ingredient]))
        codes = [main([*words, source, f"{source}.zarr"]) for words in (["convert", "--all"], ["verify"])]
        assert codes == [int(ingredient is references)] * 2
        assert "null" in capsys.readouterr().out or ingredient is references


@pytest.mark.parametrize("to", TO)
def test_a_directory_of_archives(tmp_path, to):
    source = tmp_path / "in"
    (source / "deep").mkdir(parents=True)
    awkward(source / "two.h5", [nulls, links])
    awkward(source / "two.nc", [hard_links])
    awkward(source / "deep/refused.h5", [references])
    np.save(source / "one.npy", np.arange(6))
    (source / "one.txt").write_text("left out, under the name of an archive")
    np.savez(source / "left out.npz", x=np.arange(3))
    (source / "linked.npy").symlink_to(source / "one.npy")
    report = convert_directory(source, tmp_path / "out", to=to, progress=False)
    verdict = verify(source, tmp_path / "out", progress=False)
    assert not verdict and report.exit_code == 1 and not verdict.missing and not verdict.extra, verdict.to_text()
    assert not any("mmapstore-conversion" in note for note in verdict.notes)
    said = " ".join(problem for array in verdict.arrays for problem in array.problems)
    assert all(row.how in said for row in report.rows if row.is_lost)
    for path in ("two.h5", "deep/refused.h5"):
        (source / path).unlink()
    left = convert_directory(source, tmp_path / "again", to=to, progress=False)
    assert verify(source, tmp_path / "again", progress=False) and left.exit_code == 0
    (source / "broken.h5").write_text("no archive")
    left = convert_directory(source, tmp_path / "again", to=to, progress=False)
    verdict = verify(source, tmp_path / "again", progress=False)
    assert not verdict and left.exit_code == 1 and verdict.missing == ("broken",)


def test_what_is_missing_is_not_called_changed_as_well(tmp_path):
    source = awkward(tmp_path / "a.h5", [hard_links, nulls])
    with h5py.File(source, "a") as file:
        file["compound"] = np.zeros(2, "i4,f8")
    zarr.create_group(tmp_path / "b.zarr")
    verdict = verify(source, tmp_path / "b.zarr", progress=False)
    assert {"compound/f0", "compound/f1"} <= set(verdict.missing)
    assert not {f"/{name}" for name in (*verdict.missing, "compound")} & {array.key for array in verdict.arrays}


def test_dimensions_that_a_conversion_adds_are_not_called_further(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=np.arange(3), dimension_names=["x"])
    convert_all(tmp_path / "a.zarr", tmp_path / "b.h5", progress=False)
    verdict = verify(tmp_path / "a.zarr", tmp_path / "b.h5", progress=False)
    assert verdict and "further" not in verdict.to_text()


def test_what_is_kept_in_other_files(tmp_path):
    with h5py.File(tmp_path / "elsewhere.h5", "w") as file:
        file["x"] = np.arange(2)
        file["group/inner"] = np.arange(3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["link"] = h5py.ExternalLink("elsewhere.h5", "/group")
        references(file.create_group("references"))
    for suffix in TARGETS:
        target = tmp_path / f"out{suffix}"
        report = convert_all(tmp_path / "a.h5", target, allow_links=True, progress=False)
        assert "/link/inner" in {row.path for row in report.rows}
        assert bool(verify(tmp_path / "a.h5", target, allow_links=True, progress=False)) is (report.exit_code == 0), (
            report.to_text()
        )
        assert not verify(tmp_path / "a.h5", target, progress=False)


# --- what is not as a conversion leaves it ---------------------------------------------------------------------------------


def edited(target: Path, key: str, value) -> None:
    """An attribute of the group "links", as a target keeps them."""
    if target.suffix == ".zarr":
        file = target / "links/zarr.json"
        metadata = json.loads(file.read_text())
        metadata["attributes"]["mmapstore_links"][key] = value
        file.write_text(json.dumps(metadata))
    elif target.suffix == ".h5":
        with h5py.File(target, "r+") as opened:
            del opened[f"links/{key}"]
            opened[f"links/{key}"] = h5py.SoftLink(value)
    else:
        file = target / "tree.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        next(line for line in lines if line.get("path") == f"/links/{key}")["target"] = value
        file.write_text("\n".join(map(json.dumps, lines)))


@pytest.mark.parametrize("suffix", TARGETS)
def test_a_link_that_leads_elsewhere(tmp_path, suffix):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("links")
        group["target"], group["other"] = [1], [2]
        group["soft"] = h5py.SoftLink("/links/target")
    target = tmp_path / f"out{suffix}"
    judge(tmp_path / "a.h5", target)
    edited(target, "soft", "/links/other")
    verdict = verify(tmp_path / "a.h5", target)
    (wrong,) = [array for array in verdict.arrays if not array.ok]
    assert wrong.key == ("/links" if suffix == ".zarr" else "/links/soft")


def test_a_region_that_selects_other_elements(tmp_path):
    for name, part in (("a", slice(2, 4)), ("b", slice(2, 5))):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["x"] = np.arange(9)
            file.create_dataset("r", (1,), h5py.regionref_dtype)[0] = file["x"].regionref[part]
    verdict = verify(tmp_path / "a.h5", tmp_path / "b.h5")
    assert [array.key for array in verdict.arrays if not array.ok] == ["r"]


def test_attributes_without_a_counterpart_are_compared_within_hdf5(tmp_path):
    for name, third in (("a", np.longdouble(1) / 3), ("b", np.longdouble(1) / 3), ("c", np.longdouble(2) / 3)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["x"], file["y"] = [1], [2]
            file["x"].attrs["third"] = third
            region = file["y"].regionref[0:1] if name != "c" else file["x"].regionref[0:1]
            file.attrs.create("region", region, dtype=h5py.regionref_dtype)
    verdict = verify(tmp_path / "a.h5", tmp_path / "b.h5")
    assert verdict and not any("further" in note or "not compared" in note for array in verdict.arrays for note in array.notes)
    verdict = verify(tmp_path / "a.h5", tmp_path / "c.h5")
    wrong = {array.key: array.problems for array in verdict.arrays if not array.ok}
    assert set(wrong) == {"/", "x"} and "attribute 'region': '/y boxes" in wrong["/"][0] and "'third'" in wrong["x"][0]


def test_chunks_that_cannot_be_decoded_here_are_compared_as_stored(tmp_path):
    for name in ("a", "b"):
        awkward(tmp_path / f"{name}.h5", [filters])
    assert verify(tmp_path / "a.h5", tmp_path / "b.h5")
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        file["filters/missing filter"].id.write_direct_chunk((4,), bytes(16))
    verdict = verify(tmp_path / "a.h5", tmp_path / "b.h5")
    assert [array.key for array in verdict.arrays if not array.ok] == ["filters/missing filter"]


def test_what_only_the_library_of_a_format_reads_is_compared_by_it(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise DamagedFileError("the chunk at (0,) is said to be damaged")

    source = awkward(tmp_path / "a.h5", [filters])
    for module in ("verify.rows", "convert.tree_values"):
        monkeypatch.setattr(f"mmapstore.operations.{module}.reader_for", refuse)
    judge(source, tmp_path / "out.h5")
