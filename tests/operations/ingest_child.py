"""A process of its own that ingests in small steps, to be killed or starved."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

SAMPLES = 240
PREAMBLE = f"""
import json, os, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
from mmapstore.operations.ingest import ingest, plan
from mmapstore.operations.flow import journal
from mmapstore.plain import chunk_grid
journal.COMMIT_SECONDS = 0.0
plan.BLOCK_NBYTES = chunk_grid.USUAL_CHUNK_NBYTES = 200_000
def data(samples=240, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (samples, 3, 50, 40)).astype(np.uint8)
"""


def data(samples: int = SAMPLES, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 255, (samples, 3, 50, 40)).astype(np.uint8)


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PREAMBLE + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
