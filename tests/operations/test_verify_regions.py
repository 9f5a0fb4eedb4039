"""An array checked in parts, as many workers would, has the verdict of one check."""

from __future__ import annotations

import pickle
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from mmapstore.files.stored_manifest import write_manifest
from mmapstore.formats.registry import open_stored
from mmapstore.operations.verify import ArrayVerdict
from mmapstore.operations.verify.comparison import Side, paired
from mmapstore.operations.verify.manifest_check import ReadThrough, described_arrays
from mmapstore.operations.verify.regions import Check, do, finish, performed
from mmapstore.plain import digest_leaves
from mmapstore.plain.content_digest import LeafDigests
from mmapstore.plain.manifest import SUFFIX, ArrayManifest, Manifest

MEMORY = 50_000_000


def frames(samples: int = 50) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random((samples, 3, 5, 4), np.float32)


def in_parts(check: Check, parts: int) -> ArrayVerdict:
    """Each part twice, from the last to the first, as a process of its own would have it."""
    check = replace(check, most=parts)
    assert len(pickle.dumps(check)) < 10_000
    sent = [pickle.loads(pickle.dumps(check)) for _ in range(2 * len(check.regions))]
    records = [pickle.loads(pickle.dumps(do(each, number // 2))) for number, each in reversed(list(enumerate(sent)))]
    assert len(check.regions) == min(parts, len(replace(check, most=10**6).regions))
    assert all(len(pickle.dumps(record)) < 10_000 for record in records)
    return finish(pickle.loads(pickle.dumps(check)), records)


@pytest.fixture(params=["x.npy", "x.h5"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Blocks of 4 samples, chunks of 2, leaves of 6.5."""
    monkeypatch.setattr(digest_leaves, "LEAF_NBYTES", int(6.5 * frames()[0].nbytes))
    path, array = str(tmp_path / request.param), frames()
    if path.endswith(".npy"):
        np.save(path, array)
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("data", data=array, chunks=(2, 3, 5, 4), compression="gzip")
    digests = LeafDigests(array.dtype)
    digests.update(array)
    checksums = tuple(f"{zlib.crc32(array[at : at + 4].tobytes()):08x}" for at in range(0, 50, 4))
    key = "data" if path.endswith(".h5") else ""
    known = {"checksums": checksums, "sha256": digests.root(array.shape)}
    entry = ArrayManifest(request.param, key, array.shape, "<f4", "NCHW", episodes=(0, 50), block_samples=4, **known)
    write_manifest(path + SUFFIX, Manifest({"data": entry}).to_json(), b"".join(filter(None, digests.of(array.shape))))
    return path


@pytest.mark.parametrize("parts", [1, 2, 5, 13])
@pytest.mark.parametrize("damaged", [(), (0, 1, 17, 49)])
def test_against_a_manifest(path: str, parts: int, damaged: tuple[int, ...]) -> None:
    array = frames()
    array[list(damaged)] += 1
    if path.endswith(".npy"):
        np.save(path, array)
    else:
        with h5py.File(path, "r+") as file:
            file["data"][:] = array
    (described,) = described_arrays(path)
    check = ReadThrough.of(open_stored(path, None), path, path, described, MEMORY, False)
    found = in_parts(check, parts)
    assert found == performed(check)
    assert (found.ok, found.bad_block_count) == (not damaged, 3 if damaged else 0)
    assert sum("leaf" in problem for problem in found.problems) == (3 if damaged else 0)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_against_another_array(path: str, tmp_path: Path, parts: int) -> None:
    other = frames(45).transpose(0, 2, 3, 1).copy()
    other[[3, 44], 2, 1, 0] += [1, 4]
    other[7, 0, 0, 0] = np.nan
    np.save(tmp_path / "other.npy", other)
    sides = Side(open_stored(path, None), "NCHW", "a"), Side(open_stored(str(tmp_path / "other.npy"), None), "NHWC", "b")
    check = paired(*sides, MEMORY, False, False)
    found = in_parts(check, parts)
    assert found == performed(check) and found.difference is not None
    assert (found.difference.count, found.difference.index, found.difference.other_index) == (3, (3, 0, 2, 1), (3, 2, 1, 0))
    assert found.difference.largest == pytest.approx(4, rel=1e-5)


def test_the_plan_of_an_array_of_a_million_blocks_is_small(tmp_path: Path) -> None:
    path, count = str(tmp_path / "x.npy"), 10**6
    np.lib.format.open_memmap(path, "w+", "u1", (count,)).flush()
    entry = ArrayManifest("x.npy", "", (count,), "|u1", "N", episodes=(0, count), block_samples=1, checksums=("d202ef8d",) * count)
    Path(path + SUFFIX).write_text(Manifest({"data": entry}).to_json())
    (described,) = described_arrays(path)
    check = replace(ReadThrough.of(open_stored(path, None), path, path, described, MEMORY, False), most=count)
    assert len(check.regions) == count and len(pickle.dumps(check)) < 10_000
    sent = pickle.loads(pickle.dumps(check))
    assert do(sent, count - 1)[1].checksums == {count - 1: 0xD202EF8D} and "entry" not in vars(sent.manifest)
