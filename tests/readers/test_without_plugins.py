"""Where hdf5plugin is not installed: what we decode opens and is read; for the rest it is asked for by name."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")
plugins = pytest.importorskip("hdf5plugin")
pytest.importorskip("imagecodecs")
pytest.importorskip("numcodecs")

DATA = (np.arange(40 * 3 * 8 * 8) % 251).astype("f4").reshape(40, 3, 8, 8)
OURS = {
    "bitshuffle": plugins.Bitshuffle(cname="lz4"),
    "blosc": plugins.Blosc(),
    "bzip2": plugins.BZip2(),
    "lz4": plugins.LZ4(),
    "zstd": plugins.Zstd(),
}
# HDF5 registers a filter for good, so the library must never have been there: a process of its own.
CHILD = """
import hashlib, json, pickle, sys
for name in sys.argv[2].split():
    sys.modules[name] = None
import mmapstore as mm
from mmapstore.plain.errors import MissingPackageError
found = {}
for key in sys.argv[3].split():
    path = sys.argv[1] + "::/" + key
    try:
        dataset = mm.open(path)
        reader = next(iter(pickle.loads(pickle.dumps(dataset)).readers.values()))
        found[key] = [reader.place, reader.why, hashlib.sha256(dataset[:].tobytes()).hexdigest()]
    except MissingPackageError as error:
        found[key] = ["refused", str(error), ""]
print(json.dumps(found))
"""


def read_without(packages, path, keys):
    command = [sys.executable, "-c", CHILD, str(path), " ".join(packages), " ".join(keys)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.fixture
def path(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, options in OURS.items():
            file.create_dataset(name, data=DATA, chunks=(7, 3, 8, 8), **options)
        file.create_dataset("blosc2", data=DATA, chunks=(7, 3, 8, 8), **plugins.Blosc2())
        file.create_dataset("zfp", data=DATA, chunks=(7, 3, 8, 8), **plugins.Zfp(reversible=True))
        file.create_dataset("plain", data=DATA, chunks=(7, 3, 8, 8))
    return tmp_path / "a.h5"


def test_what_we_decode_needs_no_plugin(path):
    import hashlib

    found = read_without(["hdf5plugin"], path, OURS)
    for name in OURS:
        place, why, digest = found[name]
        assert place == "decoded in threads" and name in why and "by our own reader" in why
        assert digest == hashlib.sha256(DATA.tobytes()).hexdigest()


def test_the_plugin_is_asked_for_where_we_cannot_decode(path):
    found = read_without(["hdf5plugin", "imagecodecs", "numcodecs"], path, ["zfp", "blosc2", "bzip2", "plain"])
    for name, number in (("zfp", 32013), ("blosc2", 32026)):
        place, why, _ = found[name]
        assert place == "refused"
        assert f"::/{name} is compressed with {name} (HDF5 filter {number}), which h5py lacks here." in why
        assert why.endswith("Install it with: pip install hdf5plugin.")
    assert found["bzip2"][0] == "decoded in threads"  # Python has it
    assert found["plain"][0] == "read in place"


def test_with_the_plugin_the_library_serves_the_rest(path):
    import mmapstore as mm

    dataset = mm.open(f"{path}::/zfp")
    reader = next(iter(dataset.readers.values()))
    assert reader.why == "through the format's own library, because only HDF5 decodes zfp"
    np.testing.assert_array_equal(dataset[:], DATA)


def test_listing_a_file_needs_no_plugin(path):
    code = (
        "import sys; sys.modules['hdf5plugin'] = None\n"
        "from mmapstore.operations.describe import describe; print(describe(sys.argv[1]).to_text())"
    )
    text = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    assert "bzip2, decoded in" in text
    assert "cannot be opened" in text and "zfp (HDF5 filter 32013), which h5py lacks here" in text
