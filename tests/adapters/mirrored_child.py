"""Run as a program: `fit` under MirroredStrategy on two logical CPU devices, through both adapters; says "all right" or fails."""

import warnings

warnings.filterwarnings("error", message=".*ran out of data.*")

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)

from fake_batches import FakeBatches  # noqa: E402

from mmapstore.adapters.keras_sequence import Sequence  # noqa: E402
from mmapstore.adapters.tf_dataset import to_tf  # noqa: E402


def sums(batches, passes):
    """Of the numbers of the samples in each epoch, and how many there are."""
    return [(float(sum(batches.order(e)[first * 4 :])), batches.samples - first * 4) for e, first in passes]


class Summing(keras.Model):
    """Sums up the numbers of the samples; each epoch begins anew."""

    def __init__(self):
        super().__init__()
        self.sum, self.count = keras.metrics.Sum(name="sum"), keras.metrics.Sum(name="count")

    def train_step(self, data):
        numbers = data[0][:, 0]
        self.sum.update_state(numbers)
        self.count.update_state(tf.ones_like(numbers))
        return {"sum": self.sum.result(), "count": self.count.result()}

    @property
    def metrics(self):
        return [self.sum, self.count]


strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert strategy.num_replicas_in_sync == 2
# Through tf.data, whatever tf.distribute asks for ahead counts as taken, also to build the model: there, some more batches, and
# no short epoch, for which TensorFlow makes up samples where batches have a known size.
for make, samples, left in [(Sequence, 24, 1), (Sequence, 21, 2), (Sequence, 4, 1), (to_tf, 24, 6), (to_tf, 45, 12)]:
    batches = FakeBatches(samples)
    states = []

    class Note(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            states.append((batches.state_dict(), batches.cursor.next))  # noqa: B023

    feed = make(batches)
    for position in ((0, 0), (4, len(batches) - left)):
        batches.load_state_dict(batches.state_at(*position))
        with strategy.scope():
            model = Summing()
            model.compile(loss=None)
            model.built = True
        found = model.fit(feed, epochs=3, verbose=0, shuffle=False, callbacks=[Note()]).history
        e, first = position
        assert list(zip(found["sum"], found["count"], strict=True)) == sums(batches, [(e, first), (e + 1, 0), (e + 2, 0)]), (
            samples,
            make,
            position,
            found,
        )
        expected = [(batches.state_at(e + n, 0), (e + n, 0)) for n in (1, 2, 3)]
        assert states == expected, (samples, make, position, states)
        states.clear()
print("all right")
