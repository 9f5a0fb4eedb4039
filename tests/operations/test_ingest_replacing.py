"""Replacing what exists, killed at each step: the old data or the new is there, whole, and no manifest speaks of the other."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ingest_child import child

from mmapstore.plain.manifest import SUFFIX, leaves_path

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks")

EVERY_STEP = """
import shutil
from killed_steps import forked
from mmapstore.files.stored_manifest import read_leaves
from mmapstore.plain import digest_leaves
from mmapstore.plain.manifest import DIRECTORY_MANIFEST, SUFFIX, Manifest
digest_leaves.LEAF_NBYTES = data(1, 0).nbytes
out, kind = sys.argv[1:]
def source(seed):
    return {"a": data(4, seed), "b": np.arange(4)} if kind == "fields" else data(4, seed)
def state():
    'Which data is at `out`, and whether its manifest and its leaves speak of it.'
    import zlib
    def of(path):
        if not os.path.exists(os.path.join(path, "a.npy") if kind == "fields" else path): return None
        if kind == "fields": found = np.load(os.path.join(path, "a.npy"))
        elif kind == "npy": found = np.load(path)
        elif kind == "h5":
            import h5py
            with h5py.File(path) as file: found = file["data"][()]
        else:
            import zarr
            found = zarr.open(path, mode="r")[...]
        return next((seed for seed in (0, 1) if np.array_equal(found, data(4, seed))), "garbage"), f"{zlib.crc32(found):08x}"
    found = of(out)
    manifest = os.path.join(out, DIRECTORY_MANIFEST) if kind == "fields" else out + SUFFIX
    described = None
    if os.path.exists(manifest):
        entry = Manifest.from_json(open(manifest).read(), manifest).fields["a" if kind == "fields" else "data"]
        described = entry.checksums == (found and found[1],) and len(read_leaves(manifest, entry)) == 4
    aside = of(out + ".replaced")
    return {"at": found and found[0], "aside": aside and aside[0], "described": described}
def clean():
    for path in os.listdir(os.path.dirname(out)):
        path = os.path.join(os.path.dirname(out), path)
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
results = []
for step in range(1, 200):
    clean()
    assert forked(lambda: ingest(source(0), out, layout=None))[0] == 0
    code, _ = forked(lambda: ingest(source(1), out, overwrite=True, layout=None), dies_at=step)
    if code == 0: break
    after = forked(state)[1]
    left = sorted(os.listdir(os.path.dirname(out)))
    if step % 2:
        then = forked(lambda: ingest(source(1), out, overwrite=True, layout=None))[1]
        results.append([step, after, left, then, forked(state)[1], sorted(os.listdir(os.path.dirname(out)))])
    else:  # another call, that wants nothing of it and fails
        def failing():
            yield data(1)[0]
            raise RuntimeError("stopped")
        source_that_fails = {"a": failing(), "b": np.arange(4)} if kind == "fields" else failing()
        then = forked(lambda: ingest(source_that_fails, out, overwrite=True, resume=False, layout=None))[1]
        results.append([step, after, left, then, forked(state)[1], sorted(os.listdir(os.path.dirname(out)))])
print(json.dumps(results))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npy", "h5", "zarr", "fields"])
def test_replacing_loses_nothing_wherever_it_is_killed(tmp_path: Path, kind: str) -> None:
    name = "store" if kind == "fields" else f"x.{kind}"
    process = child(EVERY_STEP, tmp_path / name, kind)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    results = json.loads(output)
    assert len(results) > 8
    whole = [name] if kind == "fields" else [name, name + SUFFIX, leaves_path(name + SUFFIX)]
    for step, after, left, then, finally_, remaining in results:
        where = f"killed at step {step}: {after} {left}, then {then}"
        assert after["at"] in (0, 1) or (after["at"] is None and after["aside"] == 0), where
        assert after["described"] is not False, where
        if step % 2:
            assert then == str(tmp_path / name), where
            assert finally_ == {"at": 1, "aside": None, "described": True}, where
            assert remaining == whole, where
        else:
            # The old data is as it was, or the new data had arrived already, with the manifest that describes it.
            assert then == "RuntimeError: stopped", where
            assert finally_["at"] in (0, 1) and finally_["aside"] is None and finally_["described"] is True, where
            assert remaining == whole, where
