"""Augmented rounds through Keras's `fit` and tf.data: each epoch trains on its round, and no process is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("keras")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are counted in /proc"),
]
PROGRAM = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
import augmenting, keras, numpy as np, mmapstore as mm
from test_round_processes import children

folder, way = sys.argv[2:]
images = np.random.default_rng(0).integers(0, 99, (30, 3, 4, 4)).astype(np.uint8)
mm.ingest({"image": images, "label": (np.arange(30) % 5 == 0).astype(np.int64)}, f"{folder}/pets")
ds = mm.open(f"{folder}/pets")

class Seen(keras.Model):
    def __init__(self):
        super().__init__()
        self.images, self.labels = keras.metrics.Sum("images"), keras.metrics.Sum("labels")

    def train_step(self, data):
        x, y = data
        self.images.update_state(keras.ops.cast(x, "float32"))
        self.labels.update_state(keras.ops.cast(y, "float32"))
        return {"images": self.images.result(), "labels": self.labels.result()}

model = Seen()
model.compile()
model.built = True
rounds = ds.augmented(augmenting.slow, f"{folder}/rounds", balance="label", samples_per_class=12, epochs_per_round=2)
b = rounds.batches(8, target="label", shuffle=True)
found = {"first": model.fit(getattr(b, way)(), epochs=5, shuffle=False, verbose=0).history, "position": b.position}
found["sums"] = [float(rounds.dataset(number)["image"][:].sum()) for number in (2, 1, 0)][::-1]
b.load_state_dict(b.state_at(2, 1))
found["resumed"] = model.fit(getattr(b, way)(), epochs=2, shuffle=False, verbose=0).history
found["of resumed"] = float(sum(x.astype(float).sum() for x, _ in (b.read(2, batch) for batch in (1, 2))))
found["position resumed"] = b.position
end = time.monotonic() + 13
while children() and time.monotonic() < end:
    time.sleep(0.1)
found["left"] = len(children())

val = ds.augmented(augmenting.noisy, f"{folder}/val", balance="label", samples_per_class=12, validation=True)
scored = keras.Sequential([keras.Input((3, 4, 4)), keras.layers.Flatten(), keras.layers.Dense(1)])
scored.compile("sgd", "mse")
batches = getattr(val.batches(8, target="label"), way)()
found["scores"] = [scored.evaluate(batches, verbose=0) for _ in range(3)]
print(json.dumps(found))
"""


@pytest.mark.parametrize("way", ["to_keras", "to_tf"])
def test_fit_trains_on_the_round_of_each_epoch_and_leaves_no_process(tmp_path, way):
    operations = str(Path(__file__).parents[1] / "operations")
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, operations, str(tmp_path), way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["first"]["labels"] == [12.0] * 5
    assert found["first"]["images"] == [found["sums"][epoch // 2] for epoch in range(5)] and len(set(found["sums"])) == 3
    assert found["resumed"]["images"] == [found["of resumed"], found["sums"][1]]
    assert found["position"] == [5, 0] and found["position resumed"] == [4, 0]
    assert found["left"] == 0
    assert len(set(found["scores"])) == 1
