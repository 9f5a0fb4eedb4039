"""Run as a program, twice: worker `sys.argv[2]` of two in a real run of `sys.argv[1]`; prints its batches as JSON.

Samples are one-hot, and training adds 1 to the weight of each: the weights count how often each was trained on, over all workers.
"""

import json
import os
import re
import sys

import numpy as np

import mmapstore as mm

SAMPLES, BATCH = 41, 4


def batches(shard="auto", shuffle=SAMPLES):
    data = mm.open({"x": np.eye(SAMPLES, dtype="f4"), "y": np.zeros((SAMPLES, 1), "f4")})
    return data.batches(BATCH, inputs="x", target="y", shuffle=shuffle, shard=shard)


def numbers(x):
    return np.argmax(x, axis=1).tolist()


def expected(rank, epochs):
    """The samples of each batch of a worker, and how often samples are trained on by both."""
    both = [batches((index, 2)) for index in range(2)]
    made = [[numbers(x) for epoch in range(epochs) for x, _ in one] for one in both]
    return made[rank], np.bincount(np.ravel(made), minlength=SAMPLES).tolist()


def weight_counting_model(keras):
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    return keras.Sequential([keras.Input((SAMPLES,)), layer])


def on_torch(rank, port):
    import torch.distributed

    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    b = batches()
    return repr(b), [numbers(x) for x, _ in b.to_torch()]


def on_jax(rank, port):
    import jax

    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=rank)
    b = batches()
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("samples",))
    return repr(b), [numbers(x.addressable_shards[0].data) for x, _ in b.to_jax(mesh)]


def on_keras(rank, port):
    """`fit` under DataParallel, whose own division of datasets is off; broken off in mid-epoch, and resumed."""
    os.environ["KERAS_BACKEND"] = "jax"
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    import keras

    keras.distribution.initialize(f"127.0.0.1:{port}", 2, rank)
    distribution = keras.distribution.DataParallel()
    keras.distribution.set_distribution(distribution)
    assert distribution.auto_shard_dataset

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                self.state, self.model.stop_training = b.state_dict(batch + 1), True

    for made in ("to_keras", "to_tf"):
        model, stop = weight_counting_model(keras), Stop()
        model.compile(keras.optimizers.SGD(2.0 * BATCH), loss=lambda y, prediction: -prediction)
        b = batches()
        assert not distribution.auto_shard_dataset
        model.fit(getattr(b, made)(), shuffle=False, verbose=0, callbacks=[stop])
        b = batches()
        b.load_state_dict(stop.state)
        data = getattr(b, made)()
        model.fit(data, epochs=2, shuffle=False, verbose=0)
        assert model.get_weights()[0].ravel().tolist() == expected(rank, 2)[1], made
        assert b.state_dict() == b.state_at(2, 0)
    return repr(b), expected(rank, 1)[0]


def on_tensorflow(rank, port):
    cluster = {"worker": [f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"]}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": rank}})
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    import keras

    with strategy.scope():
        model, optimizer = weight_counting_model(keras), keras.optimizers.SGD(1.0)
        optimizer.build(model.trainable_variables)
        model.compile("sgd", "mse")

    @tf.function
    def train_on(batch):
        def one(x, y):
            with tf.GradientTape() as tape:
                loss = -tf.reduce_sum(model(x) - y)
            optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True))

        strategy.run(one, args=batch)

    made = []

    def epoch(b, data, most=99):
        for step, batch in enumerate(data, 1):
            train_on(batch)
            made.append(numbers(strategy.experimental_local_results(batch[0])[0]))
            if step == most:
                return b.state_dict(step)
        return b.state_dict()

    def begun(state=None):
        with strategy.scope():
            b = batches()
        if state is not None:
            b.load_state_dict(state)
        return b, strategy.distribute_datasets_from_function(lambda _: b.to_tf())

    b, data = begun()
    state = epoch(b, data, most=2)
    b, data = begun(state)
    for _ in range(2):
        state = epoch(b, data)
    wanted, counts = expected(rank, 2)
    assert made == wanted and state == b.state_at(2, 0)
    assert model.get_weights()[0].ravel().tolist() == counts
    keras_cannot(keras, tf, model, b)
    return repr(b), wanted[: len(wanted) // 2]


def keras_cannot(keras, tf, model, b):
    """Keras 3.15 trains on no data of anybody's here, and so on none of ours. `predict` divides what is not divided."""
    x, ours = np.eye(SAMPLES, dtype="f4"), "Keras 3 cannot on TensorFlow"
    refused(lambda: model.fit(tf.data.Dataset.from_tensor_slices((x, x[:, :1])).batch(8), verbose=0), "PerReplica")
    refused(lambda: model.fit(b.to_keras(), verbose=0), f"^fit.. .*{ours}")
    refused(lambda: model.evaluate(batches((0, 1)).to_keras(), verbose=0), f"^evaluate.. .*{ours}")
    refused(lambda: model.predict(b.to_keras(), verbose=0), "^predict.. .*a part of its part. Leave out shard=")
    whole = batches((0, 1), shuffle=False)
    for feed in (whole.to_keras(), whole.to_tf()):
        assert len(model.predict(feed, verbose=0)) == SAMPLES


def refused(call, message):
    try:
        call()
    except ValueError as error:
        assert re.search(message, str(error)), error
    else:
        raise AssertionError(f"expected an error with {message!r}; if Keras can now train here, let Sequence do so")


if __name__ == "__main__":
    rank = int(sys.argv[2])
    words, made = {"torch": on_torch, "jax": on_jax, "keras": on_keras, "tensorflow": on_tensorflow}[sys.argv[1]](
        rank, int(sys.argv[3])
    )
    assert made == expected(rank, 1)[0]
    print(json.dumps({"repr": words, "samples": made}), flush=True)
