"""Every HDF5 file that installed packages bring for their own tests, through our readers: bit for bit what h5py reads."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import mmapstore as mm
from mmapstore.formats.hdf5_format import FORMAT
from mmapstore.plain.errors import MmapstoreError

h5py = pytest.importorskip("h5py")
pytest.importorskip("hdf5plugin")

PACKAGES = (
    "tables",
    "h5py",
    "hdf5plugin",
    "scipy",
    "skimage",
    "keras",
    "pandas",
    "netCDF4",
    "tensorflow",
    "blosc2",
    "silx",
    "xarray",
    "skvideo",
)
SUFFIXES = (*FORMAT.suffixes, ".hdf", ".h5py", ".cdf", ".keras", "")
MOST_BYTES = 64 << 20


def archives(package: str) -> Iterator[Path]:
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        for path in sorted(Path(place).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file() and FORMAT.matches(str(path)):
                yield path


def numeric_datasets(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(key, values) of all that h5py can read as numbers; links are not followed."""
    found: list[str] = []
    with h5py.File(path, "r") as file:
        file.visit(lambda name: found.append(name) if isinstance(file.get(name), h5py.Dataset) else None)
        for name in found:
            dataset = file[name]
            try:
                if dataset.shape and dataset.dtype.kind in "biufc" and dataset.size and dataset.nbytes <= MOST_BYTES:
                    yield name, dataset[...]
            except (TypeError, ValueError, OSError):
                continue  # a type that NumPy lacks, or a file that is damaged on purpose


@pytest.mark.parametrize("package", PACKAGES)
def test_every_dataset_is_what_h5py_reads(package: str, record_property: pytest.RecordProperty) -> None:
    seen: Counter[str] = Counter()
    files = 0
    for path in archives(package):
        files += 1
        try:
            datasets = list(numeric_datasets(path))
        except OSError:
            seen["h5py cannot open the file"] += 1
            continue
        for key, expected in datasets:
            try:
                dataset = mm.open(path, key=key)
            except MmapstoreError as error:
                seen[f"refused: {type(error).__name__}"] += 1
                assert "virtual" in str(error) or "keeps its bytes in other files" in str(error), f"{path}::/{key}: {error}"
                continue
            (reader,) = dataset.readers.values()
            seen[reader.place] += 1
            out = np.empty(reader.spec.shape, reader.spec.dtype)
            reader.read(0, len(reader.spec), out)
            wanted = reader._layout.samples_first(expected).reshape(out.shape)
            # Bit for bit: NaNs and the sign of zeros too.
            native = wanted.astype(wanted.dtype.newbyteorder("="))
            assert out.dtype == native.dtype and out.tobytes() == native.tobytes(), f"{path}::/{key}, {reader.why}"
    if not files:
        pytest.skip(f"{package} is not installed, or brings no HDF5 file")
    record_property("readers", dict(seen))
    print(package, files, "files", dict(seen))
    if package == "tables":
        assert seen["decoded in threads"] >= 5 and seen["memory-mapped"] >= 20, seen
