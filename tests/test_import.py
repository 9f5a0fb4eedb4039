"""`import mmapstore` is quick: it loads no framework and no format library."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mmapstore

HEAVY = ["tensorflow", "keras", "torch", "jax", "h5py", "zarr", "numcodecs", "av", "PIL", "skvideo", "scipy", "pandas", "tqdm"]


def loaded(code: str) -> list[str]:
    """Which of the heavy packages a fresh interpreter has loaded after `code`."""
    program = f"import sys\n{code}\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_check_works():
    assert loaded("import h5py") == ["h5py"]


def test_importing_loads_nothing_heavy():
    assert loaded("import mmapstore") == []


def test_names_bring_in_what_they_need_when_they_are_used():
    program = "import sys, mmapstore; print(*(name for name in sys.modules if name.startswith(('mmapstore.', 'numpy'))))"
    program += "; print(mmapstore.NextFrame.__module__, 'mmapstore.batches' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["", "mmapstore.plain.windows False"]
    with pytest.raises(AttributeError, match="module 'mmapstore' has no attribute 'opne'"):
        mmapstore.opne  # noqa: B018


@pytest.mark.parametrize("what", ["path", "live"])
def test_npy_needs_nothing_but_numpy(tmp_path, what):
    """Opening and reading a .npy file, or an array, loads no library of another format."""
    source = f"'{tmp_path}/a.npy'" if what == "path" else "np.load(path, mmap_mode='r')"
    code = f"""
import numpy as np, mmapstore
path = {str(tmp_path / "a.npy")!r}
np.save(path, np.arange(60.0).reshape(20, 3))
x, y = mmapstore.open({source}).batches(4, target=mmapstore.NextFrame(), shuffle=True)[0]
assert x.shape == (4, 3)
"""
    assert loaded(code) == []
