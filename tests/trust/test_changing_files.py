"""Files that are cut short, replaced or deleted while a dataset is read: the values that were there, or an error that names the
file; and at the next epoch always that error. Never other values, and no call that kills the process unless files are mapped.

A mapped file that shrinks under a batch kills the process that looks at it: no program can help that, so `open(mapped=False)`
reads everything with calls, as here; with maps, each epoch begins with a look at size and time of change.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_files import STORED_FILES, files_of

import mmapstore as mm
from mmapstore.plain.errors import DamagedFileError, MmapstoreError, NotFoundError

NAMES = {"npy", "npz", "written", "hdf5-contiguous", "hdf5-chunked", "hdf5-gzip-shuffle", "hdf5-scale-offset"}
OWN_FILES = {"zarr2", "zarr3-zstd", "zarr3-split", "zarr3-sharded"}  # each chunk or shard has one
KINDS = [kind for kind in STORED_FILES if kind.name in NAMES | OWN_FILES]
Change = Callable[[Path], None]


def _data_file(folder: Path) -> Path:
    """The one that holds values, the last one where there are many."""
    names = [name for name in files_of(folder) if Path(name).suffix != ".json" and not Path(name).name.startswith(".z")]
    return folder / names[-1]


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _replace(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(255 - byte for byte in content[len(content) // 2 :])
    other = path.with_name("other")
    other.write_bytes(content)
    os.replace(other, path)


CHANGES: dict[str, Change] = {"cut": _cut, "empty": _empty, "replaced": _replace, "deleted": Path.unlink}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_while_an_epoch_runs(kind: Any, change: str, tmp_path: Path) -> None:
    source = str(tmp_path / kind.make(tmp_path))
    batches = mm.open(source, mapped=False).batches(2, shuffle=True, seed=2)
    whole = [np.array(batch) for batch in batches]
    batches = mm.open(source, mapped=False).batches(2, shuffle=True, seed=2)
    iterator = iter(batches)
    np.testing.assert_array_equal(next(iterator), whole[0])
    CHANGES[change](_data_file(tmp_path))
    try:
        for found, expected in zip(iterator, whole[1:], strict=True):
            np.testing.assert_array_equal(found, expected)
    except MmapstoreError as error:
        assert str(tmp_path) in str(error)
    del iterator
    if kind.name in OWN_FILES and change in ("deleted", "replaced"):
        return  # a chunk that is not there is one that was never written, and one of its own file may be written anew
    with pytest.raises((DamagedFileError, NotFoundError), match=str(tmp_path)):
        for _ in batches:
            pass


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["npy", "hdf5-contiguous", "npz"])
def test_mapped_files_are_looked_at_when_an_epoch_begins(name: str, change: str, tmp_path: Path) -> None:
    kind = next(kind for kind in KINDS if kind.name == name)
    source = str(tmp_path / kind.make(tmp_path))
    batches = mm.open(source).batches(2)
    for _ in batches:
        pass
    CHANGES[change](_data_file(tmp_path))
    with pytest.raises((DamagedFileError, NotFoundError), match=r"truncated|replaced|written to|does not exist"):
        next(iter(batches))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_store_that_is_deleted_as_a_whole(kind: Any, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    source = str(folder / kind.make(folder))
    batches = mm.open(source, mapped=False).batches(2)
    for _ in batches:
        pass
    shutil.rmtree(folder)
    with pytest.raises(MmapstoreError, match=str(folder)):
        for _ in batches:
            pass


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="whoever may do everything is refused nothing")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_file_that_may_not_be_read_any_more(kind: Any, tmp_path: Path) -> None:
    source = str(tmp_path / kind.make(tmp_path))
    _data_file(tmp_path).chmod(0)
    with pytest.raises(MmapstoreError, match=str(tmp_path)):
        for _ in mm.open(source, mapped=False).batches(2):
            pass


PREPARED = """
import os, sys
import mmapstore as mm
made = mm.open(sys.argv[1], mapped=False).batches(2, target="data", dtype="float32")
def cut():
    os.truncate(sys.argv[2], os.path.getsize(sys.argv[2]) * 2 // 3)
"""
THROUGH = {
    "keras": """
import keras
sequence = made.to_keras()
model = keras.Sequential([keras.layers.Input((2, 3, 4)), keras.layers.Dense(4)])
model.compile("sgd", "mse")
model.fit(sequence, epochs=2, verbose=0, shuffle=False)
cut()
try:
    model.fit(sequence, epochs=2, verbose=0, shuffle=False)
except mm.MmapstoreError as error:
    print(type(error).__name__, error)
""",
    "tensorflow": """
import tensorflow as tf
pipeline = made.to_tf()
for _ in pipeline: pass
cut()
try:
    for _ in pipeline: pass
except tf.errors.OpError as error:
    print(error.message)
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("adapter", THROUGH)
@pytest.mark.parametrize("name", ["npy", "hdf5-gzip-shuffle", "zarr3-zstd"])
def test_adapters_pass_the_error_on(name: str, adapter: str, tmp_path: Path) -> None:
    """In a process of its own: TensorFlow keeps what a pipeline was made of."""
    pytest.importorskip(adapter)
    kind = next(kind for kind in KINDS if kind.name == name)
    source = str(tmp_path / kind.make(tmp_path))
    command = [sys.executable, "-c", PREPARED + THROUGH[adapter], source, str(_data_file(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert "DamagedFileError" in done.stdout and str(tmp_path) in done.stdout, (done.stdout, done.stderr[-2000:])


def test_a_damaged_file_that_was_mended_in_place_is_read(tmp_path: Path) -> None:
    """Whoever still has the error still has its traceback; HDF5 shows one file as it first saw it, while anybody has it open."""
    kind = next(kind for kind in KINDS if kind.name == "hdf5-gzip-shuffle")
    path = tmp_path / kind.make(tmp_path)
    whole, expected = path.read_bytes(), mm.open(path)[0:6]
    lengths = struct.pack("<4Q", 6, 2, 3, 4)
    assert lengths in whole
    damaged = whole.replace(lengths, struct.pack("<4Q", 6, 2050, 3, 4), 1)
    path.write_bytes(damaged)
    with pytest.raises(DamagedFileError) as caught:
        mm.open(path)[0:6]
    path.write_bytes(whole)
    np.testing.assert_array_equal(mm.open(path)[0:6], expected)
    assert caught.value
