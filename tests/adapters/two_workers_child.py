"""Run as a program, twice: worker `sys.argv[2]` of two in a real run of `sys.argv[1]`; prints its batches as JSON."""

import json
import os
import sys

import numpy as np

import mmapstore as mm


def batches(shard="auto"):
    return mm.open(np.arange(41, dtype="f4").reshape(41, 1)).batches(4, shuffle=True, shard=shard)


def main(framework, rank, port):
    if framework == "torch":
        import torch.distributed

        torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
        b = batches()
        made = [x.numpy() for x in b.to_torch()]
    elif framework == "jax":
        import jax

        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=rank)
        b = batches()
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("samples",))
        made = [x.addressable_shards[0].data for x in b.to_jax(mesh)]
    else:
        cluster = {"worker": [f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"]}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": rank}})
        import tensorflow as tf

        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        with strategy.scope():
            b = batches()
        data = strategy.distribute_datasets_from_function(lambda _: b.to_tf())
        made = [strategy.experimental_local_results(x[0])[0].numpy() for x in data]
    assert [np.ravel(x).tolist() for x in made] == [x.ravel().tolist() for x in batches((rank, 2))]
    print(json.dumps({"repr": repr(b), "samples": [np.ravel(x).tolist() for x in made]}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
