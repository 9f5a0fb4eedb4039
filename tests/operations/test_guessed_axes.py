"""Axes that nobody named: where likely others than the usual ones, that is said once, with the argument that names them."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ingest_results import manifest_of

import mmapstore as mm
from mmapstore.cli import main
from mmapstore.doctor.examination import examine
from mmapstore.operations.describe import describe
from mmapstore.plain.errors import SourceWarning
from mmapstore.plain.guessed_axes import doubt_about

LAST = np.arange(6 * 32 * 24 * 3, dtype=np.uint16).reshape(6, 32, 24, 3)


def said(call: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    assert all(each.category is SourceWarning for each in found)
    return [str(each.message) for each in found]


def _npy(folder: Path) -> Any:
    np.save(folder / "x.npy", LAST)
    return str(folder / "x.npy")


def _npy_files(folder: Path) -> Any:
    for name in ("a.npy", "b.npy"):
        np.save(folder / name, LAST)
    return [str(folder / "a.npy"), str(folder / "b.npy")]


def _npz_files(folder: Path) -> Any:
    for name in ("a.npz", "b.npz"):
        np.savez(folder / name, x=LAST)
    return [str(folder / "a.npz"), str(folder / "b.npz")]


def _h5(folder: Path) -> Any:
    with h5py.File(folder / "x.h5", "w") as file:
        file["x"] = LAST
    return f"{folder / 'x.h5'}::/x"


SOURCES: dict[str, Callable[[Path], Any]] = {
    "array": lambda folder: LAST,
    "field": lambda folder: {"image": LAST, "label": np.arange(6)},
    "samples": lambda folder: iter(LAST),
    "blocks": lambda folder: iter([LAST[:4], LAST[4:]]),
    "npy": _npy,
    "several npy": _npy_files,
    "several npz": _npz_files,
    "HDF5": _h5,
}


@pytest.mark.parametrize("name", SOURCES)
def test_channels_that_are_stored_last_are_told_once_and_the_argument_ends_it(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    if name != "field":
        out = out.with_suffix(".npy")
    texts = said(lambda: mm.ingest(SOURCES[name](tmp_path), out, progress=False))
    assert len(texts) == 1 and "source_layout='NHWC' (--source-layout NHWC), or 'NCHW' if" in texts[0]
    layout = {"image": "NHWC"} if name == "field" else "NHWC"
    assert said(lambda: mm.ingest(SOURCES[name](tmp_path), out, source_layout=layout, overwrite=True, progress=False)) == []
    entry = manifest_of(str(out), "image" if name == "field" else None)
    assert entry.layout == "NCHW" and entry.shape[1:] == (3, 32, 24)
    assert said(lambda: mm.open(out)) == []  # the manifest names them


def test_megabatches_name_the_field_and_their_own_argument(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"images": LAST, "labels": [0, 1, 2, 3, 4, 5]}))
    for layout, expected in ((None, 1), ("NHWC", 0), ({"images": "NCHW"}, 0)):
        source = mm.Megabatches(tmp_path / "x.pkl", allow_pickle=True, layout=layout)
        texts = said(lambda source=source: mm.ingest(source, tmp_path / "out", overwrite=True, progress=False))
        assert len(texts) == expected
    source = mm.Megabatches(tmp_path / "x.pkl", allow_pickle=True)
    (text,) = said(lambda: mm.ingest(source, tmp_path / "out", overwrite=True, progress=False))
    assert text.startswith("The field 'images'") and "layout='NHWC' (--source-layout NHWC)" in text


@pytest.mark.parametrize("name", ["array", "field", "npy", "several npy", "HDF5"])
def test_open_and_convert_tell_the_same(tmp_path: Path, name: str) -> None:
    source = SOURCES[name](tmp_path)
    (text,) = said(lambda: mm.open(source))
    assert "layout='NHWC' (--layout NHWC), or 'NCHW' if" in text
    if name not in ("field", "several npy"):
        (text,) = said(lambda: mm.convert(source, tmp_path / "x.zarr", progress=False))
        assert "source_layout='NHWC' (--source-layout NHWC), or 'NCHW' if" in text
    assert said(lambda: mm.open(source, layout={"image": "NHWC"} if name == "field" else "NCHW")) == []


def test_info_and_doctor_tell_the_same_in_their_reports(tmp_path: Path) -> None:
    path = _npy(tmp_path)
    notes: list[str] = []
    assert said(lambda: notes.extend(describe(path).arrays[0].notes)) == []
    assert [note for note in notes if "layout='NHWC'" in note] == said(lambda: mm.open(path))
    (finding,) = [each for each in examine(path, quick=True).findings if each.code == "axes"]
    assert finding.found in notes[-1] and eval(finding.mend, {"mm": mm}).layout == "NHWC"


def test_the_command_line_tells_it_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingest", _npy(tmp_path), str(tmp_path / "out.npy")]) == 0
    assert capsys.readouterr().err.count("--source-layout NHWC") == 1


@pytest.mark.parametrize(
    ("matlab", "likely"), [((32, 24, 3, 6), "NCWH"), ((32, 24, 6), "NWH"), ((100, 7), "CN"), ((100, 1), None), ((1, 1), None)]
)
def test_axes_of_matlab_are_reversed(tmp_path: Path, matlab: tuple[int, ...], likely: str | None) -> None:
    array = np.arange(np.prod(matlab), dtype=np.float64).reshape(matlab)
    with h5py.File(tmp_path / "x.mat", "w") as file:
        file["x"] = array.T  # as MATLAB writes its columns
        file["x"].attrs["MATLAB_class"] = np.bytes_("double")
    path = f"{tmp_path / 'x.mat'}::/x"
    with h5py.File(tmp_path / "x.mat") as file:
        live = said(lambda: mm.ingest(file["x"], tmp_path / "live.npy", progress=False))
    for texts in (said(lambda: mm.open(path)), said(lambda: mm.ingest(path, tmp_path / "x.npy", progress=False)), live):
        assert len(texts) == (likely is not None)
        assert likely is None or (f"'{likely}'" in texts[0] and str(matlab) in texts[0])
    if likely is not None:
        assert said(lambda: mm.open(path, layout=likely)) == []
        out = mm.ingest(path, tmp_path / "y.npy", source_layout=likely, progress=False)
        expected = {4: array.transpose(3, 2, 0, 1) if len(matlab) == 4 else None, 3: np.moveaxis(array, -1, 0), 2: array}
        np.testing.assert_array_equal(np.load(out), expected[len(matlab)])


def test_shapes() -> None:
    doubted = {(5, 28, 28, 1): "NHWC", (5, 8, 8, 4): "NHWC", (5, 16, 64, 64, 3): "NDHWC"}
    for shape, likely in doubted.items():
        doubt = doubt_about("x", shape)
        assert doubt is not None and doubt.likely == likely
    for shape in ((5, 3, 64, 64), (5, 3, 64, 3), (5, 64, 64, 5), (5, 7, 64, 3), (5, 64, 3), (5, 3, 8, 64, 64), (5,) * 7):
        assert doubt_about("x", shape) is None
