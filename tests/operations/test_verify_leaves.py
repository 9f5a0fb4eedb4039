"""The leaves of a digest lie beside the manifest, and `verify` names by them the samples that are damaged."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import mmapstore as mm
from mmapstore.operations.convert import convert
from mmapstore.operations.flow import publishing
from mmapstore.operations.ingest import ingest
from mmapstore.operations.verify import manifest_check, verify
from mmapstore.plain import digest_leaves
from mmapstore.plain.content_digest import content_sha256
from mmapstore.plain.manifest import SUFFIX, leaves_path

OUTS = ["x.npy", "x.h5", "x.zarr"]


@pytest.fixture(autouse=True)
def small_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten samples of `frames` are 2.5 leaves."""
    monkeypatch.setattr(digest_leaves, "LEAF_NBYTES", 4 * frames()[0].nbytes)


def frames(samples: int = 10) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random((samples, 3, 5, 4), np.float32)


def change(path: str, sample: int) -> None:
    """Store another value in one sample, by NumPy, h5py or zarr."""
    if path.endswith(".npy"):
        np.load(path, mmap_mode="r+")[sample, 1, 2, 3] += 1
    elif path.endswith(".h5"):
        with h5py.File(path, "a") as file:
            file["data"][sample, 1, 2, 3] += 1
    else:
        array = zarr.open_array(path, mode="a")
        array[sample, 1, 2, 3] = array[sample, 1, 2, 3] + 1


def problems(path: str) -> list[str]:
    (found,) = verify(path).arrays
    return [problem for problem in found.problems if "leaf" in problem or "range" in problem]


@pytest.mark.parametrize("write", [ingest, convert])
@pytest.mark.parametrize("out", OUTS)
def test_the_damaged_range_is_named(tmp_path: Path, out: str, write: Any) -> None:
    path = str(tmp_path / out)
    write(frames(), path)
    assert verify(path) and os.path.getsize(leaves_path(path + SUFFIX)) == 3 * 32
    change(path, 5)
    assert problems(path) == ["samples [4, 8) hold other values than were written (leaf 1 of 3)"]
    change(path, 9)
    assert problems(path)[1:] == ["samples [8, 10) hold other values than were written (leaf 2 of 3)"]


def test_what_cannot_be_read_is_told_from_what_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_check, "BLOCK_NBYTES", 2 * frames()[0].nbytes)
    path = ingest(frames(), tmp_path / "x.h5", chunk_samples=1, compression="gzip")
    change(path, 0)
    with h5py.File(path) as file:
        at = file["data"].id.get_chunk_info(6).byte_offset
    with Path(path).open("r+b") as raw:
        raw.seek(at)
        raw.write(b"\0" * 9)
    assert problems(path) == [
        "samples [0, 4) hold other values than were written (leaf 0 of 3)",
        "samples [4, 8) cannot be read (leaf 1 of 3)",
    ]


@pytest.mark.parametrize("content", [None, b"", b"\0" * 96, b"\0" * 95, bytes(1 << 22)])
def test_leaves_that_are_not_those_of_the_manifest_name_nothing(tmp_path: Path, content: bytes | None) -> None:
    """A store without the file is as whole as before; and one that is damaged says so."""
    path = ingest(frames(), tmp_path / "x.npy")
    leaves = Path(leaves_path(path + SUFFIX))
    leaves.unlink() if content is None else leaves.write_bytes(content)
    assert verify(path)
    change(path, 5)
    assert problems(path) == [f"which range was changed is not known: {leaves} is missing, or belongs to another manifest"]


def test_the_file_of_leaves_comes_and_goes_with_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a kill comes between the data and the manifest, and where the data before had none."""
    path = ingest(frames(3), tmp_path / "x.npy")
    leaves = leaves_path(path + SUFFIX)
    assert not os.path.exists(leaves)
    ingest(frames()[3:], path, append=True)
    assert os.path.getsize(leaves) == 3 * 32 and verify(path)
    with monkeypatch.context() as killed:
        killed.setattr(publishing, "write_manifest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ingest(frames(7), path, overwrite=True)
    ingest(frames(7), path, overwrite=True)
    assert os.path.getsize(leaves) == 2 * 32 and verify(path)
    ingest(frames(3), path, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "x.npy" + SUFFIX] and verify(path)


@pytest.mark.parametrize("out", OUTS)
def test_old_samples_keep_their_digest_when_more_are_appended(tmp_path: Path, out: str) -> None:
    """Their whole leaves are not hashed again, so that damage which passes their CRC-32 is not taken for the data."""
    path = ingest(frames()[:9], tmp_path / out)
    assert [array.sha256 for array in verify(ingest(frames()[9:], path, append=True)).arrays] == [content_sha256(frames())]
    change(path, 5)
    damaged = mm.open(path)[:]
    manifest = Path(path + SUFFIX)
    found = json.loads(manifest.read_text())
    found["fields"]["data"]["checksums"] = [f"{zlib.crc32(damaged.tobytes()):08x}"]
    manifest.write_text(json.dumps(found))
    ingest(frames(), path, append=True)
    assert problems(path) == ["samples [4, 8) hold other values than were written (leaf 1 of 5)"]


def test_one_file_for_the_fields_of_a_directory(tmp_path: Path) -> None:
    """It belongs to the store: it may be replaced, and is no sample of a folder that is read."""
    fields = {"a": frames(), "b": np.arange(9), "c": frames(6)[:, 0].repeat(10, 1), "d": frames(40)[:, 0, 0]}
    path = ingest({name: each[:6] for name, each in fields.items()}, tmp_path / "store")
    assert sorted(os.listdir(path)) == ["a.npy", "b.npy", "c.npy", "d.npy", "mmapstore.json", "mmapstore.leaves"]
    change(f"{path}/a.npy", 5)
    values = np.load(f"{path}/c.npy", mmap_mode="r+")
    values[0, 0, 0] += 1
    values.flush()
    found = {array.name.rpartition("/")[2]: [p for p in array.problems if "leaf" in p] for array in verify(path).arrays}
    assert found == {
        "a": ["samples [4, 6) hold other values than were written (leaf 1 of 2)"],
        "b": [],
        "c": ["samples [0, 2) hold other values than were written (leaf 0 of 5)"],
        "d": [],
    }
    ingest({"a": fields["a"]}, path, overwrite=True)
    assert len(mm.open(path)) == 10 and verify(path)
    np.save(tmp_path / "more.npy", frames(4))
    (tmp_path / "more.npy.mmapstore.leaves").write_bytes(b"\0" * 64)
    assert len(mm.open(str(tmp_path / "more*"))) == 4


@given(
    layout=st.permutations("NTCHW").map("".join),
    episodes=st.integers(1, 4),
    nbytes=st.sampled_from([40, 300, 2000, 10**6]),
    at=st.integers(0, 10**6),
    memory=st.sampled_from([30_000_000, 256_000_000]),
)
@settings(max_examples=25)
def test_every_order_of_axes_is_verified(tmp_path: Path, layout: str, episodes: int, nbytes: int, at: int, memory: int) -> None:
    """Manifests of `convert` are whole; a changed value is found, and its sample is named where samples follow each other."""
    path, array = str(tmp_path / "x.npy"), np.random.default_rng(0).random((episodes, 3, 2, 4, 5), np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmapstore.operations.convert.plan.PREFERRED_NBYTES", nbytes)
        patch.setattr("mmapstore.operations.flow.slabs.PREFERRED_NBYTES", nbytes)
        convert(array, path, source_layout="NTCHW", layout=layout, overwrite=True)
    found = verify(path, max_memory=memory)
    assert found, found.to_text()
    changed = np.load(path, mmap_mode="r+")
    at %= changed.size
    changed.reshape(-1)[at] += 1
    del changed
    (found,) = verify(path, max_memory=memory).arrays
    assert not found.ok and any("SHA-256" in problem for problem in found.problems)
    if layout.startswith("NT") and found.bad_blocks:
        (block,) = found.bad_blocks
        assert block.samples[0] <= at // 40 < block.samples[1] and block.bytes is not None
        assert block.bytes[0] <= os.path.getsize(path) - 4 * (array.size - at) < block.bytes[1]
