"""shard="auto" in real runs of two processes: equal steps, no sample twice, at most one left out."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from backends import require_backend

SOURCES = {"torch": "torch.distributed", "jax": "jax.distributed", "keras": "keras.distribution", "tensorflow": "tf.distribute"}


@pytest.mark.slow
@pytest.mark.parametrize("framework", SOURCES)
def test_two_processes_share_an_epoch(framework):
    require_backend("jax" if framework == "keras" else framework)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child = Path(__file__).with_name("two_workers_child.py")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    running = [
        subprocess.Popen(
            [sys.executable, child, framework, str(rank), str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        said = [one.communicate(timeout=200) for one in running]
    finally:
        for one in running:
            one.kill()
    assert all(one.returncode == 0 for one in running), [errors[-2000:] for _, errors in said]
    found = [json.loads(output.splitlines()[-1]) for output, _ in said]
    for rank, one in enumerate(found):
        assert f"shard {rank} of 2 ({SOURCES[framework]})" in one["repr"]
    assert [len(batch) for batch in found[0]["samples"]] == [len(batch) for batch in found[1]["samples"]]
    samples = [x for one in found for batch in one["samples"] for x in batch]
    assert len(samples) == len(set(samples)) == 40 and set(samples) < set(range(41))
