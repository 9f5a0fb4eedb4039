"""torch and JAX without Keras, in one process each: importing them beside TensorFlow takes seconds, and forks threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from backends import require_backend


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_batches_come_in_order_and_the_position_is_exact(backend, tmp_path):
    require_backend(backend)
    child = Path(__file__).with_name(f"{backend}_child.py")
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, child, tmp_path], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0 and done.stdout.endswith("all right\n"), done.stdout + done.stderr[-3000:]
