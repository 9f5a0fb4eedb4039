"""The README's examples, run as they stand, on a small file."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


MODEL = """
import keras
model = keras.Sequential([keras.Input((3, 50, 50)), {layer}])
model.compile("sgd", "mse")
"""


@pytest.fixture
def frames(tmp_path):
    values = np.random.default_rng(0).random((250, 3, 50, 50))
    np.save(tmp_path / "frames.npy", values)
    return values


def run(folder, *code):
    """In a process of its own, as a reader would."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(code)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_block_is_run_here():
    assert len(BLOCKS) == 4


def test_the_eight_lines(frames, tmp_path):
    model = MODEL.format(layer="keras.layers.Dense(50)")  # on most processors convolutions want the channels last
    out = run(tmp_path, model, BLOCKS[0], "print('batches:', len(batches))")
    assert "predicted peak" in out
    assert f"batches: {-(-149 // 32)}" in out


def test_the_six_line_sequence_serves_every_pair_once(frames, tmp_path):
    import keras

    scope = {"keras": keras, "np": np}
    exec(BLOCKS[1], scope)
    sequence = scope["Frames"](tmp_path / "frames.npy", 32)
    x, y = (np.concatenate(parts) for parts in zip(*(sequence[i] for i in range(len(sequence))), strict=True))
    np.testing.assert_array_equal(x, frames[:-1])
    np.testing.assert_array_equal(y, frames[1:])


def test_ten_lines_for_a_memmap_of_frames(frames, tmp_path):
    out = run(tmp_path, BLOCKS[2], "print('parts:', len(train), len(val), len(test))").splitlines()
    assert out[-1] == "parts: 150 50 50"
    assert 0 < float(out[-2].split()[-1]) < 1


def test_predictions_larger_than_memory_in_two_lines(frames, tmp_path):
    model = MODEL.format(layer="keras.layers.Rescaling(0.5)")
    opened = "import mmapstore as mm\ntest = mm.open('frames.npy').split(0.6, 0.2, 0.2)[2]"
    run(tmp_path, model, opened, BLOCKS[3])
    np.testing.assert_allclose(np.load(tmp_path / "predictions.npy"), 0.5 * frames[200:], rtol=1e-6)
