"""`mmapstore info`: the lines to copy from it can be run."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from mmapstore.batches.opening import open_dataset
from mmapstore.cli import main
from mmapstore.operations.describe import describe
from mmapstore.operations.ingest import ingest


def advice(path: object, layout: str | None = None) -> list[str]:
    """The `mmapstore ingest` line among the notes, split as a shell would."""
    (line,) = [note for array in describe(str(path), layout).arrays for note in array.notes if "mmapstore ingest" in note]
    return shlex.split(line.partition("mmapstore ")[2])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("run 1.npy", np.zeros((5, 6, 8, 9), np.uint8))
    np.save("run 2.npy", np.zeros((5, 6, 8, 9), np.uint8))
    np.save("f.npy", np.asfortranarray(np.arange(6 * 8 * 9.0).reshape(6, 8, 9)))
    return tmp_path


@pytest.mark.parametrize(
    ("path", "layout", "shape"), [("run 1.npy", "TNHW", (30, 8, 9)), ("run*.npy", "TNHW", (60, 8, 9)), ("f.npy", None, (6, 8, 9))]
)
def test_the_line_that_mends_a_slow_order_can_be_run(
    folder: Path, path: str, layout: str | None, shape: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = advice(path, layout)
    assert main(arguments) == 0, capsys.readouterr().err
    assert np.load(folder / arguments[2]).shape == shape
    assert not any("mmapstore ingest" in note for array in describe(arguments[2]).arrays for note in array.notes)


def test_one_field_of_a_directory(folder: Path) -> None:
    ingest({"image": np.zeros((30, 4, 5, 3)), "label": np.arange(30)}, "store", source_layout={"image": "NHWC"})
    assert [array.name for array in describe("store").arrays] == ["field 'image'", "field 'label'"]
    found = describe("store::/label")
    assert (found.kind, [array.name for array in found.arrays]) == ("in a directory that mmapstore wrote", ["store::/label"])
    assert found.open_with == "mmapstore.open('store::/label')"


def test_the_glob_that_is_proposed_is_of_what_is_there(folder: Path) -> None:
    assert describe(".").notes == ("open one of them, or join those of one kind with a glob such as '*.npy'",)
    ingest(np.zeros((4, 3)), "stores.zarr")
    (folder / "stores").mkdir()
    (folder / "stores.zarr").rename(folder / "stores" / "only.zarr")
    assert describe("stores").notes == ("open one of them",)


def test_fields_written_together_are_opened_together(tmp_path):
    pytest.importorskip("h5py")
    fields = {"image": np.zeros((6, 3, 4, 4), "f4"), "label": np.arange(6)}
    path = str(tmp_path / "both.h5")
    assert ingest(fields, path) == path
    found = describe(path)
    assert found.open_with == f"mmapstore.open({path!r})" and len(found.arrays) == 2
    assert set(open_dataset(path).fields) == {"image", "label"}
    assert describe(f"{path}::/label").open_with == f"mmapstore.open({path + '::/label'!r})"


def handed_over(path: Path) -> list[str]:
    (array,) = describe(path).arrays
    assert array.place == "memory-mapped"
    return [note for note in array.notes if "TensorFlow" in note]


def test_what_to_keras_hands_over_without_a_copy(tmp_path: Path) -> None:
    path, frames = tmp_path / "x.npy", np.arange(40 * 24, dtype=np.float32)
    words = "to_keras() hands x of unshuffled batches to TensorFlow without a copy"
    np.save(path, frames.reshape(60, 16))
    assert handed_over(path) == [words]
    np.save(path, frames.reshape(40, 24))
    assert handed_over(path) == [f"{words}, where the batch size is a multiple of 2"]
    np.save(path, frames.reshape(-1, 3).view(np.uint8)[:, :3])
    assert handed_over(path) == [f"{words}, where the batch size is a multiple of 64"]


def test_what_begins_anywhere_is_not_said_to_be_handed_over(tmp_path: Path) -> None:
    path, frames = tmp_path / "x.npy", np.arange(60 * 16, dtype=np.float32).reshape(60, 16)
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {frames.shape}, }}".encode().ljust(69) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + frames.tobytes())
    assert handed_over(path) == []


def test_a_link_to_nothing_is_listed_as_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 3)))
    (tmp_path / "b.npy").symlink_to(tmp_path / "nowhere.npy")
    found = describe(tmp_path)
    assert [(each.name, each.bytes_on_disk, len(each.refused)) for each in found.archives] == [("a.npy", 224, 0), ("b.npy", 0, 1)]
    assert found.bytes_on_disk == 224


def test_classes_that_lie_sorted_are_told_of(tmp_path):
    label = np.repeat([0, 1], [300, 60])
    for number, (values, told) in enumerate([(label, True), (np.tile([0, 1], 180), False)]):
        ingest({"image": np.zeros((360, 4)), "label": values}, str(tmp_path / f"{number}.h5"))
        ingest({"image": np.zeros((360, 4)), "labels": values}, str(tmp_path / f"{number}"))
        for path in (tmp_path / f"{number}.h5", tmp_path / f"{number}"):
            image, found = describe(path).arrays
            assert not any("classes" in note for note in image.notes)
            notes = [
                note for note in found.notes if "its classes lie one after the other (300 of class 0, then 60 of class 1)" in note
            ]
            assert bool(notes) == told
            if told:
                line = notes[0].rpartition(": ")[2]
                parts = eval(line, {"ds": open_dataset(str(path))})
                assert [len(part) for part in parts] == [288, 72]
