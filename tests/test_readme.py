"""The README's examples, run as they stand, on a small file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


OF_FOUR_WORKERS = """
import json
from pathlib import Path
import mmapstore as mm
saved = mm.open("frames.npy").batches(8, target=mm.NextFrame(), shuffle=True, shard=(2, 4)).state_at(5, 3)
Path("position.json").write_text(json.dumps(saved))
"""
MODEL = """
import keras
model = keras.Sequential([keras.Input((3, 50, 50)), {layer}])
model.compile("sgd", "mse")
"""
PHOTOS = """
import keras
import numpy as np
from pathlib import Path
from PIL import Image
import mmapstore as mm
for name, count in {"cat": 40, "dog": 10}.items():
    Path("photos", name).mkdir(parents=True)
    for n in range(count):
        noise = np.random.default_rng(n).integers(0, 256, (8, 8, 3)).astype("uint8")
        Image.fromarray(noise).save(f"photos/{name}/{name}-{n}-{n * n}.png")
mm.ingest("photos/", "photos.h5")
model = keras.Sequential([keras.Input((3, 8, 8)), keras.layers.Flatten(), keras.layers.Dense(2)])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
"""
# Each block in a scope of its own, and what it prints under its number. One process, for most of it is TensorFlow's import.
EXAMPLES = [
    # On most processors convolutions want the channels last.
    [MODEL.format(layer="keras.layers.Dense(50)"), BLOCKS[0], "print('batches:', len(batches))"],
    [BLOCKS[2], "print('parts:', len(train), len(val), len(test))"],
    [
        MODEL.format(layer="keras.layers.Rescaling(0.5)"),
        "import mmapstore as mm\ntest = mm.open('frames.npy').split(0.6, 0.2, 0.2)[2]",
        BLOCKS[4],
    ],
    [PHOTOS, BLOCKS[3], "print('samples:', np.bincount(train['label'][:]), np.bincount(val['label'][:]))"],
    [OF_FOUR_WORKERS, BLOCKS[6], "print('rest:', len(x), b.position)"],
]
RUN = """
import json, sys
for lines in json.load(sys.stdin):
    exec("\\n".join(lines), {"__name__": "__main__"})
    print("END OF AN EXAMPLE")
"""


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).random((250, 3, 50, 50))


@pytest.fixture(scope="module")
def ran(frames, tmp_path_factory):
    """(the directory, what each example printed), run as a reader would, in a process of their own."""
    folder = tmp_path_factory.mktemp("readme")
    np.save(folder / "frames.npy", frames)
    command = [sys.executable, "-W", "error", "-c", RUN]
    done = subprocess.run(command, input=json.dumps(EXAMPLES), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout.split("END OF AN EXAMPLE\n")


def test_every_block_is_run_here():
    assert len(BLOCKS) == 7
    assert "def content_sha256" in BLOCKS[5]  # run in tests/plain/test_content_digest.py


def test_the_eight_lines(ran):
    printed = ran[1][0]
    assert "predicted peak" in printed
    assert f"batches: {-(-149 // 32)}" in printed


def test_the_six_line_sequence_serves_every_pair_once(frames, ran):
    import keras

    scope = {"keras": keras, "np": np}
    exec(BLOCKS[1], scope)
    sequence = scope["Frames"](ran[0] / "frames.npy", 32)
    x, y = (np.concatenate(parts) for parts in zip(*(sequence[i] for i in range(len(sequence))), strict=True))
    np.testing.assert_array_equal(x, frames[:-1])
    np.testing.assert_array_equal(y, frames[1:])


def test_ten_lines_for_a_memmap_of_frames(ran):
    printed = ran[1][1].splitlines()
    assert printed[-1] == "parts: 150 50 50"
    assert 0 < float(printed[-2].split()[-1]) < 1


def test_predictions_larger_than_memory_in_two_lines(frames, ran):
    np.testing.assert_allclose(np.load(ran[0] / "predictions.npy"), 0.5 * frames[200:], rtol=1e-6)


def test_training_on_labelled_pictures(ran):
    assert ran[1][3].splitlines()[-1] == "samples: [32  8] [8 2]"


def test_a_position_of_four_workers(ran):
    assert ran[1][4].splitlines()[-1] == f"rest: {(249 - 4 * 24) % 32} (6, 0)"
