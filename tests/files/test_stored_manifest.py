"""Manifests as they are read from disk."""

from __future__ import annotations

import json

import numpy as np

import mmapstore


def test_a_manifest_of_more_than_64_mib_is_read_by_the_program_that_wrote_it(tmp_path):
    """Many episodes and names make one that long; metadata of foreign stores may not be so long."""
    mmapstore.ingest(np.zeros((4, 3)), tmp_path / "x.npy", progress=False)
    path = tmp_path / "x.npy.mmapstore.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"written_by": "x" * (65 << 20)}))
    assert len(mmapstore.open(tmp_path / "x.npy")) == 4
