"""Random Zarr stores into every target and back: each library reads of the target what zarr-python reads of the source."""

from __future__ import annotations

import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from tree_judges import assert_equal_trees, objects_of
from zarr_trees import judge, trees, write_tree

from mmapstore.operations.convert.tree import convert_all

TARGETS = [".zarr", ".h5", ""]


def converted(source, target):
    return convert_all(source, target, progress=False)


def judge_all(tree):
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "a.zarr")
        nodes = write_tree(source, tree)
        for suffix in TARGETS:
            target = Path(folder, f"out{suffix}")
            report = converted(source, target)
            assert judge(source, nodes, target, report) >= sum(nodes.values()) - len([row for row in report.rows if row.is_lost])
        assert digests(converted(Path(folder, "out"), Path(folder, "npy.h5"))) == digests(report)
        there = converted(Path(folder, "out.h5"), Path(folder, "back.zarr"))
        again = converted(Path(folder, "back.zarr"), Path(folder, "back.h5"))
        judge_round_trip(Path(folder, "out.h5"), Path(folder, "back.h5"), {row.path for row in (*there.rows, *again.rows)})


def digests(report):
    """Of the values of all arrays, whatever holds them under which name."""
    return sorted(row.sha256 for row in report.rows if row.sha256)


def judge_round_trip(first, last, listed):
    with h5py.File(first) as one, h5py.File(last) as other:
        found, *_ = objects_of(one)
        for path, item in found.items():
            if isinstance(item, h5py.Dataset):
                np.testing.assert_array_equal(item[()], other[path][()])
                assert item.dtype.newbyteorder("=") == other[path].dtype.newbyteorder("=")
            for name in item.attrs:
                if f"{path}@{name}" not in listed:
                    assert_equal_trees(item.attrs[name], other[path].attrs[name], one, other)


@given(trees)
@settings(max_examples=8)
def test_random_stores(tree):
    judge_all(tree)


@pytest.mark.slow
@given(trees)
@settings(max_examples=150)
def test_many_random_stores(tree):
    judge_all(tree)
