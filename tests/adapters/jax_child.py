"""Run as a program, with four devices: `to_jax()` on one and on a mesh; says "all right" or fails."""

import sys
from pathlib import Path

import numpy as np
from real_batches import real_batches

import mmapstore as mm


def refused(message, make):
    try:
        make()
    except mm.MmapstoreError as error:
        assert message in str(error), error
    else:
        raise AssertionError(message)


def main(folder):
    import jax

    b, loop = real_batches(folder, 40), real_batches(folder, 40)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("samples",))
    by_hand = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("samples"))
    for sharding in (None, mesh, by_hand):
        data = b.to_jax(sharding)
        assert len(data) == 10
        for (x, y), (wanted_x, wanted_y) in zip(data, loop, strict=True):
            assert isinstance(x, jax.Array) and len(x.addressable_shards) == (1 if sharding is None else 4)
            assert sharding is None or x.addressable_shards[0].data.shape == (1, 3)
            np.testing.assert_array_equal(x, wanted_x, strict=True)
            np.testing.assert_array_equal(y, wanted_y, strict=True)
        assert b.position == loop.position
    refused("a batch of 3 samples does not divide among the 4 devices", lambda: real_batches(folder, 40, 3).to_jax(mesh))
    refused("a batch of 2 samples does not divide among the 4 devices", lambda: real_batches(folder, 42).to_jax(mesh))
    real_batches(folder, 42, drop_last=True).to_jax(mesh)
    refused("expected a jax.sharding.Mesh", lambda: b.to_jax("mesh"))
    refused("JAX has no arrays of text", lambda: next(iter(mm.open(np.array([b"a", b"b"])).batches(2).to_jax())))
    print("all right")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
