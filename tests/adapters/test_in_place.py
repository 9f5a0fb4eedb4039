"""TensorFlow computes in place where it thinks that nobody else looks: never in what is not its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_models_that_compute_in_place_get_and_leave_the_data_as_it_is(tmp_path):
    child = Path(__file__).with_name("in_place_child.py")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run([sys.executable, child, tmp_path], capture_output=True, text=True, check=False, env=environment)
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    last = cases[-1]["case"] if cases else "the first case"
    assert done.returncode == 0, f"ended by {done.returncode} after {last}: {done.stderr[-2000:]}"
    assert len(cases) == 7 * 2 * 2 * 2 + 1
    wrong = [case for case in cases if not case["whole"] or any(one != case["expected"] for one in case["found"].values())]
    assert not wrong
